"""Anthropic's Messages API as the gateway speaks it, held to what Anthropic's own SDK reads."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import InvalidRequest
from llmctl.gateway.dialect import Asked, Dialect, Failure
from llmctl.gateway.messages import (
    Messages,
    count_body,
    model_body,
    models_body,
    read_count,
)
from llmctl.providers.anthropic import Anthropic
from llmctl.providers.gemini import Gemini
from llmctl.providers.registry import codec
from llmctl.providers.replies import EventReader
from llmctl.tokens import Counter
from llmctl.types import JSON, Answer, ModelInfo, RawRequest, StreamChunk, Usage
from tests.providers.recordings import any_json, needs_recordings, recordings
from tests.providers.recordings import asked as request_of
from tests.support import response

anthropic = pytest.importorskip("anthropic")

MESSAGES: Dialect = Messages()
BODY: JSON = {
    "model": "claude",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "u"}],
}
USER = BODY["messages"][0]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Zürich"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
TOOL = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
OPENAI_CALL = {
    "id": "toolu_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
}


def asked(headers: JSON | None = None, **changes: Any) -> Asked:
    """What a caller asks in a body with these changes."""
    return MESSAGES.read({**BODY, **changes}, headers or {})


def chat(headers: JSON | None = None, **changes: Any) -> JSON:
    """The same as a chat completion."""
    return MESSAGES.as_chat(asked(headers, **changes))


def turns(*messages: JSON, **changes: Any) -> Any:
    """The turns of such a chat completion."""
    return chat(messages=list(messages), **changes)["messages"]


def user(*blocks: JSON) -> Any:
    """The turns that a user's blocks become."""
    return turns({"role": "user", "content": list(blocks)})


def client(body: bytes, status: int = 200, kind: str = "application/json") -> Any:
    """Anthropic's own client, which reads this reply to whatever it asks."""
    answered = httpx2.MockTransport(
        lambda _: httpx2.Response(status, headers={"content-type": kind}, content=body)
    )
    http = httpx2.Client(transport=answered)
    return anthropic.Anthropic(
        api_key="x", base_url="http://127.0.0.1", max_retries=0, http_client=http
    )


def streamed(stream: bytes) -> Any:
    """The final message that the SDK makes of a stream."""
    told = client(stream, kind="text/event-stream").messages.stream(**BODY)
    with told as events:
        return events.get_final_message()


def written(pieces: Iterable[StreamChunk], answer: Answer) -> bytes:
    """The stream of an answer that came in these pieces."""
    writer = MESSAGES.writer(asked(), "id")
    return b"".join(map(writer.piece, pieces)) + writer.end(answer)


# --- Reading ------------------------------------------------------------------------------------


def test_a_body_is_read_as_it_came() -> None:
    """Only `stream` is taken out; the version and the betas go along, and no other header."""
    headers = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a,b",
        "authorization": "Bearer secret",
    }
    found = asked(headers, stream=True, unknown={"a": 1})
    assert found == Asked(
        {**BODY, "unknown": {"a": 1}},
        "claude",
        stream=True,
        headers={"anthropic-version": "2026-10-21", "anthropic-beta": "a,b"},
    )
    assert asked() == Asked(BODY, "claude")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "64"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "u"}, "messages"),
        ({"messages": ["u"]}, "messages[0]"),
        ({"stream": 1}, "stream"),
    ],
)
def test_what_the_gateway_goes_by_is_checked(changes: JSON, named: str) -> None:
    """The field is named, and nothing was sent."""
    with pytest.raises(InvalidRequest) as caught:
        asked(**changes)
    assert f"`{named}`" in str(caught.value)
    assert not caught.value.sent


def test_a_limit_is_required() -> None:
    """As the API requires it; a count has none."""
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    with pytest.raises(InvalidRequest, match="max_tokens"):
        MESSAGES.read(body, {})
    found = read_count(body, {"anthropic-version": "2026-10-21"})
    assert found == Asked(body, "claude", headers={"anthropic-version": "2026-10-21"})
    assert MESSAGES.as_chat(found) == body
    with pytest.raises(InvalidRequest, match="messages"):
        read_count({"model": "claude"}, {})


def test_headers_that_http_cannot_carry_are_refused() -> None:
    """Before they are sent to a provider."""
    with pytest.raises(InvalidRequest, match="anthropic-beta"):
        asked({"anthropic-beta": "ä"})


