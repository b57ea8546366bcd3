"""What goes on in living processes, as others read it in the ledger."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.protocols import IDLE, ProcessStatus
from llmctl.storage.ledger import Ledger, open_ledger, read_ledger
from llmctl.storage.ledger_queries import Activity
from tests.conformance.calls import a_hold, a_request
from tests.storage.damage import sql

BUSY = ProcessStatus(3, {"openai/fast": "open", "openai/slow": "half-open"})
ELSEWHERE = "SET world = substr(world, 1, instr(world, ' ')) || 'pid:[1]'"
"""Moves what is on record to another container of this machine."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is."""
    return tmp_path / "ledger.db"


def say(ledger: Ledger, status: ProcessStatus) -> None:
    """Give a sign of life."""
    asyncio.run(ledger.beat(status))


def seen(path: Path) -> Activity:
    """What another process reads."""
    return read_ledger(path, lambda reading: reading.activity(round(time.time() * 1000)))


def test_what_a_process_says_is_read_by_others(path: Path) -> None:
    """Calls under way by provider and profile, calls that wait, and circuits that are not closed;
    the last word counts."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        say(ledger, BUSY)
        found = seen(path)
        assert list(found.in_flight.values()) == [1]
        assert found.waiting == 3
        assert found.circuits == {("openai/fast", "open"): 1, ("openai/slow", "half-open"): 1}
        say(ledger, ProcessStatus(1, {"openai/fast": "half-open"}))
        assert seen(path).waiting == 1
        assert seen(path).circuits == {("openai/fast", "half-open"): 1}
        say(ledger, IDLE)
        assert (seen(path).waiting, seen(path).circuits) == (0, {})


def test_the_end_of_a_process_takes_its_words_back(path: Path) -> None:
    """A ledger that is closed leaves no circuit and no waiting call."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        say(ledger, BUSY)
    assert (seen(path).waiting, seen(path).circuits) == (0, {})
    assert sql(path, "SELECT * FROM breakers") == []


def test_two_ledgers_of_one_process_do_not_end_each_other(path: Path) -> None:
    """A gateway that reads its configuration again has two for a while: the end of the old one
    leaves the new one's other circuits, and its sign of life."""
    with closing(open_ledger(path, "run-2", "ann")) as new:
        with closing(open_ledger(path, "run-1", "ann")) as old:
            say(old, ProcessStatus(circuits={"openai/slow": "open"}))
            say(new, ProcessStatus(circuits={"openai/fast": "open"}))
        assert seen(path).circuits == {("openai/fast", "open"): 1}
        assert len(sql(path, "SELECT * FROM processes")) == 1


@pytest.mark.parametrize("table", ["breakers", "processes", "holds"])
def test_the_dead_count_for_nothing(path: Path, table: str) -> None:
    """What a killed process left: its circuits, its waiting calls and its calls under way."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        say(ledger, BUSY)
        sql(path, f"UPDATE {table} SET birth = 'long ago'")
        with closing(open_ledger(path, "run-2", "ann")) as other:
            found = other.report(lambda reading: reading.activity(round(time.time() * 1000)))
        gone = {
            "breakers": not found.circuits,
            "processes": not found.waiting,
            "holds": not found.in_flight,
        }
        assert gone == {name: name == table for name in gone}


@pytest.mark.parametrize(("ago", "circuits"), [(50, 2), (70, 0)])
def test_the_silent_count_for_nothing(path: Path, ago: int, circuits: int) -> None:
    """A process of another container, which nobody can see, counts for a minute after its last sign
    of life."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        say(ledger, BUSY)
        sql(path, f"UPDATE processes {ELSEWHERE}, beat_ms = (unixepoch() - {ago}) * 1000")
        sql(path, f"UPDATE breakers {ELSEWHERE}, at_ms = 0")
        found = seen(path)
        assert (len(found.circuits), found.waiting) == (circuits, 3 if circuits else 0)


def test_circuits_of_the_dead_do_not_pile_up(path: Path) -> None:
    """The next sign of life of anybody removes them once they are silent."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        say(ledger, BUSY)
        sql(path, "UPDATE breakers SET birth = 'long ago'")
        say(ledger, IDLE)
        assert sql(path, "SELECT * FROM breakers") == []


def test_a_circuit_keeps_the_time_it_changed_at(path: Path) -> None:
    """Signs of life renew it, and leave since when it is as it is."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        say(ledger, BUSY)
        sql(path, "UPDATE breakers SET at_ms = 1")
        say(ledger, ProcessStatus(0, {**BUSY.circuits, "openai/slow": "open"}))
        rows = sql(path, "SELECT lane, at_ms > 1 FROM breakers ORDER BY lane")
        assert rows == [("openai/fast", 0), ("openai/slow", 1)]


def test_rows_in_batches_need_no_process(path: Path) -> None:
    """They are the provider's by now, whoever lives."""
    with closing(open_ledger(path, "run-1", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        sql(path, "UPDATE holds SET job = 'batch-1', birth = 'long ago'")
        found = seen(path)
        assert (list(found.in_batches.values()), found.in_flight) == ([1], {})
