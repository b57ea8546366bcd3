"""What travels through the program: frozen values, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from msgspec import Meta, Struct, field

from llmctl.errors import CallError

JSON = Mapping[str, Any]
"""A decoded JSON object. Treated as immutable everywhere."""

Finish = Literal["stop", "length", "content_filter", "tool_calls", "other"]
CacheState = Literal["hit", "miss", "bypass", "shared", "semantic", "stale", "static"]
CacheMode = Literal["use", "refresh", "bypass"]
KEPT: frozenset[CacheState] = frozenset({"hit", "shared", "semantic", "stale", "static"})
"""Of answers that cost nothing: kept, another's of this moment, of a question that means the same,
or what is given in an outage."""


class Message(Struct, frozen=True):
    """One turn. `content` is text or parts; `extra` holds the turn's other fields as they came.

    Parts are OpenAI's (platform.openai.com/docs/api-reference/chat/create), whoever is asked:

    - `{"type": "text", "text": T}`
    - `{"type": "image_url", "image_url": {"url": U, "detail": D}}`, U an https or a data URL
    - `{"type": "file", "file": {"filename": N, "file_data": U}}`, U a data URL; or `file_url`, an
      https URL (an addition of ours), or `file_id`, the provider's own
    - `{"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav" or "mp3"}}`
    """

    role: str
    content: str | tuple[JSON, ...] | None
    extra: JSON = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The turn's text: its content, or its text parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(str(p.get("text") or "") for p in self.content or ())

    def as_json(self) -> dict[str, Any]:
        """The turn in OpenAI's shape."""
        content = list(self.content) if isinstance(self.content, tuple) else self.content
        return {"role": self.role, "content": content, **self.extra}


class Target(Struct, frozen=True):
    """Where a request goes. `provider` is the preset's name, `adapter` the wire format that
    speaks to it, `api` `chat` or `responses`, `context` the model's window in tokens. `base_url`
    may end in a query, which belongs to every call (Azure's `api-version`). `known_as` is the
    address and model whose published price and window it has."""

    profile: str
    provider: str
    adapter: str
    base_url: str
    model: str
    context: int | None = None
    api: str = "chat"
    like: tuple[str, str] | None = None

    @property
    def known_as(self) -> tuple[str, str]:
        """Address and model: its own, unless it is `like` another."""
        return self.like or (self.base_url, self.model)

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a key and a cached answer are bound to."""
        return origin_of(self.base_url)


def origin_of(base_url: str) -> str:
    """Scheme, host and port of an address."""
    return _place(base_url)[0]


@lru_cache(maxsize=64)
def _place(base_url: str) -> tuple[str, str, str]:
    """Origin, path and query."""
    parts = urlsplit(base_url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)
    origin = f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"
    return origin, parts.path.rstrip("/"), parts.query


Streaming = Literal["text", "events"]
"""How a body that is passed through is streamed: as text, or as the provider's own events too."""


class RawRequest(Struct, frozen=True):
    """A request to pass through as it is: `path` below the base URL, body and `headers`.

    The body is one of OpenAI's, or of Anthropic's messages (`/messages`), and says nothing of
    `stream`. `streamed`: a caller reads the answer while it comes. `chat` is the same question as a
    chat completion, for a provider that does not speak the body's language.
    """

    path: str
    body: JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    streamed: Streaming | None = None
    chat: JSON | None = None


class Masked(Struct, frozen=True):
    """What was found and masked in a request.

    Attributes:
        counts: values by kind, such as `email`; each place counts.
        values: what stands for a token in an answer; never kept in clear beyond the call.
        digest: a keyed digest of the whole question as it was asked; hexadecimal. It makes two
            questions two, where only what is masked differs.
        question: the fingerprint of the question as it was asked, where tokens are other ones in
            every run, so that rows are found again by it.
        refused: why the request must not be sent; empty where it may.

    """

    counts: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    question: str = ""
    refused: str = ""

    @property
    def said(self) -> str:
        """What was found, such as `2 email, 1 phone`."""
        return ", ".join(f"{number:,} {kind}" for kind, number in self.counts.items())


