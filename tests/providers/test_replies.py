"""Errors, waits and limits as providers write them, read into the program's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    RateLimited,
    ServerFailed,
)
from llmctl.providers.registry import codec
from llmctl.providers.replies import (
    LONGEST_NAME,
    MAX_WAIT,
    MOST_DOLLARS,
    MOST_TOKENS,
    count,
    dollars,
    duration,
    error_from_event,
    error_from_reply,
    retry_after,
)
from tests.providers.recordings import CODECS

NOW = 1_800_000_000.0
GATEWAY = (408, 502, 504, 520, 521, 522, 523, 524)


@pytest.mark.parametrize("status", GATEWAY)
@pytest.mark.parametrize("made", CODECS, ids=lambda made: type(made).__name__)
def test_a_gateways_timeout_may_have_been_billed(made: Any, status: int) -> None:
    """Case 18: a gateway that heard nothing from the server behind it does not know whether the
    model answered: the failure is ambiguous, whatever its body."""
    for body in (b"", b"<html>bad gateway</html>", b'{"error":{"message":"upstream"}}'):
        error = made.failure(status, {}, body)
        assert (error.ambiguous, error.retryable) == (True, True)


@pytest.mark.parametrize("status", [429, 500, 503, 529])
@pytest.mark.parametrize("made", CODECS, ids=lambda made: type(made).__name__)
def test_a_providers_own_failure_is_not_billed(made: Any, status: int) -> None:
    """A provider that refuses, or fails itself, bills nothing."""
    assert not made.failure(status, {}, b'{"error":{"message":"busy"}}').ambiguous


def test_a_gateway_that_names_the_reason_is_believed() -> None:
    """An error of a known code did not reach the model, whatever status came with it."""
    for code, kind in (("rate_limit_exceeded", RateLimited), ("invalid_api_key", AuthFailed)):
        found = error_from_reply(502, {}, orjson.dumps({"error": {"code": code}}), now=NOW)
        assert (type(found), found.ambiguous) == (kind, False)


def test_an_error_within_an_answer() -> None:
    """Its status counts where it carries one, in whichever field; a gateway's there as well."""
    assert type(error_from_event({"code": 429, "message": "slow"})) is RateLimited
    assert type(error_from_event({"status_code": 401, "message": "who?"})) is AuthFailed
    assert type(error_from_event({"message": "broken"})) is ServerFailed
    assert error_from_event({"error": {"code": 429}}).http_status == 429
    assert error_from_event({"error": {"code": True}}).http_status is None
    assert [error_from_event({"error": {"code": code}}).ambiguous for code in (500, 502)] == [
        False,
        True,
    ]


def test_a_redirect_is_not_followed() -> None:
    """It says where to, because `base_url` is what must be mended."""
    found = error_from_reply(302, {"location": "https://elsewhere"}, b"", now=NOW)
    assert "https://elsewhere" in found.message


def test_durations() -> None:
    """Go-style durations, as OpenAI and Groq send them, are seconds; nothing else is one."""
    given = {"1s": 1, "12ms": 0.012, "6m0s": 360, "2m59.56s": 179.56, "7.66s": 7.66, "1h2m3s": 3723}
    assert {text: duration(text) for text in given} == pytest.approx(given)
    assert {duration(text) for text in ("", "soon", "1", "-1s", "1s2h", "s")} == {None}


