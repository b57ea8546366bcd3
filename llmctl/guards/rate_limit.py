"""Rate limits of one provider: requests and tokens a minute, requests a day, calls at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.config.settings import Limits
from llmctl.errors import (
    CallError,
    Cancelled,
    CoordinatorError,
    LlmctlError,
    Overloaded,
    QuotaExhausted,
    RateLimited,
)
from llmctl.guards.fair_queue import FairQueue
from llmctl.protocols import (
    NO_RATE_HEADERS,
    Emit,
    Handler,
    Quota,
    RateHeaders,
    SharedLimits,
)
from llmctl.shutdown import Stop
from llmctl.token_bucket import INITIAL_LIMITS, NEVER, Draw, LimitState, request_lot, token_lot
from llmctl.types import Answer, Request

T = TypeVar("T")

_LOT_EXPIRES = 1.0  # seconds after which the rest of a lot is given back
_DEFAULT_PAUSE = 1.0  # seconds after a 429 that names none
_MINUTE = 60.0
_LONGEST_WAIT = 120.0  # seconds a header may hold requests back: then the provider is asked
_LOOK = 1.0  # seconds after which a wait is looked at again: what is known may have changed
_LONG_WAIT = 5.0  # seconds for the next request that a header demands, worth doubting
_DOUBTED = 2  # answers in a row that demand such a wait, after which they are not believed
_TURNS = 16  # turns that the pace is the mean of
_JUDGED = 8  # answers after which the share of refusals says something


class LocalLimits:
    """The `SharedLimits` of this process alone."""

    distributed = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: dict[str, LimitState] = {}
        self._spent: dict[str, tuple[int, int]] = {}

    def open(self) -> None:
        """Nothing is kept on disk."""

    async def spend(self, quotas: Sequence[Quota]) -> Quota | None:
        """Spend all, or none; never fails."""
        after: dict[str, tuple[int, int]] = {}
        for quota in quotas:
            stored = after.get(quota.name) or self._spent.get(quota.name)
            spent = quota.spent(*(stored or (quota.window, 0)))
            if spent is None:
                return quota
            after[quota.name] = spent
        self._spent.update(after)
        return None

    async def used(self, name: str, window: int) -> int:
        """What was spent in the window; never fails."""
        of, used = self._spent.get(name, (window, 0))
        return used if of == window else 0

    async def draw(self, draw: Draw) -> float:
        """Take the units; never fails."""
        before = self._states.get(draw.lane, INITIAL_LIMITS)
        self._states[draw.lane], wait = draw.apply(before, self._clock.monotonic())
        return wait


class ProviderQuota:
    """The provider's own allowance as its headers tell it; pure, `now` in seconds.

    It only slows down. `left` is None until a header says what is left. A provider that names no
    reset (Mistral) counts by the minute, which is waited for once it has refused a request; until
    then a few seconds are. Some say "0 left" on every good answer: answers in a row that would hold
    the next request back for long are not believed, until the provider refuses one after all; then
    twice as many are needed.
    """

    def __init__(self) -> None:
        self.left: float | None = None
        self._at = self._rate = self._full_at = self._asked = 0.0
        self._demands, self._doubted, self._refused = 0, _DOUBTED, False

    def update(
        self, left: int | None, limit: int | None, reset: float | None, in_flight: float, now: float
    ) -> None:
        """Units `left` of `limit`, full again in `reset` seconds; the provider may not have counted
        those `in_flight` yet."""
        if left is None and reset is None:
            return
        seconds = _MINUTE if reset is None else reset
        unsure = reset is None and not self._refused
        self._full_at = now + min(seconds, _LONG_WAIT if unsure else _LONGEST_WAIT)
        if left is not None:
            self.left, self._at = left - in_flight, now
            # It fills all the time, so the rate follows from when it is full.
            self._rate = (limit - left) / seconds if limit is not None and seconds > 0 else 0.0
            demands = self.wait(max(1.0, self._asked), now) >= _LONG_WAIT
            self._demands = self._demands + 1 if demands else 0
            if self._demands >= self._doubted:
                self.left = None

    def on_refused(self) -> None:
        """The provider refused a request for want of allowance: it is believed again."""
        if self._demands >= self._doubted:
            self._doubted *= 2
        self._demands, self._refused = 0, True

    def reset_in(self, now: float) -> float:
        """Seconds until the allowance is whole again; 0 when that is over or not known."""
        return max(0.0, self._full_at - now)

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` may go, as far as the provider said."""
        if self.left is None or self.left >= units or now >= self._full_at:
            return 0.0
        due = self._at + (units - self.left) / self._rate if self._rate > 0 else self._full_at
        return max(0.0, min(self._full_at, due) - now)

    def take(self, units: float) -> None:
        """Spend `units`."""
        self._asked = units
        if self.left is not None:
            self.left -= units


