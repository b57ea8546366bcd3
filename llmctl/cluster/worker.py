"""A node: the same chain of guards as on one machine, between a driver's rows and their records.

It has no ledger and no output. A row's slot is free for the next one when the driver says that its
record is durable, so at most `concurrency` rows of a node are between their first byte on the wire
and their line in the output.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from llmctl import __version__
from llmctl.clock import SystemClock
from llmctl.cluster.governor import GovernorClient
from llmctl.cluster.messages import (
    MOST_BYTES,
    MOST_ROWS,
    Ended,
    Failure,
    Note,
    Outage,
    Pause,
    Records,
    Rows,
    Setup,
    decode,
    encode,
)
from llmctl.config.paths import find_folders
from llmctl.coordination.shared import (
    CoordinatedAnswers,
    CoordinatedBudget,
    CoordinatedLimits,
    Shared,
)
from llmctl.engines.local import LocalEngine
from llmctl.errors import CallError, LlmctlError, RateLimited, SetupError
from llmctl.guards.pipeline import Route
from llmctl.guards.retry import RetryDetails
from llmctl.protocols import (
    IDLE,
    AnswerCache,
    BudgetDenied,
    BudgetWarning,
    BudgetWindow,
    Hold,
    ProcessStatus,
)
from llmctl.reports.report import budget_window, windows_at
from llmctl.request import target_for
from llmctl.runner import Runner, open_runner
from llmctl.shutdown import Stop, first_of
from llmctl.storage.process import possible_calls
from llmctl.types import CallRecord, Request
from llmctl.wiring import Surroundings, located

_LINGER = 0.003  # seconds that records wait for more of them: a message takes the driver 1 ms
_LOOK = 1.0  # seconds after which the driver hears of a node that has nothing to say
_PEACE = 1.0  # seconds after a 429 that names none; as the limits of one machine have it


class Outbox:
    """What the driver is to hear of: records, sentences, pauses. `ready` is set where there is
    something."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self._numbers = itertools.count()
        self._ended = deque[tuple[int, Ended]]()
        self._durable: dict[int, asyncio.Future[None]] = {}
        self._notes: list[Note] = []
        self._pauses: list[Pause | Outage] = []

    async def deliver(
        self,
        record: CallRecord,
        row: Request | None,
        ledger_started: float,
        held: Hold | None,
    ) -> None:
        """Return when the driver has the record on its disk."""
        number = next(self._numbers)
        amount = None if held is None else (held.cost, held.times)
        message = Ended.of(number, record, row, ledger_started, amount)
        durable = self._durable[number] = asyncio.get_running_loop().create_future()
        self._ended.append((len(encode(message)), message))
        self.ready.set()
        await durable

    def on_durable(self, numbers: Sequence[int]) -> None:
        """The driver has these records on its disk."""
        for number in numbers:
            durable = self._durable.pop(number, None)
            if durable is not None and not durable.done():
                durable.set_result(None)

    def say(self, text: str, *, warning: bool = False) -> None:
        """Let the user read a sentence."""
        self._notes.append(Note(text, warning))
        self.ready.set()

    def pause(self, pause: Pause | Outage) -> None:
        """Let the other nodes hear of a pause, or of an outage."""
        self._pauses.append(pause)
        self.ready.set()

    @property
    def has_records(self) -> bool:
        """Whether a record waits to be taken."""
        return bool(self._ended)

    def take(self) -> Records:
        """The next lot."""
        ended, size = list[Ended](), 0
        while self._ended and len(ended) < MOST_ROWS and size < MOST_BYTES:
            weight, message = self._ended.popleft()
            ended.append(message)
            size += weight
        notes, self._notes = tuple(self._notes), []
        pauses, self._pauses = tuple(self._pauses), []
        if not self._ended:
            self.ready.clear()
        return Records(tuple(ended), notes, pauses)


