"""Provider replies: event streams, JSON, headers, counts and errors, as our own values. Pure.

Sources: RFC 9110 (Retry-After), platform.openai.com/docs/guides/error-codes, docs.mistral.ai/api,
platform.claude.com/docs/en/api/errors, cloud.google.com/apis/design/errors,
docs.cohere.com/reference/errors, openrouter.ai/docs/api-reference/errors,
console.groq.com/docs/errors,
docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html,
learn.microsoft.com/azure/ai-services/openai/how-to/content-filter,
and the headers that vendors' SDKs honour.
"""

from __future__ import annotations

import html
import json
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from typing import Any, ClassVar, TypeVar

import orjson
from msgspec import Struct, field
from msgspec.structs import astuple, replace

from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    CallTimeout,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    NoAnswer,
    NotFound,
    Overloaded,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
)
from llmctl.http import http_date
from llmctl.protocols import (
    NO_RATE_HEADERS,
    BodyFields,
    Event,
    EventStream,
    RateHeaders,
    WireRequest,
)
from llmctl.redact import cut
from llmctl.types import JSON, Finish, ModelInfo, ProviderReply, Request, StreamChunk, Usage

T = TypeVar("T")
Bill = tuple[Usage | None, Decimal | None]
"""What was used, and the provider's own price of it in dollars; None where it is not said."""
_Bills = Callable[[Mapping[str, Any]], Bill]

MAX_WAIT = 120.0  # seconds a provider's wait is honoured at most
MAX_LINE = 16 * 1024 * 1024  # bytes: a stream's line without end must not fill the memory
MOST_TOKENS = 1 << 40  # of one call; a larger count, or a limit of as many, is not said
MOST_DOLLARS = 1_000_000  # that one call is said to cost at most
LONGEST_NAME = 256  # characters of a model's name, or of an id
SHOWN = 500  # characters of a provider's own words that an error repeats
LONGEST_NOTE = 8 * SHOWN  # characters of them that are looked at
_DEEPEST = 200  # levels of JSON in JSON; orjson reads 1,024 and writes 254
_LONGEST_AMOUNT = 64  # characters
_DECIMALS = 18  # of dollars

# --- Codecs and readers of streams --------------------------------------------------------------


