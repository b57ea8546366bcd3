"""Use case `queue run`: queue → one call that finds out → the others → where answers belong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct
from msgspec.structs import replace

from llmctl.batch.late_output import LateOutput
from llmctl.batch.output import dollars, errors_path, record
from llmctl.cli.ask_run import remember
from llmctl.cli.batch_run import workers
from llmctl.cli.context import Context, Selection, load_settings
from llmctl.cli.options import BUDGET_FLAG, budget_lines, budget_windows, parse_dollars
from llmctl.cli.output import age, json_text, money, plural, say, write_json, write_stdout
from llmctl.cli.queue import QueueRunOptions, nothing_queued, short_path
from llmctl.cli.queue_file import opened_queue, queue_path
from llmctl.cli.streams import require_stream
from llmctl.config.settings import Settings
from llmctl.engines.local import LocalEngine
from llmctl.errors import (
    BudgetRefused,
    BusyError,
    CallError,
    Cancelled,
    ConfigError,
    DiskError,
    InputError,
    LlmctlError,
    NoKeyError,
    ProviderDown,
    Queued,
    RateLimited,
    SetupError,
)
from llmctl.guards.degrade import is_outage
from llmctl.guards.masking import restored_messages
from llmctl.guards.retry import RetryDetails
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Handler
from llmctl.redact import printable
from llmctl.request import target_for
from llmctl.runner import Run, open_run, user_name
from llmctl.shutdown import Stop, handle_signals
from llmctl.storage.call_queue import (
    LEASE,
    CallQueue,
    CallQueuePeek,
    ClaimedCall,
    QueuedCall,
)
from llmctl.types import KEPT, CallRecord, Request
from llmctl.wiring import Surroundings, located, located_fallbacks, located_routes

_WAITING = (BudgetRefused, RateLimited, Cancelled)  # and outages, and what is fatal to all
_NAMED = 3  # files in the summary
_LOOK = 5.0  # seconds between two looks at calls that other processes send, or whose OUTPUT is busy


def run(options: QueueRunOptions, context: Context) -> int:
    """Send what waits, and return the exit code. Raises `LlmctlError`."""
    require_stream(1, "stdout")
    settings = load_settings(context)
    budget = parse_dollars(BUDGET_FLAG, options.budget)
    with CallQueuePeek(queue_path(settings.folders)) as queue:
        calls = queue.calls()
    if not any(options.profile in (None, call.profile) for call in calls):
        context.info(nothing_queued(calls, options.profile, lambda: settings))
        _tell(Tally(), (), 0, 0, context)
        return 0
    return asyncio.run(_run(settings, budget, options, context))


async def _run(
    settings: Settings, budget: Decimal | None, options: QueueRunOptions, context: Context
) -> int:
    stop, signals = Stop(), list[int]()

    def on_signal(number: int) -> None:
        signals.append(number)
        if len(signals) > 1:
            stop.at_once()
            return
        stop.ask()
        context.info("stopping: waiting up to 30 s for the calls in flight; again to stop at once")

    around = Surroundings(
        settings.folders, context.environ, context.clock, context.info, context.warn,
        settings.audit, settings.telemetry, settings.encrypt, settings.profiles,
    )  # fmt: skip
    with handle_signals(on_signal):
        async with (
            open_run(around, cache_size=settings.cache_size, many=True, stop=stop) as live,
            _opened_queue(settings, live, context) as queue,
        ):
            windows = budget_windows(budget, settings.budgets, live.run_id, user_name())
            live.budget.limit(windows, lambda: stop.asked)
            sender = QueueSender(live, queue, settings, options, context, stop)
            await sender.send()
            lines = await budget_lines(live.budget)
            left = len(sender.waiting())
    code = 128 + signals[0] if signals else sender.exit_code(left)
    for line in lines:
        context.info(line)
    _tell(sender.tally, sender.written, left, code, context)
    return code


@asynccontextmanager
async def _opened_queue(
    settings: Settings, live: Run, context: Context
) -> AsyncIterator[CallQueue]:
    """The queue, open; the leases of this process last as long as it is."""
    queue = opened_queue(settings.folders, live.store, context)

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE / 3)  # real time: what others see of this process
            await queue.renew()

    renewing = asyncio.create_task(renew())
    try:
        yield queue
    finally:
        renewing.cancel()
        try:
            queue.tidy()
        finally:
            queue.close()


class Asked(Struct, frozen=True):
    """How a profile's calls are sent, and how many at a time."""

    selection: Selection
    handler: Handler
    workers: int


