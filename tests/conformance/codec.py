"""What every codec does, over the program's own endpoint and transport to a loopback provider.

A new provider's codec passes when a subclass of `CodecContract` with its `Dialect` passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, ClassVar

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl.auth.key_auth import FixedKey, KeyAuth
from llmctl.clock import SystemClock
from llmctl.config.settings import Timeouts
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    CallTimeout,
    ConnectionFailed,
    ContentFiltered,
    ContextTooLong,
    Interrupted,
    InvalidRequest,
    NoAnswer,
    NotFound,
    Overloaded,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.http import HttpClient
from llmctl.protocols import Codec, RateHeaders, WireRequest
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.registry import codec
from llmctl.types import Answer, Message, RawRequest, Request, Target, Usage
from tests.conformance.codec_dialects import PARTS, Dialect
from tests.conformance.codec_samples import JUNK, SAMPLES, damaged, events_of, streamed, whole
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.errors import Status
from tests.simulator.fault import Fault
from tests.simulator.faults import Body, Malformed, empty, html
from tests.simulator.reply import Problem, Reply, ToolCall
from tests.simulator.reply import Usage as Billed
from tests.simulator.server import Simulator
from tests.simulator.streams import CutStream, NoEnd, Split, StreamError, Unheard
from tests.simulator.wires.bedrock import swapped
from tests.simulator.wires.registry import BASES

KEY = "sk-test-canary-4711"
SCHEMA: Mapping[str, Any] = {
    "title": "City",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TRICKY = "naïve — “quoted” 🦜\u2028 line\nend"
FAILURES: Mapping[str, tuple[Fault, type[CallError] | tuple[type[CallError], ...], bool]] = {
    "400": (errors.status(400, "temperature: must be below 3"), InvalidRequest, False),
    "401": (errors.unauthorized(), AuthFailed, False),
    "402": (errors.payment_required(), QuotaExhausted, False),
    "403": (errors.forbidden(), PermissionRefused, False),
    "404": (errors.model_not_found(), NotFound, False),
    "429": (errors.rate_limited(), RateLimited, True),
    "quota": (errors.out_of_quota(), QuotaExhausted, False),
    "context": (errors.context_too_long(), ContextTooLong, False),
    "500": (errors.server_error(), ServerFailed, True),
    "502": (errors.status(502, "bad gateway"), ServerFailed, True),
    "504": (errors.status(504, "late"), (ServerFailed, CallTimeout), True),
    "503": (errors.unavailable(), (Overloaded, ServerFailed), True),
    "529": (errors.overloaded(), Overloaded, True),
}


class Loop:
    """An event loop and the client in it: making one for every request takes longer than the
    request."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.http = HttpClient()

    def close(self) -> None:
        """Close both."""
        self.runner.run(self.http.close())
        self.runner.close()


@dataclass
class Wired:
    """One codec, wired to a simulator as the program does it."""

    codec: Codec
    sim: Simulator
    dialect: Dialect
    loop: Loop
    key: str = KEY
    heard: list[RateHeaders] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        """Where the provider lives on this simulator."""
        return self.sim.origin + BASES[self.dialect.name]

    def request(self, *content: str | Mapping[str, Any], **more: Any) -> Request:
        """A request of one user turn, or of `messages`."""
        target = Target(
            "test",
            self.dialect.name,
            self.dialect.name,
            self.base_url,
            "sim-small",
            api=self.dialect.api,
        )
        text = content[0] if len(content) == 1 and isinstance(content[0], str) else None
        parts = tuple({"type": "text", "text": c} if isinstance(c, str) else c for c in content)
        more.setdefault("messages", (Message("user", parts if text is None else text),))
        return Request(id="a", target=target, **more)

    def ask(
        self,
        *content: str | Mapping[str, Any],
        stream: bool = False,
        fault: Fault | None = None,
        **more: Any,
    ) -> Answer:
        """Send it, and give the answer."""
        self.sim.fault = fault
        self.said.clear()
        asked = self.request(*content, **more)
        emit = (lambda piece: self.said.append(piece.text)) if stream else None
        answer: Answer = self._run(lambda end: end(asked, emit))
        return answer

    def fetch(self, wire: WireRequest) -> bytes:
        """Send something that is no question, and give the body."""
        body: bytes = self._run(lambda end: end.fetch(wire))
        return body

    @property
    def call(self) -> Call:
        """The last request as the provider saw it."""
        return self.sim.calls[-1]

    def _run(self, work: Callable[[Endpoint], Any]) -> Any:
        return self.loop.runner.run(work(self._endpoint()))

    def _endpoint(self) -> Endpoint:
        return Endpoint(
            codec=self.codec,
            http=self.loop.http,
            base_url=self.base_url,
            auth=KeyAuth(self.codec.auth, FixedKey(self.key)),
            timeouts=Timeouts(connect=5, first_byte=5, total=10),
            clock=SystemClock(),
            estimate=lambda _, text: Usage(output=len(text), estimated=True),
            heard=self.heard.append,
        )


