"""What llmctl and a vendor's own SDK have in common: the requests they send for the same
conversation, and what they read out of the same answer.

Both talk to one loopback provider, which records them. A subclass of `SdkContract` a vendor says
how its SDK is called; it is skipped where the SDK is not installed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from llmctl.providers.registry import codec
from llmctl.types import Answer, Finish, Message, RawRequest
from tests.conformance.codec import KEY, Loop, Wired
from tests.conformance.codec_dialects import PARTS, PNG, Dialect
from tests.simulator.call import Call
from tests.simulator.reply import Reply, ToolCall
from tests.simulator.reply import Usage as Billed
from tests.simulator.server import Simulator

SYSTEM = "Answer in one word."
TURNS = (("user", "Hello"), ("assistant", "Hi — what is it?"), ("user", "Where is the Seine? 🦜"))
BILLED = Billed(input=120, output=30, cached=100, reasoning=10)
ANSWER = "In Paris, of course."
LOOKING = "What is this?"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
FUNCTION: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": PARAMETERS,
}
TOOL: dict[str, Any] = {"type": "function", "function": FUNCTION}
"""A tool as OpenAI, and most others, want it."""
CALLED: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
}
WORKED: list[dict[str, Any]] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "Is it wet in Paris?"},
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call_1", "content": '{"rain":true}'},
]
"""A conversation in which a tool was called, as OpenAI has it."""


@dataclass(frozen=True)
class Said:
    """What an SDK read out of an answer: the provider's own finish reason, tokens in and out as
    the provider counts them, and those from the cache."""

    text: str
    finish: str
    input: int
    output: int
    cached: int


@dataclass(frozen=True)
class Alone:
    """A field of the body that only one side sends, with this value, and why that is no
    difference in meaning."""

    path: str
    value: Any
    why: str


class SdkContract(ABC):
    """Subclasses say how the vendor's SDK is called and read.

    `finishes` are the words of `Said.finish` and ours. `alone` are fields that only one side
    sends. `tools` is the value of the parameter `tools_option`. `carries` maps the SDK's header for
    the key to ours where they differ; `why` says why that is right. `excluded` are counts that the
    provider's input leaves out.
    """

    name: ClassVar[str]
    api: ClassVar[str] = "chat"
    module: ClassVar[str]
    finishes: ClassVar[Mapping[str, Finish]]
    alone: ClassVar[tuple[Alone, ...]] = ()
    carries: ClassVar[Mapping[str, str]] = {}
    temperature: ClassVar[float | None] = 0.5
    tools: ClassVar[Any] = [TOOL]
    tools_option: ClassVar[str] = "tools"

    @abstractmethod
    def client(self, sdk: Any, origin: str) -> Any:
        """The SDK's client for a provider at `origin`."""

    @abstractmethod
    def ask(self, client: Any, *, stream: bool) -> Said:
        """The conversation of `SYSTEM` and `TURNS`: at most 64 tokens, `temperature`."""

    @abstractmethod
    def ask_with_schema(self, client: Any, model: Any) -> str:
        """The last turn alone, with the pydantic `model` as the answer's schema."""

    @abstractmethod
    def ask_with_image(self, client: Any) -> str:
        """`LOOKING` and the image `PNG`."""

    @abstractmethod
    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """The last turn alone, with `tools`."""

    @abstractmethod
    def ask_with_results(self, client: Any) -> str:
        """`WORKED`: a conversation in which a tool was called, with the tool at hand."""

    def models(self, client: Any) -> list[str]:
        """The names of all models."""
        return [model.id for model in client.models.list()]

    @abstractmethod
    def count(self, client: Any) -> int | None:
        """The provider's count of the last turn alone; None where it has none."""

    @pytest.fixture
    def wired(self) -> Iterator[Wired]:
        """Our side, at a provider of its own."""
        loop = Loop()
        with Simulator(keys=[KEY]) as sim:
            sim.reply = lambda _: Reply(ANSWER, usage=BILLED)
            dialect = Dialect(name=self.name, api=self.api, words={})
            yield Wired(codec(self.name, self.api), sim, dialect, loop)
        loop.close()

    @pytest.fixture
    def sdk(self, wired: Wired) -> Iterator[Any]:
        """The SDK's client, at the same provider."""
        made = self.client(pytest.importorskip(self.module), wired.sim.origin)
        yield made
        close = getattr(made, "close", None)
        if close is not None:
            close()

    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
    def test_a_conversation(self, wired: Wired, sdk: Any, *, stream: bool) -> None:
        """A system prompt, three turns, a limit and a temperature are the same request; text,
        finish and usage the same answer."""
        theirs = self.ask(sdk, stream=stream)
        messages = [Message("system", SYSTEM), *(Message(*turn) for turn in TURNS)]
        ours = wired.ask(
            stream=stream,
            messages=tuple(messages),
            max_tokens=64,
            temperature=self.temperature,
        )
        self.agree(*wired.sim.calls)
        assert theirs.text == ANSWER
        self.same(theirs, ours)

    def test_a_schema(self, wired: Wired, sdk: Any) -> None:
        """A pydantic model and its JSON Schema are the same structured output."""
        pydantic = pytest.importorskip("pydantic")

        class City(pydantic.BaseModel):  # type: ignore[misc, name-defined]
            """A city."""

            model_config = pydantic.ConfigDict(extra="forbid")
            city: str
            bridges: list[str]

        wired.sim.reply = lambda _: Reply('{"city":"Paris","bridges":[]}', usage=BILLED)
        theirs = self.ask_with_schema(sdk, City)
        ours = wired.ask(TURNS[-1][1], schema=City.model_json_schema())
        self.agree(*wired.sim.calls)
        assert (theirs, ours.text) == ("Paris", '{"city":"Paris","bridges":[]}')

    def test_an_image(self, wired: Wired, sdk: Any) -> None:
        """An image goes out in the same part."""
        theirs = self.ask_with_image(sdk)
        ours = wired.ask(LOOKING, PARTS["image"][0])
        self.agree(*wired.sim.calls)
        assert wired.call.ask is not None
        assert wired.call.ask.files == (("image/png", PNG),)
        assert theirs == ours.text

    @pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
    def test_tools(self, wired: Wired, sdk: Any, *, stream: bool) -> None:
        """Tools pass through, and an answer that calls one is read alike."""
        call = ToolCall("weather", '{"city":"Paris"}')
        wired.sim.reply = lambda _: Reply("", finish="tool_calls", tool_calls=(call,), usage=BILLED)
        theirs = self.ask_with_tools(sdk, stream=stream)
        ours = wired.ask(TURNS[-1][1], stream=stream, options={self.tools_option: self.tools})
        self.agree(*wired.sim.calls)
        assert theirs.text == ""
        self.same(theirs, ours)
        assert ours.finish == "tool_calls"

    def test_results_of_tools(self, wired: Wired, sdk: Any) -> None:
        """An OpenAI-shaped body in which a tool was called is the SDK's own conversation."""
        theirs = self.ask_with_results(sdk)
        body = {"model": "sim-small", "messages": WORKED, "tools": [TOOL], "max_tokens": 64}
        ours = wired.ask(raw=RawRequest("/chat/completions", body))
        self.agree(*wired.sim.calls)
        assert theirs == ours.text == ANSWER

    def test_the_models(self, wired: Wired, sdk: Any) -> None:
        """Both list the same models from the same place."""
        theirs = self.models(sdk)
        page, after = wired.codec.decode_models(wired.fetch(wired.codec.models(None)))
        asked, ours = wired.sim.calls
        assert (ours.method, ours.path) == (asked.method, asked.path)
        assert [model.id for model in page] == [name.removeprefix("models/") for name in theirs]
        assert after is None

    def test_the_token_count(self, wired: Wired, sdk: Any) -> None:
        """Both count the same tokens in the same way."""
        theirs = self.count(sdk)
        wire = wired.codec.count(wired.request(TURNS[-1][1]))
        if theirs is None or wire is None:
            assert (theirs, wire) == (None, None)
            return
        assert wired.codec.decode_count(wired.fetch(wire)) == theirs
        self.agree(*wired.sim.calls)

    def agree(self, theirs: Call, ours: Call) -> None:
        """Assert that two requests say the same: path, query, key, body."""
        assert ours.path == theirs.path
        assert parse_qs(ours.query) == parse_qs(theirs.query)
        header = carrier(theirs)
        assert carrier(ours) == self.carries.get(header, header)
        assert self.meaning(ours.body) == self.meaning(theirs.body)

    def meaning(self, body: Any) -> Any:
        """The body without the fields that only one side sends."""
        return pruned(body, "", {(alone.path, repr(alone.value)) for alone in self.alone})

    def same(self, theirs: Said, ours: Answer) -> None:
        """Assert that two readings of an answer are the same."""
        assert ours.text == theirs.text
        assert ours.finish == self.finishes[theirs.finish]
        usage = ours.usage
        assert (usage.input, usage.output) == (theirs.input, theirs.output)
        assert usage.cached_input == theirs.cached


def carrier(call: Call) -> str:
    """The header that carries the key."""
    (name,) = [name for name, value in call.headers.items() if KEY in value]
    return name


def pruned(value: Any, path: str, alone: set[tuple[str, str]]) -> Any:
    """The value without the fields in `alone`, and without nulls."""
    if isinstance(value, dict):
        kept = {}
        for name, inner in value.items():
            where = f"{path}.{name}" if path else name
            if inner is not None and (where, repr(inner)) not in alone:
                kept[name] = pruned(inner, where, alone)
        return kept
    if isinstance(value, list):
        return [pruned(inner, f"{path}[]", alone) for inner in value]
    return value