def date(seconds: int) -> str:
    """The HTTP date so many seconds from `NOW`."""
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "1e9"}, MAX_WAIT),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": date(20)}, 20),
        ({"retry-after": date(-20)}, None),
        ({"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, MAX_WAIT),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are honoured up to the bound; nonsense is not said."""
    assert retry_after(headers, now=NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=40))
def test_no_header_crashes(text: str) -> None:
    """Whatever a server writes, the wait is None or lies between 0 and the bound."""
    for name in ("retry-after", "retry-after-ms"):
        wait = retry_after({name: text}, now=NOW)
        assert wait is None or 0 <= wait <= MAX_WAIT
    duration(text)
    count(text)


@pytest.mark.parametrize(
    ("adapter", "body"),
    [
        ("openai", b'{"choices":[]}'),
        ("openai", b'{"choices":[{"message":{"content":3}}]}'),
        ("openai", b'{"choices":{"0":1}}'),
        ("openai", b'{"output":3}'),
        ("openai", b'{"output":[{"type":"message","content":[3]}]}'),
        ("anthropic", b'{"content":[{"type":"text"}]}'),
        ("anthropic", b'{"content":"x"}'),
        ("gemini", b'{"candidates":[]}'),
        ("gemini", b'{"candidates":[{}]}'),
        ("gemini", b'{"candidates":[{"content":{"parts":[{"text":3}]},"finishReason":"STOP"}]}'),
        ("cohere", b'{"message":{"content":[]}}'),
        ("cohere", b'{"message":{"content":[{"type":"text","text":3}]},"finish_reason":"x"}'),
    ],
)
def test_what_is_built_wrongly(adapter: str, body: bytes) -> None:
    """An answer that lacks a part, or has something else in its place, is `bad_response`."""
    with pytest.raises(BadResponse):
        codec(adapter).decode(200, {}, body)


_CITED = {"url": "https://example.org", "title": "🦜"}
_OPENAI = {"type": "url_citation", "url_citation": _CITED}


@pytest.mark.parametrize(
    ("name", "api", "body", "events"),
    [
        (
            "openai",
            "chat",
            {"choices": [{"message": {"content": "a", "annotations": [_OPENAI]}}]},
            [{"choices": [{"delta": {"content": "a", "annotations": [_OPENAI]},
                           "finish_reason": "stop"}]}],
        ),
        (
            "openai",
            "chat",
            {"citations": ["https://example.org"], "choices": [{"message": {"content": "a"}}]},
            2 * [{"citations": ["https://example.org"],
                  "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}],
        ),
        (
            "openai",
            "responses",
            {"output": [{"type": "message", "content": [
                {"type": "output_text", "text": "a", "annotations": [_CITED]}]}]},
            [{"type": "response.completed", "response": {"output": [{
                "type": "message",
                "content": [{"type": "output_text", "text": "a", "annotations": [_CITED]}]}]}}],
        ),
        (
            "anthropic",
            "chat",
            {"content": [{"type": "text", "text": "a", "citations": [_CITED]}]},
            [{"type": "content_block_delta", "index": 0,
              "delta": {"type": "citations_delta", "citation": _CITED}},
             {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}],
        ),
        (
            "gemini",
            "chat",
            *2 * ({"candidates": [{
                "content": {"parts": [{"text": "a"}]}, "finishReason": "STOP",
                "groundingMetadata": {"groundingChunks": [{"web": _CITED}]}}]},),
        ),
        (
            "cohere",
            "chat",
            {"finish_reason": "COMPLETE", "message": {"content": "a", "citations": [_CITED]}},
            [{"type": "citation-start", "delta": {"message": {"citations": _CITED}}},
             {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}],
        ),
    ],
    ids=["openai", "perplexity", "responses", "anthropic", "gemini", "cohere"],
)  # fmt: skip
def test_citations_are_kept_as_they_came(name: str, api: str, body: Any, events: Any) -> None:
    """Case 7: what an answer refers to stands beside its text, streamed or not."""
    made = codec(name, api)
    found = made.decode(200, {}, orjson.dumps(body)).citations
    assert "example.org" in str(found)
    reader, last = made.reader(), ()
    for event in events if isinstance(events, list) else [events]:
        last = reader.piece(event.get("type", ""), orjson.dumps(event).decode()).citations or last
    assert last == found


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (1e30, None), ("1e999999", None), (MOST_DOLLARS + 1, None), ("NaN", None), (-1, None),
        ("1" * 100_000, None), ("1e-999999", Decimal(0)), (0.25, Decimal("0.25")),
        (MOST_DOLLARS, Decimal(MOST_DOLLARS)),
    ],
)  # fmt: skip
def test_a_price_that_is_none(said: object, read: Decimal | None) -> None:
    """Case 54: dollars above a million are not said, and no amount has a million digits."""
    assert dollars(said) == read
    assert len(f"{dollars(said) or 0:f}") < 40


DEEP = orjson.loads("[" * 900 + "]" * 900)
HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 1e30, 1e308, 2**63, 2**64 - 1, "", "x" * 1_000_000, "\0\x1b[2J", [], [[]],
    [None], [3], {}, {"": {}}, {"message": DEEP}, DEEP,
)  # fmt: skip
"""Values that may stand anywhere in a reply."""

PLAUSIBLE: tuple[dict[str, Any], ...] = (
    {
        "model": "m", "choices": [{"index": 0, "message": {"content": "hi", "refusal": None},
        "delta": {"content": "hi", "refusal": ""}, "finish_reason": "stop"}], "x_groq": {},
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.1,
                  "prompt_tokens_details": {"cached_tokens": 1},
                  "completion_tokens_details": {"reasoning_tokens": 1}},
    },
    {
        "model": "m", "status": "completed", "incomplete_details": {"reason": None},
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}],
        "usage": {"input_tokens": 3, "output_tokens": 2},
    },
    {
        "type": "message_delta", "model": "m", "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn", "delta": {"stop_reason": "refusal", "text": "hi"},
        "stop_details": {"explanation": "no"}, "message": {"model": "m", "usage": {}},
        "usage": {"input_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 1}},
    },
    {
        "candidates": [{"index": 0, "finishReason": "STOP", "content": {"parts": [{"text": "hi"}]},
                        "safetyRatings": [{"blocked": True, "category": "c"}]}],
        "promptFeedback": {"blockReason": "", "blockReasonMessage": ""}, "modelVersion": "m",
        "usageMetadata": {"promptTokenCount": 3, "thoughtsTokenCount": 1},
    },
    {
        "message": {"content": [{"type": "text", "text": "hi"}]}, "finish_reason": "COMPLETE",
        "delta": {"message": {"content": {"text": "hi"}}, "finish_reason": "ERROR", "error": "e"},
        "usage": {"tokens": {"input_tokens": 3, "output_tokens": 2}, "cached_tokens": 1},
    },
    {
        "error": {"message": "no", "code": "c", "type": "t", "status": "s", "details": [
            {"retryDelay": "1s"}], "metadata": {"raw": "r", "reasons": [], "headers": {"a": "b"}}},
        "request_id": "r", "detail": "d",
    },
)  # fmt: skip
"""What the providers send, with all the fields that are read."""


