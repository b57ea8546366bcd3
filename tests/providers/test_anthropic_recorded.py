"""Anthropic's wire format against recorded traffic."""

from __future__ import annotations

from typing import Any

import orjson

from llmctl.errors import NotFound
from llmctl.protocols import Codec
from llmctl.providers.anthropic import Anthropic
from llmctl.providers.registry import codec
from llmctl.tokens import Counter
from llmctl.types import JSON, Message, Request
from tests.providers.recordings import asked, events, needs_recordings, recordings, whole_stream

NOW = 1_800_000_000.0
CODEC: Codec = Anthropic(now=lambda: NOW)


def ask(**changes: Any) -> Request:
    """A request to a Claude model."""
    return asked("anthropic", changes.pop("model", "claude-sonnet-5"), **changes)


def counted(usage: dict[str, Any]) -> tuple[int, int]:
    """Input and output as the recorded usage says them."""
    cache = ("cache_read_input_tokens", "cache_creation_input_tokens")
    return usage["input_tokens"] + sum(usage[n] for n in cache), usage["output_tokens"]


@needs_recordings
def test_recorded_answers_decode() -> None:
    """Text, finish, model and usage are what the recorded body says."""
    seen = 0
    for recorded in recordings("anthropic", "/messages"):
        if recorded["kind"] != "json" or recorded["status"] != 200:
            continue
        whole = orjson.loads(recorded["body"])
        reply = CODEC.decode(200, recorded["headers"], recorded["body"].encode())
        texts = [block["text"] for block in whole["content"] if block["type"] == "text"]
        assert reply.text == "".join(texts)
        assert reply.finish == {"end_turn": "stop", "tool_use": "tool_calls"}[whole["stop_reason"]]
        assert reply.model == whole["model"]
        assert reply.usage is not None
        assert (reply.usage.input, reply.usage.output) == counted(whole["usage"])
        assert reply.usage.cached_input == whole["usage"]["cache_read_input_tokens"]
        assert reply.usage.cache_write == whole["usage"]["cache_creation_input_tokens"]
        seen += 1
    assert seen > 100


@needs_recordings
def test_recorded_streams_decode_however_they_are_cut() -> None:
    """Every way to cut a stream gives its own text, and the usage of its last count."""
    streams = [r for r in recordings("anthropic", "/messages") if r["kind"] == "sse"]
    assert streams
    for recorded in streams:
        said = list(events(recorded["body"]))
        texts = [e["delta"]["text"] for e in said if "text" in e.get("delta", {})]
        last = next(e for e in said if e["type"] == "message_delta")
        whole = whole_stream(CODEC, recorded["body"], seeds=20)
        assert whole.text == "".join(texts)
        assert whole.usage is not None
        assert (whole.usage.input, whole.usage.output) == counted(last["usage"])


@needs_recordings
def test_recorded_counts_and_errors() -> None:
    """A recorded count is the number it says; a recorded error is mapped."""
    for recorded in recordings("anthropic", "/count_tokens"):
        data = recorded["body"].encode()
        if recorded["status"] == 200:
            assert CODEC.decode_count(data) == orjson.loads(data)["input_tokens"]
        else:
            error = CODEC.failure(recorded["status"], recorded["headers"], data)
            assert isinstance(error, NotFound)


@needs_recordings
def test_recorded_requests_are_encoded_alike() -> None:
    """The same conversation makes the recorded body, but for what its sender added itself."""
    for recorded in recordings("anthropic"):
        given = recorded["request"]
        asking = rebuilt(given)
        if recorded["path"].endswith("/count_tokens"):
            wire = CODEC.count(asking)
            assert wire is not None
        else:
            wire = CODEC.encode(asking, stream=given["stream"])
        assert plain(wire.body or {}) == plain(given)


def rebuilt(given: dict[str, Any]) -> Request:
    """The request that a recorded body answers to."""
    options = dict(given)
    for name in ("model", "messages", "system", "stream"):
        options.pop(name, None)
    messages = [turn for one in given["messages"] for turn in turns(one)]
    if given.get("system"):
        held = given["system"]
        messages.insert(0, Message("system", held if isinstance(held, str) else tuple(held)))
    schema = None
    if "format" in options.get("output_config", {}):
        config = dict(options.pop("output_config"))
        schema = config.pop("format")["schema"]
        if config:
            options["output_config"] = config
    return ask(
        model=given["model"],
        messages=tuple(messages),
        max_tokens=options.pop("max_tokens", None),
        temperature=options.pop("temperature", None),
        options=options,
        schema=schema,
    )