# --- As a chat completion -----------------------------------------------------------------------


def test_parameters_are_translated() -> None:
    """What has a counterpart gets its name there; what changes no answer is left out."""
    made = chat(
        system=[{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        temperature=0.5,
        top_p=1,
        stop_sequences=["x"],
        tools=[TOOL, {"type": "custom", "name": "f", "input_schema": {}, "strict": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
        thinking={"type": "disabled"},
        metadata={"user_id": "me"},
        service_tier="auto",
        container=None,
    )
    weather = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
    strict = {"name": "f", "parameters": {}, "strict": True}
    form = {"name": "answer", "schema": SCHEMA, "strict": False}
    assert made == {
        "model": "claude",
        "messages": [{"role": "system", "content": [{"type": "text", "text": "s"}]}, USER],
        "max_tokens": 64,
        "temperature": 0.5,
        "top_p": 1.0,
        "stop": ["x"],
        "tools": [{"type": "function", "function": f} for f in (weather, strict)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": form},
    }
    assert chat(system="s")["messages"][0] == {"role": "system", "content": "s"}
    named = chat(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"})
    assert named["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    for kind in ("auto", "none"):
        assert chat(tools=[TOOL], tool_choice={"type": kind})["tool_choice"] == kind


def test_media_are_translated() -> None:
    """Images and PDF files by data or address; a document of text is text, behind its title."""
    data = {"type": "base64", "media_type": "image/png", "data": "aQ=="}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "aQ=="}
    url = {"type": "url", "url": "https://h/a"}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    held = {"type": "content", "content": [{"type": "text", "text": "a"}]}
    document = {"type": "document"}
    assert user(
        {"type": "image", "source": data},
        {"type": "image", "source": url},
        {**document, "source": pdf, "title": "T", "context": "C"},
        {**document, "source": url},
        {**document, "source": plain},
        {**document, "source": held},
        {**document, "source": {"type": "content", "content": "b"}},
    ) == [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aQ=="}},
                {"type": "image_url", "image_url": {"url": "https://h/a"}},
                {"type": "text", "text": "T\nC"},
                {
                    "type": "file",
                    "file": {
                        "filename": "document.pdf",
                        "file_data": "data:application/pdf;base64,aQ==",
                    },
                },
                {"type": "file", "file": {"file_url": "https://h/a"}},
                {"type": "text", "text": "words"},
                {"type": "text", "text": "a"},
                {"type": "text", "text": "b"},
            ],
        }
    ]


def test_tools_are_translated() -> None:
    """Calls stand in their turn; results come right behind it, ahead of what else is said, and
    tell that a tool failed; thoughts are their model's own."""
    told = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    thoughts = [
        {"type": "thinking", "thinking": "t", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    failed = {**RESULT, "tool_use_id": "toolu_2", "content": told, "is_error": True}
    assert turns(
        USER,
        {"role": "assistant", "content": [*thoughts, *told, CALL]},
        {"role": "user", "content": [{"type": "text", "text": "and?"}, RESULT, failed]},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]},
        {"role": "assistant", "content": told},
        {"role": "system", "content": "s"},
    ) == [
        USER,
        {"role": "assistant", "content": "ab", "tool_calls": [OPENAI_CALL]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: a\nb"},
        {"role": "user", "content": [{"type": "text", "text": "and?"}]},
        {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": ""},
        {"role": "assistant", "content": "ab"},
        {"role": "system", "content": "s"},
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"top_k": 3}, "top_k"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.type"),
        ({"thinking": {"type": "adaptive"}}, "thinking.type"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"tools": [{"name": "w", "max_uses": 1, "type": "web_search_20250305"}]}, "web_search"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tool_choice": {"type": "first"}}, "tool_choice.type"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"messages": [{"role": "critic", "content": "u"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(changes: JSON, named: str) -> None:
    """Nothing that changes the answer is dropped without a word."""
    with pytest.raises(InvalidRequest) as caught:
        chat(**changes)
    assert named in str(caught.value)
    assert not caught.value.sent


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"type": "server_tool_use", "id": "s"}, "server_tool_use"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "source.type"),
        ({"type": "document", "source": {"type": "url", "url": "u"}, "citations": {}}, "citations"),
        ({**RESULT, "content": [{"type": "image"}]}, "content[0].content[0].type"),
        (CALL, "tool_use"),
        ({"type": "text"}, "content[0].text"),
        ("text", "content[0]"),
    ],
)
def test_blocks_without_a_counterpart_are_refused_by_name(block: Any, named: str) -> None:
    """With their place; so is what is not well-formed."""
    with pytest.raises(InvalidRequest) as caught:
        user(block)
    assert named in str(caught.value)


WORDS = (
    "model messages max_tokens role user assistant content type text tool_use tool_result id name "
    "input source url base64 document image system tools tool_choice output_config"
)


@given(st.dictionaries(st.sampled_from(WORDS.split()), any_json(WORDS), max_size=4))
def test_any_body_is_translated_or_refused(changes: JSON) -> None:
    """Whatever its fields hold, no other error comes of it."""
    body = {**BODY, **changes}
    with suppress(InvalidRequest):
        made = MESSAGES.as_chat(MESSAGES.read(body, {}))
        assert made["messages"]


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_the_newer_version_has_no_sampling(name: str) -> None:
    """Where the question is translated; a body that is passed through is Anthropic's to refuse."""
    said: dict[str, Any] = {name: 1.0}
    for version in ("2026-10-21", "2027-01-01"):
        with pytest.raises(InvalidRequest, match=f"`{name}`.*{version}"):
            chat({"anthropic-version": version}, **said)
    assert chat({"anthropic-version": "2023-06-01"}, **said)[name] == 1.0
    assert chat(**said)[name] == 1.0


def test_a_translation_comes_back_as_it_was() -> None:
    """Through a chat completion and Anthropic's codec: the same system, turns and tools."""
    body = {
        **BODY,
        "system": "s",
        "messages": [
            USER,
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, CALL]},
            {"role": "user", "content": [RESULT]},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "stop_sequences": ["x"],
    }
    raw = RawRequest("/chat/completions", MESSAGES.as_chat(MESSAGES.read(body, {})))
    again = Anthropic().encode(request_of("anthropic", "claude", raw=raw), stream=False)
    assert again.body == body


def test_another_provider_takes_the_translation() -> None:
    """Gemini's codec finds the call and its result."""
    made = chat(
        messages=[
            USER,
            {"role": "assistant", "content": [CALL]},
            {"role": "user", "content": [RESULT]},
        ],
        tools=[TOOL],
    )
    raw = RawRequest("/chat/completions", made)
    wire = Gemini().encode(request_of("gemini", "g", raw=raw), stream=False)
    said = orjson.dumps(wire.body).decode()
    assert '"functionCall":{"name":"weather","args":{"city":"Zürich"}' in said
    assert '"functionResponse":{"name":"weather"' in said


# --- Answers ------------------------------------------------------------------------------------

CALLED = response(
    "Let me see.",
    finish="tool_calls",
    tool_calls=(OPENAI_CALL, {**OPENAI_CALL, "id": ""}),
    usage=Usage(input=10, output=9, cached_input=4, cache_write=3, reasoning=5),
)
BLOCKS: list[JSON] = [
    {"type": "text", "text": "Let me see."},
    CALL,
    {**CALL, "id": "toolu_id_1"},
]


def blocks(message: Any) -> list[JSON]:
    """The blocks of an SDK's message, without what nobody said."""
    return [block.to_dict() for block in message.content]


def whole(answer: Answer) -> Any:
    """The message that the SDK reads of an answer; every field is of the type it names."""
    body = MESSAGES.answer(asked(), answer, "id")
    anthropic.types.Message.model_validate_json(body, strict=True)
    return client(body).messages.create(**BODY)


def test_an_answer_is_a_message() -> None:
    """Text and calls are blocks, each call with an id; cached input is counted apart."""
    for message in (whole(CALLED), streamed(written([], CALLED))):
        assert (message.id, message.type, message.role) == ("msg_id", "message", "assistant")
        assert message.model == "gpt-5-mini"
        assert blocks(message) == BLOCKS
        assert (message.stop_reason, message.stop_sequence) == ("tool_use", None)
        usage = message.usage
        assert (usage.input_tokens, usage.output_tokens) == (3, 9)
        assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (4, 3)
        assert usage.output_tokens_details.thinking_tokens == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "end_turn"),
        ({"finish": "length"}, "max_tokens"),
        ({"finish": "content_filter"}, "refusal"),
        ({"finish": "other"}, "end_turn"),
        ({"finish": "stop", "tool_calls": (OPENAI_CALL,)}, "tool_use"),
        ({"finish": "length", "tool_calls": (OPENAI_CALL,)}, "max_tokens"),
    ],
)
def test_why_an_answer_ended(changes: JSON, reason: str) -> None:
    """Plain and streamed alike, in Anthropic's words."""
    answer = response(**changes)
    assert whole(answer).stop_reason == reason
    assert streamed(written([], answer)).stop_reason == reason


