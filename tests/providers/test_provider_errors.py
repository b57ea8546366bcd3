"""What each provider's errors, refused attachments, lists of models and limit headers mean."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmctl.errors import CallError, InvalidRequest
from llmctl.protocols import RateHeaders
from llmctl.providers.anthropic import Anthropic
from llmctl.providers.cohere import Cohere
from llmctl.providers.gemini import Gemini
from llmctl.providers.groq import Groq
from llmctl.providers.mistral import Mistral
from llmctl.providers.openai_chat import OpenAIChat
from llmctl.providers.openai_responses import OpenAIResponses
from llmctl.providers.openrouter import OpenRouter
from llmctl.types import JSON, Message, ModelInfo
from tests.providers.recordings import asked

NOW = 1_800_000_000.0
ANTHROPIC, COHERE, GEMINI = Anthropic(lambda: NOW), Cohere(lambda: NOW), Gemini(lambda: NOW)
GROQ, MISTRAL, OPENROUTER = Groq(lambda: NOW), Mistral(lambda: NOW), OpenRouter(lambda: NOW)
OPENAI, RESPONSES = OpenAIChat(lambda: NOW), OpenAIResponses(lambda: NOW)
RETRYABLE = {"rate_limited", "overloaded", "server", "timeout", "bad_response"}
RATE = "rate_limit_exceeded"
RPC = "type.googleapis.com/google.rpc."
DAY = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}
MINUTE = {"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier"}
BAD_KEY = {"@type": f"{RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
LONG = "The input token count (9) exceeds the maximum number of tokens allowed (8)."
NO_ROOM = "input and `max_tokens` exceed context limit"
FILTERED = "Output blocked by content filtering policy"
SPENT = "Your team has either used all available credits or reached its monthly spending limit."
ROUTED_TOO_LONG = "This endpoint's maximum context length is 8."
MISTRAL_TOO_LONG = "too large for model with 8 maximum context length"
COHERE_TOO_LONG = "too many tokens: total number of tokens cannot exceed 4081"


def anthropic(kind: str, message: str) -> JSON:
    """Anthropic's error."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def gemini(status: str, message: str, *details: JSON) -> JSON:
    """Google's error."""
    return {"error": {"message": message, "status": status, "details": details}}


def quota(*violations: JSON) -> JSON:
    """The detail that names which quotas ran out."""
    return {"@type": f"{RPC}QuotaFailure", "violations": violations}