class BaseCodec(ABC):
    """What all codecs share; see `protocols.Codec`. `now` gives seconds since the epoch."""

    fields: ClassVar[BodyFields] = BodyFields(("max_tokens",), ("messages",))

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def auth(self, key: str) -> Mapping[str, str]:
        """The bearer header."""
        return {"authorization": f"Bearer {key}"}

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer. Raises the mapped `CallError`; `BadResponse` for what is none."""
        if status != 200:
            raise self.failure(status, headers, body)
        return _read_billed(body, self.reply, self.bill)

    @abstractmethod
    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The answer in a body of status 200. Raises the mapped `CallError`, and the errors that
        `read_object` maps."""

    @abstractmethod
    def bill(self, found: Mapping[str, Any]) -> Bill:
        """The usage in a body, whatever else is in it, and the provider's price of it."""

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The mapped error of a reply that is no success; billed where a usage stands beside it."""
        error = error_from_reply(status, headers, body, now=self._now())
        found = json_or_none(body)
        if error.retry_after is None and not isinstance(error, QuotaExhausted):
            wait = self.wait(headers, error_object(found))
            error.retry_after = None if wait is None else min(wait, MAX_WAIT)
        return _add_bill(error, found, self.bill)

    def events(self, start: bytes, content_type: str) -> EventStream | None:
        """Server-sent events, where the first bytes or else the type say so: servers stream as
        `text/plain`, or unasked, or send JSON as `text/event-stream`."""
        named = "event-stream" in content_type.lower()
        return EventReader() if is_stream(start, named=named) else None

    def wait(self, headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """Seconds to wait by a failure's headers or error, where `retry-after` does not say it."""
        return None

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:  # noqa: ARG002 - the seam's
        """Nothing: the provider says nothing of its limits in headers."""
        return NO_RATE_HEADERS

    @abstractmethod
    def models(self, after: str | None) -> WireRequest:
        """A page of the list of models."""

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The models of a page, and the token of the next. Raises `BadResponse` for no list."""
        found = json_or_none(body)
        if isinstance(found, list):
            found = {"data": found}
        items = (
            found.get("data", found.get("models", found)) or []  # null: Ollama without any model
            if isinstance(found, dict)
            else None
        )
        if not isinstance(items, list):
            raise BadResponse("the list of models is none; check `base_url`", retryable=False)
        more = ("last_id",) if found.get("has_more") is True else ()
        models = [model for item in items if (model := _model_info(object_or_empty(item)))]
        return models, first_text(found, "nextPageToken", "next_page_token", *more)

    def probe(self) -> WireRequest:
        """The list of models costs nothing."""
        return self.models(None)

    def decode_probe(self, body: bytes) -> None:
        """A list says that the key is good; it must be one."""
        self.decode_models(body)

    def count(self, request: Request) -> WireRequest | None:  # noqa: ARG002 - most do not count
        """None: the provider counts no tokens."""
        return None

    def decode_count(self, body: bytes) -> int:
        """`input_tokens`, Gemini's `totalTokens` or Bedrock's `inputTokens`."""
        found = object_or_empty(json_or_none(body))
        named = (found.get(name) for name in ("input_tokens", "totalTokens", "inputTokens"))
        tokens = next((count for count in named if count is not None), None)
        if type(tokens) is not int or not 0 <= tokens <= MOST_TOKENS:
            raise BadResponse("the provider's token count is none", retryable=False)
        return tokens


class BaseReader(ABC):
    """What the readers of streams share; see `protocols.StreamReader`. `read` adds to `calls` and
    `citations` what comes in pieces."""

    _has_text = _finished = False

    def __init__(self) -> None:
        self.calls: dict[Any, dict[str, str]] = {}
        self.citations: list[Any] = []

    def piece(self, event: str, data: str) -> StreamChunk:
        """One event. Raises the mapped error where it carries one, `BadResponse` for nonsense."""
        if data.strip() == "[DONE]":
            return self._whole(self.done())
        body = data.encode(errors="replace")
        chunk = _read_billed(body, partial(self.read, event), self.bill, whole=False)
        self._has_text = self._has_text or bool(chunk.text)
        self._finished = self._finished or chunk.finish is not None
        return self._whole(chunk)

    def call(
        self, key: object, *, id: object = "", name: object = "", arguments: object = ""
    ) -> None:
        """Add a piece to the tool call known as `key` within this stream."""
        made = self.calls.setdefault(key, {"id": "", "name": "", "arguments": ""})
        made["id"] = made["id"] or (id if isinstance(id, str) else "")
        for field_, piece in (("name", name), ("arguments", arguments)):
            made[field_] += piece if isinstance(piece, str) else ""

    def _whole(self, chunk: StreamChunk) -> StreamChunk:
        if chunk.tool_calls or chunk.citations or not (chunk.done or chunk.finish):
            return chunk
        return replace(chunk, tool_calls=self.tool_calls(), citations=kept(self.citations))

    def tool_calls(self) -> tuple[JSON, ...]:
        """The calls so far, in OpenAI's shape."""
        return tuple(tool_call(**call) for call in self.calls.values())

    @abstractmethod
    def bill(self, found: Mapping[str, Any]) -> Bill:
        """See `BaseCodec.bill`: that of an event, or of the stream so far."""

    @abstractmethod
    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """What the JSON of an event says. Raises as `BaseCodec.reply` does."""

    def done(self) -> StreamChunk:
        """What `[DONE]` says: nothing, where the provider has an end mark of its own."""
        return StreamChunk()

    def end(self) -> StreamChunk:
        """What the end of the stream says: done, where a reason to finish came. Many servers leave
        their end mark out; a connection that broke is an error of its own."""
        if not self._finished:
            return StreamChunk()
        return replace(self._whole(self.done()), done=True)