def test_arguments_are_those_of_the_model() -> None:
    """As it wrote them, however deep."""
    deep = '{ "a":' + "[" * 300 + "]" * 300 + "}"
    function = {"name": "f", "arguments": deep}
    answer = response("", tool_calls=({**OPENAI_CALL, "function": function},))
    assert deep.encode() in MESSAGES.answer(asked(), answer, "id")
    assert orjson.dumps(deep) in written([], answer)


def test_arguments_that_are_no_object_are_wrapped() -> None:
    """A call that a limit cut reaches the caller, as one that it can tell."""
    for arguments, held in (
        ('{"city":"Z', {"INVALID_JSON": '{"city":"Z'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ("", {}),
    ):
        function = {"name": "f", "arguments": arguments}
        answer = response("", tool_calls=({**OPENAI_CALL, "function": function},))
        for message in (whole(answer), streamed(written([], answer))):
            assert [block.input for block in message.content] == [held]


def test_a_call_comes_back_in_history() -> None:
    """What the SDK sends of an answer is the call that the model made."""
    message = whole(response("", tool_calls=(OPENAI_CALL,)))
    history = {"role": "assistant", "content": blocks(message)}
    result = {"role": "user", "content": [RESULT]}
    assert turns(USER, history, result)[1]["tool_calls"] == [OPENAI_CALL]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6),
    st.integers(0, 6),
    st.booleans(),
)
def test_a_text_in_any_pieces_is_the_text(texts: list[str], emitted: int, calls: bool) -> None:  # noqa: FBT001
    """However it is cut, and however much of it was told before the end."""
    answer = response("".join(texts), tool_calls=(OPENAI_CALL,) if calls else ())
    message = streamed(written(map(StreamChunk, texts[:emitted]), answer))
    text = [{"type": "text", "text": answer.text}] if answer.text else []
    assert blocks(message) == [*text, *([CALL] if calls else [])]
    assert message.usage.output_tokens == answer.usage.output


