"""Chat completions, embeddings and models: what callers say, and what OpenAI's SDK reads."""

from __future__ import annotations

from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import BadResponse, InvalidRequest
from llmctl.gateway.chat import Chat, Embeddings, ModelEntry, model_body, models_body
from llmctl.gateway.dialect import Asked, Failure
from llmctl.providers.openai_chat import ChatReader, OpenAIChat
from llmctl.providers.replies import EventReader
from llmctl.types import StreamChunk
from tests.gateway.openai_sdk import CALLS, CITED, ID, Server, answered, events
from tests.providers.recordings import needs_recordings, recordings

CHAT = Chat(now=lambda: 1_800_000_000.9)
HI = [{"role": "user", "content": "hi"}]
ASKED = Asked({"model": "m", "messages": HI}, "m", stream=True)
WITH_USAGE = Asked({"model": "m", "messages": HI}, "m", stream=True, usage=True)


def read(**body: Any) -> Asked:
    """What the dialect reads in a body."""
    return CHAT.read({"model": "fast", "messages": HI, **body}, {})


def relayed(body: str) -> list[StreamChunk]:
    """The pieces of a provider's stream, each with the event it was."""
    reader, found, feed = ChatReader(), [], EventReader()
    for event in feed.feed(body.encode()):
        piece = reader.piece(event.name, event.data)
        found.append(StreamChunk(piece.text, usage=piece.usage, event="message", data=event.data))
    return found


def test_body_loses_only_what_says_how_it_is_streamed() -> None:
    """All other fields pass as they are, known or not, and are the chat body too."""
    asked = read(stream=True, stream_options={"include_usage": True}, seed=3, new_field=[1])
    assert (asked.model, asked.stream, asked.usage) == ("fast", True, True)
    assert asked.body == {"model": "fast", "messages": HI, "seed": 3, "new_field": [1]}
    assert CHAT.as_chat(asked) == asked.body
    assert not read(stream=False).stream
    assert not read(stream=True).usage


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 1}, "max_tokens"),
        ({"max_completion_tokens": None}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ],
)
def test_limit_is_the_one_that_openai_goes_by(limits: dict[str, Any], name: str) -> None:
    """`max_completion_tokens` counts where it is set."""
    assert read(**limits).limit == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("model", ""),
        ("model", 3),
        ("messages", None),
        ("messages", []),
        ("messages", "hi"),
        ("messages", ["hi"]),
        ("stream", "yes"),
        ("stream", 1),
    ],
)
def test_refused_field_is_named(field: str, value: object) -> None:
    """The error begins with the field, and nothing was sent."""
    with pytest.raises(InvalidRequest, match=f"^`{field}`: ") as caught:
        read(**{field: value})
    assert not caught.value.sent


# --- Answers ------------------------------------------------------------------------------------


def test_sdk_reads_an_answer() -> None:
    """Text, model, usage, finish and citations; the id is the call's."""
    cited = ({"type": "url_citation", "url_citation": CITED}, "https://not-of-openai.test/")
    server = Server(CHAT, answered(citations=cited))
    found = server.client().chat.completions.create(model="fast", messages=HI)
    choice, usage = found.choices[0], found.usage
    assert (found.id, found.model, found.created) == (f"chatcmpl-{ID}", "sim-1", 1_800_000_000)
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (
        "Hello", "assistant", "stop",
    )  # fmt: skip
    assert [note.url_citation.model_dump() for note in choice.message.annotations] == [CITED]
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 7, 18)
    assert usage.prompt_tokens_details.cached_tokens == 5
    assert usage.prompt_tokens_details.cache_write_tokens == 2
    assert usage.completion_tokens_details.reasoning_tokens == 3


@pytest.mark.parametrize(
    ("finish", "said"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("other", "stop"),
    ],
)
def test_finish_is_one_of_openais(finish: Any, said: str) -> None:
    """Answers and streams end with a reason that the SDK's types know."""
    answer = answered(finish=finish)
    assert orjson.loads(CHAT.answer(ASKED, answer, ID))["choices"][0]["finish_reason"] == said
    chunks = events(CHAT.writer(ASKED, ID).end(answer))
    assert chunks[-2]["choices"][0]["finish_reason"] == said


def test_answers_and_chunks_are_valid() -> None:
    """The SDK's types take them field for field, which the SDK itself does not check."""
    sdk = pytest.importorskip("openai.types.chat")
    answer = answered(finish="tool_calls", tool_calls=CALLS)
    sdk.ChatCompletion.model_validate_json(CHAT.answer(ASKED, answer, ID))
    writer = CHAT.writer(WITH_USAGE, ID)
    *chunks, done = events(writer.piece(StreamChunk("He")) + writer.end(answer))
    for chunk in chunks:
        read = sdk.ChatCompletionChunk.model_validate(chunk)
        assert set(chunk) <= set(type(read).model_fields)
    assert done == "[DONE]"