# --- Server-sent events -------------------------------------------------------------------------


EVENT_FIELD = len("event:")
"""Bytes after which `is_stream` can tell."""
BLANK = b" \t\r\n\xef\xbb\xbf"  # white space, and a byte order mark


def is_stream(start: bytes, *, named: bool) -> bool:
    """Whether a body that begins so is an event stream. `named`: its type says so, which only
    counts where the body does not look like JSON or a page."""
    start = start.lstrip(BLANK)
    if start.startswith((b"data:", b"event:", b":", b"id:", b"retry:")):
        return True
    return named and not start.startswith((b"{", b"[", b"<"))


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


def strict_json(body: bytes) -> bytes:
    """The body; where it is JSON but for what strict JSON forbids, that JSON without it: half of a
    surrogate pair, and what is no UTF-8, is U+FFFD, NaN and Infinity are null."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(
                body.decode("utf-8-sig", "replace"),
                strict=False,
                parse_constant=lambda _: None,
                parse_float=lambda text: number(text.removeprefix("-")) and float(text),
            )
            text = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            return body
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return body


def load_json(body: bytes) -> Any:
    """The JSON of a body, as `strict_json` reads it. Raises `orjson.JSONDecodeError`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.loads(strict_json(body))


def json_or_none(body: bytes) -> Any:
    """The JSON of a body; None where it is no JSON."""
    try:
        return load_json(body)
    except orjson.JSONDecodeError:
        return None


def read_object(body: bytes, read: Callable[[Mapping[str, Any]], T]) -> T:
    """What `read` makes of the JSON object of a body. Raises `BadResponse` for no JSON, no object,
    and one that is not built as `read` expects."""
    try:
        found = _required_object(load_json(body))
        if body.count(b"{") + body.count(b"[") > _DEEPEST:  # else it cannot be too deep
            orjson.dumps([[[found]]])  # what is kept of it must be readable in an output row
        return read(found)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        why = "no JSON" if isinstance(error, orjson.JSONDecodeError) else repr(error)
        shown = _plain_text(body)
        raise BadResponse(
            f"the answer is not what this API sends ({why}){': ' + shown if shown else ''}; "
            "check `base_url`",
            http_status=200,
        ) from error


def _read_billed(
    body: bytes, read: Callable[[Mapping[str, Any]], T], bill: _Bills, *, whole: bool = True
) -> T:
    """As `read_object`; an error carries the usage that stands beside it."""
    try:
        return read_object(body, read)
    except CallError as error:
        _add_bill(error, json_or_none(body), bill, whole=whole)
        raise


def _add_bill(error: CallError, body: object, bill: _Bills, *, whole: bool = True) -> CallError:
    """The error with the usage in the body; where that is `whole` nothing else may be billed."""
    if error.usage is None:
        found = object_or_empty(body[0] if isinstance(body, list) and body else body)
        usage, cost = bill(found)
        if cost or (usage is not None and (usage.input or usage.output)):
            error.usage, error.cost = usage or Usage(), cost
            error.ambiguous = error.ambiguous and not whole
    return error


def _required_object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def object_or_empty(value: object) -> Mapping[str, Any]:
    """The object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def objects(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects in the list that the field `name` holds; none for anything else."""
    listed = found.get(name)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def required_text(value: object) -> str:
    """The string. Raises `TypeError` for anything else."""
    if not isinstance(value, str):
        raise TypeError("text is not a string")
    return value


def block_texts(blocks: Iterable[Mapping[str, Any]]) -> str:
    """The text blocks of a content, joined; what thinks or calls tools is no text."""
    return "".join(required_text(block["text"]) for block in blocks if block.get("type") == "text")


