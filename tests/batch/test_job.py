"""A batch from its input to its files, with an engine and a handler of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

from llmctl.batch.job import PAGE, Job, nothing_to_send, open_batch, run
from llmctl.batch.output import errors_path
from llmctl.batch.rows import RowReader
from llmctl.clock import SystemClock
from llmctl.config.settings import Profile
from llmctl.engines.local import LocalEngine
from llmctl.errors import CallError, Cancelled, InputError, ServerFailed
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Emit, Handler, Observer
from llmctl.shutdown import Stop
from llmctl.types import Answer, CallRecord, Request, Usage
from tests.support import FakeClock

Outcome = Callable[[Request], Answer | CallError]


def answer(request: Request, cache: str = "miss") -> Answer:
    """An answer that says what was asked."""
    text = f"echo: {request.messages[-1].text}"
    return Answer(text, Usage(1, 1), request.target, "stop", "m", cache=cache)  # type: ignore[arg-type]


def made(request: Request, result: Answer | CallError) -> CallRecord:
    """The record of a call that ended so."""
    return CallRecord(request, result, Usage(1, 1), Decimal(0), None, 1.0, 0.1, None)


class World:
    """An input of `count` rows, the run over it, and what became of it."""

    def __init__(self, folder: Path, profile: Profile, count: int, **job: object) -> None:
        self.path = folder / "in.jsonl"
        rows = [orjson.dumps({"id": f"r{n}", "prompt": f"say {n}"}) for n in range(count)]
        self.path.write_bytes(b"\n".join(rows))
        self.job = Job(str(self.path), None, RowReader(), profile, **job)  # type: ignore[arg-type]
        self.output = folder / "in.out.jsonl"
        self.stop = Stop()
        self.stats = Tally(rows=count)
        self.sent: list[str] = []
        self.diary: list[str] = []
        self.prepared = 0
        self.kept: set[str] = set()
        self.pages: list[int] = []

    async def settle(self, record: CallRecord) -> None:
        """Note what is in the output when the ledger is told of a call."""
        path = self.output if record.ok else errors_path(self.output)
        there = path.exists() and f'"{record.request.id}"' in path.read_text()
        self.diary.append(f"{record.request.id} {'durable' if there else 'not written'}")

    async def cached(self, page: Sequence[Request]) -> list[CallRecord | None]:
        """The records of kept rows."""
        self.pages.append(len(page))
        return [made(r, answer(r, "hit")) if r.id in self.kept else None for r in page]

    async def run(self, outcome: Outcome = answer, *, at_once: int = 4) -> CallError | None:
        """The batch, driven by workers of the test."""

        def handler_of(sink: Observer) -> Handler:
            async def handler(request: Request, emit: Emit | None) -> Answer:  # noqa: ARG001
                self.sent.append(request.id)
                result = outcome(request)
                await sink(made(request, result))
                if isinstance(result, CallError):
                    raise result
                return result

            return handler

        def prepare() -> None:
            self.prepared += 1

        with open_batch(self.job) as batch:
            self.stats.skipped = batch.skipped
            return await run(
                batch, LocalEngine(at_once, self.stop, SystemClock()), handler_of,
                settle=self.settle, stats=self.stats, stop=self.stop, clock=FakeClock(),
                call_id=lambda: "c", cached=self.cached, prepare=prepare,
                check=lambda: None,
            )  # fmt: skip

    def records(self) -> tuple[list[str], list[str]]:
        """The ids in the output and in the errors file."""
        found: list[list[str]] = []
        for path in (self.output, errors_path(self.output)):
            lines = path.read_bytes().splitlines() if path.exists() else []
            found.append([orjson.loads(line)["id"] for line in lines])
        return found[0], found[1]


def ids(numbers: Sequence[int]) -> list[str]:
    """The ids of these rows."""
    return [f"r{n}" for n in numbers]


def test_every_row_has_one_record(tmp_path: Path, profile: Profile) -> None:
    """Each row is in one of the files, durably, before the ledger hears of it; then counted."""
    world = World(tmp_path, profile, 40)
    failing = {"r3", "r7"}
    because = asyncio.run(world.run(lambda r: ServerFailed("no") if r.id in failing else answer(r)))
    good, bad = world.records()
    assert because is None
    assert sorted(bad) == ["r3", "r7"]
    assert sorted(good) == sorted(set(ids(range(40))) - failing)
    assert sorted(world.diary) == sorted(f"r{n} durable" for n in range(40))
    assert (world.stats.ok, world.stats.failed, world.prepared) == (38, 2, 1)
    again = World(tmp_path, profile, 40)
    asyncio.run(again.run())
    assert sorted(again.sent) == ["r3", "r7"]
    assert (len(again.records()[0]), again.records()[1]) == (40, [])


def test_kept_rows_are_answered_by_the_page(tmp_path: Path, profile: Profile) -> None:
    """What the cache holds is answered without the handler, in pages, in the same files."""
    world = World(tmp_path, profile, PAGE + 20)
    world.kept = set(ids(range(PAGE + 18)))
    asyncio.run(world.run())
    assert world.sent == ids([PAGE + 18, PAGE + 19])
    assert world.pages == [PAGE, 20]
    assert sorted(world.records()[0]) == sorted(ids(range(PAGE + 20)))
    assert world.stats.cached == PAGE + 18
    assert set(world.diary) == {f"r{n} durable" for n in range(PAGE + 20)}
    assert world.prepared == 1
    again = World(tmp_path, profile, PAGE + 20, restart=True)
    again.kept = set(ids(range(PAGE + 20)))
    asyncio.run(again.run())
    assert (again.sent, again.prepared) == ([], 0)


def test_long_rows_make_short_pages(tmp_path: Path, profile: Profile) -> None:
    """What is read at a time is bounded in bytes, too."""
    world = World(tmp_path, profile, 0)
    rows = [orjson.dumps({"prompt": str(n) + "x" * (3 << 20)}) for n in range(4)]
    world.path.write_bytes(b"\n".join(rows))
    asyncio.run(world.run())
    assert world.pages == [2, 2]
    assert len(world.records()[0]) == 4


def test_a_stop_from_outside(tmp_path: Path, profile: Profile) -> None:
    """After a signal rows that were not sent have no record, and are sent next time."""
    world = World(tmp_path, profile, 30)

    def outcome(request: Request) -> Answer | CallError:
        if request.id == "r4":
            world.stop.ask()
            return Cancelled("not sent: the run was stopped", sent=False)
        return answer(request)

    assert asyncio.run(world.run(outcome, at_once=1)) is None
    assert world.records() == (ids(range(4)), [])
    assert (world.stats.ok, world.stats.failed) == (4, 0)


def test_an_input_that_changes_while_it_runs(tmp_path: Path, profile: Profile) -> None:
    """An edit during the run ends it after what is under way, with an error; answers stay."""
    world = World(tmp_path, profile, 9000)

    def outcome(request: Request) -> Answer | CallError:
        if request.id == "r0":
            with world.path.open("ab") as file:
                file.write(b"\n{}")
        return answer(request)

    with pytest.raises(InputError, match="was changed while it was being read"):
        asyncio.run(world.run(outcome))
    good, bad = world.records()
    assert bad == []
    assert sorted(good) == sorted(world.sent)
    assert 0 < len(good) < 9000


def test_ordered(tmp_path: Path, profile: Profile) -> None:
    """With `ordered` the output ends in input order; also when nothing was left to send."""
    world = World(tmp_path, profile, 60, ordered=True)
    asyncio.run(world.run(lambda r: ServerFailed("no") if r.index % 3 == 0 else answer(r)))
    asyncio.run(World(tmp_path, profile, 60).run())
    assert world.records()[0] != ids(range(60))
    with open_batch(world.job) as batch:
        assert batch.skipped == batch.rows
        nothing_to_send(batch)
    assert world.records() == (ids(range(60)), [])
