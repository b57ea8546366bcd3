"""Gemini's wire format against recorded traffic."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmctl.errors import ContentFiltered
from llmctl.protocols import Codec
from llmctl.providers.gemini import Gemini
from llmctl.types import JSON, Message, Request
from tests.providers.recordings import asked, events, needs_recordings, recordings, whole_stream

CODEC: Codec = Gemini(now=lambda: 1_800_000_000.0)


def ask(**changes: Any) -> Request:
    """A request to a Gemini model."""
    return asked("gemini", changes.pop("model", "gemini-2.5-flash"), **changes)


def said(whole: dict[str, Any]) -> str:
    """The text of a recorded answer."""
    parts = whole["candidates"][0].get("content", {}).get("parts", [])
    return "".join(p["text"] for p in parts if "text" in p and not p.get("thought"))


def counted(usage: dict[str, int]) -> tuple[int, int]:
    """Input and output as the recorded usage says them; what tools read is input (case 17)."""
    output = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
    return usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0), output


@needs_recordings
def test_recorded_answers_decode() -> None:
    """Text, finish, model and usage are what the recorded body says; a block is an error."""
    seen = 0
    for recorded in recordings("gemini", ":generateContent"):
        data = recorded["body"].encode()
        whole = orjson.loads(data)
        reason = whole["candidates"][0]["finishReason"]
        if reason == "SAFETY":
            with pytest.raises(ContentFiltered):
                CODEC.decode(200, {}, data)
            continue
        reply = CODEC.decode(recorded["status"], recorded["headers"], data)
        assert (reply.text, reply.model) == (said(whole), whole["modelVersion"])
        calls = b'"functionCall"' in data
        stop = "tool_calls" if calls else "stop"
        assert reply.finish == {"STOP": stop, "MAX_TOKENS": "length"}[reason]
        assert reply.usage is not None
        assert (reply.usage.input, reply.usage.output) == counted(whole["usageMetadata"])
        cached = whole["usageMetadata"].get("cachedContentTokenCount", 0)
        assert reply.usage.cached_input == cached
        seen += 1
    assert seen > 100


@needs_recordings
def test_recorded_streams_decode_however_they_are_cut() -> None:
    """Every way to cut a stream gives its own text, and the usage of its last chunk."""
    streams = recordings("gemini", ":streamGenerateContent")
    assert streams
    for recorded in streams:
        chunks = list(events(recorded["body"]))
        whole = whole_stream(CODEC, recorded["body"], seeds=20)
        assert whole.text == "".join(map(said, chunks))
        assert whole.usage is not None
        usage = counted(chunks[-1]["usageMetadata"])
        assert (whole.usage.input, whole.usage.output) == usage


@needs_recordings
def test_recorded_counts() -> None:
    """A recorded count is the number it says."""
    for recorded in recordings("gemini", ":countTokens"):
        data = recorded["body"].encode()
        assert CODEC.decode_count(data) == orjson.loads(data)["totalTokens"]


@needs_recordings
def test_recorded_requests_are_encoded_alike() -> None:
    """The same conversation makes the recorded path and body."""
    for recorded in recordings("gemini"):
        path = recorded["path"].removeprefix("/v1beta")
        if path.startswith("/openai"):
            continue
        model, _, verb = path.removeprefix("/models/").partition(":")
        asking = rebuilt(recorded["request"], model)
        if verb == "countTokens":
            wire = CODEC.count(asking)
            assert wire is not None
        else:
            wire = CODEC.encode(asking, stream=verb.startswith("stream"))
        assert wire.path.removesuffix("?alt=sse") == path
        assert plain(wire.body or {}) == plain(recorded["request"])


def rebuilt(given: dict[str, Any], model: str) -> Request:
    """The request that a recorded body answers to."""
    options = {k: v for k, v in given.items() if k not in ("contents", "systemInstruction")}
    config = dict(options.pop("generationConfig", {}))
    schema = config.pop("responseJsonSchema", None)
    if schema is not None:
        del config["responseMimeType"]
    messages = [turn for one in given["contents"] for turn in turns(one)]
    instructions = given.get("systemInstruction", {"parts": []})["parts"]
    return ask(
        model=model,
        messages=(*(Message("system", part["text"]) for part in instructions), *messages),
        max_tokens=config.pop("maxOutputTokens", None),
        temperature=config.pop("temperature", None),
        options={**options, **config},
        schema=schema,
    )


def turns(one: dict[str, Any]) -> list[Message]:
    """A recorded turn in OpenAI's shape, where it has one."""
    held = one["parts"]
    kinds = {next(iter(sorted(set(part) - {"thoughtSignature"}))) for part in held}
    if kinds == {"functionResponse"} and not any("parts" in p["functionResponse"] for p in held):
        return [result(part["functionResponse"]) for part in held]
    if one["role"] == "user":
        return [Message("user", tuple(map(part, held)))]
    if kinds == {"functionCall"}:
        return [Message("assistant", None, {"tool_calls": list(map(call, held))})]
    return [Message("assistant", tuple(map(part, held)))]


def result(held: dict[str, Any]) -> Message:
    """A recorded result in OpenAI's shape."""
    extra = {"tool_call_id": held.get("id"), "name": held["name"]}
    return Message("tool", orjson.dumps(held["response"]).decode(), extra)


def call(held: dict[str, Any]) -> dict[str, Any]:
    """A recorded call in OpenAI's shape, with Gemini's signature where Gemini puts it."""
    function = held["functionCall"]
    arguments = orjson.dumps(function["args"]).decode()
    made = {"id": function.get("id"), "function": {"name": function["name"]}}
    made["function"]["arguments"] = arguments
    if "thoughtSignature" in held:
        made["extra_content"] = {"google": {"thought_signature": held["thoughtSignature"]}}
    return made


def part(held: dict[str, Any]) -> dict[str, Any]:
    """A recorded part as OpenAI's, where there is one."""
    if set(held) == {"text"}:
        return {"type": "text", "text": held["text"]}
    if "inlineData" in held:
        url = f"data:{held['inlineData']['mimeType']};base64,{held['inlineData']['data']}"
        return {"type": "file", "file": {"file_data": url}}
    return held


def plain(whole: JSON) -> Any:
    """A body as JSON, without what means nothing."""
    made = orjson.loads(orjson.dumps(whole))
    if not made.get("generationConfig"):
        made.pop("generationConfig", None)
    for turn in made.get("contents", ()):
        for held in turn["parts"]:
            if held.get("thoughtSignature") == "skip_thought_signature_validator":
                del held["thoughtSignature"]
    return made
