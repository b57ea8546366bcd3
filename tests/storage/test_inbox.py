"""What tasks hand to a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import cast

import pytest

from llmctl.storage.inbox import GATHER, GATHER_HOLDS, LAZY, LAZY_BUSY, Inbox, Load

NUMBER = 20_000

LIMIT = 20.0
"""Seconds after which a thread waits in vain."""

HOUR = 3600.0


class Timer:
    """A callback that waits for its time, or for `cancel`."""

    def __init__(self, timers: Timers, delay: float, callback: Callable[[], object]) -> None:
        self._timers, self.delay, self.callback = timers, delay, callback

    def cancel(self) -> None:
        """Wait no more."""
        self._timers.waiting.remove(self)


class Timers:
    """What an inbox needs of an event loop, in which time passes when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Timer] = []
        self.loop = cast("asyncio.AbstractEventLoop", self)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Note it."""
        self.waiting.append(Timer(self, delay, callback))
        return self.waiting[-1]

    def call_soon(self, callback: Callable[[], object]) -> Timer:
        """As in no time."""
        return self.call_later(0.0, callback)

    def delays(self) -> list[float]:
        """Of what waits."""
        return [timer.delay for timer in self.waiting]

    def ring(self, delay: float) -> None:
        """So much time has passed for the first that waits so long."""
        self.waiting.pop(self.delays().index(delay)).callback()


class Taker:
    """A thread that takes up to `most` at a time, till the end."""

    def __init__(self, inbox: Inbox[int], most: int = 1000) -> None:
        self._inbox, self._most = inbox, most
        self._more = threading.Condition()
        self.groups: list[list[int]] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while taken := self._inbox.take(self._most):
            with self._more:
                self.groups.append(taken)
                self._more.notify_all()

    def found(self) -> list[int]:
        """All that was taken so far."""
        return [item for group in self.groups for item in group]

    def has(self, number: int) -> bool:
        """Whether so many are taken, in the end."""
        with self._more:
            return self._more.wait_for(lambda: len(self.found()) >= number, LIMIT)

    def end(self) -> None:
        """Close the inbox and wait for the thread."""
        self._inbox.close()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def drain(inbox: Inbox[int], found: list[int]) -> None:
    """Take until there is nothing to come."""
    while taken := inbox.take(64):
        found += taken


@pytest.mark.parametrize("soon", [True, False])
def test_nothing_is_lost_and_nothing_overtakes(soon: bool) -> None:  # noqa: FBT001 - a parameter
    """Twenty thousand things, handed over while the thread takes, sleeps and wakes, come out in
    their order."""
    inbox: Inbox[int] = Inbox("test")
    found: list[int] = []
    thread = threading.Thread(target=drain, args=(inbox, found))
    thread.start()

    async def hand_over() -> None:
        loop = asyncio.get_running_loop()
        for number in range(NUMBER):
            if soon:
                inbox.add_soon(number, loop)
            else:
                inbox.add(number)
            if number % 7 == 0:
                await asyncio.sleep(0)

    asyncio.run(hand_over())
    inbox.close()
    thread.join(30)
    assert not thread.is_alive()
    assert found == list(range(NUMBER))


def test_a_closed_inbox_takes_nothing_and_gives_what_it_has() -> None:
    """What was handed over before is still there; what comes after is refused."""
    inbox: Inbox[int] = Inbox("test")
    inbox.add(1)
    inbox.close()
    with pytest.raises(RuntimeError, match="test is closed"):
        inbox.add(2)
    assert inbox.take(10) == [1]
    assert inbox.take(10) == []
    assert inbox.take(10) == []


def test_tasks_of_one_turn_wake_the_thread_once() -> None:
    """A hundred tasks that hand over in one turn are taken together."""
    inbox: Inbox[int] = Inbox("test")
    groups: list[list[int]] = []

    def take() -> None:
        while taken := inbox.take(1000):
            groups.append(taken)

    async def hand_over() -> None:
        loop = asyncio.get_running_loop()
        for number in range(100):
            inbox.add_soon(number, loop)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    thread = threading.Thread(target=take)
    thread.start()
    asyncio.run(hand_over())
    inbox.close()
    thread.join(30)
    assert [len(group) for group in groups] == [100]


def test_what_comes_within_the_time_of_gathering_is_taken_together() -> None:
    """The thread is woken once, for the first and all that have come since; then anew."""
    inbox, timers = Inbox[int]("test", GATHER), Timers()
    taker = Taker(inbox)
    for number in range(100):
        inbox.add_soon(number, timers.loop)
    assert timers.delays() == [GATHER]
    assert taker.groups == []
    timers.ring(GATHER)
    assert taker.has(100)
    inbox.add_soon(100, timers.loop)
    assert timers.delays() == [GATHER]
    timers.ring(GATHER)
    assert taker.has(101)
    taker.end()
    assert taker.groups == [list(range(100)), [100]]


def test_while_there_is_time_to_spare_nobody_is_gathered_for() -> None:
    """The thread is woken in the next turn, unless the process has used nine tenths of a
    processor of late; that is looked at ten times a second."""
    moments = {"now": 5.0, "used": 2.0}
    load = Load(lambda: moments["now"], lambda: moments["used"])
    inbox, timers = Inbox[int]("test", GATHER, load), Timers()
    taker = Taker(inbox)
    for number, (passed, used, delay) in enumerate(
        (
            (0.0, 0.0, 0.0),
            (0.0625, 0.0625, 0.0),  # too soon to look
            (0.0625, 0.0625, GATHER),
            (0.0625, 0.0, GATHER),
            (0.0625, 0.09, 0.0),
            (1.0, 0.91, GATHER),
            (1.0, 0.89, 0.0),
        )
    ):
        moments["now"] += passed
        moments["used"] += used
        inbox.add_soon(number, timers.loop)
        assert timers.delays() == [delay], number
        timers.ring(delay)
        assert taker.has(number + 1)
    taker.end()


@pytest.mark.parametrize(
    ("lazily", "quiet", "busy"), [(False, GATHER, GATHER_HOLDS), (True, LAZY, LAZY_BUSY)]
)
def test_who_comes_alone_waits_for_nobody(*, lazily: bool, quiet: float, busy: float) -> None:
    """The longer times are for a run in which four or more came together the last time."""
    inbox, timers = Inbox[int]("test", GATHER_HOLDS), Timers()
    taker = Taker(inbox)
    number = 0
    for together, delay in ((1, quiet), (3, quiet), (4, quiet), (50, busy), (1, busy), (1, quiet)):
        for _ in range(together):
            number += 1
            (inbox.add_lazily if lazily else inbox.add_soon)(number, timers.loop)
        assert timers.delays() == [delay]
        timers.ring(delay)
        assert taker.has(number)
    taker.end()


def test_what_may_wait_is_taken_after_a_while() -> None:
    """Once for all that have come until then, and anew for what comes later."""
    inbox, timers = Inbox[int]("test", GATHER), Timers()
    taker = Taker(inbox)
    for first in (0, 3):
        for number in range(first, first + 3):
            inbox.add_lazily(number, timers.loop)
        assert timers.delays() == [LAZY]
        timers.ring(LAZY)
        assert taker.has(first + 3)
    taker.end()
    assert taker.groups == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("gather", [0.0, GATHER])
def test_what_may_wait_goes_with_what_comes_soon(gather: float) -> None:
    """Whichever of them comes first; what comes afterwards may wait as long as it did."""
    inbox, timers = Inbox[int]("test", gather), Timers()
    taker = Taker(inbox)
    inbox.add_lazily(0, timers.loop)
    inbox.add_soon(1, timers.loop)
    inbox.add_lazily(2, timers.loop)
    assert timers.delays() == [LAZY, gather]
    timers.ring(gather)
    assert taker.has(3)
    assert not timers.delays(), "nothing lies"
    inbox.add_soon(3, timers.loop)
    inbox.add_lazily(4, timers.loop)
    assert timers.delays() == [gather]
    timers.ring(gather)
    assert taker.has(5)
    inbox.add_lazily(5, timers.loop)
    assert timers.delays() == [LAZY]
    timers.ring(LAZY)
    assert taker.has(6)
    taker.end()
    assert taker.groups == [[0, 1, 2], [3, 4], [5]]


def test_who_is_in_a_hurry_waits_for_no_timer() -> None:
    """What lies is taken at once; the timer that was set for it finds nothing to do, or what has
    come since."""
    inbox, timers = Inbox[int]("test", GATHER), Timers()
    taker = Taker(inbox)
    inbox.hurry()
    inbox.add_lazily(0, timers.loop)
    inbox.add_soon(1, timers.loop)
    inbox.hurry()
    assert taker.has(2)
    inbox.add_lazily(2, timers.loop)
    assert timers.delays() == [LAZY, GATHER]
    timers.ring(GATHER)
    assert taker.has(3)
    inbox.hurry()
    taker.end()
    assert taker.groups == [[0, 1], [2]]


@pytest.mark.parametrize("gather", [0.0, GATHER])
@pytest.mark.parametrize("lazily", [True, False])
def test_a_loop_that_has_ended_rings_no_bell(gather: float, lazily: bool) -> None:  # noqa: FBT001
    """What was handed over in its last turn is taken with what the next loop hands over, and
    that does not wait for a bell that never comes."""
    inbox = Inbox[int]("test", gather)
    taker = Taker(inbox)
    add = inbox.add_lazily if lazily else inbox.add_soon

    async def last_turn() -> None:
        add(0, asyncio.get_running_loop())

    async def next_loop() -> bool:
        add(1, asyncio.get_running_loop())
        return await asyncio.to_thread(taker.has, 2)

    asyncio.run(last_turn())
    assert asyncio.run(next_loop())
    taker.end()
    assert taker.found() == [0, 1]


def test_a_thread_that_hands_over_wakes_at_once() -> None:
    """Without waiting for what the tasks gather, which is taken along."""
    inbox, timers = Inbox[int]("test", HOUR), Timers()
    taker = Taker(inbox)
    inbox.add_soon(0, timers.loop)
    inbox.add_lazily(1, timers.loop)
    handing = threading.Thread(target=inbox.add, args=(2,))
    handing.start()
    handing.join(LIMIT)
    assert taker.has(3)
    taker.end()
    assert taker.groups == [[0, 1, 2]]


@pytest.mark.parametrize("gather", [0.0, GATHER])
def test_in_any_mixture_nothing_is_lost(gather: float) -> None:
    """Twenty thousand things, handed over now, soon and some time, of which the last is taken
    before the inbox is closed, are all there, in their order."""
    inbox = Inbox[int]("test", gather)
    taker = Taker(inbox, 64)

    async def hand_over() -> bool:
        loop = asyncio.get_running_loop()
        for number in range(NUMBER):
            if number % 11 == 5:
                inbox.add(number)
            elif number % 3:
                inbox.add_soon(number, loop)
            else:
                inbox.add_lazily(number, loop)
            if number % 7 == 0:
                await asyncio.sleep(GATHER if number % 700 == 0 else 0)
        inbox.add_lazily(NUMBER, loop)
        return await asyncio.to_thread(taker.has, NUMBER + 1)

    assert asyncio.run(hand_over())
    taker.end()
    assert taker.found() == list(range(NUMBER + 1))


@pytest.mark.parametrize("number", [90, 100])
def test_what_is_left_is_taken_without_a_bell(number: int) -> None:
    """One ring for more than is taken at a time; then the thread waits for the next."""
    inbox, timers = Inbox[int]("test", GATHER), Timers()
    for item in range(number):
        inbox.add_soon(item, timers.loop)
    timers.ring(GATHER)
    taker = Taker(inbox, 30)
    assert taker.has(number)
    inbox.add(number)
    assert taker.has(number + 1)
    taker.end()
    assert [len(group) for group in taker.groups][:3] == [30, 30, 30]
    assert taker.found() == list(range(number + 1))
