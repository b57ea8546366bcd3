"""A minute's allowance that processes share."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llmctl.config.settings import Limits
from llmctl.errors import DiskError
from llmctl.guards.lane import Lane
from llmctl.protocols import UNUSED_LANE, LaneChange, LaneState
from llmctl.storage.rate_limits import Minutes
from tests.support import FakeClock


class Memory:
    """What is shared, without a file."""

    def __init__(self) -> None:
        self.state: LaneState = UNUSED_LANE
        self.changes = 0

    async def __call__(self, change: LaneChange) -> float:
        """Make the change."""
        await asyncio.sleep(0)
        self.state, result = change(self.state)
        self.changes += 1
        return result


async def demand(lane: Lane, clock: FakeClock, until: float, tokens: int = 0) -> list[float]:
    """Send as fast as the lane lets, and say when."""
    sent: list[float] = []
    while clock.now < until:
        await lane.enter(tokens)
        sent.append(clock.now)
        lane.answered()
        lane.leave(estimated=tokens, really=tokens)
    return sent


def busiest(sent: list[float]) -> int:
    """The most in any half-open 60 seconds."""
    sent.sort()
    first, most = 0, 0
    for last, at in enumerate(sent):
        while at - sent[first] >= 60 - 1e-6:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.parametrize("rpm", [60, 2400])
def test_two_processes_share_one_minute(rpm: int) -> None:
    """Together they send what one alone may, and no 60 seconds see more; at high rates they do
    not ask for every request."""
    clock, memory = FakeClock(), Memory()
    lanes = [Lane(Limits(rpm=rpm, concurrency=1), clock, memory) for _ in range(2)]

    async def run() -> list[list[float]]:
        return list(await asyncio.gather(*(demand(lane, clock, 1150.0) for lane in lanes)))

    sent = clock.run(run())
    together = sorted(sent[0] + sent[1])
    assert busiest(together) <= rpm
    in_a_minute = [at for at in together if 1060 <= at < 1120]
    assert 0.985 * rpm <= len(in_a_minute) <= rpm
    assert min(map(len, sent)) > 0.2 * len(together)
    if rpm == 2400:
        assert memory.changes < len(together) * 0.75


def test_tokens_are_shared_and_corrected() -> None:
    """What was estimated too high comes back, so the run is held to what it really used."""
    clock, memory = FakeClock(), Memory()
    lane = Lane(Limits(tpm=60_000, concurrency=1), clock, memory)

    async def run() -> float:
        for _ in range(600):
            await lane.enter(1000)
            lane.leave(estimated=1000, really=100)
        return clock.now - 1000

    assert clock.run(run()) == pytest.approx(60, rel=0.15)


def test_a_pause_holds_for_the_other_process_too() -> None:
    """One is told to come back in 30 s: the other one does not send meanwhile either."""
    clock, memory = FakeClock(), Memory()
    one, other = (Lane(Limits(rpm=600), clock, memory) for _ in range(2))

    async def run() -> float:
        era = await one.enter(0)
        one.refused(era, 30.0)
        one.leave(estimated=0, really=0)
        waiting = asyncio.ensure_future(one.enter(0))
        await clock.sleep(0.1)
        await other.enter(0)
        await waiting
        return clock.now - 1000

    assert clock.run(run()) >= 30


def test_what_is_not_used_is_given_back() -> None:
    """A lot that was fetched for one request does not cost the minute the others of it."""
    clock, memory = FakeClock(), Memory()
    lane = Lane(Limits(rpm=60_000), clock, memory)

    async def run() -> None:
        await lane.enter(0)
        lane.leave(estimated=0, really=0)
        await clock.sleep(2)
        await lane.enter(0)

    clock.run(run())
    # 1 of 50 was used, 49 came back, 50 were taken again.
    assert memory.state[0] - clock.now == pytest.approx(50 / 990, rel=0.05)


def test_when_it_cannot_be_shared_the_limit_still_holds() -> None:
    """A disk that refuses is a warning, once; this process keeps to the limits by itself."""
    clock, warned = FakeClock(), list[str]()

    async def refuse(_: LaneChange) -> float:
        raise DiskError("no room")

    lane = Lane(Limits(rpm=60), clock, refuse, warned.append)

    async def run() -> float:
        for _ in range(5):
            await lane.enter(0)
            lane.leave(estimated=0, really=0)
        return clock.now - 1000

    assert clock.run(run()) == pytest.approx(4, abs=0.1)
    assert len(warned) == 1


def test_the_file_is_shared_and_mended(tmp_path: Path) -> None:
    """Two that open one file see each other's changes; a damaged file is replaced."""
    path, clock = tmp_path / "limits.db", FakeClock()
    one, other = Minutes(path, clock), Minutes(path, clock)

    def add(state: LaneState) -> tuple[LaneState, float]:
        return (max(state[0], 1.0) + 1, state[1], state[2]), state[0]

    async def run() -> list[float]:
        found = [await one.change("a b", add), await other.change("a b", add)]
        found.append(await other.change("c", add))
        one.close()
        other.close()
        path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
        found.append(await one.change("a b", add))
        one.close()
        return found

    assert asyncio.run(run()) == [float("-inf"), 2.0, float("-inf"), float("-inf")]
    assert path.stat().st_mode & 0o777 == 0o600
