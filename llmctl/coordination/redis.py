"""The coordinator of many machines: what they share is in one Redis, and changed by one Lua script.

All keys begin with `{llmctl}`, which a Redis Cluster keeps in one place. A step of the script is
all or nothing, and may be repeated. Every lease belongs to a run: one that gives no sign of life
for `SILENCE` seconds loses its leases, which count as spent until the calls are settled. A budget's
window counts from the moment when it is first used here.

Redis writes down what it is told before it replies, but where its disk is slow it may be two
seconds late (`appendfsync everysec`). So whoever had no reply for a moment first tells it again
what may be forgotten: what is held and claimed, and the calls that were settled of late.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import secrets
import socket
import ssl
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from decimal import Decimal
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
from msgspec import Struct

from llmctl.auth.extras import needs_extra
from llmctl.config.settings import RedisSettings, SinkSecret, parse_redis_url
from llmctl.errors import ConfigError, CoordinatorError, SetupError
from llmctl.keys.secret_place import secret_of
from llmctl.protocols import (
    IDLE,
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    CachedAnswer,
    Claim,
    Holder,
    Lease,
    ProcessStatus,
    Quota,
)
from llmctl.redact import remember
from llmctl.shutdown import Stop, first_of
from llmctl.storage.answer_cache import SILENCE as CLAIM_SILENCE
from llmctl.storage.answer_cache import pack, unpack
from llmctl.storage.cipher import Cipher, StoreCipher, WrongKeyError
from llmctl.storage.ledger_rows import (
    CallRow,
    HeldCall,
    Labels,
    call_row,
    dollars,
    held_call,
    matches,
    read_tags,
    to_pico,
    usage_of,
)
from llmctl.storage.process import SILENCE
from llmctl.token_bucket import Bucket, Draw, request_bucket, token_bucket
from llmctl.types import KEPT, Answer, CallRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.connection import AbstractConnection

T = TypeVar("T")

ROOT = "{llmctl}"
"""What all keys begin with."""

PATIENCE = 60.0
"""Seconds that an outage of Redis is waited for."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two tries
_QUIET = 1.0  # seconds of an outage that nobody is told of
_STOPPED = 1.0  # seconds that an outage is waited for by a run that was interrupted
_CONNECTIONS = 8  # Redis does one thing at a time: more only wait there
_REPLY = 5.0  # seconds that a connection, or a reply, may take
_HOUR_MS = 3600 * 1000
_DAY_MS = 24 * _HOUR_MS
_KEPT_MS = 40 * _DAY_MS  # the script's own `KEEP`
_PAGE = 500  # answers that are asked for at a time
_FORGOTTEN = 10.0  # seconds before its end of which Redis may have forgotten something
_RUN_ID = re.compile(rb"run_id:(\w+)")
_LOST = 1000  # expired leases that are looked for in this machine's ledger


class BegunWindow(Struct, frozen=True, array_like=True):
    """A budget window that somebody has used, as all machines know it; times in milliseconds."""

    key: str
    start: int
    end: int
    match: dict[str, str]
    made: int

    def counts(self, kind: Labels, at_ms: int) -> bool:
        """Whether a call of the kind at this moment counts towards it."""
        return self.start <= at_ms < self.end and matches(self.match, kind)

    def is_over(self, now_ms: int) -> bool:
        """Whether nothing will count towards it any more."""
        return self.end + _DAY_MS < now_ms or self.made + _KEPT_MS < now_ms


_Label = tuple[str, str] | None


class _Windows:
    """The windows that there are, as of `version` of Redis' list of them; found by the user or tag
    that they are for."""

    def __init__(self) -> None:
        self.version = 0
        self._begun: dict[_Label, dict[str, BegunWindow]] = {}
        self._tidied = 0

    def learn(self, version: int, told: Sequence[str], now_ms: int) -> list[str]:
        """Take in what is new; gives, once an hour, what is over, and can be forgotten
        everywhere."""
        if version < self.version:
            self._begun.clear()
        self.version = version
        for about in told:
            window = msgspec.json.decode(about, type=BegunWindow)
            self._begun.setdefault(_label(window.match), {})[window.key] = window
        return self._tidy(now_ms) if now_ms - self._tidied >= _HOUR_MS else []

    def _tidy(self, now_ms: int) -> list[str]:
        known, self._begun, self._tidied, over = self._begun, {}, now_ms, []
        for label, windows in known.items():
            for window in windows.values():
                if window.is_over(now_ms):
                    over.append(_about(window))
                else:
                    self._begun.setdefault(label, {})[window.key] = window
        return over

    def counting(self, kind: Labels, at_ms: int) -> list[BegunWindow]:
        """Those that a call of the kind at this moment counts towards."""
        labels: list[_Label] = [None, ("user", kind.user)]
        labels += [(f"tag:{name}", value) for name, value in read_tags(kind.tags).items()]
        found = [each for label in labels for each in self._begun.get(label, {}).values()]
        return [window for window in found if window.counts(kind, at_ms)]


