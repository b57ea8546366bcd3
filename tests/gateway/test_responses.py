"""Responses: what callers say, the chat completion it becomes, and what OpenAI's SDK reads."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import InvalidRequest
from llmctl.gateway.dialect import Asked, Failure
from llmctl.gateway.responses import Responses
from llmctl.protocols import Codec
from llmctl.providers.openai_responses import ResponsesReader
from llmctl.providers.registry import codec
from llmctl.providers.replies import EventReader
from llmctl.types import RawRequest, StreamChunk
from tests.gateway.openai_sdk import CALLS, CITED, ID, Server, answered, events
from tests.providers.recordings import any_json, asked, needs_recordings, recordings

PDF = "data:application/pdf;base64,AA=="
RESPONSES = Responses(now=lambda: 1_800_000_000.9)
ASKED = Asked({"model": "m", "input": "hi"}, "m", stream=True)
TOOL = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}},
    "strict": True,
}


def chat(**body: Any) -> Any:
    """The chat completion that a body becomes."""
    return RESPONSES.as_chat(RESPONSES.read({"model": "fast", "input": "hi", **body}, {}))


def test_body_loses_only_what_says_how_it_is_streamed() -> None:
    """All other fields pass as they are, known or not."""
    body = {"model": "fast", "input": "hi", "tools": [{"type": "web_search"}], "new": 1}
    streamed = {**body, "stream": True, "stream_options": {"include_obfuscation": False}}
    read = RESPONSES.read(streamed, {})
    assert (read.body, read.model, read.stream) == (body, "fast", True)
    assert read.limit == "max_output_tokens"
    assert not RESPONSES.read(body, {}).stream


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", None), ("input", None), ("input", ""), ("input", []), ("input", ["hi"]),
     ("input", {}), ("stream", "yes")],
)  # fmt: skip
def test_refused_field_is_named(field: str, value: object) -> None:
    """The error begins with the field, and nothing was sent."""
    with pytest.raises(InvalidRequest, match=f"^`{field}`: ") as caught:
        RESPONSES.read({"model": "m", "input": "hi", field: value}, {})
    assert not caught.value.sent


# --- The chat completion ------------------------------------------------------------------------


def test_parameters_have_their_counterparts() -> None:
    """Instructions, limits, sampling, effort, form, tools and their choice."""
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert chat(
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        user="u",
        reasoning={"effort": "low", "summary": None},
        text={"format": {"type": "json_schema", **schema}, "verbosity": "low"},
        tools=[TOOL],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
    ) == {
        "model": "fast",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "max_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "user": "u",
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": schema},
        "verbosity": "low",
        "tools": [{"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
    }
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {
        "type": "json_object"
    }


def test_what_only_says_what_holds_is_left_out() -> None:
    """Defaults, notes and hints: other servers would refuse their names."""
    plain = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    assert plain == chat(
        background=False, include=[], service_tier="auto", top_logprobs=0, truncation="disabled",
        metadata={"a": "b"}, store=False, prompt_cache_key="k", safety_identifier="s",
        text={"format": {"type": "text"}, "verbosity": "medium"}, reasoning={"summary": None},
        tools=[], tool_choice="auto", parallel_tool_calls=True, previous_response_id=None,
        instructions=None, max_output_tokens=None,
    )  # fmt: skip


def test_conversation_becomes_messages() -> None:
    """Turns, parts, thoughts, and calls of tools with what came of them. What the model said and
    called in one go is one message, which the results follow."""
    turn = {"role": "user", "content": [{"type": "input_text", "text": "look"}]}
    thought = {"type": "reasoning", "id": "rs", "summary": []}
    said = {
        "type": "message",
        "role": "assistant",
        "id": "msg",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "I ", "annotations": []},
            {"type": "refusal", "refusal": "will."},
        ],
    }
    calls = [
        {"type": "function_call", "call_id": f"c{n}", "name": "look", "arguments": "{}"}
        for n in (1, 2)
    ]
    also = {"role": "assistant", "content": " Both."}
    results: list[Any] = [
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": t} for t in ("a", "b")],
        },
    ]
    more = {"role": "developer", "content": "Now sum up."}
    found = chat(input=[turn, thought, said, *calls, also, *results, calls[0], more])["messages"]
    wanted = [
        {"id": f"c{n}", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        for n in (1, 2)
    ]
    assert found == [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "I will. Both.", "tool_calls": wanted},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {
            "role": "tool",
            "tool_call_id": "c2",
            "content": [{"type": "text", "text": t} for t in ("a", "b")],
        },
        {"role": "assistant", "content": None, "tool_calls": wanted[:1]},
        {"role": "system", "content": "Now sum up."},
    ]


def test_attachments_become_parts() -> None:
    """Images by address or data, files, and sound."""
    sound = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    parts = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "https://a.test/x.png", "detail": "low"},
        {"type": "input_image", "image_url": "https://a.test/y.png", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
        {"type": "input_file", "file_id": "file-1", "file_url": None},
        sound,
    ]  # fmt: skip
    assert chat(input=[{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://a.test/x.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://a.test/y.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": PDF},
        },
        {"type": "file", "file": {"file_id": "file-1"}},
        sound,
    ]


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("conversation", {"conversation": "conv_1"}),
        ("background", {"background": True}),
        ("include", {"include": ["reasoning.encrypted_content"]}),
        ("prompt", {"prompt": {"id": "p"}}),
        ("truncation", {"truncation": "auto"}),
        ("max_tool_calls", {"max_tool_calls": 3}),
        ("unheard_of", {"unheard_of": 0}),
        ("tools", {"tools": [{"type": "web_search"}]}),
        ("tools", {"tools": [{"type": "custom", "name": "x"}]}),
        ("tools", {"tools": 3}),
        ("tools", {"tools": ["look"]}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": []}}),
        ("reasoning.summary", {"reasoning": {"effort": "low", "summary": "auto"}}),
        ("reasoning", {"reasoning": "low"}),
        ("text.new", {"text": {"new": 1}}),
        ("text", {"text": {"format": "json"}}),
        ("instructions", {"instructions": [{"role": "user", "content": "hi"}]}),
        ("input", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("input", {"input": [{"type": "web_search_call", "id": "ws_1"}]}),
        ("input", {"input": [{"role": "user", "content": [{"type": "computer_screenshot"}]}]}),
        ("input", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ("input", {"input": [{"role": "user"}]}),
        ("input", {"input": [{"role": "user", "content": [3]}]}),
        ("input", {"input": [{"role": "assistant", "content": None}]}),
        ("input", {"input": [{"type": "function_call", "name": "look"}]}),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_named(field: str, body: dict[str, Any]) -> None:
    """The error begins with the field, and nothing was sent."""
    with pytest.raises(InvalidRequest, match=f"^`{field}`: ") as caught:
        chat(**body)
    assert not caught.value.sent


FIELDS = "type role content input_text text name arguments call_id output function tools format"


@given(st.dictionaries(
    st.sampled_from(("input", "tools", "tool_choice", "text", "reasoning", "instructions")),
    any_json(FIELDS, "message", "function_call", "function_call_output", "input_image"),
))  # fmt: skip
def test_any_body_is_translated_or_refused(body: dict[str, Any]) -> None:
    """Nothing else is raised, whatever a caller sends; nor by the answer, which says it again."""
    try:
        read = RESPONSES.read({"model": "m", "input": "hi", **body}, {})
        RESPONSES.answer(read, answered(), ID)
        RESPONSES.as_chat(read)
    except InvalidRequest as error:
        assert not error.sent  # noqa: PT017 - an answer is as good


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "cohere"])
def test_every_codec_takes_the_translation(provider: str) -> None:
    """A conversation with tools and a form, in each provider's own language."""
    calls = [{"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at":1}'}]
    body = chat(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "look"},
            *calls,
            {"type": "function_call_output", "call_id": "c", "output": "a cat"},
        ],
        max_output_tokens=77,
        top_p=0.5,
        tools=[TOOL],
        tool_choice="required",
        store=False,
    )
    speaker: Codec = codec(provider)
    sent = speaker.encode(
        asked(provider, "m", raw=RawRequest("/chat/completions", body)), stream=True
    )
    said = orjson.dumps(sent.body).decode()
    assert all(one in said for one in ("Be brief.", "look", "a cat", "77", "0.5", "Looks."))


