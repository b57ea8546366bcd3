"""Errors of servers that speak OpenAI's language."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmctl.errors import (
    AuthFailed,
    CallError,
    CallTimeout,
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
from llmctl.providers.replies import error_from_event, error_from_reply


@pytest.mark.parametrize(
    ("status", "error", "kind", "retryable"),
    [
        (400, {"code": "context_length_exceeded"}, ContextTooLong, False),
        (400, {"type": "exceed_context_size_error", "code": 400}, ContextTooLong, False),
        (400, {"type": "invalid_request_error"}, InvalidRequest, False),
        (400, {"code": "content_filter"}, ContentFiltered, False),
        (401, {"code": "invalid_api_key"}, AuthFailed, False),
        (402, {}, QuotaExhausted, False),
        (403, {}, PermissionRefused, False),
        (404, {"code": "model_not_found"}, NotFound, False),
        (404, {"code": "DeploymentNotFound"}, NotFound, False),
        (408, {}, CallTimeout, True),
        (409, {}, ServerFailed, True),
        (429, {"code": "rate_limit_exceeded"}, RateLimited, True),
        (429, {"code": "insufficient_quota"}, QuotaExhausted, False),
        (429, {"code": "429"}, RateLimited, True),
        (500, {}, ServerFailed, True),
        (502, {}, ServerFailed, True),
        (503, {}, Overloaded, True),
        (504, {}, ServerFailed, True),
        (529, {}, Overloaded, True),
    ],
)
def test_errors_by_body_and_status(
    status: int, error: dict[str, Any], kind: type[CallError], *, retryable: bool
) -> None:
    """What is terminal and what may be tried again comes from the body as well as the status."""
    body = orjson.dumps({"error": {"message": "m", **error}})
    found = error_from_reply(status, {"x-request-id": "r1"}, body)
    assert type(found) is kind
    assert found.retryable is retryable
    assert (found.http_status, found.provider_request_id) == (status, "r1")


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in…",
        "the request exceeds the available context size: context window is 4096",
    ],
)
def test_a_prompt_too_long_is_known_by_its_words(said: str) -> None:
    """Servers without a code of their own say it in the message."""
    body = orjson.dumps({"error": {"message": said, "type": "BadRequestError", "code": 400}})
    assert type(error_from_reply(400, {}, body)) is ContextTooLong


def test_the_providers_word_on_retrying_wins() -> None:
    """`x-should-retry: false` makes a 500 terminal."""
    assert not error_from_reply(500, {"x-should-retry": "false"}, b"{}").retryable


def test_a_redirect_is_not_followed() -> None:
    """It says where to, because `base_url` is what must be mended."""
    assert "https://elsewhere" in error_from_reply(302, {"location": "https://elsewhere"}, b"").message


@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", b"\xff", b"null", b"[1]", b'{"error":3}', b'{"error":"x"}']
)
def test_a_body_that_says_little(body: bytes) -> None:
    """The status alone still names the error."""
    assert type(error_from_reply(503, {}, body)) is Overloaded


def test_an_error_within_an_answer() -> None:
    """Its status counts where it carries one, in whichever field."""
    assert type(error_from_event({"code": 429, "message": "slow"})) is RateLimited
    assert type(error_from_event({"status_code": 401, "message": "who?"})) is AuthFailed
    assert type(error_from_event({"message": "broken"})) is ServerFailed
    assert error_from_event({"code": 429}).http_status == 429
    assert error_from_event({"code": True}).http_status is None