class RouteDecision(Struct, frozen=True):
    """Where a question was sent, and why.

    Attributes:
        to: the profile whose answer, or failure, it is.
        by: what decided: a `rule`, the `score`, the `cascade`, or none of them.
        score: of the local scorer; None where none was asked.
        checked: what became of another profile's answer before: it `passed`, or the check that it
            failed, or why there was none (an error's type). Empty: none was asked.
        cost: US dollars of the calls before this one; None: not known.
        strong: what would have been asked without a route, where that is another one.
        parent: the call id that the row began with.

    """

    to: str
    by: Literal["rule", "score", "cascade", "default"]
    score: float | None = None
    checked: str = ""
    cost: Decimal | None = Decimal(0)
    strong: Target | None = None
    parent: str = ""


class Request(Struct, frozen=True):
    """One question for one target.

    `options` go to the provider untouched; `tags` only to the ledger and the output row. With `raw`
    the body goes out as it is and `messages` only serve to count tokens. `schema` is the JSON
    Schema that the answer must fit. `own` names the parameters that the question set itself, over
    its profile. `index` is the 0-based input row, `kept` what its output row repeats of it,
    `sample` how many samples of the same question come before. `user` is whom it is asked for (""
    for the user who runs the program), `weight` that one's share where callers wait for a turn.
    `masked` is what was masked in it; None: nobody has looked yet. `parent` is the call id that the
    row began with, where it may have several calls. `parts` are the texts of a template's fields in
    the question; None: it is of no template.
    """

    id: str
    target: Target
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    options: JSON = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    raw: RawRequest | None = None
    schema: JSON | None = None
    cache_mode: CacheMode = "use"
    own: frozenset[str] = frozenset()
    index: int = 0
    kept: JSON | None = None
    sample: int = 0
    user: str = ""
    weight: int = 1
    call_id: str = ""
    fingerprint: str = ""  # set by `compose`
    masked: Masked | None = None
    parent: str = ""
    parts: tuple[str, ...] | None = None

    @property
    def parameters(self) -> JSON:
        """What goes to the provider beside the prompt: options, or the body passed through."""
        return self.options if self.raw is None else self.raw.body

    @property
    def answer_key(self) -> str:
        """What a kept answer is found by: the fingerprint, and for a further sample its number;
        in hex."""
        return f"{self.fingerprint}{self.sample:08x}" if self.sample else self.fingerprint

    @property
    def row_key(self) -> str:
        """What a row's answer in an output is found by; in hex."""
        return (self.masked and self.masked.question) or self.fingerprint

    def without_content(self) -> Request:
        """What a ledger wants to know of it: whose it is, and where it goes; not what it says."""
        return Request(
            self.id, self.target, (), tags=self.tags, user=self.user, call_id=self.call_id,
            masked=self.masked and Masked(self.masked.counts), parent=self.parent,
        )  # fmt: skip

    @property
    def wants_body(self) -> bool:
        """Whether the answer is more than one text, so that the provider's body is kept whole."""
        if self.raw is not None:
            return self.raw.streamed is None
        if not self.options:  # most rows: asked twice for each
            return False
        given = dict(self.options)
        for config in ("generationConfig", "generation_config"):  # Gemini's
            inner = given.get(config)
            given.update(inner if isinstance(inner, Mapping) else {})
        several = any(given.get(name) not in (None, 1) for name in _SEVERAL)
        return several or any(given.get(name) for name in _SHAPES)


_SEVERAL = ("n", "best_of", "candidateCount", "candidate_count")
_SHAPES = (
    "logprobs", "top_logprobs", "prompt_logprobs", "responseLogprobs", "response_logprobs",
    "modalities", "responseModalities", "response_modalities", "audio", "include", "echo",
)  # fmt: skip
"""Parameters by which an answer has further choices, log probabilities, images or sound."""


