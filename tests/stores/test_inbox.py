"""What tasks hand to a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmctl.stores.inbox import Inbox

NUMBER = 20_000


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