class AdaptiveConcurrency:
    """Calls in flight that the provider bears, by TCP's rule (RFC 5681): one more for every round
    of answers, half after a sign of too many, once for all calls in flight then; pure. `size` is
    what is allowed now, at least one; `generation` counts the decreases."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.size = float(ceiling)
        self.generation = self._answers = self._refusals = 0

    def on_success(self) -> None:
        """A call was served."""
        self._answers += 1
        if self.size < self.ceiling:
            self.size = min(float(self.ceiling), self.size + 1 / self.size)

    def on_throttled(self, generation: int, *, told_when: bool) -> None:
        """A call sent in `generation` was refused. When the provider said when to come back
        (`told_when`) only a flood of refusals, half of all, means that there are too many."""
        if generation != self.generation:
            return  # sent before the last decrease, which answers it
        self._refusals += 1
        judged = self._answers + self._refusals
        if told_when and (judged < _JUDGED or self._refusals * 2 < judged):
            return
        self.size = max(1.0, self.size / 2)
        self.generation += 1
        self._answers = self._refusals = 0


class Permit(Struct, frozen=True):
    """Leave to send one attempt: `tokens` taken for it; the concurrency's `generation` then."""

    tokens: int
    generation: int


class Lot(Struct):
    """Requests and tokens that this process has taken and not used, from `due` until `expires`
    (seconds of the monotonic clock)."""

    requests: float = 0.0
    tokens: float = 0.0
    due: float = NEVER
    expires: float = NEVER


def _day(now: float, zone: ZoneInfo) -> tuple[int, float]:
    """The number of the day, since 1970, that it is in the zone at `now` (seconds since the epoch),
    and the seconds until the next one begins."""
    today = datetime.fromtimestamp(now, zone).date()
    midnight = datetime.combine(today + timedelta(1), datetime.min.time(), zone)
    return (today - date(1970, 1, 1)).days, midnight.astimezone(UTC).timestamp() - now


