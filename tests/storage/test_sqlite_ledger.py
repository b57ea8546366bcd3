"""The ledger on disk: the contract, crashes, damage, and many processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from llmctl.errors import LlmctlError
from llmctl.storage.database import Database
from llmctl.storage.ledger import SqliteLedger, open_ledger
from llmctl.storage.ledger_tables import MIGRATIONS
from llmctl.storage.migrations import Migration
from llmctl.storage.rows import CallRow, HeldCall
from llmctl.storage.sqlite import DamagedError, NewerError
from llmctl.storage.sums import ANSWERED
from tests.conformance.calls import a_hold, a_request, an_outcome
from tests.conformance.ledger_budgets import LedgerBudgetsContract
from tests.conformance.ledger_store import LedgerStoreContract
from tests.storage.damage import damaged_versions
from tests.support import done

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger will be."""
    return tmp_path / "state" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[SqliteLedger]:
    """An empty ledger."""
    opened = open_ledger(path, "run-1", "ann")
    yield opened
    opened.close()


class TestSqliteLedger(LedgerStoreContract, LedgerBudgetsContract):
    """The contract, on disk."""

    @pytest.fixture
    def store(self, ledger: SqliteLedger) -> SqliteLedger:
        """An empty one."""
        return ledger


def worker(what: str, path: Path, number: int) -> subprocess.Popen[str]:
    """A process that uses the ledger."""
    command = [sys.executable, "-m", "tests.storage.worker", what, str(path), str(number)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    """What the statement gives, without llmctl."""
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        return connection.execute(statement).fetchall()


@pytest.mark.usefixtures("ledger")
def test_the_tables_hold_the_fields_of_the_rows(path: Path) -> None:
    """Every field has a column, in the order of the fields."""
    for table, row in (("calls", CallRow), ("holds", HeldCall)):
        columns = [name for (name,) in sql(path, f"SELECT name FROM pragma_table_info('{table}')")]
        names = [*row.__struct_fields__]
        assert [name for name in columns if name in names] == names


def test_a_hold_is_on_disk_when_it_returns(ledger: SqliteLedger, path: Path) -> None:
    """Another process sees it at once; no prompt and no answer is in any byte of the files."""
    request = a_request()
    asyncio.run(ledger.hold(a_hold(request)))
    assert sql(path, "SELECT call_id, pid FROM holds") == [(request.call_id, os.getpid())]
    done(ledger.settle, an_outcome(request))
    assert sql(path, "SELECT call_id FROM calls") == [(request.call_id,)]
    assert b"canary" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_calls_whose_process_was_killed_become_unknown(path: Path) -> None:
    """After `kill -9` the next opening counts every open hold in full; what was settled stays."""
    child = worker("hang", path, 30)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "held\n"
        watching = open_ledger(path, "run-2", "ann")
        assert len(watching.open_holds()) == 30  # its process lives
        watching.close()
        child.kill()
    assert child.returncode == -signal.SIGKILL
    ledger = open_ledger(path, "run-3", "ann")
    rows = list(ledger.calls())
    assert ledger.open_holds() == []
    ledger.close()
    assert sorted(row.status for row in rows) == ["ok"] + ["unknown"] * 30
    lost = [row for row in rows if row.status == "unknown"]
    assert {row.cost for row in lost} == {Decimal("0.0123")}
    assert {(row.input_tokens, row.output_tokens, row.run_id) for row in lost} == {
        (1000, 500, "run-hang")
    }
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_dead_process_is_known_although_its_number_lives(path: Path) -> None:
    """A hold of this very process number, but of an earlier process, is buried."""
    ledger = open_ledger(path, "run-1", "ann")
    asyncio.run(ledger.hold(a_hold(a_request())))
    ledger.close()
    sql(path, "UPDATE holds SET birth = 'long ago'")
    ledger = open_ledger(path, "run-2", "ann")
    assert [row.status for row in ledger.calls()] == ["unknown"]
    ledger.close()


def test_holds_of_another_container_are_left_alone_for_a_day(path: Path) -> None:
    """Where a process cannot be seen, only time tells that its calls have ended."""
    ledger = open_ledger(path, "run-1", "ann")
    asyncio.run(ledger.hold(a_hold(a_request())))
    ledger.close()
    sql(path, "UPDATE holds SET world = substr(world, 1, instr(world, ' ')) || 'pid:[1]'")
    for ago, left in ((23, 1), (25, 0)):
        moment = f"(unixepoch() - {ago} * 3600) * 1000"
        sql(path, f"UPDATE holds SET at_ms = {moment}")
        ledger = open_ledger(path, "run-2", "ann")
        assert len(ledger.open_holds()) == left
        ledger.close()


def test_a_call_buried_too_early_settles_all_the_same(path: Path) -> None:
    """When the process was not dead after all, what it knows takes the place of `unknown`."""
    request = a_request()
    alive = open_ledger(path, "run-1", "ann")
    asyncio.run(alive.hold(a_hold(request)))
    sql(path, "UPDATE holds SET birth = 'long ago'")
    other = open_ledger(path, "run-2", "ann")
    assert [row.status for row in other.calls()] == ["unknown"]
    done(alive.settle, an_outcome(request))
    assert [row.status for row in other.calls()] == ["ok"]
    other.close()
    alive.close()


def test_the_ledger_only_grows(ledger: SqliteLedger, path: Path) -> None:
    """The file itself refuses to change or delete the row of a call."""
    done(ledger.settle, an_outcome(a_request()))
    for statement in ("DELETE FROM calls", "UPDATE calls SET cost_pico = 0"):
        with pytest.raises(sqlite3.IntegrityError):
            sql(path, statement)


def test_four_processes_lose_nothing_and_wait_little(path: Path) -> None:
    """4 x 1,000 calls held and settled at once: all rows, no holds, a sound file, fair waits."""
    children = [worker("call", path, 1000) for _ in range(4)]
    longest = 0.0
    for child in children:
        longest = max(longest, float(child.communicate(timeout=120)[0]))
        assert child.returncode == 0
    print(f"4 processes x 1,000 hold/settle: longest wait {longest:.3f} s")
    assert sql(path, "SELECT count(*), count(DISTINCT call_id) FROM calls") == [(4000, 4000)]
    assert sql(path, "SELECT count(*) FROM holds") == [(0,)]
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    # 0.1 s are usual; SQLite's own way of waiting takes seconds.
    assert longest < 1.0


def test_a_damaged_ledger_refuses_or_works(path: Path) -> None:
    """Whatever byte is broken: a call is either on record or refused before it is paid for, with
    the file's name and the way out, and after that way a new ledger opens."""
    ledger = open_ledger(path, "run-1", "ann")
    for _ in range(150):
        done(ledger.settle, an_outcome(a_request()))
    ledger.close()
    refused = 0
    for n, (what, broken) in enumerate(damaged_versions(path.read_bytes(), 80)):
        victim = path.with_name(f"{n}.sqlite3")
        victim.write_bytes(broken)
        request = a_request()
        try:
            ledger = open_ledger(victim, "run-2", "ann")
        except LlmctlError as error:
            refused += 1
            says_how = re.search(rf"{n}\.sqlite3 (is damaged|was written).*move ", str(error))
            assert says_how, what
            victim.rename(path.with_name(f"{n}.aside"))
            ledger = open_ledger(victim, "run-2", "ann")
        asyncio.run(ledger.hold(a_hold(request)))
        done(ledger.settle, an_outcome(request))
        ledger.close()
        found = sql(victim, f"SELECT status FROM calls WHERE call_id = '{request.call_id}'")
        assert found == [("ok",)], what
    assert refused > 20


def test_a_ledger_that_breaks_in_the_middle_refuses_the_next_call(path: Path) -> None:
    """The hold fails, so nothing is sent."""
    ledger = open_ledger(path, "run-1", "ann")
    sql(path, "DROP TABLE holds")
    with pytest.raises(DamagedError, match=r"ledger\.sqlite3 is damaged .*move it"):
        asyncio.run(ledger.hold(a_hold(a_request())))
    ledger.close()


def test_a_newer_ledger_is_refused(path: Path) -> None:
    """Spending is not recorded in a form that the newer program may misread."""
    newer = (*MIGRATIONS, Migration("ledger-002-more", ("CREATE TABLE more (x)",)))
    Database(path, newer).close()
    with pytest.raises(NewerError, match="ledger-002-more"):
        open_ledger(path, "run-1", "ann")


@pytest.mark.usefixtures("ledger")
def test_reports_read_the_index_alone(path: Path) -> None:
    """Neither sums of single calls nor latencies touch the table."""
    plan = sql(
        path,
        "EXPLAIN QUERY PLAN SELECT model, count(*), sum(input_tokens), sum(cost_pico), "
        "sum(saved_pico) FROM calls WHERE started_ms >= 1 GROUP BY model",
    )
    assert "COVERING INDEX calls_started" in str(plan)
    plan = sql(
        path,
        "EXPLAIN QUERY PLAN SELECT group_concat(latency_ms), tags FROM calls "
        "INDEXED BY calls_latency WHERE profile = 'p' AND provider = 'o' AND model = 'm' "
        f"AND user = 'u' AND started_ms >= 1 AND started_ms < 2 AND {ANSWERED} GROUP BY tags",
    )
    assert "COVERING INDEX calls_latency" in str(plan)
