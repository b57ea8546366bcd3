"""Recorded traffic of the servers that speak OpenAI's languages."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import pytest

from llmctl.errors import BadResponse, CallError, InvalidRequest, NoAnswer, NotFound
from llmctl.protocols import Codec
from llmctl.providers.groq import Groq
from llmctl.providers.mistral import Mistral
from llmctl.providers.openai_chat import OpenAIChat
from llmctl.providers.openai_responses import OpenAIResponses
from llmctl.providers.openrouter import OpenRouter
from llmctl.types import Message, StreamChunk, Usage
from tests.providers.recordings import (
    asked,
    events,
    needs_recordings,
    recordings,
    streamed,
    whole_stream,
)

pytestmark = needs_recordings

CHAT: dict[str, Codec] = {
    "openai": OpenAIChat(),
    "mistral": Mistral(),
    "openrouter": OpenRouter(),
    "groq": Groq(),
}
RESPONSES: Codec = OpenAIResponses()
ENDS = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
LIMITS = ("max_tokens", "max_completion_tokens")


def counted(usage: Any) -> Usage:
    """The usage a body reports, in the program's convention."""
    took = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    gave = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return Usage(
        input=usage.get("prompt_tokens", usage.get("input_tokens")),
        output=usage.get("completion_tokens", usage.get("output_tokens")),
        cached_input=took.get("cached_tokens") or usage.get("num_cached_tokens") or 0,
        cache_write=took.get("cache_write_tokens") or 0,
        reasoning=gave.get("reasoning_tokens") or 0,
    )


