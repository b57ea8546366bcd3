"""What every engine promises, and every engine of workers: run by each engine's own test module,
which has the fixture `provider`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.cli.context import Context, runner_for, select_profile
from llmctl.errors import DiskError, ServerFailed
from llmctl.protocols import Emit, Engine
from llmctl.request import Question, compose
from llmctl.runner import Runner
from llmctl.shutdown import DRAIN, Stop
from llmctl.types import Answer, CallRecord, Message, Request
from tests.cli.provider_batches import Provider
from tests.ledgers import calls_of
from tests.simulator.call import Call
from tests.simulator.reply import Reply
from tests.support import FakeClock, request, response


async def nothing(_: CallRecord) -> None:
    """A sink for handlers that keep their own records."""


async def rows(number: int, drawn: list[int] | None = None) -> AsyncIterator[Request]:
    """So many requests; `drawn` gets the index of each as it is taken."""
    for index in range(number):
        if drawn is not None:
            drawn.append(index)
        yield replace(request(), index=index)


class Counting:
    """A handler that takes `seconds`, fails on every third row, and counts."""

    def __init__(self, clock: FakeClock, seconds: float = 1.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self.begun: list[int] = []
        self.now = self.most = self.done = self.cancelled = 0

    async def __call__(self, asked: Request, _: Emit | None) -> Answer:
        """Take the time."""
        self.begun.append(asked.index)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._clock.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        self.done += 1
        if asked.index % 3 == 2:
            raise ServerFailed("every third")
        return response()


class EngineSuite:
    """What holds for every engine, inside a whole run against a provider on loopback. Subclasses
    make the engine."""

    def engine(self, live: Runner, stop: Stop, folder: Path) -> Engine:
        """The engine of an opened run, whose files are in the folder."""
        raise NotImplementedError

    def play(
        self,
        provider: Provider,
        prompts: AsyncIterator[str],
        sink: Callable[[CallRecord], None] = lambda _: None,
        stop: Stop | None = None,
    ) -> list[CallRecord]:
        """Run these prompts to the end; `sink` gets each record before it is in the ledger, and
        may raise. Gives all records."""
        records, names, stop = list[CallRecord](), list[str](), stop or Stop()
        context = Context(environ=provider.environ, quiet=True)
        chosen = select_profile(context)

        async def run() -> None:
            async with runner_for(chosen, context, patient=True, stop=stop) as live:

                async def observe(record: CallRecord) -> None:
                    sink(record)
                    await live.budget.settle(record)
                    records.append(record)

                async def requests() -> AsyncIterator[Request]:
                    async for prompt in prompts:
                        question = Question(messages=(Message("user", prompt),))
                        name = f"row {len(names)}"
                        names.append(name)
                        yield live.stamp(compose(question, live.profile, id=name))

                engine = self.engine(live, stop, provider.folder)
                handler = live.handler(observe, exact=True, on_retry=lambda _: None)
                await engine.run(requests(), handler, observe)

        asyncio.run(run())
        return records

    def test_every_row_has_one_record(self, provider: Provider) -> None:
        """Whatever becomes of it: every third is refused. Each is billed once, and the ledger has
        what was billed."""
        provider.sim.reply = refusing
        records = self.play(provider, say(*map(str, range(30))))
        assert sorted(record.request.id for record in records) == sorted(
            f"row {n}" for n in range(30)
        )
        assert (len(records), sum(record.ok for record in records)) == (30, 20)
        assert (provider.sim.billed.requests, provider.sim.billed.repeated) == (30, 0)
        assert len(calls_of(provider.home)) == 30
        assert provider.held == (0, 0)

    def test_a_question_is_asked_once(self, provider: Provider) -> None:
        """Rows that ask the same share one answer, and one bill."""
        records = self.play(provider, say("a", "b", "a", "a"))
        answers = [record.result for record in records if isinstance(record.result, Answer)]
        states = sorted(answer.cache for answer in answers)
        assert states == ["miss", "miss", "shared", "shared"]
        assert provider.sim.billed.requests == 2
        assert sum(record.cost == 0 for record in records) == 2

    def test_nothing_is_sent_after_a_stop(self, provider: Provider) -> None:
        """Of a run that was stopped before it began there is no request, no record and no hold."""
        stop = Stop()
        stop.ask()
        assert self.play(provider, say("a", "b"), stop=stop) == []
        assert (provider.sim.calls, calls_of(provider.home), provider.held) == ([], [], (0, 0))

    def test_a_full_disk_ends_the_run(self, provider: Provider) -> None:
        """What the sink raises is raised, and what was billed is in the ledger or still held: the
        next run knows of it."""
        seen: list[CallRecord] = []

        def full(record: CallRecord) -> None:
            seen.append(record)
            if len(seen) == 3:
                raise DiskError("full")

        with pytest.raises(DiskError, match="full"):
            self.play(provider, say(*map(str, range(10))), full)
        known = len(calls_of(provider.home)) + provider.held[0]
        assert known >= provider.sim.billed.requests

    def test_an_input_that_breaks_off_ends_the_run(self, provider: Provider) -> None:
        """What the requests raise is raised; what was billed is in the ledger, nothing is held."""

        async def broken() -> AsyncIterator[str]:
            yield "a"
            raise DiskError("unreadable")

        with pytest.raises(DiskError, match="unreadable"):
            self.play(provider, broken())
        assert len(calls_of(provider.home)) >= provider.sim.billed.requests
        assert provider.held == (0, 0)


async def say(*prompts: str) -> AsyncIterator[str]:
    """These prompts."""
    for prompt in prompts:
        yield prompt


def refusing(call: Call) -> Reply:
    """A model that refuses each number that is a multiple of three."""
    assert call.ask is not None
    refused = int(call.ask.last) % 3 == 0
    return Reply("" if refused else "yes", finish="content_filter" if refused else "stop")


class WorkersSuite:
    """What holds besides for an engine of workers, which send what they draw at once.
    `make(concurrency, stop, clock)` gives the engine."""

    make: Callable[[int, Stop, FakeClock], Engine]

    def test_every_row_is_handled_once_within_the_concurrency(self) -> None:
        """Failures included; with one place rows go in the order they came in."""
        for concurrency in (1, 7):
            clock = FakeClock()
            handler = Counting(clock)
            clock.run(self.make(concurrency, Stop(), clock).run(rows(50), handler, nothing))
            assert sorted(handler.begun) == list(range(50))
            assert concurrency > 1 or handler.begun == list(range(50))
            assert (handler.done, handler.most) == (50, concurrency)

    def test_nothing_is_read_ahead(self) -> None:
        """No more rows have been drawn than are done or in flight: memory stays constant."""
        clock, drawn = FakeClock(), list[int]()
        ahead: list[int] = []

        class Watching(Counting):
            async def __call__(self, asked: Request, emit: Emit | None) -> Answer:
                ahead.append(len(drawn) - self.done - self.now)
                return await super().__call__(asked, emit)

        clock.run(self.make(3, Stop(), clock).run(rows(30, drawn), Watching(clock), nothing))
        assert max(ahead) <= 3

    def test_a_stop_lets_what_is_in_flight_finish(self) -> None:
        """Nothing new is sent and the calls in flight end on their own."""
        clock = FakeClock()
        handler = Counting(clock)

        async def run() -> None:
            stop = Stop()
            engine = self.make(5, stop, clock)
            running = asyncio.ensure_future(engine.run(rows(100), handler, nothing))
            await clock.sleep(1.5)
            stop.ask()
            await running

        clock.run(run())
        assert (handler.done, handler.cancelled) == (10, 0)

    @pytest.mark.parametrize("at_once", [False, True])
    def test_draining_ends(self, *, at_once: bool) -> None:
        """Calls that do not finish within the drain time, or until a second stop, are cancelled,
        and the run returns."""
        clock = FakeClock()
        handler = Counting(clock, seconds=1000)

        async def run() -> None:
            stop = Stop()
            engine = self.make(5, stop, clock)
            running = asyncio.ensure_future(engine.run(rows(100), handler, nothing))
            await clock.sleep(1)
            stop.ask()
            if at_once:
                await clock.sleep(1)
                stop.at_once()
            await running

        clock.run(run())
        assert handler.cancelled == 5
        assert clock.now - 1000 == pytest.approx(2 if at_once else 1 + DRAIN)

    def test_a_disk_error_ends_the_run_at_once(self) -> None:
        """An error that is not a call's own stops the dispatch and is raised."""
        clock, begun = FakeClock(), list[int]()

        async def full(asked: Request, _: Emit | None) -> Answer:
            begun.append(asked.index)
            await clock.sleep(1)
            raise DiskError("full")

        with pytest.raises(DiskError):
            clock.run(self.make(4, Stop(), clock).run(rows(100), full, nothing))
        assert len(begun) == 4

    def test_an_input_that_fails_ends_the_run(self) -> None:
        """What the requests raise is raised; no worker goes on alone."""
        clock = FakeClock()
        handler = Counting(clock)

        async def broken() -> AsyncIterator[Request]:
            yield replace(request(), index=0)
            raise DiskError("unreadable")

        with pytest.raises(DiskError, match="unreadable"):
            clock.run(self.make(3, Stop(), clock).run(broken(), handler, nothing))
        assert handler.begun == [0]
