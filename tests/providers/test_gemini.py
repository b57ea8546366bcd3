"""Gemini's wire format."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from llmctl.errors import (
    ContentFiltered,
    InvalidRequest,
)
from llmctl.protocols import Codec
from llmctl.providers.gemini import Gemini
from llmctl.types import JSON, Message, RawRequest, Request, Usage
from tests.providers.recordings import asked, streamed

CODEC: Codec = Gemini(now=lambda: 1_800_000_000.0)
PNG = base64.b64encode(b"\x89PNG").decode()


def ask(**changes: Any) -> Request:
    """A request to a Gemini model."""
    return asked("gemini", changes.pop("model", "gemini-2.5-flash"), **changes)


def sent(**changes: Any) -> dict[str, Any]:
    """The body of such a request."""
    return dict(CODEC.encode(ask(**changes), stream=False).body or {})


def content(*given: JSON) -> Any:
    """What a user's turn of these parts becomes."""
    return sent(messages=(Message("user", given),))["contents"][0]["parts"]


def test_the_name_of_a_model_cannot_leave_the_path() -> None:
    """What has a meaning in addresses is quoted; collections of models are kept."""
    assert CODEC.encode(ask(model="a/b?c"), stream=False).path == (
        "/models/a%2Fb%3Fc:generateContent"
    )
    for model in ("models/x", "tunedModels/x"):
        assert CODEC.encode(ask(model=model), stream=False).path == f"/{model}:generateContent"


def test_options_find_their_place() -> None:
    """Fields that stand beside `generationConfig` do so; all else goes into it."""
    safety = [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]
    made = sent(
        temperature=0,
        options={
            "topP": 0.9,
            "thinkingConfig": {"thinkingBudget": 0},
            "safetySettings": safety,
            "tools": [{"googleSearch": {}}],
            "cached_content": "cachedContents/1",
            "generationConfig": {"seed": 1},
        },
    )
    del made["contents"]
    assert made == {
        "safetySettings": safety,
        "tools": [{"googleSearch": {}}],
        "cached_content": "cachedContents/1",
        "generationConfig": {
            "temperature": 0,
            "topP": 0.9,
            "thinkingConfig": {"thinkingBudget": 0},
            "seed": 1,
        },
    }


def test_attachments() -> None:
    """Images, sound and documents go out as data, address or id."""
    image, file = "image_url", "file"
    assert content(
        {"type": "text", "text": "see"},
        {"type": image, image: {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": image, image: {"url": "https://h/i.webp?x=1"}},
        {"type": file, file: {"file_data": f"data:application/pdf;base64,{PNG}"}},
        {"type": file, file: {"filename": "a.pdf", "file_id": "https://g/v1beta/files/1"}},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "mp3"}},
        {"type": file, file: {"filename": "a.mp4", "file_data": f"data:video/mp4;base64,{PNG}"}},
        {"fileData": {"fileUri": "https://youtu.be/x"}},
    ) == [
        {"text": "see"},
        {"inlineData": {"mimeType": "image/png", "data": PNG}},
        {"fileData": {"fileUri": "https://h/i.webp?x=1", "mimeType": "image/webp"}},
        {"inlineData": {"mimeType": "application/pdf", "data": PNG}},
        {"fileData": {"fileUri": "https://g/v1beta/files/1", "mimeType": "application/pdf"}},
        {"inlineData": {"mimeType": "audio/mp3", "data": PNG}},
        {"inlineData": {"mimeType": "video/mp4", "data": PNG}},
        {"fileData": {"fileUri": "https://youtu.be/x"}},
    ]


def test_tool_calls_and_results() -> None:
    """Calls keep their signature or get a stand-in where the model demands one; results find
    the name of their call, and those that follow each other are one turn."""
    google = {"google": {"thought_signature": "sig"}}
    calls = [
        {"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "function": {"name": "g", "arguments": "{}"}, "extra_content": google},
    ]
    turns = (
        Message("user", "u"),
        Message("assistant", None, {"tool_calls": calls}),
        Message("tool", '{"r":1}', {"tool_call_id": "c1"}),
        Message("tool", "two", {"tool_call_id": "c2"}),
    )
    first = {"functionCall": {"name": "f", "args": {"a": 1}, "id": "c1"}}
    second = {
        "functionCall": {"name": "g", "args": {}, "id": "c2"},
        "thoughtSignature": "sig",
    }
    old, new = sent(messages=turns), sent(messages=turns, model="gemini-3-flash-preview")
    assert old["contents"][1] == {"role": "model", "parts": [first, second]}
    stand_in = {**first, "thoughtSignature": "skip_thought_signature_validator"}
    assert new["contents"][1]["parts"] == [stand_in, second]
    assert old["contents"][2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "f", "id": "c1", "response": {"r": 1}}},
            {"functionResponse": {"name": "g", "id": "c2", "response": {"output": "two"}}},
        ],
    }
    with pytest.raises(InvalidRequest, match="call it belongs to"):
        sent(messages=(Message("tool", "x", {"tool_call_id": "c9"}),))