def test_tool_calls_have_ids_of_their_own() -> None:
    """A call without an id gets one, the same in a stream: its result is told by it."""
    answer = answered("", finish="tool_calls", tool_calls=CALLS)
    message = (
        Server(CHAT, answer).client().chat.completions.create(model="m", messages=HI).choices[0]
    )
    assert (message.message.content, message.finish_reason) == (None, "tool_calls")
    whole = [call.model_dump() for call in message.message.tool_calls]
    assert [call["id"] for call in whole] == ["call_9", f"call_{ID}_1"]
    assert [call["function"] for call in whole] == [call["function"] for call in CALLS]
    streamed = accumulated(Server(CHAT, answer)).choices[0].message
    assert [call.id for call in streamed.tool_calls] == ["call_9", f"call_{ID}_1"]
    assert [call.function.arguments for call in streamed.tool_calls] == ['{"at":1}', "{}"]
    assert streamed.content is None


# --- Streams ------------------------------------------------------------------------------------


def accumulated(server: Server, **more: Any) -> Any:
    """The completion that the SDK puts together from a stream."""
    with server.client().chat.completions.stream(model="fast", messages=HI, **more) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


@given(st.lists(st.text(max_size=5)), st.text(max_size=5))
def test_text_is_told_once_however_it_is_cut(told: list[str], rest: str) -> None:
    """The deltas make the whole text, whatever part of it only the answer holds."""
    text = "".join(told) + rest
    writer = CHAT.writer(ASKED, ID)
    stream = b"".join(writer.piece(StreamChunk(piece)) for piece in told)
    found = events(stream + writer.end(answered(text)))
    assert found.pop() == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in found]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(delta.get("content", "") for delta in deltas) == text
    ends = [chunk["choices"][0]["finish_reason"] for chunk in found]
    assert ends == [None] * (len(ends) - 1) + ["stop"]


@pytest.mark.parametrize("pieces", [[], ["Hel", "lo"]], ids=["kept", "piecewise"])
def test_sdk_puts_a_stream_together(pieces: list[str]) -> None:
    """As it reads the answer in one piece, with usage where that was asked for."""
    server = Server(CHAT, answered(), pieces=[StreamChunk(piece) for piece in pieces])
    found = accumulated(server, stream_options={"include_usage": True})
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("Hello", "stop")
    assert (found.id, found.usage.total_tokens) == (f"chatcmpl-{ID}", 18)
    assert accumulated(server).usage is None


USAGE_ALONE = '{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
TEXT = '{"id":"c","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}'
ENDS = (
    '{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":1,"completion_tokens":2}}'
)


def relay(asked: Asked, *data: str) -> list[Any]:
    """The events a caller gets of a provider's own."""
    writer = CHAT.writer(asked, ID)
    pieces = relayed("".join(f"data: {one}\n\n" for one in (*data, "[DONE]")))
    return events(b"".join(map(writer.piece, pieces)) + writer.end(answered("hi")))


def test_providers_chunks_pass_as_they_are() -> None:
    """All but the usage alone, which the caller did not ask for; one end mark."""
    odd = '{"id":"c","choices":[],"prompt_filter_results":[{"usage": 1}]}'
    ends = ENDS.replace('"usage"', '"x_usage"')
    found = relay(ASKED, odd, TEXT, ends, USAGE_ALONE)
    assert found == [*map(orjson.loads, (odd, TEXT, ends)), "[DONE]"]


@pytest.mark.parametrize("last", [(ENDS,), (ENDS.replace('"usage"', '"x"'), USAGE_ALONE)])
def test_usage_is_told_once_to_who_asked(last: tuple[str, ...]) -> None:
    """Whether the provider tells it with the last choice or alone."""
    assert relay(WITH_USAGE, TEXT, *last) == [*map(orjson.loads, (TEXT, *last)), "[DONE]"]


def test_usage_that_a_provider_does_not_tell_is_the_gateways() -> None:
    """Servers that leave it out: what the ledger has."""
    *_, usage, done = relay(WITH_USAGE, TEXT, ENDS.replace('"usage"', '"x"'))
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 18, "[DONE]")


def test_text_with_a_line_break_in_its_event_stays_one_event() -> None:
    """A provider may lay its JSON out over lines."""
    laid_out = TEXT.replace(",", ",\n")
    sent = CHAT.writer(ASKED, ID).piece(StreamChunk("hi", event="message", data=laid_out))
    assert [event.data for event in EventReader().feed(sent)] == [laid_out]


@needs_recordings
@pytest.mark.parametrize("provider", ["openai", "groq", "openrouter"])
def test_recorded_streams_reach_the_caller_whole(provider: str) -> None:
    """Read again by the codec they say the same."""
    streams = [
        one["body"]
        for one in recordings(provider, "/chat/completions")
        if one["kind"] == "sse" and one["status"] == 200 and '"error"' not in one["body"]
    ]
    assert streams
    for body in streams:
        pieces = relayed(body)
        writer = CHAT.writer(WITH_USAGE, ID)
        sent = b"".join(map(writer.piece, pieces)) + writer.end(answered())
        again = relayed(sent.decode())
        assert [piece.data for piece in pieces][-1] == "[DONE]" == again[-1].data
        assert again[: len(pieces) - 1] == pieces[:-1]


