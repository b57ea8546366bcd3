"""Rate limits that processes share: one state each, another boot, and damage."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.guards.rate_limit import LocalLimits
from llmctl.protocols import Quota, SharedLimits
from llmctl.storage import rate_limits
from llmctl.storage.rate_limits import RateLimitStore
from llmctl.token_bucket import INITIAL_LIMITS, Draw, LimitState
from tests.storage.clocks import StoppedClock

NOW = 5000.0
ROOT = Path(__file__).parents[2]
USED: LimitState = (NOW + 1, NOW + 2, NOW + 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the limits will be."""
    return tmp_path / "state" / "limits.db"


@pytest.fixture
def stores(path: Path) -> Iterator[list[RateLimitStore]]:
    """Those of two processes."""
    two = [RateLimitStore(path, StoppedClock(NOW)) for _ in range(2)]
    yield two
    for store in two:
        store.close()


def swap(store: RateLimitStore, state: LimitState, name: str = "fast") -> LimitState:
    """Put the state there; what was there."""
    found: list[LimitState] = []

    class Swap(Draw, frozen=True):
        def apply(self, before: LimitState, _: float) -> tuple[LimitState, float]:
            found.append(before)
            return state, 7.0

    assert asyncio.run(store.draw(Swap(name))) == 7.0
    return found[-1]


def test_processes_share_what_is_used(stores: list[RateLimitStore]) -> None:
    """By name; what nobody used is unused."""
    one, other = stores
    assert swap(one, USED) == INITIAL_LIMITS
    assert swap(other, USED) == USED
    assert swap(other, USED, "slow") == INITIAL_LIMITS


def test_moments_of_another_boot_mean_nothing(
    stores: list[RateLimitStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock they go by starts anew with the machine; nobody waits for it to catch up."""
    one, other = stores
    swap(one, USED)
    monkeypatch.setattr(rate_limits, "boot_id", lambda: "another")
    assert swap(other, INITIAL_LIMITS) == INITIAL_LIMITS


def test_no_moment_is_further_away_than_ten_minutes(stores: list[RateLimitStore]) -> None:
    """More is damage, and would stop everybody."""
    one, other = stores
    swap(one, (1e12, NOW, NOW))
    assert swap(other, USED) == (NOW + 600, NOW, NOW)


def test_a_damaged_file_is_replaced(path: Path) -> None:
    """What is in it matters for a minute."""
    path.parent.mkdir()
    path.write_bytes(b"rubbish" * 1000)
    with closing(RateLimitStore(path, StoppedClock(NOW))) as store:
        assert swap(store, USED) == INITIAL_LIMITS
        assert swap(store, USED) == USED
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM lanes").fetchone() == (1,)


def test_after_damage_all_share_the_same_file_again(
    stores: list[RateLimitStore], path: Path
) -> None:
    """A file that another process has open is not taken from it: until that one has seen the
    damage, too, each goes by limits of its own, and then by the same ones again."""
    one, other = stores
    swap(one, USED)
    swap(other, USED)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE lanes")
    inode = path.stat().st_ino
    assert swap(one, USED) == INITIAL_LIMITS
    assert swap(one, (NOW, NOW, NOW)) == USED, "its own"
    assert path.stat().st_ino == inode
    assert swap(other, USED) == INITIAL_LIMITS
    assert swap(one, (NOW, NOW, NOW)) == USED
    assert swap(other, USED) == (NOW, NOW, NOW)


def test_a_day_is_counted_by_all(
    stores: list[RateLimitStore], monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """A71: together to the last request, by name, anew each day; a restart of the machine does not
    give it back, nor does a file that cannot be replaced let more through."""
    one, other = stores

    def count(store: RateLimitStore, units: int, name: str = "fast", day: int = 7) -> int | None:
        full = asyncio.run(store.spend([Quota(name, day, units, 3)]))
        return asyncio.run(store.used(name, day)) if full is None else None

    assert [count(one, 1), count(other, 1), count(one, 2), count(other, 1)] == [1, 2, None, 3]
    monkeypatch.setattr(rate_limits, "boot_id", lambda: "another")
    assert [count(one, 1), count(one, 1, "slow"), count(one, 1, day=8)] == [None, 1, 1]
    assert [count(other, -1, day=8), count(other, 0, day=8)] == [0, 0]
    other.close()
    path.write_bytes(b"rubbish" * 1000)  # `one` has it open
    assert [count(other, 1, day=8) for _ in range(4)] == [1, 2, 3, None]


@pytest.fixture(params=["file", "memory"])
def quotas(request: pytest.FixtureRequest, path: Path) -> Iterator[SharedLimits]:
    """What is shared on disk, and in one process."""
    if request.param == "memory":
        yield LocalLimits(StoppedClock(NOW))
        return
    with closing(RateLimitStore(path, StoppedClock(NOW))) as store:
        yield store


def used(limits: SharedLimits, *windows: tuple[str, int]) -> list[int]:
    """What was spent of each."""
    return [asyncio.run(limits.used(*window)) for window in windows]


def test_quotas_are_spent_together_or_not_at_all(quotas: SharedLimits) -> None:
    """The first that has no room is named, and nothing is taken from the others; a name that is
    there twice is spent twice."""
    few, many = Quota("requests", 5, 1, 2), Quota("tokens", 5, 60, 100)
    assert asyncio.run(quotas.spend([few, many])) is None
    assert asyncio.run(quotas.spend([few, many])) == many
    assert used(quotas, ("requests", 5), ("tokens", 5)) == [1, 60]
    assert asyncio.run(quotas.spend([few, few])) == few
    assert used(quotas, ("requests", 5)) == [1]


def test_what_is_given_back_never_fails(quotas: SharedLimits) -> None:
    """Not below nothing, not beside a quota that was lowered; of a window that is over nothing
    comes back to the next one."""
    assert asyncio.run(quotas.spend([Quota("tokens", 5, 80, 100)])) is None
    assert asyncio.run(quotas.spend([Quota("tokens", 5, -10, 20)])) is None
    assert used(quotas, ("tokens", 5)) == [70]
    assert asyncio.run(quotas.spend([Quota("tokens", 6, 9, 100)])) is None
    for window in (5, 2):
        assert asyncio.run(quotas.spend([Quota("tokens", window, -70, 100)])) is None
    assert used(quotas, ("tokens", 5), ("tokens", 6)) == [0, 9]
    assert asyncio.run(quotas.spend([Quota("tokens", 6, -90, 100)])) is None
    assert used(quotas, ("tokens", 6)) == [0]


def test_a_process_that_is_late_does_not_begin_a_window_anew(quotas: SharedLimits) -> None:
    """What it spends of the window before counts in the one that another has begun. A clock that
    was set back further begins one."""
    assert asyncio.run(quotas.spend([Quota("r", 6, 2, 3)])) is None
    late = Quota("r", 5, 1, 3)
    assert [asyncio.run(quotas.spend([late])) for _ in range(2)] == [None, late]
    assert used(quotas, ("r", 6)) == [3]
    assert asyncio.run(quotas.spend([Quota("r", 4, 1, 3)])) is None
    assert used(quotas, ("r", 4)) == [1]


def test_processes_spend_exactly_what_there_is(path: Path) -> None:
    """Of many tasks in two processes as many get through as fit."""
    command = [sys.executable, "-m", "tests.storage.quota_worker", str(path), "150", "777"]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    through = [int(process.communicate(timeout=120)[0]) for process in both]
    assert sum(through) == 777 // 7
    with closing(RateLimitStore(path, StoppedClock(NOW))) as store:
        assert used(store, ("requests", 1), ("tokens", 1)) == [777 // 7, 777]
