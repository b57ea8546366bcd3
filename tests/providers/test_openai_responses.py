"""The wire format of OpenAI's responses."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmctl.errors import (
    BadResponse,
    CallError,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.protocols import Codec
from llmctl.providers.openai_responses import OpenAIResponses
from tests.providers.recordings import streamed
from tests.support import request

CODEC: Codec = OpenAIResponses()


def whole(**changes: Any) -> dict[str, Any]:
    """A complete response."""
    part = {"type": "output_text", "text": "hi", "annotations": []}
    return {
        "model": "gpt-5-mini-2026",
        "status": "completed",
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [part]},
        ],
        "usage": {
            "input_tokens": 10,
            "output_tokens": 7,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens_details": {"reasoning_tokens": 5},
        },
        **changes,
    }


def sent(**changes: Any) -> dict[str, Any]:
    """The body of a request."""
    return dict(CODEC.encode(request(**changes), stream=False).body or {})


def stream(*steps: dict[str, Any]) -> bytes:
    """These events as a stream."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (step["type"].encode(), orjson.dumps(step)) for step in steps
    )


def test_a_schema_stands_beside_other_text_settings() -> None:
    """The schema is the format of `text`, and leaves the caller's `verbosity` in place."""
    text = sent(schema={"type": "object"}, options={"text": {"verbosity": "low"}})["text"]
    assert text["verbosity"] == "low"
    assert text["format"]["type"] == "json_schema"
    assert text["format"]["schema"] == {"type": "object"}


def test_only_calls_that_wait_for_the_caller_are_tool_calls() -> None:
    """A search that OpenAI did itself is no tool call, a function is."""
    for kind, finish in (("web_search_call", "stop"), ("function_call", "tool_calls")):
        items = [{"type": kind, "name": "f"}, *whole()["output"]]
        assert CODEC.decode(200, {}, orjson.dumps(whole(output=items))).finish == finish


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", ServerFailed),
        ("rate_limit_exceeded", RateLimited),
        ("insufficient_quota", QuotaExhausted),
    ],
)
def test_failed_answers(code: str, kind: type[CallError]) -> None:
    """A failed response is the mapped error: whole, as a last event, or as an `error` event."""
    failed = whole(status="failed", error={"code": code, "message": "m"}, output=[])
    with pytest.raises(kind):
        CODEC.decode(200, {}, orjson.dumps(failed))
    for step in (
        {"type": "response.failed", "response": failed},
        {"type": "error", "code": code, "message": "m"},
    ):
        with pytest.raises(kind):
            streamed(CODEC, [stream(step)])


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
def test_work_in_the_background_is_no_answer(status: str) -> None:
    """A response that is not finished is no empty success, and asking again does not help."""
    with pytest.raises(BadResponse) as caught:
        CODEC.decode(200, {}, orjson.dumps(whole(status=status, output=[])))
    assert not caught.value.retryable
