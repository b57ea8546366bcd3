"""Every knob of the program: frozen, with its unit. Built by `config`, read by `runner`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from msgspec import Struct, field

from llmctl.types import Price


class Limits(Struct, frozen=True):
    """`concurrency`: calls in flight; `rpm`, `tpm`: requests and tokens per minute (None: no
    limit of our own)."""

    concurrency: int = 8
    rpm: int | None = None
    tpm: int | None = None


class Timeouts(Struct, frozen=True):
    """Seconds: to connect, from sending to the first byte of the answer, and for one attempt."""

    connect: float = 10.0
    first_byte: float = 60.0
    total: float = 300.0


class RetryPolicy(Struct, frozen=True):
    """`attempts`: tries in all; `max_wait`: longest pause between two, in seconds;
    `ambiguous_attempts`: how many of the retries may follow a failure after which the provider
    may have billed (timeout, broken connection after sending)."""

    attempts: int = 4
    max_wait: float = 60.0
    ambiguous_attempts: int = 1


class BreakerPolicy(Struct, frozen=True):
    """When a provider counts as down: after `failures` in a row, or when at least `error_rate`
    (a share) of the calls of the last `window` seconds failed. Then nothing is sent for
    `open_for` seconds, and after that one call at a time until one succeeds."""

    failures: int = 5
    error_rate: float = 0.5
    window: float = 60.0
    open_for: float = 60.0


HttpChoice = Literal["auto", "standard"]
"""The HTTP transport of many calls at a time: aiohttp, or httpx2's own (`standard`), as one call
at a time has it."""

HTTP_CHOICES: tuple[HttpChoice, ...] = get_args(HttpChoice)

Overflow = Literal["reject", "truncate", "fallback"]
"""What becomes of a prompt that is longer than the model's window."""

OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)


class CachePolicy(Struct, frozen=True):
    """`ttl`: seconds an answer may be reused, None for ever."""

    enabled: bool = True
    ttl: float | None = None


class KeySource(Struct, frozen=True):
    """Where a profile's key comes from: the environment variable `env`, the keyring's entry
    `keyring` (both: in this order), or what `command` prints (program and arguments). `hidden`
    are variables that hold other keys: the command does not get to see them."""

    env: str | None = None
    keyring: str | None = None
    command: tuple[str, ...] | None = None
    hidden: tuple[str, ...] = ()


class Profile(Struct, frozen=True):
    """One provider profile, complete: preset, file, environment and flags merged.

    `api` is which of the provider's interfaces is used; `query` stands in the address of every
    call, and `key_header` is the header that carries the key where it is not the provider's usual
    one (Azure's `api-version` and `api-key`). `context` is the model's window in tokens where it
    is known; `model_path`, `parallel`
    (answers at once) belong to `local`. `params` are sampling parameters passed through.
    `fallback` are the profiles that are asked, in this order, when this one cannot serve.
    `http` is the HTTP transport of many calls at a time.
    `source` says where the profile was defined, for `profiles show`; `chosen` why it is the
    one in use (set by `config.choose`).
    """

    name: str
    provider: str
    adapter: str
    base_url: str
    model: str
    key: KeySource | None = None
    api: str = "chat"
    query: Mapping[str, str] = field(default_factory=dict)
    key_header: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()
    timeout: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    cache: CachePolicy = CachePolicy()
    history: bool = True
    on_overflow: Overflow = "reject"
    http: HttpChoice = "auto"
    fallback: tuple[str, ...] = ()
    price: Price | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    context: int | None = None
    model_path: Path | None = None
    parallel: int = 4
    source: str = "built in"
    chosen: str = ""

    @property
    def url(self) -> str:
        """The base URL with its query."""
        return f"{self.base_url}?{urlencode(self.query)}" if self.query else self.base_url


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
    conversations), `cache` (answers, vocabularies), `data` (models)."""

    config: Path
    state: Path
    cache: Path
    data: Path


class Settings(Struct, frozen=True):
    """The outcome of configuration: all profiles by name, which is the default and why;
    `cache_size` is what the cache of answers may grow to, in bytes (None: no limit)."""

    profiles: Mapping[str, Profile]
    default: str | None
    folders: Folders
    files: tuple[Path, ...] = ()
    budgets: tuple[Budget, ...] = ()
    cache_size: int | None = None
