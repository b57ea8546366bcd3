"""The queue: one lease a call, the least tried first, and no byte more than is allowed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.errors import NoKeyError
from llmctl.storage.call_queue import (
    LEASE,
    CallQueue,
    CallQueuePeek,
    ClaimedCall,
    Origin,
    open_queue,
)
from llmctl.storage.cipher import StoreCipher
from tests.storage.test_history import OFF, ON, PLAIN, STRANGER
from tests.support import FakeClock, request

ROWS = Origin(output="/data/out.jsonl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the queue will be."""
    return tmp_path / "state" / "queue.db"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that only tests move."""
    return FakeClock()


@pytest.fixture
def queue(path: Path, clock: FakeClock) -> Iterator[CallQueue]:
    """An empty queue."""
    opened = open_queue(path, PLAIN, clock)
    yield opened
    opened.close()


def put(queue: CallQueue, call_id: str, text: str = "canary", origin: Origin = Origin()) -> None:  # noqa: B008
    """Queue a call."""
    asyncio.run(queue.put(request(text, id=call_id, call_id=call_id), origin, "server"))


def claim(queue: CallQueue, name: str = "1") -> ClaimedCall | None:
    """Claim the next call of the profile `test` in a pass."""
    return asyncio.run(queue.claim("test", name))


def claimed(queue: CallQueue, name: str) -> list[str]:
    """The ids of all calls that a pass can claim, given back after each."""
    found = []
    while (one := claim(queue, name)) is not None:
        found.append(one.call.id)
        asyncio.run(queue.give_back(one.call.id))
    return found


def owned_by(path: Path, **owner: object) -> None:
    """Let the leases be another process's."""
    with closing(sqlite3.connect(path)) as db:
        names = ", ".join(f"{name} = ?" for name in owner)
        db.execute(f"UPDATE calls SET {names} WHERE pid IS NOT NULL", tuple(owner.values()))
        db.commit()


def test_those_tried_least_come_first_and_each_once_a_pass(queue: CallQueue) -> None:
    """As they were queued, however their ids of one millisecond sort; a call that failed goes
    behind the others, and a row that is queued again keeps its place."""
    for name in ("c3", "c1", "c2"):
        put(queue, name, origin=ROWS)
    assert asyncio.run(queue.claim("another", "1")) is None
    assert claimed(queue, "1") == ["c3", "c1", "c2"]
    assert claimed(queue, "1") == []
    asyncio.run(queue.give_back("c3", "overloaded"))
    assert claimed(queue, "2") == ["c1", "c2", "c3"]
    assert [(call.attempts, call.error) for call in queue.calls()][-1] == (1, "overloaded")
    for row in ("c2", "c1"):
        asyncio.run(queue.put(request(id=row, call_id=f"again {row}"), ROWS, "server"))
    assert claimed(queue, "3") == ["c3", "again c1", "again c2"]


def test_what_is_asked_comes_back_whole(queue: CallQueue) -> None:
    """With its parameters, tags and fingerprint; an answer that was kept comes with it."""
    asked = request("why?", options={"top_p": 0.5}, tags={"a": "b"}, kept={"n": [1]}, call_id="c1")
    asyncio.run(queue.put(asked, ROWS, "server"))
    found = claim(queue)
    assert found is not None
    assert (found.request, found.answer, found.call.origin) == (asked, None, ROWS)
    asyncio.run(queue.answer("c1", b'{"text": "so"}\n'))
    assert queue.answers(ROWS.output) == [("c1", "a", b'{"text": "so"}\n')]
    asyncio.run(queue.give_back("c1"))
    again = claim(queue, "2")
    assert again is not None
    assert again.answer == b'{"text": "so"}\n'


def test_a_call_in_hand_is_nobody_elses(queue: CallQueue, path: Path) -> None:
    """While the process lives, however long ago it claimed it; once it has ended, the next one
    has it."""
    put(queue, "c1")
    assert claim(queue) is not None
    other = open_queue(path, PLAIN, FakeClock(wall=1_900_000_000.0))
    asyncio.run(other.free_dead())
    assert claim(other, "2") is None
    with CallQueuePeek(path) as peek:
        assert [call.in_hand for call in peek.calls()] == [True]
    owned_by(path, birth="1")  # the same number, another process
    with CallQueuePeek(path) as peek:
        assert [call.in_hand for call in peek.calls()] == [False]
    asyncio.run(other.free_dead())
    assert claim(other, "2") is not None
    other.close()


def test_a_lease_out_of_sight_ends_unless_it_is_renewed(
    queue: CallQueue, path: Path, clock: FakeClock
) -> None:
    """A process in another container has it as long as it renews it."""
    put(queue, "c1")
    assert claim(queue) is not None
    clock.now += LEASE - 1
    asyncio.run(queue.renew())
    owned_by(path, world="another-boot pid:[1]")
    clock.now += LEASE - 1
    asyncio.run(queue.free_dead())
    assert claim(queue, "2") is None
    clock.now += 2
    asyncio.run(queue.free_dead())
    assert claim(queue, "2") is not None


def test_a_row_is_there_once(queue: CallQueue, clock: FakeClock) -> None:
    """Queued again it is as old as before, and was tried once more; `ask` has no rows."""
    asked = request(id="r1", call_id="c1")
    asyncio.run(queue.put(asked, ROWS, "server"))
    clock.now += 60
    asyncio.run(queue.put(request("other", id="r1", call_id="c2"), ROWS, "timeout"))
    (call,) = queue.calls()
    assert (call.id, call.row, call.attempts, call.at) == ("c2", "r1", 1, clock.wall() - 60)
    put(queue, "c3")
    put(queue, "c4")
    assert len(queue.calls()) == 3
    asyncio.run(queue.remove_row(ROWS.output, "r1"))
    assert queue.rows(ROWS.output) == set()


@pytest.mark.parametrize("store", [PLAIN, ON])
def test_what_is_removed_leaves_no_byte(path: Path, store: StoreCipher) -> None:
    """Neither in the file nor in its WAL; encrypted, no word was ever there."""
    queue = open_queue(path, store, FakeClock())
    for number in range(50):
        put(queue, f"c{number}", f"canary {number}")
    asyncio.run(queue.answer("c0", b"canary answer"))
    files = [path, path.with_name("queue.db-wal")]
    held = [file.name for file in files if file.exists() and b"canary" in file.read_bytes()]
    assert bool(held) == (store is PLAIN)
    assert asyncio.run(queue.remove([f"c{number}" for number in range(50)])) == 50
    assert queue.tidy()
    assert not [file for file in files if file.exists() and b"canary" in file.read_bytes()]
    queue.close()


def test_encryption_turned_on_later_and_another_key(path: Path) -> None:
    """What is in clear is encrypted when it is opened next; off again it can still be read; with
    another key the call stays, and the error says what to do."""
    first = open_queue(path, PLAIN, FakeClock())
    put(first, "c1")
    asyncio.run(first.answer("c1", b"canary answer"))
    first.close()
    open_queue(path, ON, FakeClock()).close()
    assert b"canary" not in path.read_bytes()
    stranger = open_queue(path, STRANGER, FakeClock())
    with pytest.raises(NoKeyError, match="llmctl queue remove c1"):
        claim(stranger)
    stranger.close()
    off = open_queue(path, OFF, FakeClock())
    found = claim(off, "2")
    assert found is not None
    assert (found.request.messages[0].text, found.answer) == ("canary", b"canary answer")
    off.close()