# --- Answers ------------------------------------------------------------------------------------


def test_sdk_reads_an_answer() -> None:
    """Text, citations, usage, and what was asked, said again."""
    cited = ({"type": "url_citation", "url_citation": CITED},)
    server = Server(RESPONSES, answered(citations=cited))
    found = server.client().responses.create(
        model="fast", input="hi", instructions="Be brief.", tools=[TOOL], metadata={"a": "b"},
        text={"verbosity": "low"}, temperature=0.5,
    )  # fmt: skip
    assert (found.id, found.status, found.model) == (f"resp_{ID}", "completed", "sim-1")
    assert (found.output_text, found.output[0].id) == ("Hello", f"msg_{ID}")
    assert found.output[0].content[0].annotations[0].model_dump() == {
        "type": "url_citation", **CITED,
    }  # fmt: skip
    assert (found.usage.input_tokens, found.usage.output_tokens) == (11, 7)
    assert (found.usage.total_tokens, found.usage.output_tokens_details.reasoning_tokens) == (18, 3)
    assert found.usage.input_tokens_details.cached_tokens == 5
    assert (found.instructions, found.metadata, found.temperature) == ("Be brief.", {"a": "b"}, 0.5)
    assert (found.tools[0].name, found.tool_choice, found.text.verbosity) == ("look", "auto", "low")


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter", "tool_calls", "other"])
def test_answer_is_a_valid_response(finish: Any) -> None:
    """The SDK's types take it field for field, which the SDK itself does not check; so do they
    every event of a stream."""
    sdk = pytest.importorskip("openai.types.responses")
    pydantic = pytest.importorskip("pydantic")
    answer = answered(finish=finish, tool_calls=CALLS if finish == "tool_calls" else ())
    sdk.Response.model_validate_json(RESPONSES.answer(ASKED, answer, ID))
    event = pydantic.TypeAdapter(sdk.ResponseStreamEvent)
    writer = RESPONSES.writer(ASKED, ID)
    stream = writer.piece(StreamChunk("He")) + writer.end(answer)
    for found in EventReader().feed(stream):
        read = event.validate_json(found.data)
        assert read.type == found.name
        assert set(orjson.loads(found.data)) <= set(type(read).model_fields)


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_answer_that_was_cut_is_incomplete(finish: Any, reason: str) -> None:
    """And says why, in a stream too."""
    server = Server(RESPONSES, answered(finish=finish))
    found = server.client().responses.create(model="m", input="hi")
    assert (found.status, found.incomplete_details.reason) == ("incomplete", reason)
    *_, last = server.client().responses.create(model="m", input="hi", stream=True)
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", reason)


