"""Every knob of the program: frozen structs with units and bounds, the schema of the files.

A field of `Profile` and its sections is a key of the configuration file; `load` reads a file by
these types: `Meta` holds the bounds, `description` completes the error "must be …", and
`extra` says `unit: seconds` (written as a duration) or `secret` (never shown in an error).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from msgspec import Meta, Struct, field

from llmctl.types import Price

_DAY = 86400.0
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,9})?) ?(ms|s|m|h|d|w)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,6})?) ?(?:([kmgt])(i?)b?|b)?")
_SHARE = re.compile(r"(0?\.[0-9]{1,6}|1(\.0+)?)|([0-9]{1,2}(\.[0-9]{1,4})?|100)%")

Seconds = Annotated[float, Meta(gt=0, le=_DAY, extra={"unit": "seconds"})]
Attempts = Annotated[int, Meta(ge=1, le=100)]
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Name = Annotated[str, Meta(min_length=1)]


def parse_duration(text: str) -> float | None:
    """Seconds of `10`, `1.5`, `500ms`, `10s`, `5m`, `2h`, `7d` or `1w`. None: no duration."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _SECONDS[match[2] or "s"]


def parse_size(text: str) -> int | None:
    """Bytes: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024. None: no size."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        return None
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** (" kmgt".index(match[2]) if match[2] else 0))


def parse_share(text: str) -> Decimal | None:
    """`0.8` or `80%` as a number above 0 and up to 1. None: no share."""
    if not _SHARE.fullmatch(text):
        return None
    return Decimal(text.rstrip("%")) / (100 if text.endswith("%") else 1) or None


class Limits(Struct, frozen=True):
    """`concurrency`: calls in flight; `rpm`, `tpm`: requests and tokens per minute (None: no
    limit of our own)."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 8
    rpm: PerMinute | None = None
    tpm: PerMinute | None = None


class Timeouts(Struct, frozen=True):
    """Seconds: to connect, from sending to the first byte of the answer, and for one attempt."""

    connect: Seconds = 10.0
    first_byte: Seconds = 60.0
    total: Seconds = 300.0


class RetryPolicy(Struct, frozen=True):
    """`attempts`: tries in all; `max_wait`: longest pause between two, in seconds;
    `ambiguous_attempts`: how many of the retries may follow a failure after which the provider
    may have billed (timeout, broken connection after sending)."""

    attempts: Attempts = 4
    max_wait: Annotated[float, Meta(ge=0, le=_DAY, extra={"unit": "seconds"})] = 60.0
    ambiguous_attempts: Annotated[int, Meta(ge=0, le=100)] = 1


class BreakerPolicy(Struct, frozen=True):
    """When a provider counts as down: after `failures` in a row, or when at least `error_rate`
    (a share) of the calls of the last `window` seconds failed. Then nothing is sent for
    `open_for` seconds, and after that one call at a time until one succeeds."""

    failures: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    error_rate: Annotated[float, Meta(ge=0.01, le=1)] = 0.5
    window: Seconds = 60.0
    open_for: Seconds = 60.0


class CachePolicy(Struct, frozen=True):
    """`ttl`: seconds an answer may be reused, None for ever."""

    enabled: bool = True
    ttl: Annotated[float, Meta(gt=0, le=36500 * _DAY, extra={"unit": "seconds"})] | None = None


class KeySource(Struct, frozen=True):
    """Where a profile's key comes from: the environment variable `env`, the keyring's entry
    `keyring` (both: in this order), or what `command` prints (program and arguments). `hidden`
    are variables that hold other keys: the command does not get to see them."""

    env: (
        Annotated[
            str,
            Meta(
                pattern=r"\A[A-Za-z_][A-Za-z0-9_]{0,99}\Z",
                description="the name of an environment variable, such as OPENAI_API_KEY "
                "(a key itself never belongs in a file)",
                extra={"secret": True},
            ),
        ]
        | None
    ) = None
    keyring: (
        Annotated[
            str,
            Meta(
                pattern=r"\A\w[\w.-]{0,63}\Z",
                description="the name of a stored key, such as openai: letters, digits, dots, "
                "dashes and underscores (see `llmctl keys list`)",
                extra={"secret": True},
            ),
        ]
        | None
    ) = None
    command: tuple[str, ...] | None = None
    hidden: tuple[str, ...] = ()


Api = Literal["chat", "responses"]

Overflow = Literal["reject", "truncate", "fallback"]
"""What becomes of a prompt that is longer than the model's window."""


class Profile(Struct, frozen=True):
    """One provider profile, complete: preset, file, environment and flags merged.

    `api` is which of the provider's interfaces is used; `query` stands in the address of every
    call, and `key_header` is the header that carries the key where it is not the provider's usual
    one (Azure's `api-version` and `api-key`). `context` is the model's window in tokens where it
    is known; `model_path`, `parallel` (answers at once) belong to `local`. `params` are sampling
    parameters passed through. `fallback` are the profiles that are asked, in this order, when
    this one cannot serve. `http`: `standard` sends a batch over the standard HTTP client too.
    `source` says where the profile was defined, for `profiles show`; `chosen` why it is the one
    in use (set by `choose`).
    """

    name: str
    provider: str
    adapter: str
    base_url: str
    model: str
    key: KeySource | None = None
    api: Api = "chat"
    query: Mapping[str, str] = field(default_factory=dict)
    key_header: (
        Annotated[
            str,
            Meta(
                pattern=r"\A[A-Za-z][A-Za-z0-9-]{0,63}\Z",
                description="the name of a header, such as api-key",
                extra={"secret": True},
            ),
        ]
        | None
    ) = None
    max_tokens: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()
    timeout: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    cache: CachePolicy = CachePolicy()
    history: bool = True
    on_overflow: Overflow = "reject"
    fallback: tuple[str, ...] = ()
    price: Price | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    context: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    model_path: Path | None = None
    parallel: Annotated[int, Meta(ge=1, le=256)] = 4
    http: Literal["standard"] | None = None
    source: str = "built in"
    chosen: str = ""

    @property
    def url(self) -> str:
        """The base URL with its query."""
        return f"{self.base_url}?{urlencode(self.query)}" if self.query else self.base_url


NOT_IN_FILES = ("name", "adapter", "max_tokens", "temperature", "source", "chosen")
"""Fields of `Profile` that are no keys of their own: the first two and the last two are found
out, `max_tokens` and `temperature` stand under `params`."""

Period = Literal["day", "week", "month"]
"""How long a budget lasts: a calendar day, week (from Monday) or month."""

PERIODS: tuple[Period, ...] = get_args(Period)


class Budget(Struct, frozen=True):
    """At most `limit` US dollars a period, for the calls that have all of `match`: a value by
    `profile`, `provider`, `model`, `user` or `tag:NAME`. `warn_at` are shares of the limit,
    ascending."""

    name: str
    limit: Decimal
    period: Period
    warn_at: tuple[Decimal, ...] = ()
    match: Mapping[str, str] = field(default_factory=dict)


class Folders(Struct, frozen=True):
    """Where the program keeps things: `config` (the user's files), `state` (ledger,
    conversations), `cache` (answers), `data` (models)."""

    config: Path
    state: Path
    cache: Path
    data: Path


class Settings(Struct, frozen=True):
    """The outcome of configuration: all profiles by name, which is the default, the files that
    were read, weakest first, the budgets; `cache_size` is what the cache of answers may grow to,
    in bytes (None: no limit)."""

    profiles: Mapping[str, Profile]
    default: str | None
    folders: Folders
    files: tuple[Path, ...] = ()
    budgets: tuple[Budget, ...] = ()
    cache_size: int | None = None
