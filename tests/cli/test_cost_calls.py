"""`llmctl cost report --calls`: single calls, in each format."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.cli.terminal import on_a_terminal
from tests.conftest import Run
from tests.ledgers import a_call, a_failure, a_ledger, lost

HOSTILE = "m\x1b[31mevil[red]\nx"


@pytest.fixture
def path(home: Path) -> Path:
    """A ledger of five calls of the last seconds, and one of last month."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True, mode=0o700)
    now = round(time.time() * 1000) - 1000
    return a_ledger(
        folder / "ledger.db",
        a_call(started_ms=now - 40 * 86_400_000, model="old"),
        a_call(started_ms=now - 5, latency_ms=900, model="gpt-5-2026-01-01", cost_pico=10**9),
        a_call(started_ms=now - 4, latency_ms=70, tags='{"team":"red"}', user="bob"),
        a_failure(
            started_ms=now - 3, error_type="rate_limit", attempts=4, rate_limits=3,
            user="=cmd|evil", elapsed_ms=70_000,
        ),
        lost(started_ms=now - 2, cost_pico=5 * 10**11, elapsed_ms=None, profile="slow"),
        a_call(started_ms=now - 1, model=HOSTILE, cost_pico=None, estimated=1, latency_ms=80),
    )  # fmt: skip


def listed(run: Run, *arguments: str) -> list[dict[str, Any]]:
    """The calls, as JSON."""
    done = run("cost", "report", "--calls", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.usefixtures("path")
def test_calls_as_json(run: Run) -> None:
    """A27, A55: who, what, how it ended, what it cost and how often it was tried, with the fields
    that the help names. Of a call that got no answer the cost is unknown, not its worst case."""
    last, unknown, failed, *_ = listed(run)
    help_text = " ".join(run("cost", "report", "--help").stdout.split())
    said = (
        help_text.partition("--calls --json")[2]
        .partition("[{call_id")[2]
        .partition("}]")[0]
        .replace(" {NAME: VALUE}", "")
    )
    assert [*last] == [name.strip() for name in f"call_id{said}".split(",")]
    assert (last["model"], last["cost_usd"], last["estimated"]) == (HOSTILE, None, True)
    assert (unknown["cost_usd"], unknown["may_have_been_billed_usd"]) == (None, 0.5)
    assert (failed["status"], failed["error_type"], failed["retries"]) == ("error", "rate_limit", 3)
    assert (failed["rate_limit_hits"], failed["user"]) == (3, "=cmd|evil")


@pytest.mark.usefixtures("path")
def test_which_calls(run: Run) -> None:
    """The newest of 30 days first, or the slowest or dearest; the failed ones alone; of a user,
    a tag, a model or a profile."""

    def found(*arguments: str) -> list[str]:
        return [call["model"] for call in listed(run, *arguments)]

    mini, dated = "gpt-5-mini", "gpt-5-2026-01-01"
    assert found() == [HOSTILE, mini, mini, mini, dated]
    assert found("--limit", "1") == [HOSTILE]
    assert found("--since", "60d")[-1] == "old"
    assert found("--slowest") == [dated, HOSTILE, mini]
    assert found("--dearest", "--limit", "1") == [mini]
    assert [call["status"] for call in listed(run, "--failed")] == ["unknown", "error"]
    assert listed(run, "--failed", "--slowest")[0]["elapsed_ms"] == 70_000
    assert found("-m", "gpt-5") == [dated]
    assert [call["user"] for call in listed(run, "--user", "bob")] == ["bob"]
    assert [call["user"] for call in listed(run, "--tag", "team=red")] == ["bob"]
    assert [call["profile"] for call in listed(run, "-p", "slow")] == ["slow"]
    assert listed(run, "--tag", "team=red", "-p", "slow") == []


@pytest.mark.usefixtures("path")
def test_calls_as_csv(run: Run) -> None:
    """The same fields; text that a spreadsheet would take for a formula is none."""
    done = run("cost", "report", "--calls", "--format", "csv")
    rows = [*csv.DictReader(io.StringIO(done.stdout))]
    assert [*rows[0]] == [*listed(run)[0]]
    assert rows[2]["user"] == "'=cmd|evil"
    assert (rows[0]["cost_usd"], json.loads(rows[3]["tags"])) == ("", {"team": "red"})


@pytest.mark.parametrize("columns", [80, 200])
def test_calls_on_a_terminal(
    path: Path, environ: dict[str, str], tmp_path: Path, columns: int
) -> None:
    """Within its columns, ids whole, names harmless; what may have been billed is no cost."""
    assert path.exists()
    code, shown, _ = on_a_terminal(
        {**environ, "NO_COLOR": "1"}, tmp_path, "cost", "report", "--calls", columns=columns
    )
    assert code == 0
    lines = shown.decode().splitlines()
    assert all(cell_len(line) <= columns for line in lines)
    assert b"\x1b" not in shown
    assert len(lines) == (11 if columns == 80 else 6)
    assert sum("01CALL" in line for line in lines) == 5
    assert "fast/mevil[red] x" in shown.decode()
    assert "≤$0.50" in shown.decode()
    assert "rate_limit" in shown.decode()


@pytest.mark.usefixtures("path")
def test_a_call_is_a_line_in_a_pipe(run: Run) -> None:
    """With its id, model and user; without any calls that is said."""
    shown = run("cost", "report", "--calls").stdout.splitlines()
    assert len(shown) == 6
    assert "01CALL" in shown[1]
    assert "fast/mevil[red] x · ann" in shown[1]
    none = run("cost", "report", "--calls", "--user", "nobody")
    assert (none.returncode, none.stdout) == (0, "no such calls in this span\n")


def test_without_a_ledger(run: Run) -> None:
    """There are no calls, which is no error."""
    assert listed(run) == []


@pytest.mark.parametrize(
    "flags",
    [("--failed",), ("--limit", "3"), ("-m", "x"), ("--calls", "--slowest", "--dearest"),
     ("--calls", "--by", "day"), ("--calls", "--watch"), ("--calls", "--format", "markdown"),
     ("--calls", "--tag", "red"), ("--calls", "--limit", "0")],
)  # fmt: skip
def test_flags_that_do_not_fit(run: Run, flags: tuple[str, ...]) -> None:
    """They are refused with what to do."""
    done = run("cost", "report", *flags)
    assert done.returncode == 2
    assert "--" in done.stderr