def test_an_openai_body_is_translated() -> None:
    """Tools, the choice among them and parameters get Gemini's shape."""
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    raw = {
        "model": "gemini-2.5-flash",
        "messages": [{"role": "user", "content": "u"}],
        "top_p": 0.5,
        "stop": ["x"],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    declared = {"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}
    assert sent(raw=RawRequest("/chat/completions", raw)) == {
        "contents": [{"role": "user", "parts": [{"text": "u"}]}],
        "tools": [{"functionDeclarations": [declared]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {"topP": 0.5, "stopSequences": ["x"]},
    }
    with pytest.raises(InvalidRequest, match="logit_bias"):
        sent(raw=RawRequest("/chat/completions", {**raw, "logit_bias": {"1": 1}}))


def test_the_providers_own_count() -> None:
    """Contents are counted alone; with instructions the whole request is handed over."""
    alone = CODEC.count(ask(max_tokens=5))
    whole = CODEC.count(ask(messages=(Message("system", "s"), Message("user", "u"))))
    assert alone is not None
    assert whole is not None
    assert alone.path == whole.path == "/models/gemini-2.5-flash:countTokens"
    assert set(alone.body or {}) == {"contents"}
    inner = (whole.body or {})["generateContentRequest"]
    assert inner["model"] == "models/gemini-2.5-flash"
    assert set(inner) == {"model", "contents", "systemInstruction"}
    assert CODEC.decode_count(b'{"totalTokens": 12}') == 12


def body(**changes: Any) -> bytes:
    """A complete answer."""
    whole: dict[str, Any] = {
        "candidates": [
            {"content": {"parts": [{"text": "hi"}], "role": "model"}, "finishReason": "STOP"}
        ],
        "usageMetadata": {
            "promptTokenCount": 10,
            "cachedContentTokenCount": 4,
            "candidatesTokenCount": 7,
            "thoughtsTokenCount": 5,
            "totalTokenCount": 22,
        },
        "modelVersion": "gemini-2.5-flash",
    }
    return orjson.dumps({**whole, **changes})


def candidate(*given: JSON, **changes: Any) -> bytes:
    """A complete answer of one candidate with these parts."""
    made = {"content": {"parts": given}, "finishReason": "STOP", **changes}
    return body(candidates=[made])


def test_thoughts_and_code_are_not_text() -> None:
    """Only what is said to the user is text."""
    parts: list[JSON] = [
        {"text": "hm", "thought": True},
        {"executableCode": {"code": "1"}},
        {"text": "a"},
        {"codeExecutionResult": {"output": "1"}},
        {"text": "b", "thoughtSignature": "s"},
    ]
    assert CODEC.decode(200, {}, candidate(*parts)).text == "ab"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (body(candidates=[], promptFeedback={"blockReason": "PROHIBITED_CONTENT"}), "PROHIBITED"),
        (candidate(finishReason="SAFETY"), "SAFETY"),
        (candidate({"text": "hm", "thought": True}, finishReason="SPII"), "SPII"),
        (
            body(
                candidates=[
                    {
                        "finishReason": "SAFETY",
                        "safetyRatings": [{"category": "HARM_X", "blocked": True}],
                    }
                ]
            ),
            "HARM_X",
        ),
    ],
)
def test_blocks_are_no_answers(data: bytes, why: str) -> None:
    """A blocked prompt, or an answer stopped before it said anything, is `content_filter`, and
    carries what it was billed; in a stream as well."""
    with pytest.raises(ContentFiltered, match=why) as caught:
        CODEC.decode(200, {}, data)
    assert caught.value.usage == Usage(input=10, output=12, cached_input=4, reasoning=5)
    with pytest.raises(ContentFiltered, match=why):
        CODEC.reader().piece("message", data.decode())


def test_a_stream() -> None:
    """It is complete when it ends after a reason to finish; the last count of tokens holds; a
    call in an earlier chunk makes STOP a call."""
    chunks: list[dict[str, Any]] = [
        {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
        {
            "candidates": [
                {"content": {"parts": [{"text": "hi"}, {"functionCall": {"name": "f"}}]}},
                {"index": 1, "content": {"parts": [{"text": "other"}]}},
            ],
            "usageMetadata": {"promptTokenCount": 3},
        },
    ]
    start = b"".join(b"data: " + orjson.dumps(c) + b"\r\n\r\n" for c in chunks)
    last: dict[str, Any] = {"candidates": [{"finishReason": "STOP"}], "modelVersion": "m"}
    last["usageMetadata"] = {"promptTokenCount": 3, "candidatesTokenCount": 2}
    cut = streamed(CODEC, [start])
    assert (cut.text, cut.finish, cut.done) == ("hi", None, False)
    whole = streamed(CODEC, [start, b"data: " + orjson.dumps(last) + b"\n\n"])
    assert (whole.text, whole.finish, whole.model) == ("hi", "tool_calls", "m")
    assert whole.done
    assert whole.usage == Usage(input=3, output=2)