ERRORS: list[tuple[Any, int, JSON, str]] = [
    (ANTHROPIC, 400, anthropic("invalid_request_error", "bad field"), "invalid_request"),
    (ANTHROPIC, 400, anthropic("invalid_request_error", "prompt is too long"), "context_length"),
    (ANTHROPIC, 400, anthropic("invalid_request_error", NO_ROOM), "context_length"),
    (ANTHROPIC, 400, anthropic("invalid_request_error", "credit balance is too low"), "quota"),
    (ANTHROPIC, 401, anthropic("authentication_error", "invalid x-api-key"), "auth"),
    (ANTHROPIC, 402, anthropic("billing_error", "pay"), "quota"),
    (ANTHROPIC, 403, anthropic("permission_error", "no"), "permission"),
    (ANTHROPIC, 404, anthropic("not_found_error", "model: x"), "not_found"),
    (ANTHROPIC, 413, anthropic("request_too_large", "over 32 MB"), "invalid_request"),
    (ANTHROPIC, 429, anthropic("rate_limit_error", "slow"), "rate_limited"),
    (ANTHROPIC, 500, anthropic("api_error", "oops"), "server"),
    (ANTHROPIC, 504, anthropic("timeout_error", "late"), "server"),
    (ANTHROPIC, 529, anthropic("overloaded_error", "busy"), "overloaded"),
    (ANTHROPIC, 529, anthropic("", ""), "overloaded"),
    (GEMINI, 400, gemini("INVALID_ARGUMENT", "bad field"), "invalid_request"),
    (GEMINI, 400, gemini("INVALID_ARGUMENT", "x", BAD_KEY), "auth"),
    (GEMINI, 400, gemini("INVALID_ARGUMENT", "API key not valid. Pass one."), "auth"),
    (GEMINI, 400, gemini("INVALID_ARGUMENT", LONG), "context_length"),
    (GEMINI, 400, gemini("FAILED_PRECONDITION", "location"), "permission"),
    (GEMINI, 401, gemini("UNAUTHENTICATED", "no"), "auth"),
    (GEMINI, 403, gemini("PERMISSION_DENIED", "no"), "permission"),
    (GEMINI, 403, gemini("PERMISSION_DENIED", "API key was reported as leaked."), "auth"),
    (GEMINI, 404, gemini("NOT_FOUND", "models/x is not found"), "not_found"),
    (GEMINI, 429, gemini("RESOURCE_EXHAUSTED", "x", quota(MINUTE)), "rate_limited"),
    (GEMINI, 429, gemini("RESOURCE_EXHAUSTED", "x", quota(MINUTE, DAY)), "quota"),
    (GEMINI, 429, gemini("RESOURCE_EXHAUSTED", "x"), "rate_limited"),
    (GEMINI, 500, gemini("INTERNAL", "x"), "server"),
    (GEMINI, 503, gemini("UNAVAILABLE", "busy"), "overloaded"),
    (GEMINI, 504, gemini("DEADLINE_EXCEEDED", "x"), "server"),
    (COHERE, 400, {"message": "message must not be empty"}, "invalid_request"),
    (COHERE, 400, {"message": COHERE_TOO_LONG}, "context_length"),
    (COHERE, 400, {"message": "too many tokens: max tokens must be at most 4"}, "invalid_request"),
    (COHERE, 403, {"message": "no"}, "permission"),
    (COHERE, 422, {"message": "bad value"}, "invalid_request"),
    (COHERE, 429, {"message": "limited to 40 API calls / minute"}, "rate_limited"),
    (COHERE, 429, {"message": "limited to 1000 API calls / month"}, "quota"),
    (COHERE, 498, {"message": "deny-listed token"}, "content_filter"),
    (MISTRAL, 401, {"detail": "Unauthorized"}, "auth"),
    (MISTRAL, 422, {"detail": [{"loc": ["body"], "msg": "Extra inputs"}]}, "invalid_request"),
    (MISTRAL, 400, {"message": "m", "type": "invalid_model", "code": "1500"}, "not_found"),
    (MISTRAL, 400, {"message": MISTRAL_TOO_LONG}, "context_length"),
    (MISTRAL, 429, {"message": "Requests rate limit exceeded"}, "rate_limited"),
    (MISTRAL, 503, {"message": "Service tier capacity exceeded", "code": "3505"}, "overloaded"),
    (OPENROUTER, 402, {"error": {"code": 402, "message": "Insufficient credits"}}, "quota"),
    (OPENROUTER, 408, {"error": {"code": 408, "message": "timed out"}}, "timeout"),
    (OPENROUTER, 502, {"error": {"code": 502, "message": "returned error"}}, "server"),
    (OPENROUTER, 400, {"error": {"code": 400, "message": ROUTED_TOO_LONG}}, "context_length"),
    (OPENROUTER, 429, {"error": {"code": 429, "message": "limit: free-models-per-day."}}, "quota"),
    (
        OPENROUTER,
        403,
        {"error": {"code": 403, "message": "x", "metadata": {"reasons": ["violence"]}}},
        "content_filter",
    ),
    (OPENAI, 400, {"error": {"code": "context_length_exceeded"}}, "context_length"),
    (OPENAI, 400, {"error": {"type": "exceed_context_size_error", "code": 400}}, "context_length"),
    (OPENAI, 400, {"error": {"message": "maximum context length is 8192"}}, "context_length"),
    (OPENAI, 400, {"error": {"message": "context window is 4096", "code": 400}}, "context_length"),
    (OPENAI, 400, {"error": {"type": "invalid_request_error"}}, "invalid_request"),
    (OPENAI, 400, {"error": {"code": "content_filter"}}, "content_filter"),
    (OPENAI, 404, {"error": {"code": "DeploymentNotFound"}}, "not_found"),
    (OPENAI, 408, {"error": {}}, "timeout"),
    (OPENAI, 409, {"error": {}}, "server"),
    (OPENAI, 429, {"error": {"code": "429"}}, "rate_limited"),
    (GROQ, 413, {"error": {"code": RATE, "message": "Request too large"}}, "invalid_request"),
    (GROQ, 429, {"error": {"code": RATE, "message": "Request too large"}}, "invalid_request"),
    (GROQ, 429, {"error": {"code": RATE, "message": "tokens per minute"}}, "rate_limited"),
    (GROQ, 429, {"error": {"code": RATE, "message": "requests per day (RPD)"}}, "quota"),
    # Case 30
    (GROQ, 400, {"error": {"code": "tool_use_failed", "message": "m"}}, "bad_response"),
    (GROQ, 400, {"error": {"code": "json_validate_failed", "message": "m"}}, "bad_response"),
    (GROQ, 400, {"error": {"code": "model_decommissioned", "message": "m"}}, "not_found"),
    (OPENAI, 400, {"error": {"message": "The model `x-3.5` has been deprecated"}}, "not_found"),
    (OPENAI, 400, {"error": {"message": "deprecated parameter of this model"}}, "invalid_request"),
    (OPENAI, 410, {"error": {"message": "gone"}}, "not_found"),
    (ANTHROPIC, 400, anthropic("invalid_request_error", FILTERED), "content_filter"),
    # Case 29
    (OPENROUTER, 403, {"error": {"code": 403, "message": "Key limit exceeded (total)"}}, "quota"),
    (OPENAI, 403, {"code": "permission", "error": SPENT}, "quota"),
    (OPENAI, 429, {"code": "exhausted", "error": SPENT}, "quota"),
    (OPENAI, 403, {"error": {"code": "403", "message": "Out of call volume quota."}}, "quota"),
    # Case 32: what LM Studio says of a path without /v1
    (OPENAI, 500, {"error": "Unexpected endpoint or method. (POST /chat)"}, "not_found"),
    (GROQ, 498, {"error": {"message": "Flex tier capacity exceeded"}}, "overloaded"),
]