def first_text(found: Mapping[str, Any], *names: str) -> str | None:
    """The first of the fields `names` that holds a text which is not empty."""
    texts = map(found.get, names)
    return next((text for text in texts if isinstance(text, str) and text), None)


def named(found: Mapping[str, Any], *names: str) -> str | None:
    """As `first_text`, for a name: the first `LONGEST_NAME` characters."""
    name = first_text(found, *names)
    return name and name[:LONGEST_NAME]


def finish_of(reason: object, finishes: Mapping[str, Finish]) -> Finish | None:
    """The finish by the provider's own word for it; None where it gives none."""
    return finishes.get(reason, "other") if isinstance(reason, str) and reason else None


# --- What is an answer --------------------------------------------------------------------------

_TOOLS = ("tools", "functions", "mcp_servers", "web_search_options")


def answered(reply: ProviderReply, asked: Request) -> ProviderReply:
    """The reply, where it is an answer: the model ended by itself or at a limit, and said or called
    something. Every codec's replies are decided on here. Raises `NoAnswer`, with what was billed.

    A reason to finish that is left out beside a text is `stop`, `stop` with calls `tool_calls`.
    """
    said, finish = bool(reply.text.strip()) or reply.beyond_text, reply.finish
    if reply.tool_calls and finish in ("stop", "other"):
        finish = "tool_calls"
    elif said and reply.reason is None and finish == "other":
        finish = "stop"
    if (said or reply.tool_calls) and (
        finish != "other" or any(asked.parameters.get(name) for name in _TOOLS)
    ):
        return reply if finish == reply.finish else replace(reply, finish=finish)
    output = reply.usage.output if reply.usage and not reply.usage.estimated else 0
    if finish == "length":
        why = f"all {output:,} tokens" if output else "all its tokens"
        why = f"the answer is empty: {why} went into reasoning; raise --max-tokens"
    elif finish == "other" and reply.reason:
        why = (
            f"the model ended with {cut(reply.reason, SHOWN)!r}, which is no answer; try again, or "
        )
        why += "ask another model"
    else:
        why = "the answer is empty; try again, or ask another model"
    error = NoAnswer(why, http_status=200, retryable=finish != "length")
    error.usage, error.cost, error.text = reply.usage, reply.cost, reply.text or None
    raise error


def tool_call(name: object, arguments: object, id: object = "") -> JSON:
    """A tool call in OpenAI's shape, whoever made it. Raises `TypeError` for what is none."""
    written = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
    function = {"name": required_text(name), "arguments": written}
    return {"id": id if isinstance(id, str) else "", "type": "function", "function": function}


def kept(citations: object) -> tuple[Any, ...]:
    """Citations as they came; none where they are no list, or too deep to be written again."""
    try:
        orjson.dumps(citations)
    except TypeError:
        return ()
    return tuple(citations) if isinstance(citations, list) else ()


# --- Lists of models ----------------------------------------------------------------------------

_CONTEXT = (
    "max_input_tokens", "inputTokenLimit", "context_window", "context_length",
    "max_context_length", "max_model_len",
)  # fmt: skip
_OUTPUT = ("max_completion_tokens", "outputTokenLimit", "max_tokens")
"""What Anthropic, Gemini, Groq, OpenRouter and Cohere, Mistral, vLLM call a model's limits."""


def _model_info(item: Mapping[str, Any]) -> ModelInfo | None:
    identity = named(item, "id", "name")
    if identity is None:
        return None
    shown = named(item, "display_name", "displayName", "name")
    item = {**object_or_empty(item.get("top_provider")), **item}  # OpenRouter's longest answer
    return ModelInfo(
        id=identity.removeprefix("models/"),  # Gemini's
        name=None if shown == identity else shown,
        context=_limit(item, _CONTEXT),
        output=_limit(item, _OUTPUT),
        created=unix_time(item.get("created_at"))
        or float(token_count(item.get("created")))
        or None,
    )


