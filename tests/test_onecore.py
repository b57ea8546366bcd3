"""When a run belongs on one processor, and getting it there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import pytest

from llmctl.onecore import LOOK, Policy, one_core
from tests.support import FakeClock


def looks(policy: Policy, used: Iterable[float], start: float = 0.0) -> list[bool]:
    """What it says to these, one second after the other."""
    return [policy.look(one, start + second) for second, one in enumerate(used)]


@pytest.mark.parametrize(
    ("used", "together"), [(0.3, False), (0.99, False), (1.0, True), (1.2, True), (1.5, False)]
)
def test_only_what_the_lock_holds_back_belongs_together(used: float, *, together: bool) -> None:
    """A run with little to do does not, nor one that does much without the lock."""
    assert looks(Policy(), [used] * 3) == [together] * 3


def test_a_crowded_processor_is_left_for_ever_longer() -> None:
    """Two seconds, four, eight, up to a minute: who meets others on it again and again is there
    a fraction of the time."""
    policy, now = Policy(), 0.0
    pauses: list[float] = []
    for _ in range(8):
        assert policy.look(1.0, now)
        assert not policy.look(0.5, now)
        left = now
        while not policy.look(1.0, now):
            now += 1
        pauses.append(now - left)
        policy.look(0.5, now)
        now += 60
    assert pauses[:2] == [2, 8]
    assert max(pauses) == 60


def test_now_and_then_it_is_seen_what_all_processors_would_bring() -> None:
    """Ten seconds, then a look without; so a run that has changed is not held back for long."""
    policy = Policy()
    assert looks(policy, [1.0] * 13) == [True] * 10 + [False] + [True] * 2
    assert looks(policy, [1.0] * 9 + [1.8] * 3, 13) == [True] * 8 + [False] * 4


class Machine:
    """Processors of which the run uses so much a second, and what is done with them."""

    def __init__(self, clock: FakeClock, used: float) -> None:
        self._clock, self._per_second = clock, used
        self.done: list[str] = []

    def used(self) -> float:
        """It has used it all the time."""
        return self._clock.now * self._per_second

    def gather(self) -> None:
        """Note it."""
        self.done.append("gather")

    def spread(self) -> None:
        """Note it."""
        self.done.append("spread")


@pytest.mark.parametrize(
    ("used", "done"), [(0.2, ["spread"]), (1.1, ["gather", "spread"]), (3.0, ["spread"])]
)
def test_a_busy_run_is_gathered_and_in_the_end_spread(used: float, done: list[str]) -> None:
    """Once, at the first look, and not while it goes on as it is."""
    clock = FakeClock()
    machine = Machine(clock, used)

    async def run() -> None:
        async with one_core(clock, machine):
            await clock.sleep(20 * LOOK)

    clock.run(run())
    assert machine.done == done


_REAL = """
import os, threading
from llmctl.onecore import LinuxProcessors
def of_threads():
    return [os.sched_getaffinity(int(tid)) for tid in os.listdir("/proc/self/task")]
def thread():
    threading.Thread(target=end.wait, daemon=True).start()
end, machine, whole = threading.Event(), LinuxProcessors(), os.sched_getaffinity(0)
thread()
before = machine.used()
machine.gather()
thread()
one = of_threads()
assert len(one) == 3, one
assert len(one[0]) == 1 and one[0] < whole and one == one[:1] * 3, one
machine.spread()
thread()
assert of_threads() == [whole] * 4
machine.spread()
assert machine.used() >= before
end.set()
"""


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)
def test_all_threads_go_to_one_processor_and_back() -> None:
    """Those there are and those that come; afterwards each may use what it could before."""
    subprocess.run([sys.executable, "-c", _REAL], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_who_has_one_processor_keeps_it() -> None:
    """What the process may use is somebody else's decision."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from llmctl.onecore import LinuxProcessors\n"
        "before, machine = os.sched_getaffinity(0), LinuxProcessors()\n"
        "machine.gather(); assert os.sched_getaffinity(0) == before\n"
        "machine.spread(); assert os.sched_getaffinity(0) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