@pytest.mark.parametrize(("codec", "status", "said", "kind"), ERRORS)
def test_errors_by_body_and_status(codec: Any, status: int, said: JSON, kind: str) -> None:
    """Type, message and status say what is terminal; the message is shown."""
    error = codec.failure(status, {"x-request-id": "r1"}, orjson.dumps(said))
    assert (error.row_type, error.retryable) == (kind, kind in RETRYABLE)
    assert (error.http_status, error.provider_request_id) == (status, "r1")
    inner = said.get("error", said)
    words = inner if isinstance(inner, str) else str(inner.get("message") or "")
    assert words in error.message


@pytest.mark.parametrize(
    ("codec", "status", "said", "kind"),
    [row for row in ERRORS if row[0] in (ANTHROPIC, GEMINI, OPENROUTER) and row[1] < 504],
)
def test_errors_within_a_success(codec: Any, status: int, said: JSON, kind: str) -> None:
    """After a status of 200 the error's own words tell the same, whole and in a stream."""
    del status
    data = orjson.dumps(said)
    with pytest.raises(CallError) as whole:
        codec.decode(200, {}, data)
    with pytest.raises(CallError) as streamed:
        codec.reader().piece("message", data.decode())
    assert whole.value.row_type == streamed.value.row_type == kind


def test_what_is_said_beside_an_error() -> None:
    """Anthropic's body names the request; Cohere's 499 is not tried again; Google may wrap an
    error in a list; OpenRouter shows the words of the provider behind it."""
    body = orjson.dumps(anthropic("api_error", "m"))
    assert ANTHROPIC.failure(500, {}, body).provider_request_id == "req_1"
    assert not COHERE.failure(499, {}, b'{"message":"request cancelled"}').retryable
    body = orjson.dumps([gemini("UNAVAILABLE", "busy")])
    assert GEMINI.failure(503, {}, body).row_type == "overloaded"
    said = {"code": 502, "message": "Provider returned error", "metadata": {"raw": "GPU on fire"}}
    assert "GPU on fire" in OPENROUTER.failure(502, {}, orjson.dumps({"error": said})).message