def _label(match: Mapping[str, str]) -> _Label:
    for name, value in match.items():
        if name == "user" or name.startswith("tag:"):
            return name, value
    return None


def _rows(table: Any) -> Any:
    """A list of the script's, whose language has one empty table for lists and objects."""
    return table or []


class _News(Struct):
    version: int
    windows: Any  # list[str]


class _Denied(Struct):
    window: int
    spent: str
    held: str
    never: bool
    holders: Any  # list[tuple[str, str, str]]: run, amount, when its leases end


class _Leased(Struct):
    """The reply to a lease, one of these."""

    wait: str = ""
    full: int = 0
    denied: _Denied | None = None
    news: _News | None = None


class _Settled(Struct):
    warnings: Any = ()  # list[tuple[str, str, str]]: window, share, spent
    news: _News | None = None


class _Usage(Struct):
    begun: bool
    spent: str
    held: str


class RedisCoordinator:
    """The `Coordinator` in Redis, as the run `run_id` of `user` uses it. `where` names it for
    people. Answers are kept for `answers` seconds, encrypted where the `store` is.

    An outage is waited for, `patience` seconds from its beginning; then a verb tries once, and
    raises `CoordinatorError`; people are told by `warn`. A run that was interrupted by `stop` waits
    for a second: what it wants to send is not sent then, and what it settles is in this machine's
    ledger only, from where `settle_lost` of a later run tells others. `silence` is how long a run
    that gives no sign of life keeps its leases, `claim_silence` its claims. `find` gives the rows
    of ended calls that this machine's ledger has, by call id.
    """

    def __init__(
        self,
        redis: Redis | RedisCluster,
        run_id: str,
        user: str,
        *,
        where: str = "Redis",
        store: StoreCipher | None = None,
        find: Callable[[Sequence[str]], Sequence[CallRow]] = lambda _: (),
        answers: float = 86400.0,
        warn: Callable[[str], None] = lambda _: None,
        stop: Stop | None = None,
        patience: float = PATIENCE,
        silence: float = SILENCE,
        claim_silence: float = CLAIM_SILENCE,
    ) -> None:
        self.where = where
        self._run_id, self._user = run_id, user
        self._cipher: Cipher | None = None if store is None else store.writing
        self._answers, self._patience = answers, patience
        self._silence, self._claim_silence = silence, claim_silence
        self._windows = _Windows()
        self._used: dict[str, BudgetWindow] = {}
        self._held: dict[str, HeldCall] = {}
        self._claims: set[str] = set()
        self._warn, self._stop = warn, stop or Stop()
        self._lost: float | None = None
        self._warned = False
        self._recovery: asyncio.Task[None] | None = None
        self._settled: deque[tuple[float, CallRow]] = deque()
        self._find, self._looked = find, time.monotonic()
        self._source = files(__package__).joinpath("lease.lua").read_text(encoding="utf-8")
        self.use(redis)

    def use(self, redis: Redis | RedisCluster) -> None:
        """Ask this Redis from now on."""
        # Its types do not know that replies are bytes here.
        self._redis: Any = redis
        self._script: Any = redis.register_script(self._source)

    @property
    def is_away(self) -> bool:
        """Whether calls wait because Redis does not reply."""
        return self._lost is not None

    async def lease(self, lease: Lease) -> float | Quota | BudgetDenied:
        """As `Coordinator.lease`."""
        held = None if lease.hold is None else held_call(lease.hold, self._run_id, self._user)
        windows = [] if held is None else [*_counting(lease.windows, held)]
        if held is not None:
            self._remember(lease.windows, held.at_ms)
        with self._not_sent():
            reply = await self._leased(lease, held, lease.windows, windows)
        if reply.denied is not None:
            return _denied(reply.denied, windows[reply.denied.window - 1])
        if reply.full:
            return lease.quotas[reply.full - 1]
        wait = float(reply.wait)
        if held is not None and wait >= 0:
            self._held[held.call_id] = held
        return wait

    async def _leased(
        self,
        lease: Lease,
        held: HeldCall | None,
        known: Sequence[BudgetWindow],
        windows: Sequence[BudgetWindow],
        *,
        limited: bool = True,
    ) -> _Leased:
        """The reply to a lease, where a hold is `held`: `known` windows begin with it, and it
        counts towards `windows`, which limit it where it is `limited`."""
        while True:
            asked = {
                "id": lease.id,
                "owner": self._run_id,
                "silence": self._silence,
                "version": self._windows.version,
                "draw": None if lease.draw is None else _draw(lease.draw),
                "quotas": lease.quotas,
                "hold": held and self._hold(held, known, windows, limited=limited),
            }
            reply = msgspec.json.decode(await self._step("lease", asked), type=_Leased)
            if reply.news is None:
                return reply
            await self._learn(reply.news)

    def _hold(
        self,
        held: HeldCall,
        known: Sequence[BudgetWindow],
        windows: Sequence[BudgetWindow],
        *,
        limited: bool,
    ) -> dict[str, Any]:
        """What the script is told of a call: besides these windows, all others that it counts
        towards."""
        named = {window.key for window in windows}
        others = [w.key for w in self._windows.counting(held, held.at_ms) if w.key not in named]
        limits = {w.key: {"limit": str(to_pico(w.limit) or 0)} if limited else {} for w in windows}
        return {
            "id": held.call_id,
            "amount": str(held.amount_pico or 0),
            "begun": _begun(known),
            "windows": [
                *({"key": key, **limit} for key, limit in limits.items()),
                *({"key": key} for key in others),
            ],
            "row": msgspec.json.encode(held).decode(),
        }

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """As `Coordinator.settle`."""
        with self._left():
            return await self._settle(record)
        return ()

    async def _settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        call_id, result = record.request.call_id, record.result
        held = self._held.pop(call_id, None)
        if held is None:
            if isinstance(result, Answer) and result.cache in KEPT and not record.cost:
                return ()  # a kept answer holds nothing
            stored = await self._ask(lambda: self._redis.hget(f"{ROOT}:call:{call_id}", "row"))
            held = None if stored is None else msgspec.json.decode(stored, type=HeldCall)
        row = call_row(record, held, self._run_id, self._user)
        if held is None and not row.spent_pico:
            return ()
        warnings = await self._end(f"settle {call_id}", call_id, row)
        now = time.monotonic()
        while self._settled and self._settled[0][0] < now - _FORGOTTEN:
            self._settled.popleft()
        self._settled.append((now, row))
        return warnings

    async def correct(self, row: CallRow, before: int = 0) -> None:
        """Let a call count as its row in the ledger says now; `before` are the picodollars that it
        counted at, where it has been settled."""
        self._held.pop(row.call_id, None)
        await self._end(secrets.token_hex(8), row.call_id, row, before)

    async def give_back(self, call_ids: Sequence[str]) -> None:
        """End the leases of calls that were not made."""
        for call_id in call_ids:
            self._held.pop(call_id, None)
            await self._end(secrets.token_hex(8), call_id)

    async def _end(
        self, once: str, call_id: str, row: CallRow | None = None, before: int = 0
    ) -> Sequence[BudgetWarning]:
        """End the lease of a call, and charge what its row says; `before` it counted at so many
        picodollars, where it has no lease. What is asked for `once` more changes nothing."""
        while True:
            keys: list[str] = []
            if row is not None:
                counting = self._windows.counting(row, row.started_ms)
                keys = [*json.loads(row.windows), *(each.key for each in counting)]
            asked = {
                "id": once,
                "call": call_id,
                "version": self._windows.version,
                "spent": str(0 if row is None else row.spent_pico),
                "before": str(before),
                "windows": keys,
                "shares": {key: self._shares(key) for key in keys if key in self._used},
            }
            reply = msgspec.json.decode(await self._step("settle", asked), type=_Settled)
            if reply.news is None:
                break
            await self._learn(reply.news)
        return [
            BudgetWarning(self._used[key], Decimal(share), dollars(int(spent)))
            for key, share, spent in _rows(reply.warnings)
        ]

    def _shares(self, key: str) -> list[tuple[str, str]]:
        """The shares of a window to warn at, ascending, and the picodollars of each."""
        window = self._used[key]
        return [(str(s), str(to_pico(s * window.limit) or 0)) for s in sorted(window.warn_at)]

    async def settle_lost(self) -> None:
        """Settle expired leases of calls whose end this machine's ledger knows: a process that was
        killed, or had no Redis, wrote the row of a call, and could not tell others."""
        self._looked = time.monotonic()
        key = f"{ROOT}:lost"
        ids: list[bytes] = await self._ask(partial(self._redis.zrevrange, key, 0, _LOST - 1))
        for row in self._find([each.decode() for each in ids]):
            if row.status != "unknown":
                await self.correct(row)

    async def extend(self, status: ProcessStatus = IDLE) -> None:  # noqa: ARG002 - the ledger's
        """As `Coordinator.extend`; `status` is for the ledger of this machine."""
        asked = {
            "owner": self._run_id,
            "silence": self._silence,
            "claims": [*self._claims],
            "claim_ms": round(self._claim_silence * 1000),
        }
        await self._step("extend", asked)
        if time.monotonic() - self._looked >= self._silence:
            await self.settle_lost()

    async def report(self, lane: str, pause: float) -> None:
        """As `Coordinator.report`."""
        await self.lease(Lease(secrets.token_hex(8), Draw(lane, pause=pause)))

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """As `Coordinator.usage`: nothing of a window that was never used."""
        return await self.usage_if_begun(window) or usage_of(0, 0)

    async def usage_if_begun(self, window: BudgetWindow) -> BudgetUsage | None:
        """What counts against the window now; None where it was never used."""
        reply = await self._step("usage", {"window": window.key})
        found = msgspec.json.decode(reply, type=_Usage)
        return usage_of(int(found.spent), int(found.held)) if found.begun else None

    async def used(self, name: str, window: int) -> int:
        """As `Coordinator.used`."""
        reply = await self._step("used", {"name": name, "window": window})
        return int(msgspec.json.decode(reply)["used"])

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """As `Coordinator.get_many`. What is not as it was put is not found."""
        found: dict[str, CachedAnswer] = {}
        asked = [*dict.fromkeys(keys)]
        for start in range(0, len(asked), _PAGE):
            page = asked[start : start + _PAGE]
            places = [f"{ROOT}:answer:{self._name(key)}" for key in page]
            with self._not_sent():
                bodies: list[bytes | None] = await self._ask(partial(self._redis.mget, places))
            for key, body in zip(page, bodies, strict=True):
                if body is not None and (answer := self._read(key, body)):
                    found[key] = answer
        return found

    def _name(self, key: str) -> str:
        return key if self._cipher is None else self._cipher.name(bytes.fromhex(key))

    def _read(self, key: str, body: bytes) -> CachedAnswer | None:
        with suppress(WrongKeyError, ValueError, zlib.error):
            if self._cipher is not None:
                body = self._cipher.decrypt(body, self._name(key).encode())
            return unpack(bytes.fromhex(key), None, body)
        return None

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """As `Coordinator.put`, for the time that answers are kept."""
        body, name = pack(bytes.fromhex(key), answer), self._name(key)
        if self._cipher is not None:
            body = self._cipher.encrypt(body, name.encode())
        asked = {"name": name, "owner": self._run_id, "keep_ms": round(self._answers * 1000)}
        with self._left():
            await self._step("put", asked, body)
        self._claims.discard(name)

    async def claim(self, key: str) -> Claim:
        """As `Coordinator.claim`; claims are a run's."""
        name = self._name(key)
        with self._not_sent():
            claim = await self._claim(name)
        (self._claims.discard if claim == "theirs" else self._claims.add)(name)
        return claim

    async def _claim(self, name: str) -> Claim:
        claim_ms = round(self._claim_silence * 1000)
        asked = {"name": name, "owner": self._run_id, "claim_ms": claim_ms}
        claim: Claim = msgspec.json.decode(await self._step("claim", asked))["claim"]
        return claim

    async def release(self, key: str) -> None:
        """As `Coordinator.release`."""
        name = self._name(key)
        self._claims.discard(name)
        with self._left():
            await self._step("release", {"name": name, "owner": self._run_id})

    def _remember(self, windows: Sequence[BudgetWindow], now_ms: int) -> None:
        """The windows' shares to warn at, of those that ended a day ago no more."""
        if any(window.key not in self._used for window in windows):
            self._used = {
                key: window for key, window in self._used.items() if window.end > now_ms - _DAY_MS
            }
        self._used.update({window.key: window for window in windows})

    async def _learn(self, news: _News) -> None:
        over = self._windows.learn(news.version, _rows(news.windows), round(time.time() * 1000))
        if over:
            await self._ask(lambda: self._redis.zrem(f"{ROOT}:windows", *over))

    async def _step(self, verb: str, asked: Mapping[str, Any], body: bytes = b"") -> bytes:
        """The reply to one step of the script."""
        args: list[str | bytes] = [verb, msgspec.json.encode(asked), body]
        reply: bytes = await self._ask(lambda: self._script(keys=[ROOT], args=args))
        return reply

    async def _ask(self, command: Callable[[], Awaitable[T]]) -> T:
        """What Redis replies; a command is repeated until it does, or the patience has ended."""
        from redis.exceptions import NoPermissionError, OutOfMemoryError

        if asyncio.current_task() is self._recovery:
            return await command()
        failures, began, pause = _failures(), time.monotonic(), _FIRST_PAUSE
        while True:
            if self._lost is not None:
                await self._recovered()
            try:
                return await _whole(command())
            except failures as error:
                now = time.monotonic()
                final = isinstance(error, NoPermissionError | OutOfMemoryError)
                if final or now - began >= self._patience or self._has_stopped(now):
                    raise unreachable(self.where, error) from error
                self._lost = now if self._lost is None else self._lost
            await self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @contextmanager
    def _not_sent(self) -> Iterator[None]:
        """What a call needs before it is sent: raises `Cancelled` once the run was interrupted."""
        try:
            yield
        except CoordinatorError:
            if self._interrupted:
                self._stop.check()
            raise

    @contextmanager
    def _left(self) -> Iterator[None]:
        """What is told after a call, and left to a later run once this one was interrupted."""
        try:
            yield
        except CoordinatorError:
            if not self._interrupted:
                raise

    @property
    def _interrupted(self) -> bool:
        return self._stop.from_outside

    def _has_stopped(self, now: float) -> bool:
        """Whether an outage is waited for no more, because the run was interrupted."""
        return self._interrupted and self._lost is not None and now - self._lost >= _STOPPED

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not past a stop."""
        if self._stop.asked:
            await asyncio.sleep(min(seconds, _STOPPED / 4) if self._interrupted else seconds)
        else:
            await first_of(asyncio.sleep(seconds), self._stop.wait())

    async def _recovered(self) -> None:
        """Return when Redis replies again, and knows what it may have forgotten: one task looks
        for all."""
        if self._recovery is None:
            self._recovery = asyncio.create_task(self._recover())
            self._recovery.add_done_callback(self._looked_for)
        await asyncio.shield(self._recovery)

    def _looked_for(self, recovery: asyncio.Task[None]) -> None:
        self._recovery = None
        if not recovery.cancelled():
            recovery.exception()  # those who wait have it; there may be none

    async def _recover(self) -> None:
        failures, pause = _failures(), _FIRST_PAUSE
        while True:
            try:
                await self._tell_again()
            except failures as error:
                now, lost = time.monotonic(), self._lost or 0.0
                if now - lost >= self._patience or self._has_stopped(now):
                    raise unreachable(self.where, error) from error
                if now - lost >= _QUIET and not self._warned:
                    self._warned = True
                    self._warn(
                        f"the coordinator, {self.where}, does not answer: waiting up to "
                        f"{self._patience:.0f} s"
                    )
            else:
                self._lost = None
                if self._warned:
                    self._warned = False
                    self._warn(f"the coordinator, {self.where}, answers again")
                return
            await self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _tell_again(self) -> None:
        """Settle what was settled of late, and hold and claim what is; what Redis still knows
        changes nothing."""
        with suppress(*_failures()):  # the first connection after a start fails
            await self._ask(self._redis.ping)
        known = [*self._used.values()]
        await self._step("begin", {"begun": _begun(known)})
        for _, row in [*self._settled]:
            await self._end(f"settle {row.call_id}", row.call_id, row)
        for held in [*self._held.values()]:
            if held.call_id in self._held:  # it may have been settled meanwhile
                counting = [*_counting(known, held)]
                lease = Lease(secrets.token_hex(8))
                await self._leased(lease, held, known, counting, limited=False)
        for name in [*self._claims]:
            await self._claim(name)


async def _whole(work: Awaitable[T]) -> T:
    """What the work gives, which ends also where the caller is cancelled: what it took must be
    there before it is given back."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
        raise