# --- Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "name", "type", "code"),
    [
        (Failure(400, "invalid_request", "m"), "BadRequestError", "invalid_request_error", None),
        (
            Failure(400, "context_length", "m"),
            "BadRequestError", "invalid_request_error", "context_length_exceeded",
        ),
        (
            Failure(401, "auth", "m"),
            "AuthenticationError", "authentication_error", "invalid_api_key",
        ),
        (Failure(403, "permission", "m"), "PermissionDeniedError", "permission_error", None),
        (
            Failure(404, "not_found", "m"),
            "NotFoundError", "invalid_request_error", "model_not_found",
        ),
        (
            Failure(429, "rate_limited", "m"),
            "RateLimitError", "rate_limit_error", "rate_limit_exceeded",
        ),
        (Failure(402, "budget", "m"), "APIStatusError", "insufficient_quota", "insufficient_quota"),
        (Failure(503, "overloaded", "m"), "InternalServerError", "server_error", "overloaded"),
        (Failure(502, "auth", "m"), "InternalServerError", "server_error", "auth"),
        (Failure(413, "unheard_of", "m"), "APIStatusError", "invalid_request_error", None),
    ],
    ids=lambda value: value.kind if isinstance(value, Failure) else "",
)  # fmt: skip
def test_sdk_raises_the_error_of_its_kind(
    failure: Failure, name: str, type: str, code: str | None
) -> None:
    """Class, type and code; a key that the provider refuses is not the caller's."""
    client = Server(CHAT, answered(), failure=failure).client()
    with pytest.raises(pytest.importorskip("openai").APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=HI)
    error = caught.value
    assert (error.__class__.__name__, error.type, error.code) == (name, type, code)
    assert "m" in error.message


def test_refused_field_is_the_errors_param() -> None:
    """Where the failure names one."""
    found = orjson.loads(CHAT.failure(Failure(400, "invalid_request", "m", field="n")))
    assert found["error"]["param"] == "n"


def test_sdk_raises_an_error_within_a_stream() -> None:
    """After the text so far; nothing follows it."""
    failure = Failure(502, "server", "it broke")
    server = Server(CHAT, answered(), pieces=[StreamChunk("Hel")], failure=failure)
    stream = server.client().chat.completions.create(model="m", messages=HI, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "Hel"]
    with pytest.raises(pytest.importorskip("openai").APIError, match="it broke"):
        next(stream)


# --- Embeddings and models ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "base64"])
def test_sdk_reads_the_providers_embeddings(form: str) -> None:
    """The body passes as it is, whatever the form; the provider's codec reads it too."""
    value: Any = [0.5, -1.0] if form == "float" else "AAAAPwAAgL8="
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    data = [{"object": "embedding", "index": 0, "embedding": value}]
    body = orjson.dumps({"object": "list", "model": "e", "data": data, "usage": usage})
    assert OpenAIChat().decode(200, {}, body).beyond_text
    server = Server(Embeddings(), answered("", body=body))
    found = server.client().embeddings.create(model="e", input=["a"], encoding_format=form)
    assert found.data[0].embedding == value
    assert server.heard[0].body == {"model": "e", "input": ["a"], "encoding_format": form}


def test_embeddings_are_neither_streamed_nor_made_of_a_chat() -> None:
    """Each refusal names its field; an answer without a body is none."""
    dialect, asked = Embeddings(), Asked({"model": "m", "input": "a"}, "m")
    for field, body in (("stream", {"input": "a", "stream": True}), ("input", {"input": []})):
        with pytest.raises(InvalidRequest, match=f"^`{field}`"):
            dialect.read({"model": "m", **body}, {})
    with pytest.raises(InvalidRequest, match=r"^`model`: `m` has no embeddings"):
        dialect.as_chat(asked)
    with pytest.raises(InvalidRequest, match=r"^`stream`"):
        dialect.writer(asked, ID)
    with pytest.raises(BadResponse):
        dialect.answer(asked, answered(), ID)
    assert orjson.loads(dialect.failure(Failure(404, "not_found", "m")))["error"]["message"] == "m"


def test_sdk_lists_models() -> None:
    """All entries in one page, and one by its name."""
    entries = [ModelEntry("fast", "openai", 5), ModelEntry("smart", "anthropic")]

    def reply(request: httpx2.Request) -> httpx2.Response:
        one = request.url.path.endswith("/fast")
        return httpx2.Response(200, content=model_body(entries[0]) if one else models_body(entries))

    http = httpx2.Client(transport=httpx2.MockTransport(reply))
    client = pytest.importorskip("openai").OpenAI(
        api_key="x", base_url="http://gateway.test/v1", http_client=http
    )
    found = [(model.id, model.owned_by, model.created) for model in client.models.list()]
    assert found == [("fast", "openai", 5), ("smart", "anthropic", 0)]
    assert client.models.retrieve("fast").object == "model"