def _limit(item: Mapping[str, Any], names: Iterable[str]) -> int | None:
    counts = (token_count(item.get(name)) for name in names)
    return next((count for count in counts if 0 < count <= MOST_TOKENS), None)


# --- Numbers and times --------------------------------------------------------------------------


def token_count(value: object) -> int:
    """The count, or 0 for anything that is none; see `credible` for one that is too large."""
    if value is None:  # most of a usage
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or str(value) == "nan":
        return 0
    return int(max(0, min(value, MOST_TOKENS + 1)))


def credible(usage: Usage) -> Usage | None:
    """The usage; None, so that it is estimated, where one of its counts is above `MOST_TOKENS`, or
    nothing is said."""
    return usage if max(astuple(usage)) <= MOST_TOKENS and (usage.input or usage.output) else None


def completed(usage: Usage | None, estimate: Callable[[], Usage], *, wrote: bool) -> Usage:
    """The usage, with an estimate of each side that is not said: a prompt has tokens, and so has
    what a model `wrote`. An estimated `output` without `input` is the sum of both."""
    if usage is not None and usage.input and (usage.output or not wrote):
        return usage
    guess = estimate()
    if usage is None:
        return guess
    read, total = usage.input or guess.input, usage.output if usage.estimated else 0
    output = max(guess.output, total - read) if total or not usage.output else usage.output
    return replace(usage, input=read, output=output, estimated=True)


def dollars(value: object) -> Decimal | None:
    """An amount in dollars, with the digits it was written in (18 decimals at the most); None for
    anything else, and above `MOST_DOLLARS`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and len(value) > _LONGEST_AMOUNT:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    if not (amount.is_finite() and 0 <= amount <= MOST_DOLLARS):
        return None
    # With all of them an amount such as 1e-999999 would be a million digits long.
    digits = amount.as_tuple().exponent
    short = isinstance(digits, int) and digits >= -_DECIMALS
    return amount if short else round(amount, _DECIMALS)


def unix_time(value: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else."""
    try:
        when = datetime.fromisoformat(value if isinstance(value, str) else "")
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


# --- Headers ------------------------------------------------------------------------------------

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def duration(text: str) -> float | None:
    """Seconds of `1s`, `12ms`, `6m0s`, `2m59.56s`; None when it is none of these."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds, millis = (float(g or 0) for g in match.groups())
    total = hours * 3600 + minutes * 60 + seconds + millis / 1000
    return total if math.isfinite(total) else None


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
    return None if value is None or value > MOST_TOKENS else int(value)


def retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds the provider asks to wait, at most `MAX_WAIT`; None when it does not say, or says
    nonsense. `now` is in seconds since the epoch.

    `retry-after-ms` wins over `retry-after` (seconds or an HTTP date).
    """
    millis, text = number(headers.get("retry-after-ms")), headers.get("retry-after", "")
    wait = number(text) if millis is None else millis / 1000
    if wait is None:
        when = http_date(text)
        if when is None:
            return None
        wait = when - now
    return min(wait, MAX_WAIT) if wait >= 0 else None


def rate_headers(
    headers: Mapping[str, str],
    form: str,
    wait: Callable[[str], float | None],
    names: tuple[str, str] = ("requests", "tokens"),
) -> RateHeaders:
    """What is left of requests and tokens, by headers named after `form` (`x-{what}-{of}`), in
    which they have `names`. `wait` reads the seconds until each is full again."""
    found: dict[str, Any] = {}
    for of, name in _rate_names(form, names):
        if (text := headers.get(name)) is not None:
            found[of] = wait(text) if of.startswith("reset") else count(text)
    if "remaining_requests" not in found and "remaining_tokens" not in found:
        return NO_RATE_HEADERS
    return RateHeaders(**found)