def unreachable(where: str, error: Exception) -> CoordinatorError:
    """The error of a Redis that cannot be asked."""
    why = _reason(where, error)
    return CoordinatorError(
        f"the coordinator, {where}, cannot be asked ({why}): nothing is sent without it; see that "
        "it runs and can be reached, then run the same command again"
    )


def _reason(where: str, error: BaseException) -> str:
    """Why Redis cannot be asked: the system's reason, where the library tells one."""
    host, cause = urlsplit(where).netloc or where, _system_error(error)
    if cause is None:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if cause.errno in (None, errno.ECONNREFUSED):
        return f"no connection to {host}"
    named = isinstance(cause, socket.gaierror) or cause.errno is None
    return f"no connection to {host}: {cause.strerror if named else os.strerror(cause.errno)}"


def _system_error(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, TimeoutError | ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _password_error(where: str, place: SinkSecret | None, *, known: bool) -> CoordinatorError:
    """The error of a Redis that wants a password, where one is `known`, another one."""
    if known:
        source = "its address" if place is None else _source(place)
        why = f"it refused the password of {source}"
    else:
        why = f"it wants a password: `coordinator: {{url: {where}, key: {{env: NAME}}}}`"
    return CoordinatorError(f"the coordinator, {where}, cannot be asked: {why}")


def _source(place: SinkSecret) -> str:
    """The place of a secret, for people."""
    if place.env is not None:
        return f"${place.env}"
    return str(place.secret) if place.secret is not None else "its command"


def _counting(windows: Sequence[BudgetWindow], held: HeldCall) -> Iterator[BudgetWindow]:
    """Those of the windows that the call counts towards."""
    for window in windows:
        if window.start <= held.at_ms < window.end and matches(window.match, held):
            yield window


def _begun(windows: Sequence[BudgetWindow]) -> list[dict[str, str]]:
    """Windows as the script begins them, where nobody has."""
    now = round(time.time() * 1000)
    begun = [BegunWindow(w.key, w.start, w.end, {**w.match}, now) for w in windows]
    return [{"key": each.key, "about": _about(each)} for each in begun]


def _about(window: BegunWindow) -> str:
    return msgspec.json.encode(window).decode()


def _draw(draw: Draw) -> dict[str, Any]:
    def told(bucket: Bucket, units: float, back: float) -> list[float]:
        return [units, back, bucket.burst, bucket.rate]

    requests = draw.rpm and told(request_bucket(draw.rpm), draw.requests, draw.back[0])
    tokens = draw.tpm and told(token_bucket(draw.tpm), draw.tokens, draw.back[1])
    return {
        "lane": draw.lane, "pause": draw.pause, "requests": requests or None,
        "tokens": tokens or None,
    }  # fmt: skip


def _denied(reply: _Denied, window: BudgetWindow) -> BudgetDenied:
    holders = [
        Holder(run, dollars(int(amount)), round(float(until) * 1000))
        for run, amount, until in sorted(_rows(reply.holders))
    ]
    usage = usage_of(int(reply.spent), int(reply.held))
    return BudgetDenied(window, usage, reply.never, tuple(holders))


@asynccontextmanager
async def open_coordinator(
    settings: RedisSettings,
    environ: Mapping[str, str],
    run_id: str,
    user: str,
    store: StoreCipher | None = None,
    find: Callable[[Sequence[str]], Sequence[CallRow]] = lambda _: (),
    warn: Callable[[str], None] = lambda _: None,
    stop: Stop | None = None,
) -> AsyncIterator[RedisCoordinator]:
    """The coordinator that the settings name, connected; the rest is as it takes it. Raises
    `SetupError` where the library is missing, or Redis would forget what was spent;
    `CoordinatorError` where it cannot be asked; `NoKeyError` and `ConfigError` where the place of
    its password has none."""
    needs_extra("redis", "redis", "redis")
    from redis.exceptions import AuthenticationError

    url = settings.url
    if settings.secret_url is not None:
        url = await secret_of(settings.secret_url, environ)
        if parse_redis_url(url, password=True) is None:
            raise ConfigError(
                "coordinator.secret_url: the secret is no address of a Redis: it must be "
                "redis://[user[:password]@]host[:port][/db], or rediss://"
            )
    assert url is not None
    parts = urlsplit(url)
    password = unquote(parts.password or "")
    if settings.key is not None:
        password = await secret_of(settings.key, environ)
    if password:
        remember(password)
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    async with AsyncExitStack() as stack:
        try:
            redis, info = await connect(parts, password or None, stack)
        except AuthenticationError as error:
            place = settings.key or settings.secret_url
            raise _password_error(where, place, known=bool(password)) from error
        except _failures() as error:
            raise unreachable(where, error) from error
        if not settings.volatile:
            _check_durable(info, where)
        coordinator = RedisCoordinator(
            redis,
            run_id,
            user,
            where=where,
            store=store,
            find=find,
            answers=settings.answers,
            warn=warn,
            stop=stop,
        )
        await coordinator.settle_lost()
        yield coordinator


class _Watch:
    """Notices at each connection, by the server's id, that Redis was started again: the command
    under way fails, as it does where Redis is found away."""

    def __init__(self) -> None:
        self._run_id: bytes | None = None

    async def connected(self, connection: AbstractConnection) -> None:
        """Begin a connection. Raises the library's `ConnectionError`."""
        from redis.exceptions import ConnectionError as ConnectionFailure

        await connection.on_connect()
        await connection.send_command("INFO", "server")
        said = _RUN_ID.search(await connection.read_response())
        before, self._run_id = self._run_id, said and said[1]
        if before not in (None, self._run_id):
            raise ConnectionFailure("it was started again")


async def connect(
    parts: SplitResult, password: str | None, stack: AsyncExitStack
) -> tuple[Redis | RedisCluster, Mapping[str, Any]]:
    """A client of the Redis, or of the cluster that it is part of, closed by `stack`; and what it
    says of itself."""
    from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    once = Retry(NoBackoff(), 0)  # commands are repeated here, not there
    more: dict[str, Any] = {
        "socket_timeout": _REPLY, "socket_connect_timeout": _REPLY, "retry": once,
        "client_name": "llmctl", "password": password,
    }  # fmt: skip
    url = parts.geturl()
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=_REPLY,
        redis_connect_func=_Watch().connected,
        **more,
    )
    redis = Redis.from_pool(pool)
    stack.push_async_callback(redis.aclose)
    info: Mapping[str, Any] = await redis.info()
    if not info.get("cluster_enabled"):
        return redis, info
    cluster = RedisCluster.from_url(parts._replace(path="").geturl(), **more)
    stack.push_async_callback(cluster.aclose)
    return cluster, info


def _failures() -> tuple[type[Exception], ...]:
    """What the library raises where Redis does not do what it is asked."""
    from redis.exceptions import RedisClusterException, RedisError

    return RedisError, RedisClusterException, OSError


def _check_durable(info: Mapping[str, Any], where: str) -> None:
    """Raises `SetupError` where Redis would forget what was spent."""
    otherwise = "or write `volatile: true` beside its url, where that may be"
    if not info.get("aof_enabled"):
        raise SetupError(
            f"the coordinator, {where}, would forget budgets when it is started again: set "
            f"`appendonly yes` there, {otherwise}"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        raise SetupError(
            f"the coordinator, {where}, would forget budgets when its memory is full "
            f"(maxmemory-policy {policy}): set `maxmemory-policy noeviction` there, {otherwise}"
        )