def test_a_stream_names_its_model_at_once() -> None:
    """The one that answers where the first piece says it, else what the caller wrote."""
    named = written([StreamChunk("h", model="gpt-5-mini"), StreamChunk("i")], response())
    assert streamed(named).model == "gpt-5-mini"
    assert streamed(written([StreamChunk("hi")], response())).model == "claude"


# --- Events and bodies of the provider's own ----------------------------------------------------


def relayed(stream: bytes) -> bytes:
    """The stream as it is passed on, event by event."""
    events = EventReader()
    pieces = [StreamChunk(event=e.name, data=e.data) for e in events.feed(stream)]
    return written(pieces, response())


def test_events_of_the_provider_are_passed_on() -> None:
    """Byte for byte, those that nobody here knows too; only a missing end mark is added."""
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    events = b'event: ping\ndata: { "type": "ping" }\n\nevent: new\ndata: {\ndata: }\n\n'
    assert relayed(events + stop) == events + stop
    assert relayed(events) == events + stop


@needs_recordings
def test_recorded_streams_are_passed_on() -> None:
    """Byte for byte, and the SDK reads the same message."""
    seen = 0
    for recorded in recordings("anthropic", "/messages"):
        if recorded["kind"] == "sse":
            stream = recorded["body"].encode()
            assert relayed(stream) == stream
            assert streamed(relayed(stream)) == streamed(stream)
            seen += 1
    assert seen > 5


@needs_recordings
def test_recorded_questions_are_read() -> None:
    """Every one; each is translated or refused by name, and the translation is no chat that a
    codec cannot read."""
    seen = 0
    for recorded in recordings("anthropic", "/messages"):
        found = MESSAGES.read(recorded["request"], {})
        try:
            made = MESSAGES.as_chat(found)
        except InvalidRequest:
            continue
        raw = RawRequest("/chat/completions", made)
        Anthropic().encode(request_of("anthropic", "claude", raw=raw), stream=False)
        seen += 1
    assert seen > 50