@lru_cache(maxsize=16)
def _rate_names(form: str, names: tuple[str, str]) -> list[tuple[str, str]]:
    """The fields of `RateHeaders`, each with its header."""
    return [
        (f"{what}_{of}", form.format(what=what, of=name))
        for what in ("remaining", "limit", "reset")
        for of, name in zip(("requests", "tokens"), names, strict=True)
    ]


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's own id of the request, for its support desk."""
    return named(headers, "x-request-id", "request-id", "x-amzn-requestid")


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
    410: NotFound,
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
    # OpenAI's, and those of the servers that speak its language
    "insufficient_quota": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "context_length_exceeded": ContextTooLong,
    "exceed_context_size_error": ContextTooLong,
    "invalid_api_key": AuthFailed,
    "model_not_found": NotFound,
    "model_decommissioned": NotFound,  # Groq, with status 400
    "invalid_model": NotFound,  # Mistral, with status 400
    "DeploymentNotFound": NotFound,  # Azure
    "PermissionDenied": PermissionRefused,  # Azure, with status 401: the identity lacks a role
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "json_validate_failed": NoAnswer,  # Groq: the model wrote no JSON, or no tool call
    "tool_use_failed": NoAnswer,
    "vector_store_timeout": ServerFailed,
    "rate_limit_exceeded": RateLimited,
    "server_error": ServerFailed,
    "invalid_request_error": InvalidRequest,
    # Anthropic's
    "authentication_error": AuthFailed,
    "billing_error": QuotaExhausted,
    "permission_error": PermissionRefused,
    "not_found_error": NotFound,
    "request_too_large": InvalidRequest,
    "rate_limit_error": RateLimited,
    "api_error": ServerFailed,
    "timeout_error": ServerFailed,
    "overloaded_error": Overloaded,
    # Google's
    "UNAUTHENTICATED": AuthFailed,
    "PERMISSION_DENIED": PermissionRefused,
    "FAILED_PRECONDITION": PermissionRefused,  # the country, or a project without billing
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": RateLimited,
    "UNAVAILABLE": Overloaded,
    "INVALID_ARGUMENT": InvalidRequest,
    # Amazon's
    "AccessDeniedException": PermissionRefused,
    **dict.fromkeys(
        ("UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException",
         "ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch",
         "IncompleteSignatureException", "IncompleteSignature",
         "MissingAuthenticationTokenException", "MissingAuthenticationToken"),
        AuthFailed,
    ),
    "ServiceQuotaExceededException": QuotaExhausted,
    "ThrottlingException": RateLimited,
    "ResourceNotFoundException": NotFound,
    "ModelNotReadyException": Overloaded,
    "ServiceUnavailableException": Overloaded,
    "ModelTimeoutException": CallTimeout,
    "ModelErrorException": ServerFailed,
    "ModelStreamErrorException": ServerFailed,
    "InternalServerException": ServerFailed,
    "ValidationException": InvalidRequest,
}  # fmt: skip
"""Codes, types and status names; they say more than the status they came with."""