@pytest.mark.parametrize("code", [429, "429", 401, "401", "404", "400"])
@pytest.mark.parametrize("codec", [OPENAI, OPENROUTER, ANTHROPIC, RESPONSES])
def test_digits_are_a_status(codec: Any, code: object) -> None:
    """Case 26: a code in digits, in a 200 or a stream, is the status it is, not the server's."""
    data = orjson.dumps({"type": "error", "error": {"code": code, "message": "m"}})
    kinds = {429: "rate_limited", 401: "auth", 404: "not_found", 400: "invalid_request"}
    with pytest.raises(CallError) as whole:
        codec.decode(200, {}, data)
    with pytest.raises(CallError) as streamed:
        codec.reader().piece("", data.decode())
    for caught in (whole.value, streamed.value):
        assert (caught.row_type, caught.http_status) == (kinds[int(str(code))], int(str(code)))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("server_error", "server"),
        ("rate_limit_exceeded", "rate_limited"),
        ("vector_store_timeout", "server"),
        ("invalid_prompt", "invalid_request"),
        ("invalid_base64_image", "invalid_request"),
        ("image_content_policy_violation", "content_filter"),
        ("bio_policy", "content_filter"),
    ],
)
def test_a_response_that_failed(code: str, kind: str) -> None:
    """Case 27: only what is the server's passes; whole and in a stream."""
    failed = {"status": "failed", "error": {"code": code, "message": "m"}, "output": []}
    event = orjson.dumps({"type": "response.failed", "response": failed}).decode()
    with pytest.raises(CallError) as whole:
        RESPONSES.decode(200, {}, orjson.dumps(failed))
    with pytest.raises(CallError) as streamed:
        RESPONSES.reader().piece("response.failed", event)
    assert whole.value.row_type == streamed.value.row_type == kind
    assert whole.value.retryable == (kind in RETRYABLE)


@pytest.mark.parametrize(
    ("words", "headers", "kind", "wait"),
    [
        ("try again in 8.64s", {"retry-after": "1"}, "rate_limited", 8.64),
        ("try again in 1m26.4s", {}, "rate_limited", 86.4),
        ("try again in 7h12m0s", {"retry-after": "1"}, "quota", 1.0),
        ("come back tomorrow", {"retry-after": "1"}, "quota", 1.0),
    ],
)
def test_a_days_limit_that_fills_up(
    words: str, headers: dict[str, str], kind: str, wait: float
) -> None:
    """Case 28: requests per day are a quota only without a wait that can be made."""
    said = {"code": RATE, "message": f"Limit on requests per day (RPD) reached, {words}."}
    error = OPENAI.failure(429, headers, orjson.dumps({"error": said}))
    assert (error.row_type, error.retry_after) == (kind, wait)


def test_what_the_model_wrote_in_vain_is_kept() -> None:
    """Case 30: Groq's failed generation was paid for; it is asked for once more at the most."""
    said = {"code": "json_validate_failed", "message": "m", "failed_generation": '{"a": '}
    error = GROQ.failure(400, {}, orjson.dumps({"error": said}))
    assert (error.text, error.ambiguous) == ('{"a": ', True)


def test_a_page_is_known_by_its_title() -> None:
    """Case 31: a firewall's 403 is no refusal of the key."""
    page = b"<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title>"
    error = OPENAI.failure(403, {}, page)
    assert "Attention Required! | Cloudflare" in error.message
    assert (error.row_type, error.exit_code, error.retryable) == ("bad_response", 1, False)


def retry_info(delay: str) -> JSON:
    """Google's error that says how long to wait."""
    info = {"@type": f"{RPC}RetryInfo", "retryDelay": delay}
    return gemini("RESOURCE_EXHAUSTED", "x", info)


def router_wait(ahead: int) -> JSON:
    """OpenRouter's error that names a time, in milliseconds."""
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW * 1000) + ahead)}
    return {"error": {"code": 429, "message": "slow", "metadata": {"headers": headers}}}