def spoilt(found: Any) -> Iterator[Any]:
    """The reply with each hostile value at every path in turn."""
    for key in range(len(found)) if isinstance(found, list) else list(found):
        for value in HOSTILE:
            other = copy.copy(found)
            other[key] = value
            yield other
        if isinstance(found[key], dict | list):
            for inner in spoilt(found[key]):
                other = copy.copy(found)
                other[key] = inner
                yield other


HEADERS: tuple[dict[str, str], ...] = (
    {"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"},
    *(
        {
            "retry-after": text, "retry-after-ms": text, "x-request-id": text, "location": text,
            **{
                f"{form}-{of}": text
                for form in ("x-ratelimit-remaining", "x-ratelimit-limit", "x-ratelimit-reset")
                for of in ("requests", "tokens", "")
            },
            "x-ratelimit-remaining": text, "x-ratelimit-reset": text, "x-ratelimit-limit": text,
            "anthropic-ratelimit-requests-remaining": text,
            "anthropic-ratelimit-requests-reset": text,
        }
        for text in ("", "9" * 60_000, "9" * 400 + "h", "1e308", "-1", "nan", "\xff\0", "1_0")
    ),
    {"anthropic-ratelimit-requests-reset": "9999-12-31T23:59:59-23:59",
     "anthropic-ratelimit-requests-remaining": "1"},
)  # fmt: skip


def bounded(error: CallError) -> None:
    """Hold the error to its bounds."""
    assert len(error.message) < 2000
    assert len(error.provider_request_id or "") <= LONGEST_NAME
    assert error.retry_after is None or 0 <= error.retry_after <= MAX_WAIT


@pytest.mark.parametrize("made", CODECS, ids=lambda made: type(made).__name__)
def test_no_reply_breaks_more_than_its_row(made: Any) -> None:
    """Cases 54 and 55: whatever stands at whichever place of a reply, reading it, whole or as an
    event, gives an answer within the bounds or a `CallError`."""
    for plain in PLAUSIBLE:
        for found in spoilt(plain):
            body = json.dumps(found).encode()
            for status in (200, 429):
                try:
                    reply = made.decode(status, {}, body)
                except CallError as error:
                    bounded(error)
                    continue
                assert len(reply.model) <= LONGEST_NAME
                usage = reply.usage
                assert usage is None or max(usage.input, usage.output) <= MOST_TOKENS
                assert reply.cost is None or 0 <= reply.cost <= MOST_DOLLARS
            try:
                chunk = made.reader().piece("message", body.decode())
            except CallError as error:
                bounded(error)
            else:
                assert len(chunk.model or "") <= LONGEST_NAME


@pytest.mark.parametrize("made", CODECS, ids=lambda made: type(made).__name__)
def test_no_header_breaks_more_than_its_row(made: Any) -> None:
    """Case 54: limits and waits are read out of any headers, within their bounds."""
    for headers in HEADERS:
        for status in (429, 500, 302):
            bounded(made.failure(status, headers, b"{}"))
        said = made.limits(headers)
        for number in (said.remaining_requests, said.limit_requests, said.remaining_tokens):
            assert number is None or 0 <= number <= MOST_TOKENS
        for wait in (said.reset_requests, said.reset_tokens):
            assert wait is None or 0 <= wait < float("inf")


def test_counts_that_cannot_be_are_not_said() -> None:
    """Case 54: tokens above 2^40 are no usage, so that they are estimated."""
    body = {"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 2**63}}
    assert codec("openai").decode(200, {}, orjson.dumps(body)).usage is None


def test_an_answer_too_deep_to_be_kept() -> None:
    """Case 54: an answer whose body could not be read again out of an output row is none."""
    body = b'{"choices":[{"message":{"content":"hi"}}],"x":' + b"[" * 900 + b"]" * 900 + b"}"
    with pytest.raises(BadResponse):
        codec("openai").decode(200, {}, body)
