"""Two members of a group in one process: what each sends and writes, whatever the other does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from llmctl.batch.group import Group, lock_path
from llmctl.batch.job import Batch, Job, finish, open_batch
from llmctl.batch.lots import Lots
from llmctl.batch.output import record
from llmctl.batch.resume import LOT
from llmctl.batch.rows import RowReader
from llmctl.config.settings import Profile
from llmctl.errors import BusyError, ServerFailed
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Claim
from llmctl.shutdown import Stop
from llmctl.storage.claims import SqliteClaims
from llmctl.storage.process import start_time
from llmctl.types import CallRecord, Request
from tests.support import FakeClock

Ended = Callable[..., CallRecord]


class Desk:
    """The `Claims` of one member among those of all, by key."""

    def __init__(self, all_claims: dict[str, Desk]) -> None:
        self._all = all_claims

    async def claim(self, key: str) -> Claim:
        """Ours where it is nobody else's."""
        return "ours" if self._all.setdefault(key, self) is self else "theirs"

    async def release(self, key: str) -> None:
        """Free it."""
        del self._all[key]

    async def beat(self) -> None:
        """Alive."""


class Member:
    """A member with its batch, which takes a lot at a time."""

    def __init__(self, batch: Batch, claims: dict[str, Desk]) -> None:
        assert batch.group is not None
        self.batch, self.group = batch, batch.group
        self._lots = Lots(batch, Desk(claims), Tally(), Stop(), FakeClock(), lambda: "c")
        self._pages = self._lots.pages()

    async def take(self) -> list[Request]:
        """The next lot."""
        return await anext(self._pages)

    async def write(self, page: list[Request], ended: Ended, *, fails: bool = False) -> None:
        """Write a record of every row, and be done with it."""
        append = self.group.writers[fails]
        for request in page:
            failed = {"error": ServerFailed("no")} if fails else {}
            prompt = request.messages[-1].text
            made = ended(request.id, request.index, prompt, **failed)
            append(record(made, "llmctl"))
            await self._lots.recorded(request)


@pytest.fixture
def two(tmp_path: Path, profile: Profile) -> Iterator[tuple[Member, Member]]:
    """Two members over an input of two lots."""
    rows = [orjson.dumps({"id": f"r{n}", "prompt": f"say {n}"}) for n in range(2 * LOT)]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows))
    claims: dict[str, Desk] = {}
    with ExitStack() as stack:
        job = Job(str(tmp_path / "in.jsonl"), None, RowReader(), profile, join="here")
        one, other = (stack.enter_context(open_batch(job)) for _ in range(2))
        yield Member(one, claims), Member(other, claims)


def records(path: Path) -> list[tuple[str, bool]]:
    """Ids, and whether they failed, of the records in both files."""
    return [
        (row["id"], "error" in row)
        for name in ("in.out.jsonl", "in.out.errors.jsonl")
        for row in map(orjson.loads, (path / name).read_bytes().splitlines())
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_what_others_wrote_is_known_before_a_lot_is_sent(
    two: tuple[Member, Member], ended: Ended, *, fails: bool
) -> None:
    """A lot that another member was done with a moment ago is not sent, be it answers or failures;
    they are counted as the other's."""
    one, other = two

    async def run() -> tuple[list[Request], list[Request]]:
        first = await one.take()
        await one.write(first, ended, fails=fails)
        return first, await other.take()

    first, second = asyncio.run(run())
    assert [request.index for request in first] == list(range(LOT))
    assert [request.index for request in second] == list(range(LOT, 2 * LOT))
    others = other.group.others
    assert (others.failed, others.ok) == ((LOT, 0) if fails else (0, LOT))


@pytest.mark.parametrize(("one_fails", "other_fails"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_member_that_was_taken_for_dead(
    two: tuple[Member, Member],
    ended: Ended,
    tmp_path: Path,
    one_fails: int,
    other_fails: int,
) -> None:
    """When two send a row, because one gave no sign of life and goes on all the same, the row has
    one record in the end: an answer where there is one."""
    one, other = two

    async def run() -> None:
        page = await one.take()
        one._lots._claims._all.clear()  # type: ignore[union-attr]
        again = await other.take()
        assert [r.index for r in again] == [r.index for r in page]
        await other.write(again, ended, fails=bool(other_fails))
        one._lots._open.clear()
        one._lots._lot_of.clear()
        await one.write(page, ended, fails=bool(one_fails))

    asyncio.run(run())
    assert [member.group.leave() for member in two] == [False, True]
    finish(other.batch)
    failed = bool(one_fails and other_fails)
    assert sorted(records(tmp_path)) == sorted((f"r{n}", failed) for n in range(LOT))


def test_who_leaves_last_has_the_files_alone(two: tuple[Member, Member]) -> None:
    """Nobody can join while the last one puts the output in order; the file that members take turns
    by is gone then."""
    one, other = two
    output = one.group.output.path
    assert lock_path(output).exists()
    assert not other.group.leave()
    assert one.group.leave()
    assert not lock_path(output).exists()
    with pytest.raises(BusyError, match="another llmctl holds"):
        Group._try(output, "llmctl", one.batch.index, "here")


def test_claims_of_one_machine(tmp_path: Path) -> None:
    """A claim is ours again and again until it is released; another process's is not ours while
    that one lives, however long it says nothing."""

    async def run(name: str, birth: str | None) -> list[Claim]:
        path, clock = tmp_path / name, FakeClock()
        with SqliteClaims(path, clock) as mine, SqliteClaims(path, clock) as its:
            its._me = (os.getppid(), birth or "", mine._me[2])
            found = [await mine.claim("a"), await mine.claim("a"), await its.claim("b")]
            clock.now += 3600
            await mine.beat()
            found.append(await mine.claim("b"))
            await its.release("b")
            return [*found, await mine.claim("b")]

    alive = start_time(os.getppid())
    assert asyncio.run(run("a.db", alive)) == ["ours", "ours", "ours", "theirs", "ours"]
    assert asyncio.run(run("b.db", "0")) == ["ours", "ours", "ours", "ours", "ours"]
