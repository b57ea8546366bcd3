"""Calls whose end is unknown: listed by `cost report`, settled by a person's word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.jsonl import prompts, write
from tests.conftest import LLMCTL, Run
from tests.ledgers import a_call, a_ledger, lost
from tests.simulator.server import Simulator
from tests.storage.damage import sql

Make = Callable[..., Path]


@pytest.fixture
def ledger(home: Path) -> Make:
    """Adds calls to the ledger of the user."""

    def add(*calls: dict[str, Any]) -> Path:
        folder = home / ".local/state/llmctl"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return a_ledger(folder / "ledger.db", *calls)

    return add


def ago(**changes: Any) -> dict[str, Any]:
    """A call of unknown end, an hour ago, that may have cost a dollar."""
    return lost(**{"started_ms": round(time.time() * 1000) - 3_600_000, **changes})


def report(run: Run) -> dict[str, Any]:
    """What `cost report` says of them."""
    found: dict[str, Any] = json.loads(run("cost", "report", "--json").stdout, parse_float=Decimal)[
        "unknown"
    ]
    return found


def test_a_report_lists_the_calls(run: Run, ledger: Make) -> None:
    """Id, time, profile and model, dollars; those of other spans are not in it."""
    ledger(
        ago(call_id="one", cost_pico=12 * 10**9, uncertain=1, uncertain_pico=12 * 10**9),
        ago(call_id="two", cost_pico=None, model="m\x1b[31m"),
        lost(call_id="old", started_ms=1_700_000_000_000),
        a_call(call_id="fine", started_ms=round(time.time() * 1000)),
    )
    text = run("cost", "report").stdout
    shown = " ".join(text.split())
    assert "In doubt: 2 calls, which may have cost 0.024 + ? USD more" in shown
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert lines["one"].split()[3:] == ["$0.024", "fast/gpt-5-mini"]
    assert lines["two"].split()[3:] == ["$?", "fast/m"]
    assert "old" not in lines
    assert "\x1b" not in text
    said = report(run)
    assert (said["calls"], said["usd"], said["unpriced_calls"]) == (2, Decimal("0.024"), 1)
    assert [(call["call_id"], call["usd"]) for call in said["first"]] == [
        ("one", Decimal("0.024")),
        ("two", None),
    ]
    markdown = run("cost", "report", "--format", "markdown").stdout
    assert "In doubt: 2 calls, which may have cost 0.024 + ? USD more" in markdown


def test_a_call_is_released_by_its_id(run: Run, ledger: Make) -> None:
    """It is named with what it counted at; budgets and reports count what was billed instead."""
    ledger(ago(call_id="one"), ago(call_id="two"))
    done = run("cost", "release", "one", "--billed", "0.25")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("one  20")
    assert done.stdout.splitlines()[0].endswith("fast/gpt-5-mini  $1.00 → $0.25")
    assert "released 1 call: $1.00 at the most → $0.25" in done.stdout
    assert [call["call_id"] for call in report(run)["first"]] == ["two"]
    check = json.loads(run("cost", "check", "--budget", "5", "--json").stdout)
    assert check["budgets"][0]["used_usd"] == 1.25
    again = run("cost", "release", "one")
    assert again.returncode == 2
    assert "is final" in again.stderr


def test_all_of_a_run_or_of_all_are_released(run: Run, ledger: Make) -> None:
    """For nothing, unless it is said what was billed."""
    ledger(*(ago(run_id=f"run-{n % 2}") for n in range(6)), a_call(run_id="run-9"))
    assert (
        "released 3 calls: $3.00 at the most → $0"
        in run("cost", "release", "--run", "run-0").stdout
    )
    done = run("cost", "release", "--all", "--json")
    said = json.loads(done.stdout)
    assert [call["run_id"] for call in said["released"]] == ["run-1"] * 3
    assert (said["usd"], said["billed_usd"]) == (3, 0)
    for words in (("--all",), ("--run", "run-9")):
        done = run("cost", "release", *words)
        assert (done.returncode, done.stdout.startswith("nothing to release")) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which calls"),
        (("one", "--all"), "which calls"),
        (("--run", "run-1", "--all"), "which calls"),
        (("nobody",), "no call 'nobody'"),
        (("one", "nobody"), "no call 'nobody'"),
        (("--run", "nobody"), "no call of a run 'nobody'"),
        (("one", "--billed", "much"), "--billed wants an amount"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    run: Run, ledger: Make, words: tuple[str, ...], said: str
) -> None:
    """Exit 2, and the call is still of unknown end."""
    ledger(ago(call_id="one"))
    done = run("cost", "release", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert report(run)["calls"] == 1


def test_what_a_killed_batch_left_behind_is_released(
    run: Run, configured: dict[str, str], tmp_path: Path, sim: Simulator
) -> None:
    """Its call counts against the day's budget until somebody says that it cost nothing."""
    config = Path(configured["HOME"]) / ".config/llmctl/config.yaml"
    budget = "budgets:\n  - {name: team, limit_usd: 0.003, period: day}\n"
    config.write_text(config.read_text(encoding="utf-8") + budget, encoding="utf-8")
    path = write(tmp_path / "in.jsonl", [{**row, "max_tokens": 1000} for row in prompts(10)])
    sim.hold()
    words = [str(LLMCTL), "batch", str(path), "-q", "--concurrency", "1"]
    with subprocess.Popen(words, env=configured, stdin=subprocess.DEVNULL) as child:
        sim.wait_for_calls(1)
        os.kill(child.pid, signal.SIGKILL)
    sim.release()
    assert run("batch", str(path), env=configured).returncode == 3
    assert len(sim.calls) == 1
    done = run("cost", "release", "--all", env=configured)
    assert "released 1 call" in done.stdout
    assert run("batch", str(path), env=configured).returncode == 0


def test_a_stopped_process_that_was_released_settles_when_it_wakes(
    run: Run, configured: dict[str, str], sim: Simulator
) -> None:
    """Case 53: while its run beats it cannot be released; a minute after its last sign of life it
    can. Woken, it answers, and its bill takes the place of what was said."""
    path = Path(configured["HOME"]) / ".local/state/llmctl/ledger.db"
    sim.hold()
    words = [str(LLMCTL), "ask", "hello", "--max-tokens", "1000"]
    with subprocess.Popen(words, env=configured, stdin=subprocess.DEVNULL) as child:
        sim.wait_for_calls(1)
        child.send_signal(signal.SIGSTOP)
        ((run_id,),) = sql(path, "SELECT run_id FROM holds")
        early = run("cost", "release", "--run", str(run_id), env=configured)
        assert (early.returncode, "its process lives" in early.stderr) == (2, True)
        sql(path, "UPDATE holds SET at_ms = at_ms - 61000")
        sql(path, "UPDATE processes SET beat_ms = beat_ms - 61000")
        done = run("cost", "release", "--run", str(run_id), env=configured)
        assert "released 1 call" in done.stdout, done.stderr
        assert sql(path, "SELECT status FROM calls") == [("error",)]
        child.send_signal(signal.SIGCONT)
        sim.release()
        assert child.wait(timeout=60) == 0
    assert sql(path, "SELECT status, estimated FROM calls") == [("ok", 0)]