def test_tool_call_and_its_result_go_round() -> None:
    """What the SDK reads it can send back, and the chat completion holds the same call."""
    server = Server(RESPONSES, answered("Wait.", finish="tool_calls", tool_calls=CALLS))
    client = server.client()
    found = client.responses.create(model="m", input="hi", tools=[TOOL])
    made = [item for item in found.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in made] == [("look", '{"at":1}'), ("stop", "{}")]
    results = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"} for call in made
    ]
    client.responses.create(model="m", input=[*found.output, *results])
    said, *told = RESPONSES.as_chat(server.heard[-1])["messages"]
    assert (said["content"], [call["id"] for call in said["tool_calls"]]) == (
        "Wait.", ["call_9", f"call_{ID}_1"],
    )  # fmt: skip
    assert [call["function"] for call in said["tool_calls"]] == [c["function"] for c in CALLS]
    assert [turn["tool_call_id"] for turn in told] == ["call_9", f"call_{ID}_1"]


# --- Streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], ["Hel", "lo"]], ids=["kept", "piecewise"])
def test_sdk_puts_a_stream_together(pieces: list[str]) -> None:
    """As it reads the answer in one piece: text, calls of tools and usage."""
    answer = answered(finish="tool_calls", tool_calls=CALLS)
    server = Server(RESPONSES, answer, pieces=[StreamChunk(piece) for piece in pieces])
    whole = server.client().responses.create(model="m", input="hi")
    with server.client().responses.stream(model="m", input="hi") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        found = stream.get_final_response()
    assert (text, found.output_text) == ("Hello", "Hello")
    ours = [item.model_dump(exclude={"parsed_arguments"}) for item in found.output]
    for item in ours:
        for part in item.get("content", ()):
            part.pop("parsed", None)
    assert ours == [item.model_dump() for item in whole.output]
    assert found.usage == whole.usage