@pytest.mark.parametrize(
    ("codec", "headers", "said", "wait"),
    [
        (GEMINI, {}, retry_info("45.837906927s"), 45.837906927),
        (GEMINI, {}, retry_info("86400s"), 120.0),
        (GEMINI, {"retry-after": "3"}, retry_info("86400s"), 3.0),
        (COHERE, {"x-ratelimit-reset": str(int(NOW) + 30)}, {}, 30.0),
        (COHERE, {"x-ratelimit-reset": str(int(NOW) + 30), "retry-after": "7"}, {}, 7.0),
        (COHERE, {"x-ratelimit-reset": "9999999999"}, {}, 120.0),
        (COHERE, {"x-ratelimit-reset": "1"}, {}, None),
        (OPENROUTER, {}, router_wait(30_000), 30.0),
        (OPENROUTER, {}, router_wait(10_000_000), 120.0),
        (OPENROUTER, {}, router_wait(-5), 0.0),
    ],
)
def test_waits_of_the_providers_own(
    codec: Any, headers: dict[str, str], said: JSON, wait: float | None
) -> None:
    """A wait is read wherever a provider writes it, and is two minutes at most."""
    assert codec.failure(429, headers, orjson.dumps(said)).retry_after == wait


AN = "anthropic-ratelimit-"
X = "x-ratelimit-"


@pytest.mark.parametrize(
    ("codec", "headers", "limits"),
    [
        (
            ANTHROPIC,
            {
                f"{AN}requests-remaining": "49",
                f"{AN}requests-reset": "2027-01-15T08:00:30Z",
                f"{AN}tokens-remaining": "900",
                f"{AN}tokens-reset": "2027-01-15T07:59:00Z",
            },
            RateHeaders(49, 900, None, None, 30.0, 0.0),
        ),
        (
            ANTHROPIC,
            {f"{AN}input-tokens-remaining": "5", f"{AN}input-tokens-reset": "x"},
            RateHeaders(remaining_tokens=5),
        ),
        (
            OPENAI,
            {
                f"{X}limit-requests": "60",
                f"{X}remaining-requests": "9",
                f"{X}remaining-tokens": "100",
                f"{X}reset-requests": "1m2.5s",
                f"{X}reset-tokens": "12ms",
            },
            RateHeaders(9, 100, 60, None, 62.5, 0.012),
        ),
        (
            MISTRAL,
            {f"{X}remaining-req-minute": "5", f"{X}remaining-tokens-minute": "900"},
            RateHeaders(5, 900),
        ),
        (
            OPENROUTER,
            {f"{X}remaining": "7", f"{X}reset": str(int((NOW + 9) * 1000))},
            RateHeaders(7, reset_requests=9.0),
        ),
        (
            GROQ,
            {f"{X}remaining-tokens": "9", f"{X}reset-tokens": "7.66s"},
            RateHeaders(remaining_tokens=9, reset_tokens=7.66),
        ),
        (COHERE, {f"{X}reset": str(int(NOW) + 30)}, RateHeaders(reset_requests=30.0)),
    ],
)
def test_rate_headers(codec: Any, headers: dict[str, str], limits: RateHeaders) -> None:
    """What is left, and the seconds until it is full again, under each provider's own names."""
    assert codec.limits(headers) == limits
    assert codec.limits({"retry-after": "1"}) == RateHeaders()


FILE, IMAGE, AUDIO = "file", "image_url", "input_audio"
PDF = "data:application/pdf;base64,AAAA"


