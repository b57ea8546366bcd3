"""What is Mistral's, OpenRouter's and Groq's own about chat completions."""

from __future__ import annotations

from decimal import Decimal
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
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.protocols import Codec, RateHeaders
from llmctl.providers.groq import Groq
from llmctl.providers.mistral import Mistral
from llmctl.providers.openrouter import OpenRouter
from llmctl.types import JSON, Message
from tests.providers.recordings import asked, streamed

NOW = 1_800_000_000.0
RATE = "rate_limit_exceeded"
MISTRAL: Codec = Mistral()
GROQ: Codec = Groq()
OPENROUTER: Codec = OpenRouter(now=lambda: NOW)
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,A"}}
PDF_URL = {"type": "file", "file": {"filename": "a.pdf", "file_url": "https://h/a.pdf"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA", "format": "flac"}}


def part(codec: Codec, provider: str, given: JSON) -> Any:
    """What the part becomes in the provider's request."""
    request = asked(provider, "m", messages=(Message("user", (given,)),))
    return (codec.encode(request, stream=False).body or {})["messages"][0]["content"][0]


def failure(codec: Codec, status: int, said: Any, **headers: str) -> CallError:
    """The mapped error of a reply."""
    return codec.failure(status, headers, orjson.dumps(said))


def test_mistrals_parts() -> None:
    """Files are documents, along or by address; audio is its base64."""
    assert part(MISTRAL, "mistral", PDF) == {
        "type": "document_url",
        "document_url": "data:application/pdf;base64,A",
        "document_name": "a.pdf",
    }
    assert part(MISTRAL, "mistral", PDF_URL)["document_url"] == "https://h/a.pdf"
    assert part(MISTRAL, "mistral", AUDIO) == {"type": "input_audio", "input_audio": "AA"}
    own = {"type": "document_url", "document_url": "https://h/a.pdf"}
    assert part(MISTRAL, "mistral", own) == own


def test_openrouters_parts() -> None:
    """A file's address stands where its data would."""
    assert part(OPENROUTER, "openrouter", PDF) == PDF
    assert part(OPENROUTER, "openrouter", PDF_URL)["file"] == {
        "filename": "a.pdf",
        "file_data": "https://h/a.pdf",
    }


@pytest.mark.parametrize("given", [PDF, PDF_URL, AUDIO])
def test_groq_takes_images_only(given: JSON) -> None:
    """Anything else is refused unsent, with what it does take."""
    with pytest.raises(InvalidRequest, match=r"groq takes no .*it takes images"):
        part(GROQ, "groq", given)


def test_only_who_must_be_asked_is_asked_for_usage() -> None:
    """Mistral refuses unknown fields; OpenRouter tells its usage unasked."""
    for codec, wanted in ((MISTRAL, False), (OPENROUTER, False), (GROQ, True)):
        made = codec.encode(asked("x", "m"), stream=True).body or {}
        assert ("stream_options" in made) is wanted
        assert made["stream"] is True


MISTRALS: list[tuple[int, JSON, type[CallError]]] = [
    (401, {"detail": "Unauthorized"}, AuthFailed),
    (422, {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs"}]}, InvalidRequest),
    (400, {"message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, NotFound),
    (400, {"message": "too large for model with 8 maximum context length"}, ContextTooLong),
    (429, {"message": "Requests rate limit exceeded"}, RateLimited),
    (503, {"message": "Service tier capacity exceeded", "code": "3505"}, Overloaded),
]


@pytest.mark.parametrize(("status", "said", "kind"), MISTRALS)
def test_mistrals_errors(status: int, said: JSON, kind: type[CallError]) -> None:
    """They stand at the top of the body, or under `detail`, and are shown."""
    error = failure(MISTRAL, status, said)
    assert type(error) is kind
    assert (said.get("message") or "")[:20] in error.message


OPENROUTERS: list[tuple[JSON, type[CallError]]] = [
    ({"code": 402, "message": "Insufficient credits"}, QuotaExhausted),
    ({"code": 408, "message": "timed out"}, CallTimeout),
    ({"code": 502, "message": "Provider returned error"}, ServerFailed),
    ({"code": 403, "message": "x", "metadata": {"reasons": ["violence"]}}, ContentFiltered),
    ({"code": 400, "message": "This endpoint's maximum context length is 8."}, ContextTooLong),
    ({"code": 429, "message": "Rate limit exceeded: free-models-per-day."}, QuotaExhausted),
]


@pytest.mark.parametrize(("said", "kind"), OPENROUTERS)
def test_openrouters_errors(said: JSON, kind: type[CallError]) -> None:
    """The code says what failed, also inside a 200; so does the status."""
    error = failure(OPENROUTER, said["code"], {"error": said})
    assert (type(error), error.retryable) == (kind, kind.retryable)
    with pytest.raises(kind):
        OPENROUTER.decode(200, {}, orjson.dumps({"error": said}))


def test_openrouter_shows_what_the_provider_behind_it_said() -> None:
    """`Provider returned error` alone would help nobody."""
    said = {"code": 502, "message": "Provider returned error", "metadata": {"raw": "GPU on fire"}}
    assert "GPU on fire" in failure(OPENROUTER, 502, {"error": said}).message


def test_openrouters_wait_may_stand_in_the_body() -> None:
    """The reset is milliseconds since the epoch, and waits are bounded."""
    for ahead, wait in ((30_000, 30.0), (10_000_000, 120.0), (-5, 0.0)):
        headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW * 1000) + ahead)}
        error = {"code": 429, "message": "slow", "metadata": {"headers": headers}}
        assert failure(OPENROUTER, 429, {"error": error}).retry_after == pytest.approx(wait)


def test_openrouters_price_is_its_own() -> None:
    """The price of the answer is read exactly, streamed or not."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": 8.6e-05}
    choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
    whole = orjson.dumps({"choices": [choice], "usage": usage})
    assert OPENROUTER.decode(200, {}, whole).cost == Decimal("0.000086")
    chunk = orjson.dumps({"choices": [], "usage": usage}).decode()
    assert OPENROUTER.reader().piece("message", chunk).cost == Decimal("0.000086")


def test_openrouters_comments_say_nothing() -> None:
    """Comments that keep the connection awake are no part of the answer."""
    chunk = '{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}'
    text = f": OPENROUTER PROCESSING\n\ndata: {chunk}\n\n: x\n\ndata: [DONE]\n\n"
    assert streamed(OPENROUTER, [text.encode()]).text == "hi"


def test_openrouters_key_check_asks_for_the_key() -> None:
    """The list of models is public there and says nothing of a key."""
    assert (OPENROUTER.probe().method, OPENROUTER.probe().path) == ("GET", "/key")
    OPENROUTER.decode_probe(b'{"data":{"label":"x"}}')
    with pytest.raises(AuthFailed):
        OPENROUTER.decode_probe(b"{}")


GROQS: list[tuple[int, JSON, type[CallError]]] = [
    (413, {"code": RATE, "message": "Request too large for m"}, InvalidRequest),
    (429, {"code": RATE, "message": "Request too large for m"}, InvalidRequest),
    (429, {"code": RATE, "message": "on tokens per minute (TPM)"}, RateLimited),
    (429, {"code": RATE, "message": "requests per day (RPD)"}, QuotaExhausted),
    (400, {"code": "tool_use_failed", "type": "invalid_request_error"}, InvalidRequest),
    (498, {"message": "Flex tier capacity exceeded"}, Overloaded),
]


@pytest.mark.parametrize(("status", "said", "kind"), GROQS)
def test_groqs_errors(status: int, said: JSON, kind: type[CallError]) -> None:
    """What no waiting cures is terminal, whatever its code says."""
    assert type(failure(GROQ, status, {"error": said})) is kind


def test_groqs_own_corner() -> None:
    """Usage and errors may come under `x_groq`."""
    chunk = {"choices": [], "x_groq": {"usage": {"prompt_tokens": 4, "completion_tokens": 1}}}
    usage = GROQ.reader().piece("message", orjson.dumps(chunk).decode()).usage
    assert usage is not None
    assert usage.input == 4
    with pytest.raises(ServerFailed, match="out of luck"):
        GROQ.reader().piece("message", '{"x_groq":{"error":"out of luck"}}')


def test_rate_headers() -> None:
    """Each provider's own names are read."""
    mistral = {
        "x-ratelimit-remaining-req-minute": "5",
        "x-ratelimit-remaining-tokens-minute": "900",
    }
    assert MISTRAL.limits(mistral) == RateHeaders(5, 900)
    router = {"x-ratelimit-remaining": "7", "x-ratelimit-reset": str(int((NOW + 9) * 1000))}
    assert OPENROUTER.limits(router) == RateHeaders(7, reset_requests=9.0)
    groq = {"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "7.66s"}
    assert GROQ.limits(groq) == RateHeaders(remaining_tokens=9, reset_tokens=7.66)
    for codec in (MISTRAL, OPENROUTER, GROQ):
        assert codec.limits({}) == RateHeaders()