class NodeBudget(CoordinatedBudget):
    """The `Budget` of a node: the governor holds, the driver settles. `rows` are the records that
    answer rows, by call id, on their way through accounting to `settle`. `on_beat` is called with
    each sign of life, of which one follows at once when a circuit has changed."""

    def __init__(
        self, governor: GovernorClient, outbox: Outbox, on_beat: Callable[[], None]
    ) -> None:
        super().__init__(governor)
        self._outbox, self._on_beat = outbox, on_beat
        self._holds: dict[str, Hold] = {}
        self.rows: dict[str, tuple[CallRecord, Request]] = {}

    async def hold(self, hold: Hold, windows: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """As `Budget.hold`."""
        denied = await super().hold(hold, windows)
        if denied is None:
            self._holds[hold.call_id] = hold
        return denied

    async def beat(self, status: ProcessStatus = IDLE) -> None:
        """As `Budget.beat`."""
        self._on_beat()
        await super().beat(status)

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """Return when the driver has settled the call, and has the row's line on its disk; warnings
        are said there."""
        call_id = record.request.call_id
        whole, row = self.rows.pop(call_id, (record, None))
        held = self._holds.get(call_id)
        try:
            await self._outbox.deliver(whole, row, record.started, held)
        finally:
            self._holds.pop(call_id, None)
        return ()


class Worker:
    """The actor of one node. `governor` is that actor, `node` this one's name."""

    def __init__(self, setup: bytes, governor: Any, node: str) -> None:
        self._setup = decode(setup, Setup)
        self._governor, self._node = governor, node
        self._stack = AsyncExitStack()
        self._queue = deque[Request]()
        self._rows: dict[str, Request] = {}
        self._over: asyncio.Task[None] | None = None
        self._live: Runner | None = None
        self._down: set[str] = set()  # profiles whose outage all nodes know of

    async def open(self) -> bytes:
        """Get ready; a `Failure` where that cannot be, nothing of it where it can."""
        try:
            await self._open()
        except LlmctlError as error:
            return encode(Failure.of(error))
        return b""

    async def _open(self) -> None:
        setup = self._setup
        if setup.version != __version__:
            raise SetupError(
                f"llmctl is {__version__} there and {setup.version} here: install the same"
            )
        self._stop, self._news, self._outbox = Stop(), asyncio.Event(), Outbox()
        clock = SystemClock()
        around = Surroundings(
            find_folders(os.environ, Path.cwd()),
            os.environ,
            clock,
            self._outbox.say,
            lambda text: self._outbox.say(text, warning=True),
        )
        governor = GovernorClient(self._ask)
        answers: AnswerCache = CoordinatedAnswers(governor)
        budget = NodeBudget(governor, self._outbox, self._tell_outages)
        shared = Shared(
            run_id=setup.run_id,
            user=setup.user,
            budget=budget,
            limits=CoordinatedLimits(governor),
            answers=lambda _: answers,
        )
        self._live = live = await self._stack.enter_async_context(
            open_runner(
                located(setup.profile, around.folders),
                around,
                fallbacks=[located(one, around.folders) for one in setup.fallbacks],
                routed=[located(one, around.folders) for one in setup.routed],
                patient=True,
                stop=self._stop,
                shared=shared,
            )
        )
        await asyncio.to_thread(live.counter.load, target_for(live.profile))
        own = [budget_window(setup.own.budget, setup.run_id)] if setup.own else []
        mine = [rule.budget for rule in setup.budgets]
        live.budget.limit(lambda now: [*own, *windows_at(mine, now)], lambda: self._stop.asked)

        async def sink(record: CallRecord) -> None:
            row = record.asked or record.request
            budget.rows[record.request.call_id] = record, self._rows.pop(row.call_id, row)
            await live.budget.settle(record)

        handler = live.handler(
            sink,
            exact=True,
            on_retry=self._on_retry,
            schema_retries=setup.schema_retries,
            text=False,
        )
        engine = LocalEngine(self._workers(), self._stop, clock)
        self._over = asyncio.create_task(engine.run(self._requests(), handler, sink))
        self._over.add_done_callback(lambda _: self._outbox.ready.set())

    async def _ask(self, lot: bytes) -> bytes:
        reply: bytes = await self._governor.answer.remote(self._node, lot)
        return reply

    def _workers(self) -> int:
        """Calls at a time: what the profile says, as far as the system opens connections."""
        each = 1 + len(self._setup.fallbacks) + len(self._setup.routed)
        return possible_calls(self._setup.concurrency, each)

    async def _requests(self) -> AsyncIterator[Request]:
        """The driver's rows, as they come, until a stop."""
        while not self._stop.asked:
            if self._queue:
                request = self._queue.popleft()
                self._rows[request.call_id] = request
                yield request
            else:
                self._news.clear()
                await first_of(self._news.wait(), self._stop.wait())

    def _on_retry(self, retry: RetryDetails) -> None:
        what = f"row {retry.request.id}: {retry.error.message}"
        self._outbox.say(f"{what}; trying again in {retry.wait:.1f} s")
        if isinstance(retry.error, RateLimited):
            target = retry.request.target
            seconds = retry.error.retry_after or _PEACE
            self._outbox.pause(Pause(target.profile, target.model, seconds))

    @property
    def _routes(self) -> tuple[Route, ...]:
        assert self._live is not None
        return (*self._live.routes, *self._live.routed)

    def _tell_outages(self) -> None:
        """Let the other nodes hear of circuits that have opened here."""
        if self._live is None:
            return
        found = {r.profile.name: r.health for r in self._routes if r.health.state == "open"}
        for name in found.keys() - self._down:
            self._outbox.pause(Outage(name, found[name].reached))
        self._down = set(found)

    async def put(self, message: bytes) -> None:
        """Take further rows, and what else the driver says."""
        rows = decode(message, Rows)
        self._queue.extend(decode(row, Request) for row in rows.rows)
        self._news.set()
        self._outbox.on_durable(rows.durable)
        for pause in rows.pauses:
            for route in self._routes:
                if route.profile.name != pause.profile:
                    continue
                if isinstance(pause, Outage):
                    self._down.add(pause.profile)
                    route.health.open(reached=pause.reached)
                else:
                    route.limits.of(pause.model).pause(pause.seconds)
        if rows.stop is not None:
            error = rows.stop.error()
            assert isinstance(error, CallError)
            self._stop.ask(lambda: error)
        if rows.at_once:
            self._stop.at_once()

    async def take(self) -> bytes:
        """The next records, after at most a second."""
        assert self._over is not None
        assert self._live is not None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._outbox.ready.wait(), _LOOK)
        if self._outbox.has_records:
            await asyncio.sleep(_LINGER)
        records = replace(self._outbox.take(), waits=self._live.waits())
        if not self._over.done() or self._outbox.has_records:
            return encode(records)
        left = tuple(request.call_id for request in self._queue)
        failure = None
        if not self._over.cancelled() and (error := self._over.exception()) is not None:
            failure = Failure.of(error if isinstance(error, LlmctlError) else _mistake(error))
        return encode(replace(records, over=True, left=left, failure=failure))

    async def close(self) -> None:
        """Keep what waits to be kept, and close all that is open."""
        if self._over is not None:
            self._over.cancel()
            await asyncio.gather(self._over, return_exceptions=True)
        await self._stack.aclose()


def _mistake(error: BaseException) -> LlmctlError:
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return LlmctlError(f"a mistake in llmctl, {what}; please report it")
