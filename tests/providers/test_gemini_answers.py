"""Gemini's wire format: answers, streams and errors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.protocols import Codec
from llmctl.providers.gemini import Gemini
from llmctl.types import JSON, Usage
from tests.providers.recordings import (
    any_json,
    streamed,
)

CODEC: Codec = Gemini(now=lambda: 1_800_000_000.0)
RPC = "type.googleapis.com/google.rpc."


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


def test_an_answer() -> None:
    """Text, finish and model are read; the output includes the thoughts."""
    reply = CODEC.decode(200, {}, body())
    assert (reply.text, reply.finish, reply.model) == ("hi", "stop", "gemini-2.5-flash")
    assert reply.usage == Usage(input=10, output=12, cached_input=4, reasoning=5)


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
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("NEW_REASON", "other"),
    ],
)
def test_reasons_to_finish(reason: str, finish: str) -> None:
    """Each has one of the program's five meanings."""
    data = candidate({"text": "x"}, finishReason=reason)
    assert CODEC.decode(200, {}, data).finish == finish


def test_a_call_of_a_function_finishes_so() -> None:
    """Gemini says STOP there; an answer without text is not a success like others."""
    reply = CODEC.decode(200, {}, candidate({"functionCall": {"name": "f", "args": {}}}))
    assert (reply.text, reply.finish) == ("", "tool_calls")


def test_an_answer_cut_off_while_thinking() -> None:
    """An empty answer at the limit is still one."""
    data = body(candidates=[{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}])
    reply = CODEC.decode(200, {}, data)
    assert (reply.text, reply.finish) == ("", "length")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (body(candidates=[], promptFeedback={"blockReason": "PROHIBITED_CONTENT"}), "PROHIBITED"),
        (
            body(
                candidates=None,
                promptFeedback={"blockReason": "OTHER", "blockReasonMessage": "because"},
            ),
            "because",
        ),
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


def error(code: int, status: str, message: str, *details: JSON) -> bytes:
    """An error's body."""
    held = {"code": code, "message": message, "status": status, "details": details}
    return orjson.dumps({"error": held})


def quota(*ids: str) -> JSON:
    """The detail that names which quotas ran out."""
    return {"@type": f"{RPC}QuotaFailure", "violations": [{"quotaId": name} for name in ids]}


DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
MINUTE = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
KEY = {"@type": f"{RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
WAIT = {"@type": f"{RPC}RetryInfo", "retryDelay": "45.837906927s"}
LONG = "The input token count (9) exceeds the maximum number of tokens allowed (8)."


@pytest.mark.parametrize(
    ("code", "data", "expected", "wait"),
    [
        (400, error(400, "INVALID_ARGUMENT", "bad field"), InvalidRequest, None),
        (400, error(400, "INVALID_ARGUMENT", "x", KEY), AuthFailed, None),
        (400, error(400, "INVALID_ARGUMENT", "API key not valid. Pass one."), AuthFailed, None),
        (400, error(400, "INVALID_ARGUMENT", LONG), ContextTooLong, None),
        (400, error(400, "FAILED_PRECONDITION", "location"), PermissionRefused, None),
        (401, error(401, "UNAUTHENTICATED", "no"), AuthFailed, None),
        (403, error(403, "PERMISSION_DENIED", "no"), PermissionRefused, None),
        (
            403,
            error(403, "PERMISSION_DENIED", "Your API key was reported as leaked."),
            AuthFailed,
            None,
        ),
        (404, error(404, "NOT_FOUND", "models/x is not found"), NotFound, None),
        (
            429,
            error(429, "RESOURCE_EXHAUSTED", "x", quota(MINUTE), WAIT),
            RateLimited,
            45.837906927,
        ),
        (
            429,
            error(429, "RESOURCE_EXHAUSTED", "x", quota(MINUTE, DAY), WAIT),
            QuotaExhausted,
            None,
        ),
        (429, error(429, "RESOURCE_EXHAUSTED", "x"), RateLimited, None),
        (500, error(500, "INTERNAL", "x"), ServerFailed, None),
        (503, error(503, "UNAVAILABLE", "overloaded"), Overloaded, None),
        (504, error(504, "DEADLINE_EXCEEDED", "x"), ServerFailed, None),
        (503, b"[" + error(503, "UNAVAILABLE", "overloaded") + b"]", Overloaded, None),
        (502, b"<html>bad gateway</html>", ServerFailed, None),
    ],
)
def test_errors_by_body_and_status(
    code: int, data: bytes, expected: type[CallError], wait: float | None
) -> None:
    """The details say what is terminal and how long to wait; inside a stream as well."""
    with pytest.raises(expected) as caught:
        CODEC.decode(code, {}, data)
    assert type(caught.value) is expected
    assert (caught.value.retry_after, caught.value.http_status) == (wait, code)
    if data.startswith(b"{"):
        with pytest.raises(expected) as inside:
            CODEC.reader().piece("message", data.decode())
        assert inside.value.retry_after == wait


def test_a_wait_is_bounded() -> None:
    """However long the provider asks to wait, it is two minutes at most."""
    long = {**WAIT, "retryDelay": "86400s"}
    found = CODEC.failure(429, {}, error(429, "RESOURCE_EXHAUSTED", "x", long))
    assert found.retry_after == 120.0
    assert CODEC.failure(429, {"retry-after": "3"}, error(429, "X", "x", long)).retry_after == 3.0


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


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"candidates":[]}',
        b'{"candidates":[{}]}',
        b'{"candidates":[{"content":{"parts":[{"text":3}]},"finishReason":"STOP"}]}',
    ],
)
def test_what_is_no_answer(text: bytes) -> None:
    """Anything else with status 200 is `bad_response`."""
    with pytest.raises(BadResponse):
        CODEC.decode(200, {}, text)


ANY = any_json(
    "candidates content parts text thought finishReason index usageMetadata error "
    "promptFeedback blockReason safetyRatings blocked category functionCall models "
    "promptTokenCount code message status details @type reason violations quotaId "
    "SAFETY STOP RESOURCE_EXHAUSTED totalTokens name retryDelay",
    f"{RPC}QuotaFailure",
    f"{RPC}RetryInfo",
)


@given(ANY, st.integers(100, 599))
def test_no_body_raises_outside_the_error_tree(whole: Any, status: int) -> None:
    """Any JSON, with any status, is an answer or a mapped error."""
    data = orjson.dumps(whole)
    for attempt in (
        lambda: CODEC.decode(status, {}, data),
        lambda: CODEC.decode(200, {}, data),
        lambda: CODEC.reader().piece("message", data.decode()),
        lambda: CODEC.decode_models(data),
        lambda: CODEC.decode_count(data),
        lambda: CODEC.decode_probe(data),
    ):
        with suppress(CallError):
            attempt()