@given(st.lists(st.text(max_size=5)), st.text(max_size=5))
def test_text_is_told_once_however_it_is_cut(told: list[str], rest: str) -> None:
    """The deltas make the whole text, in events that are numbered through."""
    text = "".join(told) + rest
    writer = RESPONSES.writer(ASKED, ID)
    stream = b"".join(writer.piece(StreamChunk(piece)) for piece in told)
    found = events(stream + writer.end(answered(text)))
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert "".join(event.get("delta", "") for event in found) == text
    kinds = [event["type"] for event in found]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")
    assert kinds.count("response.output_item.added") == bool(text)


def relayed(body: str) -> list[StreamChunk]:
    """The pieces of a provider's stream, each with the event it was."""
    reader, found = ResponsesReader(), []
    for event in EventReader().feed(body.encode()):
        piece = reader.piece(event.name, event.data)
        found.append(StreamChunk(piece.text, event=event.name, data=event.data))
    return found


def test_providers_events_pass_as_they_are() -> None:
    """With their names, where they have one; nothing is added, and an error that follows is
    numbered on."""
    data = ['{"type":"response.created","sequence_number":0}', '{"type":"x","sequence_number":1}']
    stream = f"event: response.created\ndata: {data[0]}\n\ndata: {data[1]}\n\n"
    writer = RESPONSES.writer(ASKED, ID)
    pieces = relayed(f"{stream}data: [DONE]\n\n")
    assert b"".join(map(writer.piece, pieces)).decode() == stream
    assert writer.end(answered()) == b""
    assert events(writer.error(Failure(502, "server", "m")))[0]["sequence_number"] == 2


@needs_recordings
def test_recorded_streams_reach_the_caller_whole() -> None:
    """Byte for byte what the SDK needs: the same events."""
    streams = [
        one["body"]
        for one in recordings("openai", "/responses")
        if one["kind"] == "sse" and one["status"] == 200 and "response.completed" in one["body"]
    ]
    assert streams
    for body in streams:
        writer = RESPONSES.writer(ASKED, ID)
        sent = b"".join(map(writer.piece, relayed(body)))
        assert list(EventReader().feed(sent)) == list(EventReader().feed(body.encode()))


# --- Errors -------------------------------------------------------------------------------------


def test_sdk_raises_the_error_of_its_kind() -> None:
    """As for chat completions."""
    openai = pytest.importorskip("openai")
    server = Server(RESPONSES, answered(), failure=Failure(429, "rate_limited", "later"))
    with pytest.raises(openai.RateLimitError, match="later"):
        server.client().responses.create(model="m", input="hi")


def test_sdk_reads_an_error_within_a_stream() -> None:
    """It is the last event, after the text so far."""
    failure = Failure(502, "server", "it broke")
    server = Server(RESPONSES, answered(), pieces=[StreamChunk("Hel")], failure=failure)
    found = list(server.client().responses.create(model="m", input="hi", stream=True))
    assert found[-2].delta == "Hel"
    last = found[-1]
    assert (last.type, last.code, last.message) == ("error", "server", "it broke")
    assert last.sequence_number == len(found) - 1