@pytest.mark.parametrize(
    ("codec", "part", "named"),
    [
        (ANTHROPIC, {"type": AUDIO, AUDIO: {"data": "AAAA", "format": "wav"}}, "audio/wav"),
        (ANTHROPIC, {"type": IMAGE, IMAGE: {"url": "data:image/tiff;base64,AAAA"}}, "image/tiff"),
        (ANTHROPIC, {"type": IMAGE, IMAGE: {"url": "data:image/png;base64,%%"}}, IMAGE),
        (ANTHROPIC, {"type": IMAGE}, IMAGE),
        (ANTHROPIC, {"type": "text", "text": 3}, "text"),
        (ANTHROPIC, {"type": FILE, FILE: {"file_data": "data:text/plain;base64,/w=="}}, "plain"),
        (ANTHROPIC, {"type": "video"}, "video"),
        (GEMINI, {"type": FILE, FILE: {"file_data": "data:application/zip;base64,AAAA"}}, "zip"),
        (GEMINI, {"type": FILE, FILE: {"file_data": "AAAA"}}, "unknown type"),
        (GEMINI, {"type": AUDIO, AUDIO: {}}, AUDIO),
        (GEMINI, {"type": "video_url"}, "video_url"),
        (COHERE, {"type": FILE, FILE: {"file_data": PDF}}, "pdf"),
        (COHERE, {"type": FILE, FILE: {"file_id": "f"}}, "files"),
        (COHERE, {"type": AUDIO, AUDIO: {"data": "AAAA", "format": "wav"}}, "audio/wav"),
        (COHERE, {"type": "video"}, "video"),
        (GROQ, {"type": FILE, FILE: {"file_data": PDF}}, "no PDF files .*it takes images"),
        (GROQ, {"type": FILE, FILE: {"file_url": "https://h/a.pdf"}}, "by address"),
        (GROQ, {"type": AUDIO, AUDIO: {"data": "AAAA", "format": "flac"}}, "audio"),
        (OPENAI, {"type": FILE, FILE: {"file_url": "https://h/a.pdf"}}, "nothing was sent"),
        (OPENAI, {"type": AUDIO, AUDIO: {"data": "AA", "format": "flac"}}, "nothing was sent"),
        (RESPONSES, {"type": AUDIO, AUDIO: {"data": "AA", "format": "wav"}}, "nothing was sent"),
    ],
)
def test_what_is_not_taken(codec: Any, part: JSON, named: str) -> None:
    """A part that the provider does not take is refused by name, and nothing is sent."""
    with pytest.raises(InvalidRequest, match=named) as caught:
        codec.encode(asked("p", "m", messages=(Message("user", (part,)),)), stream=False)
    assert (caught.value.sent, caught.value.exit_code) == (False, 2)


TOP = {"top_provider": {"max_completion_tokens": 6}}
MODELS: list[tuple[JSON, ModelInfo]] = [
    ({"id": "y", "max_input_tokens": 9, "max_tokens": 8}, ModelInfo("y", None, 9, 8)),
    ({"id": "z", "created_at": "2027-01-15T08:00:00Z"}, ModelInfo("z", created=NOW)),
    (
        {"name": "models/x", "displayName": "X", "inputTokenLimit": 9, "outputTokenLimit": 8},
        ModelInfo("x", "X", 9, 8),
    ),
    ({"name": "c", "context_length": 5.0}, ModelInfo("c", context=5)),
    (
        {"id": "a", "context_window": 10, "max_completion_tokens": 5, "created": 7},
        ModelInfo("a", None, 10, 5, 7.0),
    ),
    ({"id": "b", "context_length": 20, **TOP}, ModelInfo("b", None, 20, 6)),
    ({"id": "d", "max_model_len": 40, "name": "The D"}, ModelInfo("d", "The D", 40)),
]


def test_the_list_of_models() -> None:
    """Windows and longest answers are read under each server's names; what is no model is not."""
    listed = [*(given for given, _ in MODELS), {"no": "id"}, 3]
    for name in ("data", "models"):
        found, after = GROQ.decode_models(orjson.dumps({name: listed}))
        assert (found, after) == ([model for _, model in MODELS], None)


@pytest.mark.parametrize(
    ("codec", "path", "said"),
    [
        (ANTHROPIC, "/models?limit=1000&after_id=t%3D1", {"has_more": True, "last_id": "t2"}),
        (GEMINI, "/models?pageSize=1000&pageToken=t%3D1", {"nextPageToken": "t2"}),
        (COHERE, "../v1/models?page_size=1000&page_token=t%3D1", {"next_page_token": "t2"}),
    ],
)
def test_pages_of_models(codec: Any, path: str, said: JSON) -> None:
    """Each provider's token of the next page is read, and sent back."""
    assert codec.models("t=1").path == path
    assert codec.decode_models(orjson.dumps({"models": [], **said})) == ([], "t2")
    assert codec.decode_models(b'{"data":[],"has_more":false,"last_id":"y"}') == ([], None)