_REFUSED = (InvalidRequest, PermissionRefused)
_NO_SCOPE = r"missing scopes?:|insufficient permissions for this operation"  # OpenAI, 401 or 403
_BAD_KEY = (
    r"API_KEY_INVALID|API key (?:not valid|not found|expired|was reported as leaked)"
    r"|unregistered callers|missing a valid API key|invalid api (?:token|key)|no api key"
    r"|make sure your API Key is valid|bearer token has expired"  # Amazon's
)
_NO_CREDIT = (
    r"credit balance is too low|usage limits?\b.*regain access|spend(?:ing)? (?:cap|limit)"
    r"|credits? (?:are|is|have been) (?:depleted|exhausted)"
    r"|(?:insufficient|not enough) (?:credit|fund|balance)"
    # OpenRouter's, x.ai's and Azure's words for it, with 403
    r"|\bkey limit exceeded|used all available credits|out of call volume quota"
)
_GONE = (
    r"\bmodel\b(?:[^.]|\.\d){0,200}(?:no longer (?:available|supported)"
    r"|(?:has been|was|is) (?:decommissioned|deprecated|retired|removed))"
    r"|unexpected endpoint"  # LM Studio, with status 200
    r"|model identifier is invalid|on-demand throughput isn.t supported"  # Bedrock
)
_FILTERED = r"blocked by (?:our |the )?content[ -]filter"  # Anthropic, with status 400
_USED_UP = r"per[ -]?day|\b[RT]PD\b|(?:/|per|a) ?month\b|billing limit"  # Gemini: in a `quotaId`
_TOO_LONG = (
    r"maximum context|context[ _-]length|context window|too large for model with"
    r"|(?:prompt|input) is too long|exceeds? (?:the )?context limit"
    r"|too many tokens: (?!max tokens must)"
    r"|token count .*exceeds the maximum|exceeds the maximum number of tokens"
)
_BY_MESSAGE: tuple[tuple[tuple[type[CallError], ...], str, type[CallError]], ...] = (
    # OpenAI and Groq: a request above the tokens of a whole minute is refused for ever.
    ((RateLimited,), "request too large", InvalidRequest),
    ((RateLimited,), _NO_CREDIT, QuotaExhausted),
    ((RateLimited,), _USED_UP, QuotaExhausted),
    ((InvalidRequest,), _FILTERED, ContentFiltered),
    ((InvalidRequest, ServerFailed), _GONE, NotFound),
    ((AuthFailed,), _NO_SCOPE, PermissionRefused),
    (_REFUSED, _BAD_KEY, AuthFailed),
    (_REFUSED, _NO_CREDIT, QuotaExhausted),
    ((InvalidRequest,), _TOO_LONG, ContextTooLong),
)
"""What only an error's words tell: the type by code or status, the words, the type it is."""
_TRY_AGAIN = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:h|ms|m|s))+)")


def error_object(whole: object) -> Mapping[str, Any]:
    """The error object of a body: under `error`, or the body itself where it has a `message` or
    `detail` (Mistral, and gateways in front of others). Gemini may wrap the body in a list."""
    whole = object_or_empty(whole[0] if isinstance(whole, list) and whole else whole)
    found, detail = whole.get("error"), whole.get("detail")
    if isinstance(found, str):
        return {**whole, "message": found}
    if isinstance(found, dict):
        return found
    if "message" not in whole and detail is not None:
        return {**whole, "message": _as_text(detail)}
    return whole if "message" in whole else {}


def error_from_reply(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float
) -> CallError:
    """The mapped error of a reply that is not a success. `now`: seconds since the epoch.

    `ambiguous` by `_GATEWAY`; `retryable` by `x-should-retry`, where the provider sends it.
    """
    whole = json_or_none(body)
    found = error_object(whole)
    message = cut(_message(found), SHOWN) or _plain_text(body)
    wait = retry_after(headers, now=now)
    if 300 <= status < 400:
        where = cut(headers.get("location", ""), SHOWN)
        message = f"a redirect to {where!r}, which is not followed; mend `base_url`"
    sentence = f"the provider answered {status}" + (f": {message}" if message else "")
    error = _error(status, found, sentence, wait)
    if isinstance(error, PermissionRefused) and _title(body):
        # A firewall, or a proxy, between us and the provider: it knows of no key.
        error = BadResponse(sentence, retryable=False, ambiguous=False)
    error.http_status = status
    error.provider_request_id = request_id(headers) or named(object_or_empty(whole), "request_id")
    error.retry_after = wait if error.retry_after is None else error.retry_after
    told = {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())
    error.retryable = error.retryable if told is None else told
    return error


