"""Provider replies: event streams, JSON, headers, counts and errors, as our own values. Pure.

Sources: RFC 9110 (Retry-After), platform.openai.com/docs/guides/error-codes, docs.mistral.ai/api,
openrouter.ai/docs/api-reference/errors, console.groq.com/docs/errors,
learn.microsoft.com/azure/ai-services/openai/how-to/content-filter, and the headers that vendors'
SDKs honour.
"""

from __future__ import annotations

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from msgspec import Struct, field

from llmctl.errors import (
    AuthFailed,
    BadResponse,
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
from llmctl.protocols import NO_RATE_HEADERS, RateHeaders
from llmctl.types import Finish, ModelInfo, ProviderReply, StreamChunk, Usage

MAX_WAIT = 120.0
"""Seconds a provider's wait is honoured at most."""

MAX_LINE = 16 * 1024 * 1024
"""Bytes of a stream's line at most: a line without end must not fill the memory."""

_NO_HEADERS: Mapping[str, str] = {}
_SHOWN = 500
"""Characters of a provider's own words that an error repeats."""

# --- Codecs and readers of streams --------------------------------------------------------------


class BaseCodec(ABC):
    """What all codecs share; see `protocols.Codec`. `now` gives seconds since the epoch."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def auth(self, key: str) -> Mapping[str, str]:
        """The bearer header."""
        return {"authorization": f"Bearer {key}"}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer. Raises the mapped `CallError`; `BadResponse` for what is none."""
        if status != 200:
            raise self.failure(status, headers, body)
        found = json_object(body, status, headers)
        with shape_errors(body, status, headers):
            return self.reply(found)

    @abstractmethod
    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The answer in a body of status 200. Raises the mapped `CallError`, and the errors that
        `shape_errors` maps."""

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The mapped error of a reply that is no success."""
        return error_from_reply(status, headers, body, now=self._now)

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:  # noqa: ARG002 - the seam's
        """Nothing: the provider says nothing of its limits in headers."""
        return NO_RATE_HEADERS

    def decode_probe(self, body: bytes) -> None:
        """An object is enough: a key that is not good gets no status 200."""
        json_object(body)


class BaseReader(ABC):
    """What the readers of streams share; see `protocols.StreamReader`."""

    def __init__(self) -> None:
        self._has_text = False

    def piece(self, event: str, data: str) -> StreamChunk:
        """One event. Raises the mapped error where it carries one, `BadResponse` for nonsense."""
        if data.strip() == "[DONE]":
            return self.done()
        body = data.encode(errors="replace")
        found = json_object(body)
        with shape_errors(body):
            chunk = self.read(event, found)
        self._has_text = self._has_text or bool(chunk.text)
        return chunk

    @abstractmethod
    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """What the JSON of an event says. Raises as `BaseCodec.reply` does."""

    def done(self) -> StreamChunk:
        """What `[DONE]` says: nothing, where the provider has an end mark of its own."""
        return StreamChunk()

    def end(self) -> StreamChunk:
        """What the end of the stream says: nothing, where there are end marks."""
        return StreamChunk()


# --- Server-sent events -------------------------------------------------------------------------


class Event(Struct, frozen=True):
    """One event: its name (`message` where none was given) and its data."""

    name: str
    data: str


class EventReader(Struct):
    """Reads one event stream by the WHATWG rules, wherever its bytes are cut.

    httpx2's own reader is not used: it keeps a byte order mark, gives events without data, and
    holds an event that ends in CR until more comes.
    """

    _rest: bytearray = field(default_factory=bytearray)
    _begun: bool = False
    _after_cr: bool = False
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Raises `BadResponse` for a line beyond `MAX_LINE`."""
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        for line in chunk.splitlines(keepends=True):
            self._after_cr = line.endswith(b"\r")
            self._rest += line
            if len(self._rest) > MAX_LINE:
                raise BadResponse(f"a line of the stream is longer than {MAX_LINE} bytes")
            if not line.endswith((b"\n", b"\r")):
                return
            text = self._rest.rstrip(b"\r\n").decode(errors="replace")
            text = text if self._begun else text.removeprefix("\ufeff")
            self._rest, self._begun = bytearray(), True
            if (event := self._take(text)) is not None:
                yield event

    def end(self) -> Event | None:
        """The event at the end that lacks its empty line: some servers end so after `[DONE]`. The
        rules drop it, so that a provider's own end mark must be looked for."""
        return self._take("")

    def _take(self, line: str) -> Event | None:
        if not line:
            name, data = self._name or "message", self._data
            self._name, self._data = "", []
            return Event(name, "\n".join(data)) if data else None
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            self._data.append(value)
        elif key == "event":
            self._name = value
        return None


# --- JSON ---------------------------------------------------------------------------------------


def json_value(body: bytes, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> Any:
    """The JSON of a body. Raises `BadResponse`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_response(status, headers, body, "no JSON") from error


def json_object(
    body: bytes, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
) -> dict[str, Any]:
    """The JSON object of a body. Raises `BadResponse` for anything else."""
    found = json_value(body, status, headers)
    if not isinstance(found, dict):
        raise bad_response(status, headers, body, "no JSON object")
    return found


@contextmanager
def shape_errors(
    body: bytes, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS
) -> Iterator[None]:
    """Maps the errors of reading an object that is not built as expected to `BadResponse`."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise bad_response(status, headers, body, f"{type(error).__name__} {error}") from error


def bad_response(status: int, headers: Mapping[str, str], body: bytes, why: str) -> BadResponse:
    """The error for a successful reply that is not what it should be."""
    shown = _plain_text(body)
    return BadResponse(
        f"the answer is not what this API sends ({why}){': ' + shown if shown else ''}; "
        "check `base_url`",
        http_status=status,
        provider_request_id=request_id(headers),
    )


def models_page(
    body: bytes, listed: str, keys: Mapping[str, str]
) -> tuple[dict[str, Any], list[ModelInfo]]:
    """A page of models and what is in it under `listed` (absent: none).

    `keys` are the provider's names for the fields of `ModelInfo`, and `prefix`, which its ids have
    before them. Raises `BadResponse`.
    """
    found = json_object(body)
    items = found.get(listed, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadResponse(f"the listing's `{listed}` is no list of objects; check `base_url`")
    models = [
        ModelInfo(
            id=(first_text(item, keys["id"]) or "").removeprefix(keys.get("prefix", "")),
            name=first_text(item, keys.get("name", "")),
            context=token_count(item.get(keys.get("context", ""))) or None,
            output=token_count(item.get(keys.get("output", ""))) or None,
            created=unix_time(item.get(keys.get("created", ""))),
        )
        for item in items
    ]
    return found, models


def object_or_empty(value: object) -> Mapping[str, Any]:
    """The object, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def required_text(value: object) -> str:
    """The string. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError("text is not a string")
    return value


def first_text(found: Mapping[str, Any], *names: str) -> str | None:
    """The first of the fields `names` that holds a text which is not empty."""
    for name in names:
        value = found.get(name)
        if isinstance(value, str) and value:
            return value
    return None


def unix_time(value: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(value)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def finish_of(reason: object, finishes: Mapping[str, Finish]) -> Finish | None:
    """The finish by the provider's own word for it; None where it gives none."""
    return finishes.get(reason, "other") if isinstance(reason, str) and reason else None


# --- Token counts and dollars -------------------------------------------------------------------


def token_count(value: object) -> int:
    """The count, or 0 for anything that is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return max(0, int(value))
    return 0


def dollars(value: object) -> Decimal | None:
    """An amount in dollars, with the digits it was written in; None for anything else."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None


# --- Headers ------------------------------------------------------------------------------------

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def duration(text: str) -> float | None:
    """Seconds of `1s`, `12ms`, `6m0s`, `2m59.56s`; None when it is none of these."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds, millis = (float(g or 0) for g in match.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def number(text: str | None) -> float | None:
    """A finite, non-negative number; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def count(text: str | None) -> int | None:
    """A whole number of requests or tokens; None for anything else."""
    value = number(text)
    return None if value is None else int(value)


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds the provider asks to wait, at most `MAX_WAIT`; None when it does not say, or says
    nonsense. `now` is in seconds since the epoch.

    `retry-after-ms` wins over `retry-after` (seconds or an HTTP date).
    """
    millis = number(headers.get("retry-after-ms"))
    if millis is not None:
        return min(millis / 1000, MAX_WAIT)
    text = headers.get("retry-after", "")
    wait = number(text)
    wait = _seconds_until(text, now) if wait is None else wait
    return None if wait is None else min(wait, MAX_WAIT)


def _seconds_until(text: str, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # dates are rare, and this is slow to import

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    wait = (when - datetime.fromtimestamp(now, UTC)).total_seconds()
    return wait if wait > 0 else None


def rate_headers(
    headers: Mapping[str, str],
    form: str,
    wait: Callable[[str], float | None],
    tokens: str = "tokens",
) -> RateHeaders:
    """What is left of requests and tokens, by headers named after `form` (`x-{what}-{of}`).
    `wait` reads the seconds until each is full again."""
    found: dict[str, Any] = {}
    for what in ("remaining", "limit", "reset"):
        for of, name in (("requests", "requests"), ("tokens", tokens)):
            text = headers.get(form.format(what=what, of=name))
            if text is not None:
                found[f"{what}_{of}"] = wait(text) if what == "reset" else count(text)
    if "remaining_requests" not in found and "remaining_tokens" not in found:
        return NO_RATE_HEADERS
    return RateHeaders(**found)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The provider's own word on retrying (`x-should-retry`); None when it has none."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of the request, for its support desk."""
    return headers.get("x-request-id") or headers.get("request-id")


# --- Errors -------------------------------------------------------------------------------------

_BY_STATUS: dict[int, type[CallError]] = {
    400: InvalidRequest,
    401: AuthFailed,
    402: QuotaExhausted,
    403: PermissionRefused,
    404: NotFound,
    408: CallTimeout,
    409: ServerFailed,
    413: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
    498: Overloaded,  # Groq: no room in the flexible tier
    503: Overloaded,
    504: ServerFailed,
    529: Overloaded,
}

_GATEWAY = frozenset({408, 502, 504, *range(520, 525)})
"""Statuses by which a gateway says that it got no answer from the server behind it (520 to 524
are Cloudflare's): the model may have answered, and been billed, all the same."""

_BY_CODE: dict[str, type[CallError]] = {
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "context_length_exceeded": ContextTooLong,
    "exceed_context_size_error": ContextTooLong,
    "invalid_api_key": AuthFailed,
    "authentication_error": AuthFailed,
    "permission_error": PermissionRefused,
    "model_not_found": NotFound,
    "invalid_model": NotFound,  # Mistral, with status 400
    "DeploymentNotFound": NotFound,  # Azure
    "not_found_error": NotFound,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "rate_limit_exceeded": RateLimited,
    "rate_limit_error": RateLimited,
    "overloaded_error": Overloaded,
    "server_error": ServerFailed,
    "invalid_request_error": InvalidRequest,
}
"""Codes and types of OpenAI, and of the servers that speak its language; a code says more
than the status it came with."""

_TOO_LONG = re.compile(
    r"maximum context|context[ _-]length|context window|too large for model with",
    re.IGNORECASE,
)
"""How servers without a code of their own say that a prompt is too long: Mistral, OpenRouter,
vLLM, llama.cpp."""

_PER_DAY = re.compile(r"\bper[ -]day\b|\b[RT]PD\b", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
"""OpenAI and Groq: a request above the tokens of a whole minute is refused for ever."""


def json_or_none(body: bytes) -> Any:
    """The JSON of an error's body; None where it is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def error_body(body: bytes) -> Mapping[str, Any]:
    """The error object of a body; empty when there is none."""
    return error_object(object_or_empty(json_or_none(body)))


def error_object(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error object of a body: under `error`, or the body itself where it has a `message` or
    `detail` (Mistral, and gateways in front of others)."""
    found = whole.get("error")
    if isinstance(found, str):
        return {**whole, "message": found}
    if isinstance(found, dict):
        return found
    if "message" not in whole and "detail" in whole:
        detail = whole["detail"]
        message = detail if isinstance(detail, str) else orjson.dumps(detail).decode()
        return {**whole, "message": message}
    return whole if "message" in whole else {}


def error_from_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    found: Mapping[str, Any] | None = None,
    *,
    now: Callable[[], float] = time.time,
) -> CallError:
    """The mapped error of a reply that is not a success. `now`: seconds since the epoch.

    `found` is the body's error with a code of `_BY_CODE`, where the codec knows better.
    `ambiguous` by `_GATEWAY`; `retryable` by `x-should-retry`, where the provider sends it.
    """
    found = found or error_body(body)
    message = _message(found) or _plain_text(body)
    if 300 <= status < 400:
        where = headers.get("location")
        message = f"a redirect to {where!r}, which is not followed; mend `base_url`"
    sentence = f"the provider answered {status}" + (f": {message[:_SHOWN]}" if message else "")
    error = _error(status, found, sentence)
    error.http_status, error.provider_request_id = status, request_id(headers)
    error.retry_after = retry_after(headers, now=now())
    if (told := should_retry(headers)) is not None:
        error.retryable = told
    return error


def error_from_event(found: Mapping[str, Any]) -> CallError:
    """The mapped error of an `error` object inside a stream or a successful reply."""
    codes = map(found.get, ("status_code", "raw_status_code", "code", "status"))
    status = next((c for c in codes if type(c) is int and 400 <= c < 600), None)
    message = _message(found) or "the provider reported an error"
    error = _error(status or 500, found, message[:_SHOWN])
    error.http_status = status
    return error


def content_filtered(
    sentence: str, usage: Usage | None, cost: Decimal | None = None
) -> ContentFiltered:
    """The error for a refusal, which was billed like an answer."""
    error = ContentFiltered(sentence, http_status=200)
    error.usage, error.cost = usage, cost
    return error


def _message(found: Mapping[str, Any]) -> str:
    """The provider's own words; OpenRouter puts those of the one behind it into `metadata`."""
    message = found.get("message")
    said = message if isinstance(message, str) else orjson.dumps(message).decode()
    raw = object_or_empty(found.get("metadata")).get("raw")
    if isinstance(raw, str) and raw and raw not in said:
        said += f" ({raw})"
    return " ".join(said.split()) if message or raw else ""


def _error(status: int, found: Mapping[str, Any], sentence: str) -> CallError:
    kind = _error_type(status, found)
    error = kind(sentence)
    if kind in (ServerFailed, CallTimeout):  # other types: the provider says what happened
        error.ambiguous = status in _GATEWAY
    return error


def _error_type(status: int, found: Mapping[str, Any]) -> type[CallError]:
    message = _message(found)
    kind = _by_code(status, found) or _BY_STATUS.get(status)
    if kind is None:
        kind = ServerFailed if status >= 500 else InvalidRequest
    if kind is RateLimited:
        if status == 413 or _TOO_LARGE.search(message):
            return InvalidRequest
        return QuotaExhausted if _PER_DAY.search(message) else kind
    if kind is InvalidRequest and _TOO_LONG.search(message):
        return ContextTooLong
    if kind is PermissionRefused and object_or_empty(found.get("metadata")).get("reasons"):
        return ContentFiltered  # OpenRouter's moderation (openrouter.ai/docs, "Moderation errors")
    return kind


def _by_code(status: int, found: Mapping[str, Any]) -> type[CallError] | None:
    for key in ("code", "type"):
        kind = _BY_CODE.get(str(found.get(key)))
        if kind is not None and not (kind is InvalidRequest and status in _BY_STATUS):
            return kind
    return None


def _plain_text(body: bytes) -> str:
    """The start of a body that is no JSON, on one line; nothing of an HTML page."""
    text = body[:2000].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else " ".join(text.split())[:_SHOWN]
