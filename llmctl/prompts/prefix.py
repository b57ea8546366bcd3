"""What rows have in common at their start, and what providers' prompt caches ask for it.

A provider keeps the start of a prompt for some minutes and bills what it reads there again at a
tenth to a half; some bill a quarter more for writing it. Pure: prices and counts are handed in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal
from urllib.parse import urlsplit

import orjson
from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.types import Message, Request, Target, Usage

Way = Literal["marked", "keyed", "automatic"]
"""What a request must say: `cache_control` at the end of what is to be kept; `prompt_cache_key`,
which leads alike requests to one machine; or nothing."""


class Caching(Struct, frozen=True):
    """A model's prompt cache: the fewest tokens that it keeps, `seconds` after the last use until
    it forgets, and where that is published."""

    minimum: int
    way: Way
    seconds: float
    source: str


_CLAUDE = "platform.claude.com/docs/en/build-with-claude/prompt-caching"
_GEMINI = "ai.google.dev/gemini-api/docs/caching"
_OPENAI = "platform.openai.com/docs/guides/prompt-caching"
_GROQ = "console.groq.com/docs/prompt-caching"
_ADAPTERS = {"vertex-claude": "anthropic", "vertex": "gemini"}
_HOSTS = {"api.openai.com": "openai", "api.groq.com": "groq"}
_MINIMA: tuple[tuple[str, str, Caching], ...] = (
    ("anthropic", r"claude-(?:opus|fable|mythos)-5", Caching(512, "marked", 300, _CLAUDE)),
    ("anthropic", r"claude-(?:haiku-4-5|opus-4-[567])", Caching(4096, "marked", 300, _CLAUDE)),
    ("anthropic", r"claude-(?:sonnet-4-6|3.*haiku)", Caching(2048, "marked", 300, _CLAUDE)),
    ("anthropic", r"claude-(?:sonnet-[45]|opus-4|3)", Caching(1024, "marked", 300, _CLAUDE)),
    ("anthropic", r"claude", Caching(4096, "marked", 300, _CLAUDE)),
    ("openai", r"(?:chatgpt-4o|gpt-(?:4o|4\.|[5-9])|o\d)", Caching(1024, "keyed", 300, _OPENAI)),
    ("gemini", r"gemini-2\.5", Caching(2048, "automatic", 300, _GEMINI)),
    ("gemini", r"gemini-[3-9]", Caching(4096, "automatic", 300, _GEMINI)),
    ("groq", r"(?:openai/gpt-oss|moonshotai/kimi-k2)", Caching(1024, "automatic", 7200, _GROQ)),
)  # fmt: skip
"""Provider, how a model's name begins, its cache; the first that fits. Of November 2026; where
sources differ (claude-sonnet-4-6, claude-opus-4-7, Groq's 128 to 1,024) the larger minimum."""

_MARK = {"type": "ephemeral"}
_START = 256
"""Characters by which rows are told apart at first: no more than the smallest minimum has."""
_MOST = 1000
"""Starts that are followed; rows with others than the first so many are left alone."""


def caching_of(target: Target) -> Caching | None:
    """The prompt cache of the target's model; None where there is none, or none is published."""
    base_url, model = target.known_as
    adapter = _ADAPTERS.get(target.adapter, target.adapter)
    provider = _HOSTS.get(urlsplit(base_url).hostname or "", "")
    provider = adapter if adapter in {"anthropic", "gemini"} else provider
    name = model.lower().removeprefix("models/")
    return next(
        (each for of, start, each in _MINIMA if of == provider and re.match(start, name)), None
    )


class Prefix(Struct, frozen=True):
    """The turns that `rows` rows begin with, the last perhaps cut, at a space or the end of a
    line; of `request`, one of them. `tokens` are those of the turns."""

    messages: tuple[Message, ...]
    rows: int
    request: Request
    tokens: int = 0

    @property
    def characters(self) -> int:
        """How long its text is."""
        return sum(len(message.text) for message in self.messages)


class _Start(Struct):
    messages: tuple[Message, ...]
    request: Request
    rows: int = 1


class PrefixScan:
    """Finds the prefixes of rows, as they are added. Rows belong together that ask one model with
    the same parameters (tools stand before all messages) and begin alike."""

    def __init__(self) -> None:
        self._starts: dict[bytes, _Start] = {}
        self.rows = 0

    def add(self, request: Request) -> None:
        """Take a row's request into account."""
        self.rows += 1
        key = group_of(request)
        start = self._starts.get(key)
        if start is not None:
            start.messages = common(start.messages, request.messages)
            start.rows += 1
        elif len(self._starts) < _MOST:
            self._starts[key] = _Start(common(request.messages, request.messages), request)

    def prefixes(self, tokens: Callable[[Request], int]) -> dict[bytes, Prefix]:
        """What two rows or more begin with, by the group; `tokens` counts a request's input."""
        found: dict[bytes, Prefix] = {}
        for key, start in self._starts.items():
            messages = at_boundary(start.messages, start.request.messages)
            if start.rows > 1 and messages:
                counted = replace(start.request, messages=messages, fingerprint="", raw=None)
                found[key] = Prefix(messages, start.rows, start.request, tokens(counted))
        return found


def group_of(request: Request) -> bytes:
    """What tells apart the rows that cannot share a prefix."""
    text = "\0".join(f"{m.role}\0{m.text}" for m in request.messages)[:_START]
    what = [request.target.model, request.options, request.schema, request.raw is not None, text]
    data = orjson.dumps(what, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=16).digest()


def common(left: tuple[Message, ...], right: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns that both begin with, as far as they are text; the last one perhaps cut."""
    found: list[Message] = []
    for one, other in zip(left, right, strict=False):
        plain = isinstance(one.content, str) and isinstance(other.content, str)
        if not plain or one.role != other.role or one.extra or other.extra:
            break
        text = common_start(one.text, other.text)
        if text:
            found.append(Message(one.role, text))
        if text != one.text or text != other.text:
            break
    return tuple(found)


def common_start(left: str, right: str) -> str:
    """The longest text that both begin with."""
    if right.startswith(left):  # nearly always, and at the speed of C
        return left
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
    return left[:low]


def at_boundary(messages: tuple[Message, ...], whole: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns without the piece of a word that the last one ends with, where it is cut."""
    if not messages:
        return ()
    *before, last = messages
    if last.content == whole[len(before)].content:
        return messages
    cut = re.sub(r"\S+\Z", "", last.text)
    return (*before, Message(last.role, cut)) if cut.strip() else tuple(before)


class Verdict(Struct, frozen=True):
    """Whether a prefix is worth keeping at its provider.

    Attributes:
        now, kept: what its tokens cost in all rows, in US dollars, each read anew, and with one
            write and reads else; None: not known.
        why_not: the end of a sentence; empty where it pays.

    """

    prefix: Prefix
    caching: Caching | None
    now: Decimal | None = None
    kept: Decimal | None = None
    why_not: str = ""

    @property
    def saves(self) -> Decimal:
        """US dollars."""
        return Decimal(0) if self.now is None or self.kept is None else self.now - self.kept


Pricing = Callable[[Request, Usage], Decimal | None]
"""What the usage of a request costs in US dollars; None: not known."""


def judged(prefix: Prefix, price: Pricing) -> Verdict:
    """Whether the prefix pays: long enough, in more than one row, and read cheaper than anew."""
    request, tokens = prefix.request, prefix.tokens
    caching = caching_of(request.target)
    if caching is None:
        place = urlsplit(request.target.known_as[0]).hostname
        why = f"no prompt cache of {request.target.model} at {place} is published"
        if request.target.adapter == "openrouter":
            why = "OpenRouter may ask another provider for every row"
        return Verdict(prefix, None, why_not=why)
    if tokens < caching.minimum:
        short = caching.minimum - tokens
        why = f"{tokens:,} tokens are {short:,} short of the {caching.minimum:,} that are kept"
        return Verdict(prefix, caching, why_not=why)
    anew = price(request, Usage(input=tokens))
    write = price(request, Usage(input=tokens, cache_write=tokens))
    read = price(request, Usage(input=tokens, cached_input=tokens))
    if anew is None or write is None or read is None:
        return Verdict(prefix, caching, why_not="the price is not known: set `price:`")
    now, kept = anew * prefix.rows, write + read * (prefix.rows - 1)
    why = "" if kept < now else "reading it from the cache costs no less"
    return Verdict(prefix, caching, now, kept, why)


def marked(request: Request, prefix: Prefix, caching: Caching) -> Request:
    """The request with what its provider wants to be told of the prefix. What it says of caching
    by itself stays as it is. The fingerprint does, too: the question is the same."""
    if caching.way == "automatic" or request.raw is not None:
        return request
    if caching.way == "keyed":
        if "prompt_cache_key" in request.options:
            return request
        text = orjson.dumps([message.as_json() for message in prefix.messages])
        key = hashlib.blake2b(text, digest_size=16).hexdigest()
        return replace(request, options={**request.options, "prompt_cache_key": key})
    if "cache_control" in request.options or any(map(_says, request.messages)):
        return request
    at, last = len(prefix.messages) - 1, prefix.messages[-1]
    whole = request.messages[at]
    rest = whole.text[len(last.text) :]
    kept = {"type": "text", "text": last.text, "cache_control": _MARK}
    parts = ({**kept}, {"type": "text", "text": rest}) if rest.strip() else ({**kept},)
    turns = (*request.messages[:at], replace(whole, content=parts), *request.messages[at + 1 :])
    return replace(request, messages=turns)


def _says(message: Message) -> bool:
    parts = message.content if isinstance(message.content, tuple) else ()
    return any(isinstance(part, Mapping) and "cache_control" in part for part in parts)


class Warmup(Struct):
    """A prefix that pays, in one run. `at` is when the provider last read or wrote it, in seconds
    of a monotonic clock; None: not yet. `tries`: rows that were to write it and had no answer."""

    prefix: Prefix
    caching: Caching
    at: float | None = None
    tries: int = 0

    def cold(self, now: float) -> bool:
        """Whether a row must go first."""
        return self.at is None or now - self.at > self.caching.seconds


class Warmups(Struct):
    """The prefixes of a run that pay, by the group of their rows; what all were found to be."""

    verdicts: list[Verdict] = []
    by_group: dict[bytes, Warmup] = field(default_factory=dict)

    def of(self, request: Request) -> Warmup | None:
        """That of a request which begins with it."""
        found = self.by_group.get(group_of(request)) if self.by_group else None
        if found is None:
            return None
        wanted = found.prefix.messages
        return found if common(wanted, request.messages) == wanted else None


def warmups(prefixes: Mapping[bytes, Prefix], price: Pricing) -> Warmups:
    """Which of the prefixes pay."""
    made = Warmups()
    for group, prefix in prefixes.items():
        verdict = judged(prefix, price)
        made.verdicts.append(verdict)
        if not verdict.why_not and verdict.caching is not None:
            made.by_group[group] = Warmup(prefix, verdict.caching)
    return made