def error_from_event(whole: Mapping[str, Any]) -> CallError:
    """The mapped error of an `error` inside a stream or a successful reply."""
    found = error_object(whole)
    codes = map(found.get, ("status_code", "raw_status_code", "code", "status"))
    status = next((c for code in codes if (c := _status(code))), None)
    message = _message(found) or "the provider reported an error"
    error = _error(status or 500, found, cut(message, SHOWN))
    error.http_status, error.provider_request_id = status, named(whole, "request_id")
    return error


def _status(code: object) -> int | None:
    """The HTTP status that a code is, as a number or in digits."""
    code = int(code) if isinstance(code, str) and re.fullmatch("[45][0-9]{2}", code) else code
    return code if type(code) is int and 400 <= code < 600 else None


def content_filtered(
    sentence: str, why: str | None, usage: Usage | None, cost: Decimal | None = None
) -> ContentFiltered:
    """The error for a refusal, which was billed like an answer."""
    why = cut(why or "", SHOWN)
    error = ContentFiltered(f"{sentence}: {why}" if why else sentence, http_status=200)
    error.usage, error.cost = usage, cost
    return error


def _message(found: Mapping[str, Any]) -> str:
    """The provider's own words; OpenRouter puts those of the one behind it into `metadata`."""
    message = found.get("message")
    said = _as_text(message)
    raw = object_or_empty(found.get("metadata")).get("raw")
    if isinstance(raw, str) and raw and raw not in said:
        said += f" ({raw[:LONGEST_NOTE]})"
    return " ".join(said.split()) if message or raw else ""


def _as_text(value: object) -> str:
    """The start of a text, or of anything else as JSON; nothing of what is too deep for that."""
    try:
        return (value if isinstance(value, str) else orjson.dumps(value).decode())[:LONGEST_NOTE]
    except TypeError:
        return ""


def _error(
    status: int, found: Mapping[str, Any], sentence: str, wait: float | None = None
) -> CallError:
    kind = _BY_STATUS.get(status) or (ServerFailed if status >= 500 else InvalidRequest)
    for key in ("code", "type", "status"):
        coded = _BY_CODE.get(_as_text(found.get(key)))
        if coded is not None and not (coded is InvalidRequest and status in _BY_STATUS):
            kind = coded
            break
    said = f"{_message(found)} {_as_text(found.get('details'))}"
    told = _TRY_AGAIN.search(said)
    again = max(wait or 0.0, (told and duration(told[1])) or 0.0) if told else 0.0
    for kinds, words, better in _BY_MESSAGE:
        if words is _USED_UP and 0 < again <= MAX_WAIT:
            continue  # a day's limit that fills up all the time, in a wait that we can make
        if kind in kinds and re.search(words, said, re.IGNORECASE | re.DOTALL):
            kind = better
            break
    if kind is PermissionRefused and object_or_empty(found.get("metadata")).get("reasons"):
        kind = ContentFiltered  # OpenRouter's moderation (openrouter.ai/docs, "Moderation errors")
    error = kind(sentence)
    if kind is RateLimited and again:
        error.retry_after = min(again, MAX_WAIT)
    if kind is NoAnswer:
        error.ambiguous = True  # the model has written it: once more at the most
        error.text = first_text(found, "failed_generation")
    if kind in (ServerFailed, CallTimeout):  # other types: the provider says what happened
        error.ambiguous = status in _GATEWAY
    return error


def _plain_text(body: bytes) -> str:
    """The start of a body that is no JSON, on one line; of an HTML page its title."""
    text = body[:LONGEST_NOTE].decode("utf-8", "replace").strip()
    return _title(body) if text.startswith("<") else cut(" ".join(text.split()), SHOWN)


def _title(body: bytes) -> str:
    """The title of an HTML page; nothing of anything else."""
    text = body[:LONGEST_NOTE].decode("utf-8", "replace")
    found = re.search(r"<title[^>]*>([^<]+)", text, re.IGNORECASE) if "<" in text[:100] else None
    return cut(" ".join(html.unescape(found[1]).split()), SHOWN) if found else ""