def fingerprint(request: Request) -> str:
    """The identity of an answer: SHA-256, in hex, over the canonical JSON (sorted keys, no white
    space) of adapter, API, origin and path of the provider, model, messages, all parameters and
    the schema; and of a masked request the digest of the one that was asked."""
    target, raw = request.target, request.raw
    what: list[Any] = [2, target.adapter, target.api, *_place(target.base_url)]
    if raw is not None:
        what += [raw.path, raw.body, *([dict(raw.headers)] if raw.headers else [])]
    else:
        what += [target.model, [message.as_json() for message in request.messages]]
        what += [request.max_tokens, request.temperature, request.options]
        if request.schema is not None:
            what.append(request.schema)
    if request.masked is not None and request.masked.digest:
        what.append(request.masked.digest)
    return hashlib.sha256(orjson.dumps(what, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Usage(Struct, frozen=True):
    """Tokens of one call. `input` includes cached ones, `output` includes reasoning. A sum is that
    of two calls.

    Attributes:
        estimated: the provider did not report all of them.
        cache_write_1h: those of `cache_write` that are kept for an hour, which costs more.
        audio_input, image_input, audio_output, image_output: parts of `input` and `output`.
        free_input, free_output: parts that are not billed (Cohere's own template).
        searches, file_searches: of the provider's own tools, each billed.
        audio_seconds: of sound that is billed by its length, beside the tokens (Mistral).

    """

    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0
    estimated: bool = False
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    free_input: int = 0
    free_output: int = 0
    searches: int = 0
    file_searches: int = 0
    audio_seconds: int = 0

    def __add__(self, other: Usage) -> Usage:
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        return Usage(**{**sums, "estimated": self.estimated or other.estimated})


Billed = tuple[Usage, Decimal | None]
"""What an attempt without an answer used, and the provider's own price of it, in dollars."""


class Price(Struct, frozen=True):
    """US dollars per million tokens; or `like` whom, `PROVIDER/MODEL`."""

    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    like: (
        Annotated[
            str,
            Meta(pattern=r"\A[^/\s]+/\S+\Z", description="PROVIDER/MODEL such as openai/gpt-4o"),
        ]
        | None
    ) = field(default=None, name="as")


class ProviderReply(Struct, frozen=True):
    """What a codec reads out of a complete answer. `cost` is the provider's own figure, `reason`
    its own word for `finish`. `tool_calls` are in OpenAI's shape, `citations` as they came;
    `beyond_text`: the body holds what is no text (an embedding, an image, sound)."""

    text: str
    finish: Finish
    model: str
    usage: Usage | None
    cost: Decimal | None = None
    reason: str | None = None
    tool_calls: tuple[JSON, ...] = ()
    citations: tuple[Any, ...] = ()
    beyond_text: bool = False


class StreamChunk(Struct, frozen=True):
    """What a codec reads out of one streamed event; empty fields say nothing new. `done` is the
    provider's own end mark; `cost` its own figure, in dollars; `reason` its own word for `finish`.
    `tool_calls` and `citations` are all so far, told when it finishes and when it is done. `event`
    and `data` are the event itself, where the caller reads the provider's own. `degraded`: what
    follows is no new answer of the provider's, as `Answer.degraded`."""

    text: str = ""
    finish: Finish | None = None
    model: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    done: bool = False
    reason: str | None = None
    tool_calls: tuple[JSON, ...] = ()
    citations: tuple[Any, ...] = ()
    event: str = ""
    data: str = ""
    degraded: str = ""


class Summary(Struct, frozen=True):
    """What it took to make a prompt fit its model's window: `chunks` of its text that were
    summarised, and their `cost` in dollars, None where that is unknown."""

    chunks: int
    cost: Decimal | None

    def plus(self, cost: Decimal | None) -> Summary:
        """With one chunk more."""
        both = None if cost is None or self.cost is None else self.cost + cost
        return Summary(self.chunks + 1, both)


class Answer(Struct, frozen=True):
    """An answer. `uncertain` counts attempts before this one that may have been billed too,
    `earlier` is what others were billed for, `limited` counts those that met a rate limit, and
    `elsewhere` those of the attempts that were made at other profiles, and are on record there;
    `tool_calls` to `beyond_text` as in the reply; `body` is the provider's own JSON, byte for byte
    (None when it was streamed); `latency` the seconds of the attempt that succeeded; `parsed` the
    value that fits the request's schema; `request` the one that was asked, where that is not the
    caller's; `cut`, that the prompt was cut to fit the model's window, `summary` how it was
    summarised for that; `route` where it was sent, and why, where there was a choice. Of a semantic
    hit `score` is how near the other question is (a cosine; 1 of the same words), `source` the call
    it was; `age` the seconds since a stale answer was kept."""

    text: str
    usage: Usage
    target: Target
    finish: Finish
    model: str
    body: bytes | None = None
    cache: CacheState = "miss"
    attempts: int = 1
    uncertain: int = 0
    latency: float = 0.0
    status: int = 200
    provider_request_id: str | None = None
    reported_cost: Decimal | None = None
    parsed: Any = None
    request: Request | None = None
    tool_calls: tuple[JSON, ...] = ()
    citations: tuple[Any, ...] = ()
    beyond_text: bool = False
    earlier: tuple[Billed, ...] = ()
    limited: int = 0
    elsewhere: int = 0
    cut: bool = False
    route: RouteDecision | None = None
    score: float | None = None
    source: str = ""
    summary: Summary | None = None
    age: float | None = None

    @property
    def degraded(self) -> str:
        """`stale` or `static` where a provider that is down would have been asked; else empty."""
        return self.cache if self.cache in {"stale", "static"} else ""


class ModelInfo(Struct, frozen=True):
    """A model as the provider lists it: tokens, and seconds since the epoch. None: not said."""

    id: str
    name: str | None = None
    context: int | None = None
    output: int | None = None
    created: float | None = None


class CallRecord(Struct, frozen=True):
    """How one call ended, for every observer. Seconds: `started` since the epoch, `elapsed` and
    `first_token` since then. `cost` is None when the price is unknown; `saved` is what a cached
    answer would have cost, or one of a batch more; `uncertain` counts attempts that may have been
    billed for nothing, and `worst` is the most that one of them, a stream that was cut, may have
    cost. `in_batch`: a provider's batch answered. `asked` is the caller's own request, where
    another was sent. `routed_saved` is what the strong model would have cost, less what all calls
    of the row did: below 0 where the route was dearer; `provider_saved` what the usage would have
    cost more without the provider's prompt cache: below 0 where writing it cost more than was
    read."""

    request: Request
    result: Answer | CallError
    usage: Usage
    cost: Decimal | None
    saved: Decimal | None
    started: float
    elapsed: float
    first_token: float | None
    uncertain: int = 0
    worst: Decimal | None = None
    in_batch: bool = False
    asked: Request | None = None
    routed_saved: Decimal | None = None
    provider_saved: Decimal | None = Decimal(0)

    @property
    def target(self) -> Target:
        """Whom the call went to: of a profile's several servers, the one asked last."""
        found: Target | None = self.result.target
        return found or self.request.target

    @property
    def ok(self) -> bool:
        """True when there is an answer."""
        return isinstance(self.result, Answer)

    @property
    def row_cost(self) -> Decimal | None:
        """What all calls of the row cost, in US dollars; None: not known. Of a cheaper leg, and of
        summaries, which have calls of their own on record."""
        result = self.result
        costs = [self.cost]
        if result.route is not None:
            costs.append(result.route.cost)
        if result.summary is not None and not self._shared:
            costs.append(result.summary.cost)
        known = [cost for cost in costs if cost is not None]
        return sum(known, Decimal(0)) if len(known) == len(costs) else None

    @property
    def _shared(self) -> bool:
        return isinstance(self.result, Answer) and self.result.cache == "shared"