def turns(one: dict[str, Any]) -> list[Message]:
    """A recorded turn in OpenAI's shape, where it has one."""
    held = one["content"]
    if isinstance(held, str):
        return [Message(one["role"], held)]
    kinds = [block["type"] for block in held]
    failed = any(block.get("is_error") for block in held)  # which OpenAI's shape cannot say
    if set(kinds) == {"tool_result"} and not failed:
        return [
            Message("tool", result(block["content"]), {"tool_call_id": block["tool_use_id"]})
            for block in held
        ]
    if one["role"] == "assistant" and kinds == sorted(kinds) and set(kinds) <= {"text", "tool_use"}:
        calls = [call(block) for block in held if block["type"] == "tool_use"]
        texts = tuple(block for block in held if block["type"] == "text")
        return [Message("assistant", texts or None, {"tool_calls": calls} if calls else {})]
    return [Message(one["role"], tuple(map(part, held)))]


def result(held: Any) -> Any:
    """A tool's result as content."""
    return held if isinstance(held, str) else tuple(map(part, held))


def call(block: dict[str, Any]) -> dict[str, Any]:
    """A recorded call in OpenAI's shape."""
    arguments = orjson.dumps(block["input"]).decode()
    return {"id": block["id"], "function": {"name": block["name"], "arguments": arguments}}


def part(block: dict[str, Any]) -> dict[str, Any]:
    """A recorded block as OpenAI's part, where there is one."""
    source = block.get("source", {})
    kind, where = block["type"], source.get("type")
    if kind == "image" and where == "url":
        return {"type": "image_url", "image_url": {"url": source["url"]}}
    if kind in ("image", "document") and where == "base64":
        url = f"data:{source['media_type']};base64,{source['data']}"
        if kind == "image":
            return {"type": "image_url", "image_url": {"url": url}}
        return {"type": "file", "file": {"file_data": url}}
    if kind == "document" and where == "url":
        return {"type": "file", "file": {"file_url": source["url"]}}
    return block


def plain(whole: JSON) -> dict[str, Any]:
    """A body without what means nothing: `stream` and `is_error` when false, and the list around
    a lone text."""
    made = orjson.loads(orjson.dumps(whole))
    if not made.get("stream"):
        made.pop("stream", None)
    for turn in made["messages"]:
        if isinstance(turn["content"], str):
            turn["content"] = [{"type": "text", "text": turn["content"]}]
        for block in turn["content"]:
            if block.get("is_error") is False:
                del block["is_error"]
    return dict(made)


@needs_recordings
def test_counts_lie_near_what_was_billed() -> None:
    """Case 46: of recorded calls without files the count is never below the bill, and for short
    plain prompts no three times of it."""
    counter, plain = Counter(codec=codec), []
    for recorded in recordings("anthropic", "/messages"):
        body = recorded["request"]
        turns = body["messages"]
        parts = [
            p for turn in turns if not isinstance(turn["content"], str) for p in turn["content"]
        ]
        own = {"model", "messages", "max_tokens", "stream"}
        options = {name: value for name, value in body.items() if name not in own}
        if recorded["kind"] != "json" or recorded["status"] != 200 or "tools" in options:
            continue
        if any(part["type"] != "text" for part in parts) or "container" in options:
            continue
        usage = orjson.loads(recorded["body"])["usage"]
        cached = ("cache_read_input_tokens", "cache_creation_input_tokens")
        billed = usage["input_tokens"] + sum(usage.get(name) or 0 for name in cached)
        messages = tuple(
            Message(
                turn["role"],
                turn["content"] if isinstance(turn["content"], str) else tuple(turn["content"]),
            )
            for turn in turns
        )
        made = asked("anthropic", body["model"], messages=messages, options=options)
        counted = counter.count(made).tokens
        assert counted >= billed, (body, billed)
        if not options and billed < 100:
            plain.append(counted / billed)
    assert plain
    assert max(plain) < 3
