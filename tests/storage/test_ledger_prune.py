"""Old calls go, and reports say what they said before."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl.config.settings import Budget
from llmctl.reports.periods import Span, zone_named
from llmctl.reports.report import Figures, Query, Report, budget_window, make, percentiles
from llmctl.storage import ledger_prune
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_prune import OldCalls, old_calls, prune
from llmctl.storage.ledger_queries import DAY, HOUR, KIND, SUMS, Reading
from llmctl.storage.ledger_rows import rounded
from llmctl.storage.ledger_schema import count_times
from tests.conformance.calls import a_hold, a_request
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost

ROOT = Path(__file__).parents[2]
NOW = 1_795_000_000_000
TODAY = NOW // DAY * DAY
BEFORE = TODAY - 2 * DAY


def pruned(path: Path, before: int = BEFORE) -> int:
    """How many calls went."""
    with closing(open_ledger(path, "", "")) as ledger:
        return prune(ledger.database, before)


def asked(path: Path, work: Any, exact: int = 100_000) -> Any:
    """What `work` makes of the ledger, that reads times of so many single calls at most."""
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.database.read(lambda connection: work(Reading(connection, exact)))


def counted(path: Path) -> list[Any]:
    """The times of hours that are in the ledger."""
    return rows(path, "SELECT * FROM times WHERE number != 0")


def recounted(path: Path) -> list[Any]:
    """What they are by the calls that are there."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM times")
        count_times(connection)
        return connection.execute("SELECT * FROM times").fetchall()