class ProviderLimits:
    """What one provider is sent; users take turns by their weights, and of one user it is first
    come, first served; nothing once `stop` was asked for.

    `shared` keeps the minute's state under `name` together with other processes; when it fails,
    which is told to `warn` once, the limits are those of this process alone. `today` is how many
    requests of this day are used, and how many may be; the day ends at midnight in `zone`.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        shared: SharedLimits | None = None,
        name: str = "",
        warn: Callable[[str], None] = lambda _: None,
        stop: Stop | None = None,
        zone: str = "UTC",
    ) -> None:
        self._limits, self._name, self._warn = limits, name, warn
        self._zone = ZoneInfo(zone)
        self._stop = stop or Stop()
        self._shared: SharedLimits = shared or LocalLimits(clock)
        self._clock = self._stop.clock(clock)
        self._per_minute = bool(limits.rpm or limits.tpm)
        self.today: tuple[int, int] | None = None
        self._unsent = 0  # requests that were counted today
        self._models = {
            model: ProviderLimits(
                limits.of(model), clock, shared, f"{name} {model}", warn, stop, zone
            )
            for model in limits.models
        }
        self._concurrency = AdaptiveConcurrency(limits.concurrency)
        self._requests, self._tokens = ProviderQuota(), ProviderQuota()
        self._paused_until = self._waiting_until = NEVER
        self._told_until = self._looked = NEVER  # a pause told to other machines, looked for there
        self._telling: set[asyncio.Task[None]] = set()
        self._in_flight = self._tokens_in_flight = 0
        self._lot, self._unused = Lot(), (0.0, 0.0)
        self._room = asyncio.Event()
        self._queue = FairQueue[tuple[str, asyncio.Future[None]]]()
        self._served: str | None = None  # the user who has the turn
        self._pace = 0.0  # seconds of a turn, of late

    @property
    def counts_tokens(self) -> bool:
        """True when attempts must say how many tokens they will use."""
        own = self._limits.tpm is not None or self._tokens.left is not None
        return own or any(limits.counts_tokens for limits in self._models.values())

    def of(self, model: str) -> ProviderLimits:
        """The limits that calls of the model have: its own, or these."""
        name = self._limits.entry(model) if self._models else None
        return self if name is None else self._models[name]

    async def acquire(self, tokens: int, user: str = "", weight: int = 1) -> Permit:
        """Return when a request of `tokens` may be sent; whoever gets a permit releases it. Raises
        the run's own error once it is to end, and `QuotaExhausted` when the day's are used."""
        async with self._turn(user, weight):
            taken = not self._per_minute
            try:
                while True:
                    if self._stop.asked:
                        self._stop.check()
                    if self._in_flight + 1 > self._concurrency.size:
                        self._room.clear()
                        await self._room.wait()
                        continue
                    now = self._clock.monotonic()
                    quota = max(self._requests.wait(1, now), self._tokens.wait(tokens, now))
                    wait = max(0.0, self._paused_until - now, quota)
                    look = _LOOK
                    if not wait and not taken:  # what waits anyway takes nothing from others
                        wait = await self._take(tokens)
                        taken, wait = wait >= 0, abs(wait)
                        look = wait
                    if not wait and self._shared.distributed:
                        wait = await self._pause_elsewhere()
                    if not wait:
                        break
                    self._waiting_until = self._clock.monotonic() + wait
                    await self._clock.sleep(min(wait, look))
                self._waiting_until = NEVER
                await self._count_today()
            except BaseException:
                if taken and self._per_minute:
                    self._give_back(1, tokens)
                raise
            self._requests.take(1)
            self._tokens.take(tokens)
            self._in_flight += 1
            self._tokens_in_flight += tokens
            return Permit(tokens, self._concurrency.generation)

    def release(self, permit: Permit, used: int, *, sent: bool = True) -> None:
        """The attempt has ended and used so many tokens, or was not `sent`."""
        self._in_flight -= 1
        self._unsent += not sent
        self._tokens_in_flight -= permit.tokens
        self._room.set()
        if permit.tokens != used:
            self._give_back(0, permit.tokens - used)

    def on_success(self) -> None:
        """An attempt was served."""
        self._concurrency.on_success()

    def on_refused(self, permit: Permit, error: RateLimited | Overloaded) -> None:
        """The provider refused the attempt. Peace for as long as it says, for all; where a 429
        names no time until the reset that its headers told, else one second. Too much to do, and
        no time named: fewer calls at a time, no pause."""
        pause = error.retry_after
        for quota in (self._requests, self._tokens) if isinstance(error, RateLimited) else ():
            quota.on_refused()
        self._concurrency.on_throttled(permit.generation, told_when=pause is not None)
        if pause is None and isinstance(error, RateLimited):
            pause = self._requests.reset_in(self._clock.monotonic()) or _DEFAULT_PAUSE
        if pause is not None:
            self.pause(pause)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long; other machines that share the limits hear of it."""
        until = self._clock.monotonic() + seconds
        self._paused_until = max(self._paused_until, until)
        if self._shared.distributed and until > self._told_until + _LOOK / 2:
            self._told_until = until
            task = asyncio.create_task(self._tell(seconds))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, pause: float) -> None:
        with suppress(CoordinatorError, Cancelled):  # the next call meets it
            await self._shared.draw(Draw(self._name, pause=pause))

    async def _pause_elsewhere(self) -> float:
        """Seconds that another machine's pause still lasts; looked at once a second."""
        now = self._clock.monotonic()
        if now < self._looked + _LOOK:
            return 0.0
        self._looked = now
        wait = await self._shared.draw(Draw(self._name))
        if wait < 0:
            self._paused_until = max(self._paused_until, self._clock.monotonic() - wait)
        return max(0.0, -wait)

    def update_from_headers(self, said: RateHeaders) -> None:
        """What a reply's headers say of the provider's own limits."""
        if said is NO_RATE_HEADERS:
            return
        if said.model and (mine := self.of(said.model)) is not self:
            mine.update_from_headers(said)
            return
        now, others = self._clock.monotonic(), max(0, self._in_flight - 1)
        self._requests.update(
            said.remaining_requests, said.limit_requests, said.reset_requests, others, now
        )
        tokens = self._tokens_in_flight / max(1, self._in_flight) * others
        self._tokens.update(
            said.remaining_tokens, said.limit_tokens, said.reset_tokens, tokens, now
        )

    def waits(self) -> float:
        """Seconds that requests will still wait; 0 when they do not."""
        own = max(0.0, self._waiting_until - self._clock.monotonic())
        return max(own, *(limits.waits() for limits in self._models.values()), 0.0)

    def waiting(self) -> Mapping[str, int]:
        """How many requests wait, by user."""
        found = Counter(self._queue.waiting())
        if self._served is not None:
            found[self._served] += 1
        for limits in self._models.values():
            found.update(limits.waiting())
        return found

    def queued(self, user: str, weight: int = 1) -> tuple[int, float]:
        """How many requests would go before a new one of the user, and about how many seconds it
        would wait (0.0 where that is not known)."""
        now = self._clock.monotonic()
        ahead = 0 if self._served is None else 1 + self._queue.ahead(user, weight)
        pace = max(self._pace, 60 / self._limits.rpm if self._limits.rpm else 0.0)
        return ahead, max(0.0, ahead * pace, self._paused_until - now, self._waiting_until - now)

    @asynccontextmanager
    async def _turn(self, user: str, weight: int) -> AsyncIterator[None]:
        if self._served is not None:
            turn = asyncio.get_running_loop().create_future()
            self._queue.add((user, turn), user, weight)
            try:
                await turn
            except asyncio.CancelledError:
                self._queue.remove((user, turn), user)
                if not turn.cancelled():  # it was given to one that cannot use it
                    self._pass_on()
                raise
        self._served, began = user, self._clock.monotonic()
        try:
            yield
        finally:
            self._pace += (self._clock.monotonic() - began - self._pace) / _TURNS
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the next that waits."""
        self._served = None
        while (waiter := self._queue.next()) is not None:
            user, turn = waiter
            if not turn.done():  # else it was cancelled just now
                self._served = user
                turn.set_result(None)
                return

    def _give_back(self, requests: float, tokens: float) -> None:
        """Units taken and not used (negative: used beyond); written with the next change."""
        self._unused = (self._unused[0] + requests, self._unused[1] + tokens)

    async def _take(self, tokens: int) -> float:
        """Seconds until a request of `tokens`, now taken, may go. Negative, and nothing is taken:
        those until the end of a pause."""
        lot, now = self._lot, self._clock.monotonic()
        if now >= lot.expires or lot.requests < 1 or lot.tokens < tokens:
            if (wait := await self._draw(tokens)) < 0:
                return wait
            lot, now = self._lot, self._clock.monotonic()
        lot.requests -= 1
        lot.tokens -= tokens
        return max(0.0, lot.due - now)

    async def _draw(self, tokens: int) -> float:
        """Give back what is unused and take the next lot, with room for `tokens`: the seconds until
        it is due, or as `_take` says. What is given back meanwhile is written next time."""
        rpm, tpm = self._limits.rpm, self._limits.tpm
        back = (self._unused[0] + self._lot.requests, self._unused[1] + self._lot.tokens)
        self._unused, self._lot = (0.0, 0.0), Lot()
        taken = (request_lot(rpm) if rpm else 0.0, max(tokens, token_lot(tpm)) if tpm else 0.0)
        try:
            pause = max(0.0, self._paused_until - self._clock.monotonic())
            draw = Draw(self._name, rpm, tpm, *taken, back, pause)
            wait = await self._ask_shared(lambda shared: shared.draw(draw))
        except BaseException:
            self._give_back(*back)
            raise
        if wait >= 0:
            due, unlimited = self._clock.monotonic() + wait, float("inf")
            requests, many = taken[0] or unlimited, taken[1] or unlimited
            self._lot = Lot(requests, many, due, due + _LOT_EXPIRES)
        return wait

    async def _ask_shared(self, ask: Callable[[SharedLimits], Awaitable[T]]) -> T:
        """What the shared limits say; those of this process alone, once they cannot be shared."""
        try:
            return await ask(self._shared)
        except CoordinatorError:  # one limit for all machines, or nothing
            raise
        except LlmctlError as error:
            self._warn(f"the rate limits are not shared with other processes: {error.message}")
            self._shared = LocalLimits(self._clock)
            return await ask(self._shared)

    async def _count_today(self) -> None:
        """Count one request of the day. Raises `QuotaExhausted` when all are used: nobody wants a
        program to wait for hours unasked."""
        if (most := self._limits.rpd) is None:
            return
        day, ends = _day(self._clock.wall(), self._zone)
        units, self._unsent = 1 - self._unsent, 0
        quota = Quota(self._name, day, units, most)
        used = await self._ask_shared(lambda s: s.used(self._name, day))
        full = await self._ask_shared(lambda s: s.spend([quota]))
        self.today = (min(most, max(0, used + units)), most)
        if full is not None:
            self._unsent = 1 - units
            raise QuotaExhausted(
                f"the {most:,} requests of this day (limits: rpd) are used: not sent; the next day "
                f"begins in {ends / 3600:.1f} h, at 00:00 {self._zone.key}: run the same command "
                "again then, or raise rpd",
                sent=False,
            )


def rate_limit(inner: Handler, limits: ProviderLimits, tokens: Callable[[Request], int]) -> Handler:
    """The guard: every attempt takes a permit. `tokens` estimates what a request uses in all."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        mine, sent = limits.of(request.target.model), True
        permit = await mine.acquire(
            tokens(request) if mine.counts_tokens else 0, request.user, request.weight
        )
        used = permit.tokens  # of an attempt that ends without a word of its usage
        try:
            answer = await inner(request, emit)
            if permit.tokens:
                used = answer.usage.input + answer.usage.output
            mine.on_success()
        except CallError as error:
            if isinstance(error, RateLimited | Overloaded):
                used = 0
                mine.on_refused(permit, error)
            elif not error.sent:
                used, sent = 0, False
            elif error.retryable and error.retry_after is not None:
                mine.pause(error.retry_after)
            raise
        finally:
            mine.release(permit, used, sent=sent)
        return answer

    return handle