def _silent(word: str | None, _: Call) -> Reply:
    return Reply("", word=word, usage=Billed(input=9, output=3))


def _worded(text: str, word: str, _: Call) -> Reply:
    return Reply(text, word=word)


def seen(usage: Billed, told: frozenset[str]) -> Usage:
    """What a client should report of what was billed: input includes the cache, output includes
    reasoning; what the provider does not tell is 0."""
    return Usage(
        input=usage.input,
        output=usage.output,
        cached_input=usage.cached if "cached" in told else 0,
        cache_write=usage.written if "written" in told else 0,
        reasoning=usage.reasoning if "reasoning" in told else 0,
    )


plainly_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


class CodecContract:
    """Subclasses give `dialect`, their module the fixture `loop`."""

    dialect: ClassVar[Dialect]

    def make(self) -> Codec:
        """A new codec, as the program makes it."""
        return codec(self.dialect.name, self.dialect.api)

    @pytest.fixture
    def wired(self, loop: Loop) -> Iterator[Wired]:
        """The codec at a simulator of its own."""
        with Simulator(keys=[KEY]) as sim:
            yield Wired(self.make(), sim, self.dialect, loop)

    @plainly_and_streamed
    def test_an_answer(self, wired: Wired, *, stream: bool) -> None:
        """Text, finish, model and usage arrive, and the usage is what was billed."""
        answer = wired.ask("one two three", stream=stream)
        assert answer.text == "echo: one two three"
        assert (answer.finish, answer.model) == ("stop", "sim-small")
        assert answer.usage == Usage(
            input=wired.sim.billed.input_tokens, output=wired.sim.billed.output_tokens
        )
        assert (wired.call.ask.model, wired.call.ask.stream) == ("sim-small", stream)  # type: ignore[union-attr]
        assert (answer.body is None) is stream

    def test_a_stream_comes_in_pieces(self, wired: Wired) -> None:
        """Every piece is shown as it arrives, and together they are the text."""
        answer = wired.ask("one two three", stream=True)
        assert len(wired.said) > 2
        assert "".join(wired.said) == answer.text == "echo: one two three"

    @plainly_and_streamed
    def test_text_is_not_changed(self, wired: Wired, *, stream: bool) -> None:
        """Quotes, line ends, emoji and U+2028 go there and back as they are."""
        assert wired.ask(TRICKY, stream=stream).text == f"echo: {TRICKY}"
        assert wired.call.ask.last == TRICKY  # type: ignore[union-attr]

    def test_a_stream_cut_anywhere(self, wired: Wired) -> None:
        """A stream that comes byte by byte is the same answer."""
        answer = wired.ask(TRICKY, stream=True, fault=Split(largest=1))
        assert (answer.text, answer.finish) == (f"echo: {TRICKY}", "stop")
        assert answer.usage.input == wired.sim.billed.input_tokens

    def test_the_key_travels_in_its_header_only(self, wired: Wired) -> None:
        """The provider finds the key where it looks for it; nothing else carries it."""
        wired.ask("hi")
        wired.ask("hi", stream=True)
        for call in wired.sim.calls:
            holding = [name for name, value in call.headers.items() if KEY in value]
            assert holding == [self.dialect.key_header]
            assert KEY not in call.path + call.query + call.raw.decode()

    def test_the_key_is_not_echoed(self, wired: Wired) -> None:
        """A key inside the provider's error is not repeated."""
        with pytest.raises(AuthFailed) as caught:
            wired.ask("hi", fault=errors.unauthorized(echo_key=True))
        assert KEY not in str(caught.value)

    @plainly_and_streamed
    def test_max_tokens(self, wired: Wired, *, stream: bool) -> None:
        """The limit arrives under its own name, and an answer that hits it says so."""
        answer = wired.ask("a much longer text than that", stream=stream, max_tokens=3)
        assert wired.call.ask.max_tokens == 3  # type: ignore[union-attr]
        assert answer.finish == "length"
        assert wired.sim.billed.output_tokens == answer.usage.output == 3

    @pytest.mark.parametrize("temperature", [0.0, 0.7])
    def test_temperature(self, wired: Wired, temperature: float) -> None:
        """The temperature arrives, 0 too; without one none is sent."""
        wired.ask("hi", temperature=temperature)
        assert wired.call.ask.temperature == temperature  # type: ignore[union-attr]
        wired.ask("hi")
        assert wired.call.ask.temperature is None  # type: ignore[union-attr]

    def test_options_pass_through(self, wired: Wired) -> None:
        """A parameter of the provider's own arrives untouched, in its place."""
        name, value = self.dialect.option
        wired.ask("hi", options={name: value})
        found: Any = wired.call.body
        for step in self.dialect.option_at:
            found = found[step]
        assert found == value

    @plainly_and_streamed
    def test_finish_reasons(self, wired: Wired, *, stream: bool) -> None:
        """Every word the provider has for the end of an answer has one of ours. Case 1: one that
        stands for no end is an answer only where tools were asked for."""
        for word, ours in self.dialect.words.items():
            wired.sim.reply = partial(_worded, "text", word)
            if ours == "other":
                with pytest.raises(NoAnswer, match=word):
                    wired.ask("hi", stream=stream)
            tools = {"tools": [{"type": "web_search"}]} if ours == "other" else {}
            assert (word, wired.ask("hi", stream=stream, options=tools).finish) == (word, ours)

    @plainly_and_streamed
    def test_an_answer_without_a_word_is_none(self, wired: Wired, *, stream: bool) -> None:
        """Cases 1 and 2: without a text or a call there is no answer, whatever the reason to
        finish; the usage is that of the bill, and the same call may do better."""
        for word in (None, *(w for w, ours in self.dialect.words.items() if ours == "other")):
            wired.sim.reply = partial(_silent, word)
            with pytest.raises(NoAnswer, match=word or "empty") as caught:
                wired.ask("hi", stream=stream)
            assert (caught.value.retryable, caught.value.ambiguous) == (True, False)
            assert (caught.value.usage.input, caught.value.usage.output) == (9, 3)

    @plainly_and_streamed
    def test_an_answer_that_is_all_thought(self, wired: Wired, *, stream: bool) -> None:
        """Case 4: what the limit cut before the first word says so, and is not asked again."""
        billed = Billed(input=9, output=1600, reasoning=1600)
        wired.sim.reply = lambda _: Reply("", finish="length", usage=billed)
        with pytest.raises(NoAnswer, match=r"1,600 tokens went into reasoning.*--max-tokens") as no:
            wired.ask("hi", stream=stream)
        assert (no.value.retryable, no.value.usage.output) == (False, 1600)

    @plainly_and_streamed
    def test_failed_answers(self, wired: Wired, *, stream: bool) -> None:
        """A finish reason that stands for a failure is that failure."""
        for word, kind in self.dialect.fails.items():
            wired.sim.reply = partial(_worded, "", word)
            with pytest.raises(CallError) as caught:
                wired.ask("hi", stream=stream)
            assert (word, caught.value.row_type) == (word, kind)

    @plainly_and_streamed
    def test_tool_calls(self, wired: Wired, *, stream: bool) -> None:
        """An answer that only calls a tool has no text and says why."""
        tool = ToolCall("look_up", '{"city":"Paris"}')
        wired.sim.reply = lambda _: Reply("", finish="tool_calls", tool_calls=(tool,))
        answer = wired.ask("hi", stream=stream)
        assert (answer.text, answer.finish) == ("", "tool_calls")

    @plainly_and_streamed
    def test_tool_calls_are_kept(self, wired: Wired, *, stream: bool) -> None:
        """Cases 6 and 7: every call arrives whole, in OpenAI's shape, and `stop` beside calls
        means that they wait."""
        tools = (
            ToolCall("look_up", '{"city":"Paris","n":[1,2]}', "call_a"),
            ToolCall("add", '{"why":"🦜"}', "call_b"),
        )
        word = next((w for w, ours in self.dialect.words.items() if ours == "stop"), None)
        wired.sim.reply = lambda _: Reply("", finish="tool_calls", tool_calls=tools, word=word)
        answer = wired.ask("hi", stream=stream)
        assert answer.finish == "tool_calls"
        found = [(c["type"], c["function"]["name"]) for c in answer.tool_calls]
        assert found == [("function", "look_up"), ("function", "add")]
        arguments = [orjson.loads(c["function"]["arguments"]) for c in answer.tool_calls]
        assert arguments == [orjson.loads(tool.arguments) for tool in tools]
        assert all(c["id"] for c in answer.tool_calls)

    @plainly_and_streamed
    def test_usage_is_in_one_convention(self, wired: Wired, *, stream: bool) -> None:
        """Input includes what was cached and written, output includes reasoning; thoughts are
        no part of the text."""
        billed = Billed(input=1000, output=70, cached=600, reasoning=50, written=100)
        if "written" not in self.dialect.told:
            billed = Billed(input=1000, output=70, cached=600, reasoning=50)
        wired.sim.reply = lambda _: Reply("one two", usage=billed)
        answer = wired.ask("hi", stream=stream)
        assert answer.usage == seen(billed, self.dialect.told)
        assert answer.text == "one two"
        assert wired.sim.billed.input_tokens == answer.usage.input
        assert wired.sim.billed.output_tokens == answer.usage.output

    @plainly_and_streamed
    def test_a_refusal_is_no_answer(self, wired: Wired, *, stream: bool) -> None:
        """A refusal is `content_filter`, not an empty success, and is billed."""
        if not self.dialect.refuses:
            return  # the provider has no way to refuse
        billed = Billed(input=11, output=7)
        wired.sim.reply = lambda _: Reply("", refusal="I cannot help with that.", usage=billed)
        with pytest.raises(ContentFiltered) as caught:
            wired.ask("hi", stream=stream)
        assert not caught.value.retryable
        assert (caught.value.usage.input, caught.value.usage.output) == (11, 7)

    @pytest.mark.parametrize("name", FAILURES)
    @plainly_and_streamed
    def test_failures(self, wired: Wired, name: str, *, stream: bool) -> None:
        """Body and status together say what failed, whether it may succeed later, and whether
        it may have been billed: of that a gateway that got no answer knows nothing."""
        fault, kind, retryable = FAILURES[name]
        with pytest.raises(kind) as caught:
            wired.ask("hi", stream=stream, fault=fault)
        assert caught.value.retryable is retryable
        assert caught.value.ambiguous is (wired.call.status in (408, 502, 504))
        assert caught.value.http_status == wired.call.status
        assert wired.sim.billed.requests == 0

    def test_the_providers_wait_is_heard(self, wired: Wired) -> None:
        """A wait in seconds reaches the error, wherever the provider writes it."""
        with pytest.raises(RateLimited) as caught:
            wired.ask("hi", fault=errors.rate_limited(45))
        assert caught.value.retry_after == 45

    @pytest.mark.parametrize(("told", "retryable"), [("true", True), ("false", False)])
    def test_the_provider_may_say_whether_to_retry(
        self, wired: Wired, told: str, *, retryable: bool
    ) -> None:
        """`x-should-retry` overrides what the status says."""
        code = 400 if retryable else 500
        headers = {"x-should-retry": told}
        fault = Status(status=code, problem=Problem("so it is"), headers=headers)
        with pytest.raises(CallError) as caught:
            wired.ask("hi", fault=fault)
        assert caught.value.retryable is retryable

    def test_rate_headers(self, wired: Wired) -> None:
        """What the provider says of its limits is heard, in seconds and whole numbers."""
        with Simulator(rpm=600, tpm=60_000) as sim:
            limited = Wired(self.make(), sim, self.dialect, wired.loop)
            limited.ask("hi", max_tokens=100)
        heard = next(iter(limited.heard), RateHeaders())
        names = ("remaining_requests", "remaining_tokens", "reset_requests", "reset_tokens")
        assert {name for name in names if getattr(heard, name) is not None} == self.dialect.limits
        if heard.remaining_tokens is not None:
            assert 59_000 < heard.remaining_tokens < 60_000
        if heard.reset_tokens is not None:
            assert 0 <= heard.reset_tokens < 2

    def test_an_error_before_the_first_token(self, wired: Wired) -> None:
        """An error inside a successful stream is mapped, and may be tried again."""
        fault = StreamError(pieces=0, problem=Problem("Overloaded", "overloaded_error"))
        with pytest.raises(CallError) as caught:
            wired.ask("hi", stream=True, fault=fault)
        assert caught.value.row_type in {"overloaded", "server"}
        assert caught.value.retryable

    def test_an_error_after_the_first_token(self, wired: Wired) -> None:
        """Once text was shown, an error breaks the answer off for good."""
        wired.sim.reply = lambda _: Reply("one two three four five six seven eight")
        fault = StreamError(pieces=7, problem=Problem("The server had an error"))
        with pytest.raises(Interrupted) as caught:
            wired.ask("hi", stream=True, fault=fault)
        assert wired.said
        assert (caught.value.row_type, caught.value.retryable) == ("server", False)

    def test_a_stream_without_its_end(self, wired: Wired) -> None:
        """A stream that ends before a reason to finish is incomplete, not a short answer."""
        with pytest.raises(Interrupted) as caught:
            wired.ask("one two three four", stream=True, fault=NoEnd(missing=4))
        assert caught.value.row_type == "bad_response"

    def test_a_stream_without_its_end_mark(self, wired: Wired) -> None:
        """Case 23: complete once a reason to finish and the usage came, where the provider has an
        end mark beside them."""
        if not self.dialect.end_mark:
            return
        answer = wired.ask("one two three", stream=True, fault=NoEnd())
        assert (answer.text, answer.finish) == ("echo: one two three", "stop")
        assert answer.usage.output == wired.sim.billed.output_tokens
        assert not answer.usage.estimated

    @pytest.mark.parametrize("kind", ["text/plain", "", "Text/Event-Stream", "application/json"])
    @plainly_and_streamed
    def test_the_type_of_a_stream_is_not_trusted(
        self, wired: Wired, kind: str, *, stream: bool
    ) -> None:
        """Case 24: a body that begins as an event stream is one, asked for or not, and one that
        begins as JSON is that, whatever type the server names."""
        words = Reply(TRICKY, usage=Billed(input=9, output=3))
        events = b"".join(streamed(wired.codec, self.dialect, words))
        waiting = b"" if self.dialect.frames else b"\n: wait\n\n"
        for body in (events, waiting + events, whole(wired.codec, self.dialect, words)):
            answer = wired.ask("hi", stream=stream, fault=Body(body=body, content_type=kind))
            assert (answer.text, answer.finish, answer.usage.input) == (TRICKY, "stop", 9)
            assert "".join(wired.said) == (TRICKY if stream else "")

    @pytest.mark.parametrize("wrong", [b"\\ud83d", b"\\uDC00\\uD800", b"\xff", b"\xef\xbf\xbd"])
    def test_half_of_a_surrogate_pair(self, wired: Wired, wrong: bytes) -> None:
        """Case 10: what strict JSON forbids is U+FFFD, in the text and in the body that is kept."""
        for stream in (False, True):
            reply = Reply("fine 4711", usage=Billed(input=9, output=3), pieces=("fine 4711",))
            body = whole(wired.codec, self.dialect, reply)
            if stream:
                body = b"".join(streamed(wired.codec, self.dialect, reply))
            swap = swapped if stream and self.dialect.frames else bytes.replace
            fault = Body(body=swap(body, b"4711", wrong))
            answer = wired.ask("hi", stream=stream, fault=fault)
            assert set(answer.text.removeprefix("fine ")) == {"\ufffd"}
            assert answer.text.startswith("fine ")
            assert answer.body is None or "\ufffd" in str(orjson.loads(answer.body))

    @pytest.mark.parametrize("number", ["NaN", "-Infinity", "Infinity", "1e999"])
    def test_numbers_that_are_none(self, wired: Wired, number: str) -> None:
        """Case 10: a number that JSON does not know makes a reply no worse."""
        body = whole(wired.codec, self.dialect, Reply("fine", usage=Billed(input=9, output=3)))
        fault = Body(body=body[:-1] + b',"x":[' + number.encode() + b"]}")
        answer = wired.ask("hi", fault=fault)
        assert (answer.text, answer.usage.input) == ("fine", 9)
        assert orjson.loads(answer.body or b"")["x"] == [None]

    def test_a_stream_that_breaks(self, wired: Wired) -> None:
        """A connection that breaks within a stream interrupts the answer."""
        wired.sim.reply = lambda _: Reply("one two three four five six seven eight")
        with pytest.raises(Interrupted) as caught:
            wired.ask("hi", stream=True, fault=CutStream(pieces=7))
        assert isinstance(caught.value.cause, ConnectionFailed)

    @pytest.mark.parametrize("fault", [Malformed(), empty(), html()], ids=["torn", "empty", "html"])
    def test_what_is_no_answer(self, wired: Wired, fault: Fault) -> None:
        """A success whose body is none is `bad_response`."""
        with pytest.raises(BadResponse):
            wired.ask("hi", fault=fault)

    def test_a_torn_stream(self, wired: Wired) -> None:
        """Events whose JSON is torn are `bad_response`."""
        with pytest.raises(CallError) as caught:
            wired.ask("hi", stream=True, fault=Malformed())
        assert caught.value.row_type == "bad_response"

    def test_unknown_events_are_passed_over(self, wired: Wired) -> None:
        """What the provider invents tomorrow changes nothing."""
        answer = wired.ask("one two three", stream=True, fault=Unheard())
        assert (answer.text, answer.finish) == ("echo: one two three", "stop")
        assert answer.usage.output == wired.sim.billed.output_tokens

    @pytest.mark.parametrize("name", PARTS)
    def test_attachments(self, wired: Wired, name: str) -> None:
        """What the provider takes arrives in its own part; the rest is refused unsent."""
        part, (media, data) = PARTS[name]
        if name in self.dialect.takes:
            wired.ask("look", part)
            assert wired.call.ask.last == "look"  # type: ignore[union-attr]
            ((kind, found),) = wired.call.ask.files  # type: ignore[union-attr]
            assert found == data
            assert kind in {media, "audio/*"}
        else:
            with pytest.raises(InvalidRequest) as caught:
                wired.ask("look", part)
            assert not caught.value.sent
            assert not wired.sim.calls

    @plainly_and_streamed
    def test_a_schema(self, wired: Wired, *, stream: bool) -> None:
        """A schema goes out as the provider's structured output, and its JSON comes back."""
        wired.sim.reply = lambda _: Reply('{"city":"Paris"}')
        answer = wired.ask("where?", stream=stream, schema=SCHEMA)
        assert wired.call.ask.schema["properties"] == SCHEMA["properties"]  # type: ignore[union-attr,index]
        assert (answer.text, answer.finish) == ('{"city":"Paris"}', "stop")

    def test_a_body_in_openais_shape(self, wired: Wired) -> None:
        """A chat completion's body asks the same, whatever the provider's own language is."""
        turns = [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "three"}]},
        ]
        body = {"model": "sim-small", "messages": turns, "max_tokens": 99, "temperature": 0.5}
        answer = wired.ask(raw=RawRequest("/chat/completions", body))
        assert answer.text == "echo: three"
        ask = wired.call.ask
        assert ask is not None
        assert [text for _, text in ask.turns] == ["be brief", "one", "two", "three"]
        assert (ask.max_tokens, ask.temperature) == (99, 0.5)

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(seed=st.integers(0, 2**32), junk=JUNK)
    def test_damaged_answers(self, seed: int, junk: Any) -> None:
        """An answer with anything in any place of it is an answer, or the mapped error."""
        made, dice = self.make(), Random(seed)
        reply = dice.choice(SAMPLES)
        body = damaged(whole(made, self.dialect, reply), dice, junk)
        with suppress(CallError):
            made.decode(200, {}, body)
        for status in (200, 400, 429, 500):
            error = made.failure(status, {}, body)
            assert isinstance(error, CallError)
        for read in (made.decode_probe, made.decode_models, made.decode_count):
            with suppress(CallError):
                read(body)

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors],
    )
    @given(seed=st.integers(0, 2**32), junk=JUNK)
    def test_damaged_streams(self, seed: int, junk: Any) -> None:
        """So is a stream, whichever of its events is damaged."""
        made, dice = self.make(), Random(seed)
        reader = made.reader()
        pieces = streamed(made, self.dialect, dice.choice(SAMPLES))
        spoilt = dice.randrange(len(pieces))
        for at, event in enumerate(events_of(made, pieces)):
            data = event.data
            if at == spoilt and data.startswith("{"):
                data = damaged(data.encode(), dice, junk).decode("utf-8", "replace")
            try:
                reader.piece(event.name, data)
            except CallError:
                break
        with suppress(CallError):
            reader.end()

    def test_the_models(self, wired: Wired) -> None:
        """The provider's models are listed by the names that a request takes."""
        found: list[str] = []
        after: str | None = None
        while True:
            page, after = wired.codec.decode_models(wired.fetch(wired.codec.models(after)))
            found += [model.id for model in page]
            if after is None:
                break
        assert found == ["sim-small", "sim-large"]
        assert wired.sim.billed.requests == 0

    def test_the_key_check(self, wired: Wired) -> None:
        """A good key passes a free request, a bad one does not."""
        wired.codec.decode_probe(wired.fetch(wired.codec.probe()))
        assert wired.sim.billed.requests == 0
        wired.key = "sk-bad"
        with pytest.raises(AuthFailed):
            wired.codec.decode_probe(wired.fetch(wired.codec.probe()))

    def test_the_providers_token_count(self, wired: Wired) -> None:
        """The provider's count is what it then bills; counting is free."""
        asked = wired.request("how long is this text, after all?", max_tokens=50, temperature=0.5)
        wire = wired.codec.count(asked)
        assert (wire is not None) is self.dialect.counts
        if wire is not None:
            counted = wired.codec.decode_count(wired.fetch(wire))
            assert wired.sim.billed.requests == 0
            wired.ask("how long is this text, after all?")
            assert counted == wired.sim.billed.input_tokens