# --- Errors, counts and models ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", "BadRequestError"),
        (401, "authentication_error", "AuthenticationError"),
        (402, "billing_error", "PaymentRequiredError"),
        (403, "permission_error", "PermissionDeniedError"),
        (404, "not_found_error", "NotFoundError"),
        (413, "request_too_large", "ContentTooLargeError"),
        (429, "rate_limit_error", "RateLimitError"),
        (500, "api_error", "InternalServerError"),
        (502, "api_error", "InternalServerError"),
        (503, "overloaded_error", "ServiceUnavailableError"),
        (504, "timeout_error", "GatewayTimeoutError"),
        (529, "overloaded_error", "OverloadedError"),
    ],
)
def test_failures_are_the_sdks_errors(status: int, kind: str, error: str) -> None:
    """With Anthropic's type for the status, before the first piece and after it."""
    failure = Failure(status, "any", "what happened")
    with pytest.raises(getattr(anthropic, error)) as caught:
        client(MESSAGES.failure(failure), status).messages.create(**BODY)
    assert (caught.value.type, caught.value.api_message) == (kind, "what happened")
    writer = MESSAGES.writer(asked(), "id")
    broken = writer.piece(StreamChunk("h")) + writer.error(failure)
    with pytest.raises(anthropic.APIStatusError) as caught:
        streamed(broken)
    assert (caught.value.type, caught.value.api_message) == (kind, "what happened")


def test_counts_and_models() -> None:
    """The SDK reads them; a date that nobody knows is the epoch."""
    counted = client(count_body(7)).messages.count_tokens(model="claude", messages=[USER])
    assert counted.input_tokens == 7
    known = ModelInfo("team/claude", name="Claude", context=9, output=5, created=1_800_000_000.0)
    bare = ModelInfo("bare")
    for model in (known, bare):
        anthropic.types.ModelInfo.model_validate_json(model_body(model))
    found = client(model_body(known)).models.retrieve("team/claude")
    assert (found.id, found.display_name) == ("team/claude", "Claude")
    assert (found.created_at.timestamp(), found.max_input_tokens) == (1_800_000_000.0, 9)
    listed = client(models_body([known, bare])).models.list()
    assert [model.id for model in listed] == ["team/claude", "bare"]
    assert listed.data[1].created_at.timestamp() == 0
    assert list(client(models_body([])).models.list()) == []


# --- Counting before sending --------------------------------------------------------------------


IMAGE = {"type": "base64", "media_type": "image/png", "data": "aaaa" * 50_000}
MARKED = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
QUOTED = {**CALL, "input": {"said": ['"'] * 99}}


@pytest.mark.parametrize(
    ("turn", "more"),
    [
        ({"role": "user", "content": "How is it?"}, {"system": "Be brief.", "tools": [TOOL]}),
        ({"role": "user", "content": [MARKED]}, {"system": [MARKED]}),
        ({"role": "user", "content": [{"type": "image", "source": IMAGE}, MARKED]}, {}),
        ({"role": "assistant", "content": [MARKED, CALL, QUOTED]}, {}),
        ({"role": "user", "content": [RESULT, RESULT, MARKED]}, {}),
        ({"role": "user", "content": [{**RESULT, "is_error": True}]}, {}),
    ],
)
def test_a_body_counts_no_less_than_its_translation(turn: JSON, more: JSON) -> None:
    """The same question, passed through to Anthropic or translated; and an image is no text."""
    body = {**BODY, **more, "messages": [turn]}
    counter, model = Counter(codec=codec), "claude-sonnet-5"
    passed = request_of("anthropic", model, raw=RawRequest("/messages", body))
    translated = MESSAGES.as_chat(MESSAGES.read(body, {}))
    chatted = request_of("anthropic", model, raw=RawRequest("/chat/completions", translated))
    counted, least = counter.count(passed).tokens, counter.count(chatted).tokens
    many = 500 if "cache_control" in str(body) else 20  # what is no text may bring a preamble
    assert least <= counted < least + many
    assert counter.max_output(passed) == counter.max_output(chatted) == 64
