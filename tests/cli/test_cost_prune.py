"""`llmctl cost prune`: what it says, and what the other commands say then."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import on_a_terminal
from tests.conftest import Run
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, calls_of, lost

DAY = 86_400_000


@pytest.fixture
def path(home: Path) -> Path:
    """A ledger of calls of today, and of 500 days ago."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True, mode=0o700)
    now = round(time.time() * 1000) - 1000
    old = now - 500 * DAY
    return a_ledger(
        folder / "ledger.db",
        a_call(started_ms=now),
        *(a_call(started_ms=old + n, latency_ms=100 + n, model="gpt-5") for n in range(20)),
        a_hit(started_ms=old),
        a_failure(started_ms=old, error_type="server"),
        lost(started_ms=old),
    )


def said(run: Run, *arguments: str) -> Any:
    """The JSON of a command."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sums_stay(run: Run, path: Path, home: Path) -> None:
    """A dry run changes nothing and says what goes; then it goes, and what is in doubt stays.
    Reports, checks and the cache's figures are what they were; a second time nothing goes."""
    commands = (
        ("cost", "report", "--since", "600d", "--by", "day,model"),
        ("cost", "check", "--budget", "5"),
        ("cache", "stats"),
    )
    before = [said(run, *command) for command in commands]
    planned = said(run, "cost", "prune", "--older-than", "400d", "--dry-run")
    assert (planned["calls"], planned["in_doubt"], planned["dry_run"]) == (22, 1, True)
    assert len(calls_of(home)) == 24
    done = run("cost", "prune", "--older-than", "400d")
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 400 * 86400))
    assert done.stdout.splitlines() == [
        f"removed 22 calls from before {day} (UTC); their sums stay",
        "kept 1 older call in doubt: `llmctl cost release`",
    ]
    assert f"{path}: " in done.stderr
    assert "free for coming calls" in done.stderr
    assert sorted(call["status"] for call in calls_of(home)) == ["ok", "unknown"]
    after = [said(run, *command) for command in commands]
    for report in (before[0], after[0]):
        for moving in ("from", "to", "month_to_date", "targets"):
            del report[moving]
        for group in (report["total"], *report["groups"]):
            del group["latency_ms"]
    assert after == before
    assert said(run, "cost", "prune", "--older-than", "400d")["calls"] == 0


def test_without_a_ledger(run: Run, home: Path) -> None:
    """Nothing is removed, nothing is made, and that is no error: it runs every night."""
    found = said(run, "cost", "prune", "--older-than", "400d")
    assert (found["calls"], found["file_bytes"]) == (0, 0)
    assert not (home / ".local/state/llmctl/ledger.db").exists()


@pytest.mark.parametrize("age", ["", "400", "d", "-1d", "soon", "1e9d"])
def test_an_age_says_its_unit(run: Run, age: str) -> None:
    """Else nothing is removed."""
    done = run("cost", "prune", f"--older-than={age}")
    assert done.returncode == 2
    assert "--older-than wants an age with its unit such as 400d" in done.stderr


def test_on_a_terminal(path: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """The bar goes when all is done."""
    assert path.exists()
    code, shown, _ = on_a_terminal(environ, tmp_path, "cost", "prune", "--older-than", "400d")
    assert code == 0
    assert b"removing old calls" in shown
    assert b"removed 22 calls from before" in shown