def rows(path: Path, statement: str) -> list[Any]:
    """The rows of a statement."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def near(old: Figures, new: Figures) -> bool:
    """Whether the percentiles are the same, within 5%."""
    for name in ("latencies", "first_tokens"):
        shares = (1, 50, 95, 99)
        found = [percentiles(getattr(each, name), shares) for each in (old, new)]
        for before, after in zip(*found, strict=True):
            if before is None or after is None:
                if before != after:
                    return False
            elif abs(after - before) > before * 0.05:
                return False
    return True


def sums(figures: Figures) -> dict[str, int]:
    """All but times."""
    return {name: getattr(figures, name) for name in SUMS}


def same(old: Report, new: Report) -> None:
    """Assert that two reports say the same, percentiles within 5%."""
    for name in ("query", "month", "budgets", "unpriced", "unknown"):
        assert getattr(old, name) == getattr(new, name), name
    assert list(old.error_types.items()) == list(new.error_types.items())
    assert list(old.masked.items()) == list(new.masked.items())
    assert [(day, sums(each)) for day, each in old.days] == [
        (day, sums(each)) for day, each in new.days
    ]
    assert [group.key for group in old.groups] == [group.key for group in new.groups]
    pairs = zip(old.groups, new.groups, strict=True)
    for one, other in [(old.total, new.total), *((a.figures, b.figures) for a, b in pairs)]:
        assert sums(one) == sums(other)
        assert near(one, other), (one, other)


_times = st.integers(0, 200_000)
calls = st.builds(
    lambda make, at, model, tags, pico, times, masked, error: make(
        started_ms=at, model=model, tags=tags, cost_pico=pico, first_token_ms=times[0],
        masked=masked, error_type=error,
        **({"latency_ms": times[1]} if make is a_call else {}),
    ),
    st.sampled_from([a_call, a_call, a_hit, a_failure, lost]),
    st.integers(TODAY - 6 * DAY, NOW),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["{}", '{"team":"x"}', "no JSON"]),
    st.none() | st.integers(0, 10**15),
    st.tuples(st.none() | _times, _times),
    st.sampled_from(["", '{"email":2,"iban":1}']),
    st.sampled_from([None, "server", "timeout"]),
)  # fmt: skip


@given(
    made=st.lists(calls, max_size=40),
    days=st.tuples(st.integers(0, 6), st.integers(1, 7)).filter(lambda d: d[0] < d[1]),
    by=st.sampled_from([("model",), ("day", "user"), ("tag:team",), ("day", "model", "tag:team")]),
    before=st.integers(TODAY - 6 * DAY, TODAY),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_report_says_what_it_said_before(
    made: list[dict[str, Any]], days: tuple[int, int], by: tuple[str, ...], before: int
) -> None:
    """Whatever was removed, and whether times are read of single calls or of whole hours, a report
    of whole days has the same figures in all groups, and percentiles within 5%; so has the cache's
    use."""
    span = Span(*(TODAY - (6 - n) * DAY for n in days))
    query = Query(span, by, zone_named("UTC"), NOW)
    budgets = [Budget("all", 5, "month"), Budget("a", 5, "week", match={"model": "a"})]  # type: ignore[arg-type]

    def work(reading: Reading) -> Any:
        return make(reading, query, budgets), reading.cache_use(), reading.first()

    with tempfile.TemporaryDirectory() as folder:
        path = a_ledger(Path(folder) / "l.db", *made)
        old, *others = asked(path, work)
        same(old, asked(path, work, exact=0)[0])
        removed = pruned(path, before)
        kept = [call for call in made if call["started_ms"] >= before // DAY * DAY]
        doubtful = [c for c in made if c not in kept and c["status"] == "unknown"]
        assert len(made) - removed == len(kept) + len(doubtful)
        new, *later = asked(path, work)
        same(old, asked(path, work, exact=0)[0])
        assert counted(path) == recounted(path)
        assert pruned(path, before) == 0
    same(old, new)
    assert others == later


@given(
    made=st.lists(calls, max_size=25),
    edges=st.lists(
        st.integers(TODAY - 5 * DAY, TODAY - DAY), min_size=2, max_size=6, unique=True
    ),
)  # fmt: skip
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_neighbouring_spans_add_up(made: list[dict[str, Any]], edges: list[int]) -> None:
    """However spans cut through hours that were removed, each call is in exactly one of them."""
    edges = sorted({*edges, TODAY - 6 * DAY, TODAY + DAY})

    def work(reading: Reading) -> Any:
        cells = [*reading.cells(edges, KIND)]
        pairs = [*pairwise(edges)]
        times = [*reading.latencies(edges, KIND)]
        return (
            sum(each.sums["calls"] for each in cells),
            sum(each.sums["cost_pico"] + each.sums["doubtful_pico"] for each in cells),
            sum(sum(each.times.values()) for each in times),
            sum(sum(reading.error_types(*pair).values()) for pair in pairs),
            sum(sum(reading.masked(*pair).values()) for pair in pairs),
            sum(len(reading.unknown(*pair)) for pair in pairs),
        )

    with tempfile.TemporaryDirectory() as folder:
        path = a_ledger(Path(folder) / "l.db", *made)
        old = asked(path, work)
        assert asked(path, work, exact=0) == old
        pruned(path, BEFORE)
        assert asked(path, work) == old
        assert asked(path, work, exact=0) == old


@given(st.integers(0, 10**6) | st.integers(0, (1 << 63) - 1))
def test_a_rounded_time_is_off_by_at_most_five_percent(ms: int) -> None:
    """Below 20 it is exact, and to round it again changes nothing."""
    found = rounded(ms)
    assert 20 * abs(found - ms) <= ms
    assert found == ms or ms >= 20
    assert rounded(found) == found


def test_few_rounded_times_differ() -> None:
    """35 of each power of ten: that is what bounds the rows of a year."""
    assert len({rounded(ms) for ms in range(1000, 9750)}) == 35
    assert [rounded(ms) for ms in (104, 105, 309, 311, 987)] == [100, 110, 300, 320, 1000]


def test_times_are_those_of_the_calls_that_are_there(tmp_path: Path) -> None:
    """An answer of which something was in doubt is counted once when that is known, too; what is
    removed goes from the hours."""
    path = a_ledger(
        tmp_path / "l.db",
        a_run("one", latency_ms=111, first_token_ms=42, uncertain=1, uncertain_pico=7),
        a_run("two", latency_ms=112),
        a_call(latency_ms=113, started_ms=NOW),
    )
    assert [row[-2:] for row in counted(path)] == [(42, 1), (110, 2), (110, 1)]
    with closing(open_ledger(path, "", "")) as ledger:
        ledger.release(Decimal(7))
    assert [row[-2:] for row in counted(path)] == [(42, 1), (110, 2), (110, 1)]
    assert pruned(path) == 2
    assert [row[-2:] for row in rows(path, "SELECT * FROM times")] == [(110, 1)]


def a_run(name: str, **changes: Any) -> dict[str, Any]:
    """An old call of a run."""
    return a_call(**{"run_id": name, "started_ms": BEFORE - 1, **changes})


def test_what_stays(tmp_path: Path) -> None:
    """Calls of days that are not over by then; calls in doubt, or whose process was thought dead;
    those of runs with calls under way, rows in a batch of the provider, or a budget of their own.
    What goes is counted before."""
    path = a_ledger(
        tmp_path / "l.db",
        a_call(started_ms=BEFORE, run_id="new"),
        lost(started_ms=BEFORE - 5, run_id="lost"),
        a_run("cut", uncertain=1, uncertain_pico=None),
        a_run("silent", attempts=None),
        a_run("under-way"),
        a_run("in-a-batch"),
        a_run("batch-that-is-done"),
        a_run("budgeted"),
        a_run("gone", started_ms=BEFORE - 3),
    )  # fmt: skip
    job = ("{0}", "", "", "{0}", "", "", "", "", "", "", 1, 1, 1, 1, "{1}")
    with closing(open_ledger(path, "under-way", "")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        window = budget_window(Budget("--budget", 5, "month"), "budgeted")  # type: ignore[arg-type]
        asyncio.run(ledger.hold(a_hold(a_request()), [window]))
        with closing(sqlite3.connect(path)) as connection, connection:
            for run, state in (("in-a-batch", "running"), ("batch-that-is-done", "done")):
                connection.execute(
                    "INSERT INTO batch_jobs (intent, output, input, run_id, profile, provider, "
                    "adapter, base_url, model, wire_path, rows, size, tokens, made_ms, state) "
                    f"VALUES ({', '.join('?' * 15)})",
                    [str(each).format(run, state) for each in job],
                )
        old = ledger.database.read(lambda c: old_calls(c, BEFORE))
        assert old == OldCalls(2, in_doubt=3, of_runs=3)
        assert prune(ledger.database, BEFORE + DAY - 1) == 2
    stayed = {run for (run,) in rows(path, "SELECT run_id FROM calls")}
    assert stayed == {"new", "lost", "cut", "silent", "under-way", "in-a-batch", "budgeted"}


def test_a_call_that_comes_late_goes_the_next_time(tmp_path: Path) -> None:
    """A row of a batch that ends after its day was removed, and a call in doubt that was
    released, are in the sums as all others."""
    path = a_ledger(tmp_path / "l.db", a_run("one", latency_ms=111), lost(started_ms=BEFORE - 1))
    assert pruned(path) == 1
    a_ledger(path, a_run("two", latency_ms=113))
    with closing(open_ledger(path, "", "")) as ledger:
        ledger.release(Decimal(7))

    def work(reading: Reading) -> Any:
        cells = [*reading.cells((0, BEFORE), ["model"])]
        times = [*reading.latencies((0, BEFORE), ["model"])]
        return sum(each.sums["calls"] for each in cells), sum(
            each.sums["cost_pico"] for each in cells
        ), sum((each.times for each in times), type(times[0].times)())  # fmt: skip

    assert asked(path, work) == (3, 9 * 10**12, {"110": 1, "113": 1})
    assert pruned(path) == 2
    assert asked(path, work) == (3, 9 * 10**12, {"110": 2})
    assert rows(path, "SELECT sum(number) FROM counts WHERE what = 'call'") == [(3,)]


def many(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Old calls of two hours."""
    return [
        a_call(
            started_ms=BEFORE - 2 * HOUR + n, latency_ms=n, model=f"m{n % 5}",
            tags=f'{{"n":"{n % 7}"}}', first_token_ms=n // 2, **changes,
        )
        for n in range(count)
    ]  # fmt: skip


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Killed at any moment, each call is either in its row or in the counts, reports say what
    they said, and the next command goes on."""
    path = a_ledger(tmp_path / "l.db", *many(2000))
    query = Query(Span(BEFORE - DAY, NOW), ("model",), zone_named("UTC"), NOW)
    old = asked(path, lambda reading: make(reading, query, ()))
    for killed_after in (1, 7, 30):
        command = [sys.executable, "-m", "tests.storage.prune_worker", str(path), str(BEFORE)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(killed_after):
                assert process.stdout.readline() == b"20\n"
            process.send_signal(signal.SIGKILL)
        ((left,),) = rows(path, "SELECT count(*) FROM calls")
        ((removed,),) = rows(path, "SELECT sum(number) FROM counts WHERE what = 'call'")
        ((times,),) = rows(path, "SELECT sum(number) FROM counts WHERE what = 'latency'")
        assert left + removed == 2000
        assert 0 < removed == times < 2000
        same(old, asked(path, lambda reading: make(reading, query, ())))
    assert pruned(path) == left
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    same(old, asked(path, lambda reading: make(reading, query, ())))


def test_others_write_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is held and settled between two steps, and the WAL does not grow with what goes."""
    monkeypatch.setattr(ledger_prune, "_STEP", 50)
    path = a_ledger(tmp_path / "l.db", *many(4000))
    largest, held = 0, list[object]()
    with closing(open_ledger(path, "other", "")) as other, closing(open_ledger(path, "", "")) as me:

        def progress(_: int) -> None:
            nonlocal largest
            largest = max(largest, (tmp_path / "l.db-wal").stat().st_size)
            if len(held) < 20:
                held.append(asyncio.run(other.hold(a_hold(a_request()))))

        before = threading.active_count()
        assert prune(me.database, BEFORE, progress) == 4000
        assert threading.active_count() == before
    assert held == [None] * 20
    assert largest < 8 << 20, "SQLite's checkpoint at 1000 pages of 4 KiB, and one step"


def test_free_pages_are_used_again(tmp_path: Path) -> None:
    """A ledger that is pruned every night does not grow with the nights."""
    path = a_ledger(tmp_path / "l.db", *many(2000))
    sizes = []
    for _ in range(3):
        assert pruned(path) == 2000
        a_ledger(path, *many(2000))
        sizes.append(path.stat().st_size)
    assert sizes[-1] < sizes[0] * 1.1