class QueueSender:
    """Sends the calls of the queue, in passes that meet each of them once.

    Attributes:
        tally: counts the calls that have their end.
        ended: why no call of a profile is sent any more, by its name.
        written: the files that got answers, or failures, of rows.

    """

    def __init__(
        self,
        live: Run,
        queue: CallQueue,
        settings: Settings,
        options: QueueRunOptions,
        context: Context,
        stop: Stop,
    ) -> None:
        self.tally = Tally()
        self.ended: dict[str, LlmctlError] = {}
        self.written: dict[str, None] = {}  # in this order
        self._live, self._queue, self._settings = live, queue, settings
        self._options, self._context, self._stop = options, context, stop
        self._asked: dict[str, Asked] = {}
        self._in_hand: dict[str, ClaimedCall] = {}
        self._sent = 0
        self._refused: BudgetRefused | None = None
        self._down: set[str] = set()  # profiles whose provider is down in this pass
        self._back: set[str] = set()  # profiles whose provider has answered in this pass
        self._told: set[str] = set()  # profiles whose outage was said
        self._moved: set[str] = set()  # calls whose profile leads to another address now
        self._outputs: dict[str, LateOutput | None] = {}
        self._opening = asyncio.Lock()

    async def send(self) -> None:
        """Make one pass, or with --watch as many as it takes. Raises `DiskError`, and
        `BrokenPipeError` when the reader of stdout has gone."""
        told: tuple[set[str], float] | None = None
        for number in count(1):
            await self._pass(f"{self._live.run_id}/{number}")
            left = {call.profile for call in self.waiting() if call.id not in self._moved}
            if not self._options.watch or self._is_over() or not left - self.ended.keys():
                return
            pauses = [self._settings.profiles[name].breaker.open_for for name in self._down]
            pause = min(pauses, default=_LOOK)
            now = (set(self._down), pause) if pauses else None
            if now is not None and now != told:
                self._context.info(f"asking again every {pause:g} s")
            told = now
            with suppress(CallError):  # a stop
                await self._stop.clock(self._context.clock).sleep(pause)

    def waiting(self) -> list[QueuedCall]:
        """The calls that are queued, of the profile that was asked for."""
        wanted = self._options.profile
        return [call for call in self._queue.calls() if wanted in (None, call.profile)]

    def exit_code(self, left: int) -> int:
        """The exit code, with so many calls left in the queue."""
        for error in (*self.ended.values(), self._refused):
            if error is not None:
                return error.exit_code
        return 1 if self.tally.failed else Queued.exit_code if left else 0

    def _is_over(self) -> bool:
        limit = self._options.limit
        return self._stop.asked or (limit is not None and self._sent >= limit)

    async def _pass(self, name: str) -> None:
        await self._queue.free_dead()
        self._down.clear()
        profiles = {call.profile for call in self.waiting()} - self.ended.keys()
        async with AsyncExitStack() as outputs:
            outputs.callback(self._outputs.clear)
            works = [
                asyncio.ensure_future(self._send(profile, name, outputs)) for profile in profiles
            ]
            try:
                await asyncio.gather(*works)
            finally:
                for work in works:
                    work.cancel()
                await asyncio.gather(*works, return_exceptions=True)

    async def _send(self, profile: str, name: str, outputs: AsyncExitStack) -> None:
        """Send the calls of a profile that wait."""
        try:
            asked = self._asked.get(profile) or await self._open(profile)
        except (ConfigError, NoKeyError, SetupError) as error:
            self._end(profile, error)
            return
        self._asked[profile] = asked
        async with aclosing(self._draw(asked, name, outputs)) as requests:
            self._back.discard(profile)
            async with aclosing(self._until_back(profile, requests)) as first:
                await self._engine(1).run(first, asked.handler, self._sink)
            if profile in self._back:
                await self._engine(asked.workers).run(requests, asked.handler, self._sink)

    def _engine(self, workers: int) -> LocalEngine:
        return LocalEngine(workers, self._stop, self._context.clock)

    async def _open(self, name: str) -> Asked:
        settings, context, live = self._settings, self._context, self._live
        if name not in settings.profiles:
            raise ConfigError(
                f"calls are queued for the profile {name}, which the configuration has no more: "
                "define it, or remove them (`llmctl queue remove`)"
            )
        folders, profiles = settings.folders, settings.profiles
        profile = located(profiles[name], folders)
        fallbacks = located_fallbacks(profile, profiles, folders, context.warn)
        routed = located_routes(profile, profiles, folders)
        # What is given in an outage was given when the call was queued.
        runner = await live.runner(replace(profile, degrade=()), fallbacks, routed)

        def on_retry(retry: RetryDetails) -> None:
            context.info(f"{name}: {retry.error.message}; trying again in {retry.wait:.1f} s")

        def on_fallback(error: CallError, other: str) -> None:
            context.info(f"{error.message}; asking {other} instead")

        handler = runner.handler(self._sink, exact=True, on_retry=on_retry, on_fallback=on_fallback)
        selection = Selection(profile, settings, fallbacks, routed)
        return Asked(selection, handler, workers(selection, context))

    def _end(self, profile: str, error: LlmctlError) -> None:
        """Send no more calls of a profile."""
        if profile not in self.ended:
            self.ended[profile] = error
            say(f"{profile}: {error.message}; its calls stay queued")

    async def _until_back(
        self, profile: str, requests: AsyncIterator[Request]
    ) -> AsyncGenerator[Request, None]:
        """Requests for one worker, until a call has shown that the provider answers."""
        while profile not in self._back and (request := await anext(requests, None)):
            yield request

    async def _draw(
        self, asked: Asked, name: str, outputs: AsyncExitStack
    ) -> AsyncGenerator[Request, None]:
        """The requests of the profile's calls that this pass has not met, each under a lease."""
        profile = asked.selection.profile
        closed = self._down, self.ended
        while not self._is_over() and not any(profile.name in each for each in closed):
            try:
                claimed = await self._queue.claim(profile.name, name)
            except NoKeyError as error:
                self._end(profile.name, error)
                return
            if claimed is None:
                return
            if await self._is_settled(claimed, asked, name, outputs):
                continue
            self._sent += 1
            request = replace(claimed.request, call_id=self._live.call_id())
            if not claimed.call.origin.output:
                request = replace(request, id=claimed.call.id)
            self._in_hand[request.call_id] = claimed
            yield request

    async def _is_settled(
        self, claimed: ClaimedCall, asked: Asked, name: str, outputs: AsyncExitStack
    ) -> bool:
        """Whether the call is not to be sent: its answer is there, or has no place to go now."""
        call = claimed.call
        output = await self._output(claimed, name, outputs)
        if call.origin.output and output is None:
            await self._queue.give_back(call.id)
            return True
        if output is not None and call.row in output.answered:
            await self._queue.remove([call.id])
            return True
        if claimed.answer is not None:
            await self._deliver(claimed, claimed.answer)
            return True
        target = claimed.request.target
        now = target_for(asked.selection.profile, target.model)
        if (now.adapter, now.api, now.base_url) == (target.adapter, target.api, target.base_url):
            return False
        if call.id not in self._moved:
            self._moved.add(call.id)
            self._context.warn(
                f"{call.id} was queued for {target.base_url}, and the profile {call.profile} leads "
                "to another address now: not sent; change it back, or remove the call "
                f"(`llmctl queue remove {call.id}`)"
            )
        await self._queue.give_back(call.id)
        return True

    async def _output(
        self, claimed: ClaimedCall, name: str, outputs: AsyncExitStack
    ) -> LateOutput | None:
        """The open OUTPUT of a row; None where it is no row, or where OUTPUT cannot be had."""
        origin = claimed.call.origin
        if not origin.output:
            return None
        async with self._opening:
            if origin.output not in self._outputs:
                rows = self._queue.rows(origin.output)
                late = LateOutput(Path(origin.output), origin.format, rows)
                try:
                    self._outputs[origin.output] = await outputs.enter_async_context(late)
                except (BusyError, DiskError, InputError) as error:
                    self._outputs[origin.output] = None
                    self._context.warn(f"{error.message}; {plural(len(rows), 'row')} stay queued")
                    await self._queue.pass_over(origin.output, name)
        return self._outputs[origin.output]

    async def _sink(self, made: CallRecord) -> None:
        """Deal with a call that has ended: on return its end is durable, and where it belongs."""
        claimed = self._in_hand.pop((made.asked or made.request).call_id)
        call, result, settle = claimed.call, made.result, self._live.budget.settle
        if isinstance(result, CallError) and self._waits_on(call.profile, result):
            await settle(made)
            await self._queue.give_back(call.id, result.row_type if result.attempts else "")
            return
        if result.sent if isinstance(result, CallError) else result.cache not in KEPT:
            self._back.add(call.profile)
            self._told.discard(call.profile)
        line = record(made, call.origin.format)
        if made.ok:
            await self._queue.answer(call.id, line)
        await settle(made)
        self.tally.add(made)
        if isinstance(result, CallError):
            await self._fail(claimed, result, line)
        else:
            await self._deliver(claimed, line)

    def _waits_on(self, profile: str, error: CallError) -> bool:
        """Whether a call that met the error stays queued; notes what follows for the others."""
        outage = is_outage(error)
        if error.fatal_to_run:
            self._end(profile, error)
        elif isinstance(error, BudgetRefused):
            self._refused = error
        elif isinstance(error, ProviderDown | RateLimited) or (
            outage and profile not in self._back
        ):
            self._note_outage(profile, error)
        return outage or error.fatal_to_run or isinstance(error, _WAITING)

    def _note_outage(self, profile: str, error: CallError) -> None:
        """Send no more calls of the profile in this pass; said once in an outage."""
        self._down.add(profile)
        if profile not in self._told:
            self._told.add(profile)
            self._context.info(f"{error.message}; the calls of {profile} stay queued")

    async def _deliver(self, claimed: ClaimedCall, line: bytes) -> None:
        """Bring an answer to where it belongs; then it leaves the queue."""
        call = claimed.call
        if (output := self._outputs.get(call.origin.output)) is not None:
            await output.add(call.row, line)
            self.written[call.origin.output] = None
        else:
            text = orjson.loads(line)["text"]
            self._print(claimed, line, text)
            if call.origin.remembered:
                request = replace(claimed.request, messages=restored_messages(claimed.request))
                store = self._live.store
                await remember(request, text, self._context, call.origin.conversation, store)
        await self._queue.remove([call.id])

    def _print(self, claimed: ClaimedCall, line: bytes, text: str) -> None:
        if self._context.json:
            write_json(line.decode())
            return
        asked = restored_messages(claimed.request)[-1].text
        about = " ".join(asked[:200].split())[:60]
        old = age(self._context.clock.wall() - claimed.call.at)
        self._context.info(f"{claimed.call.id}, asked {old} ago: {about}")
        write_stdout(text if text.endswith("\n") else f"{text}\n")

    async def _fail(self, claimed: ClaimedCall, error: CallError, line: bytes) -> None:
        """Bring a failure to where it belongs; then it leaves the queue."""
        call = claimed.call
        if (output := self._outputs.get(call.origin.output)) is not None:
            await output.add_failure(line)
            self.written[str(errors_path(Path(call.origin.output)))] = None
        else:
            if self._context.json:
                write_json(line.decode())
            if error.text:  # it was paid for
                say(printable(error.text))
            say(f"{call.id} failed and is queued no more: {error.message}")
        await self._queue.remove([call.id])


def _tell(tally: Tally, written: Collection[str], left: int, code: int, context: Context) -> None:
    """The summary on stderr."""
    cost = None if tally.unpriced else tally.cost
    if context.json:
        fields: Mapping[str, Any] = {
            "answered": tally.ok,
            "failed": tally.failed,
            "queued": left,
            "cost_usd": dollars(cost),
            "exit_code": code,
        }
        say(json_text(fields, compact=True), end="")
    elif tally.ok or tally.failed or left:
        words = f"{tally.ok:,} answered, {tally.failed:,} failed, {left:,} queued"
        folder = context.cwd().resolve()
        files = ", ".join(short_path(path, folder) for path in islice(written, _NAMED))
        more = (
            f" and {plural(others, 'other file')}" if (others := len(written) - _NAMED) > 0 else ""
        )
        where = f" → {files}{more}" if files else ""
        context.info(f"{words}{where} · {money(cost)}")