def plain(content: Any) -> str:
    """The text of a chat completion's content."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def message(turn: dict[str, Any]) -> Message:
    """A recorded turn as the program holds it."""
    content = turn.get("content")
    extra = {name: value for name, value in turn.items() if name not in ("role", "content")}
    return Message(turn["role"], tuple(content) if isinstance(content, list) else content, extra)


@pytest.mark.parametrize("provider", CHAT)
def test_chat_completions(provider: str) -> None:
    """Text, finish, model, usage and price of every recorded answer are what its body says."""
    seen = 0
    compatible = recordings("gemini", "/chat/completions") if provider == "openai" else []
    for recorded in recordings(provider, "/chat/completions") + compatible:
        if recorded["kind"] != "json" or recorded["status"] != 200:
            continue
        whole = orjson.loads(recorded["body"])
        choice = whole["choices"][0]
        reply = CHAT[provider].decode(200, recorded["headers"], recorded["body"].encode())
        assert reply.text == plain(choice["message"].get("content"))
        assert reply.finish == ENDS[choice["finish_reason"]]
        assert reply.model == whole["model"]
        assert reply.usage == counted(whole["usage"])
        cost = whole["usage"].get("cost")
        assert reply.cost == (None if cost is None else Decimal(repr(cost)))
        seen += 1
    assert seen


@pytest.mark.parametrize("provider", CHAT)
def test_what_was_asked(provider: str) -> None:
    """The same conversation makes the body that was recorded."""
    seen = 0
    for recorded in recordings(provider, "/chat/completions"):
        body = dict(recorded["request"])
        turns = tuple(message(turn) for turn in body["messages"])
        own = ("model", "messages", "stream", "stream_options", *LIMITS)
        options = {name: value for name, value in body.items() if name not in own}
        limit = next((body[name] for name in LIMITS if name in body), None)
        request = asked(provider, body["model"], messages=turns, options=options, max_tokens=limit)
        made = dict(CHAT[provider].encode(request, stream=bool(body.get("stream"))).body or {})
        for name in LIMITS:  # two names for one thing: which one is a matter of the model
            assert made.pop(name, limit) == limit
            body.pop(name, None)
        for each in (made, body):
            each.pop("stream_options", None)
            # Nothing said is left out, or null: the API takes both.
            each["messages"] = [{"content": None, **turn} for turn in each["messages"]]
        body["stream"] = body.get("stream") or None
        made.setdefault("stream", None)
        assert made == body
        seen += 1
    assert seen


@pytest.mark.parametrize("provider", ["openai", "openrouter", "groq"])
def test_streams(provider: str) -> None:
    """Every recorded stream says, however it is cut, what its events say."""
    seen = 0
    for recorded in recordings(provider, "/chat/completions"):
        if recorded["kind"] != "sse":
            continue
        body = recorded["body"].encode()
        if "event: error" in recorded["body"]:
            with pytest.raises(NoAnswer):  # case 30: Groq's failed tool call
                streamed(CHAT[provider], [body])
            continue
        chunks = list(events(recorded["body"].replace("data: [DONE]", "")))
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        whole = whole_stream(CHAT[provider], recorded["body"])
        assert whole.text == "".join(plain(one["delta"].get("content")) for one in choices)
        assert whole.finish == ENDS[[c["finish_reason"] for c in choices if c["finish_reason"]][-1]]
        usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        assert whole.usage == (counted(usages[-1]) if usages else None)
        seen += 1
    assert seen


def test_responses() -> None:
    """Text, finish and usage of every recorded response are what its body says; one that is
    still queued is no answer. Case 11: nor is commentary any of it."""
    seen = 0
    for recorded in recordings("openai", "/responses"):
        if recorded["kind"] != "json" or recorded["status"] != 200:
            continue
        whole = orjson.loads(recorded["body"])
        body = recorded["body"].encode()
        if whole["status"] == "queued":
            with pytest.raises(BadResponse) as caught:
                RESPONSES.decode(200, {}, body)
            assert not caught.value.retryable
            continue
        reply = RESPONSES.decode(200, recorded["headers"], body)
        said = [
            part["text"]
            for item in whole["output"]
            if item["type"] == "message" and item.get("phase") != "commentary"
            for part in item["content"]
            if part["type"] == "output_text"
        ]
        assert reply.text == "".join(said)
        waits = any(
            item["type"] == "function_call" or item.get("execution") == "client"
            for item in whole["output"]
        )
        assert reply.finish == ("tool_calls" if waits else "stop")
        assert reply.model == whole["model"]
        assert reply.usage == counted(whole["usage"])
        seen += 1
    assert seen


def test_response_streams() -> None:
    """Every recorded stream of a response says, however it is cut, what its last event says."""
    seen = 0
    for recorded in recordings("openai", "/responses") + recordings("openrouter", "/responses"):
        if recorded["kind"] != "sse":
            continue
        body = recorded["body"].encode()
        last = list(events(recorded["body"].replace("data: [DONE]", "")))[-1]
        if last["type"] != "response.completed":
            with suppress(CallError):
                assert not streamed(RESPONSES, [body]).done
            continue
        whole = whole_stream(RESPONSES, recorded["body"])
        assert whole.usage == counted(last["response"]["usage"])
        steps = list(events(recorded["body"].replace("data: [DONE]", "")))
        commentary = [
            step["output_index"]
            for step in steps
            if step["type"] == "response.output_item.added"
            and step["item"].get("phase") == "commentary"
        ]
        deltas = [
            step["delta"]
            for step in steps
            if step["type"] == "response.output_text.delta"
            and step.get("output_index") not in commentary
        ]
        assert whole.text == "".join(deltas)
        seen += 1
    assert seen


def test_what_was_asked_of_responses() -> None:
    """The same conversation makes the input items that were recorded."""
    seen = 0
    for recorded in recordings("openai", "/responses"):
        body = recorded["request"]
        given = body["input"]
        turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not all(set(turn) == {"role", "content"} for turn in turns):
            continue
        if not all(isinstance(turn["content"], str) for turn in turns):
            continue
        options = {k: v for k, v in body.items() if k not in ("model", "input", "stream")}
        request = asked(
            "openai", body["model"], messages=tuple(map(message, turns)), options=options
        )
        made = dict(RESPONSES.encode(request, stream=bool(body.get("stream"))).body or {})
        assert {"stream": False, **made} == {"stream": False, **body, "input": turns}
        seen += 1
    assert seen


def test_recorded_failures() -> None:
    """Recorded errors are the mapped ones."""
    seen = 0
    for provider, codec in CHAT.items():
        for recorded in recordings(provider):
            if recorded["status"] == 200:
                continue
            kind: Any = NotFound if recorded["status"] == 404 else (InvalidRequest, NoAnswer)
            with pytest.raises(kind) as caught:
                codec.decode(recorded["status"], recorded["headers"], recorded["body"].encode())
            said = orjson.loads(recorded["body"])["error"]["message"]
            assert " ".join(said.split())[:100] in caught.value.message
            seen += 1
    assert seen


def test_the_recorded_token_count() -> None:
    """The provider's count of a recorded conversation is read."""
    (recorded,) = recordings("openai", "/responses/input_tokens")
    assert RESPONSES.decode_count(recorded["body"].encode()) == 16


def test_an_end_of_stream_alone_is_no_answer() -> None:
    """Without a reason to finish, or `response.completed`, every recorded stream is incomplete;
    case 23: without `[DONE]` alone it is not."""
    for recorded in recordings("openai", "/chat/completions"):
        if recorded["kind"] == "sse":
            cut = recorded["body"].replace("data: [DONE]", "")
            assert streamed(CHAT["openai"], [cut.encode()]).done
            torn = cut.partition('"finish_reason":"')[0].rpartition("data:")[0]
            assert not streamed(CHAT["openai"], [torn.encode()]).done
    assert RESPONSES.reader().end() == StreamChunk()
