"""`llmctl compare`, run as a process against two providers on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.conftest import KEY, LLMCTL, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.scripts import for_prompt
from tests.simulator.server import Simulator

ROWS = 6


@pytest.fixture
def other() -> Iterator[Simulator]:
    """The provider of the second profile, which shouts."""
    with Simulator(reply=lambda call: f"ECHO: {call.ask.last}." if call.ask else "") as simulator:
        yield simulator


@pytest.fixture
def env(home: Path, environ: dict[str, str], sim: Simulator, other: Simulator) -> dict[str, str]:
    """Profiles `sim` and `loud`, at prices of their own."""
    configure(
        home,
        sim.base_url,
        "{env: SIM_KEY}",
        f"""
  loud:
    provider: openai
    base_url: {other.base_url}
    model: gpt-5-nano
    key: {{env: SIM_KEY}}
    retry: {{max_wait: 0.01}}
    price: {{input: 10, output: 20}}
""",
    )
    return {**environ, "SIM_KEY": KEY}


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A file of rows."""
    return str(write(tmp_path / "in.jsonl", prompts(ROWS)))


def test_answers_stand_side_by_side(
    env: dict[str, str], run: Run, source: str, tmp_path: Path, home: Path
) -> None:
    """A line a row, in the order of the input, with answer, cost, latency and tokens of each
    profile and how far they agree; what they cost together is what the ledger says, where the
    calls of a row have one parent."""
    done = run("compare", source, "-p", "sim,loud", "--json", env=env)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "in.compare.jsonl")
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(ROWS)]
    one, two = rows[3]["answers"]["sim"], rows[3]["answers"]["loud"]
    assert (one["output"], two["output"]) == ("echo: say 3", "ECHO: say 3.")
    assert one["tokens"]["input"] > 0 <= one["latency_ms"]
    assert (one["error"], two["model"]) == (None, "gpt-5-nano")
    (pair,) = rows[3]["agreement"]
    assert pair["profiles"] == ["sim", "loud"]
    assert (pair["equal"], pair["json_equal"], pair["numbers_equal"]) == (True, None, True)
    assert pair["overlap"] == 1
    summary = json.loads(done.stdout)
    assert [side["profile"] for side in summary["profiles"]] == ["sim", "loud"]
    assert [side["agreement"] for side in summary["profiles"]] == [None, 1]
    spent = sum(side["cost_usd"] for side in summary["profiles"])
    calls = ledger(home)
    assert spent == pytest.approx(sum(call["cost_pico"] for call in calls) / 1e12)
    parents = Counter(call["parent"] for call in calls)
    assert parents.keys() <= {call["call_id"] for call in calls}
    assert [*parents.values()] == [2] * ROWS


def test_the_table(env: dict[str, str], run: Run, source: str) -> None:
    """For a person: a line a profile on stdout."""
    done = run("compare", source, "-p", "sim,loud", "--limit", "2", env=env)
    head, one, two = done.stdout.splitlines()
    assert head.split()[:4] == ["profile", "answers", "errors", "cost"]
    assert one.split()[:3] == ["sim", "2", "0"]
    assert two.split()[-2:] == ["100.0%", "100.0%"]


def test_again_sends_nothing_that_has_its_answer(
    env: dict[str, str], run: Run, source: str, sim: Simulator, other: Simulator, tmp_path: Path
) -> None:
    """A row that failed with one profile is asked of that one alone the second time."""
    other.fault = for_prompt("say 2", errors.status(400))
    done = run("compare", source, "-p", "sim,loud", "--no-cache", env=env)
    assert done.returncode == 1
    failed = read(tmp_path / "in.compare.jsonl")[2]
    assert failed["answers"]["loud"]["error"]["type"] == "invalid_request"
    assert (failed["answers"]["sim"]["output"], failed["agreement"]) == ("echo: say 2", [])
    other.fault = None
    assert run("compare", source, "-p", "sim,loud", "--no-cache", env=env).returncode == 0
    assert (sim.billed.requests, other.billed.requests) == (ROWS, ROWS)
    assert read(tmp_path / "in.compare.jsonl")[2]["agreement"][0]["equal"]


def test_one_budget_for_all(
    env: dict[str, str], run: Run, source: str, home: Path, tmp_path: Path
) -> None:
    """What all profiles spend together stays within it: exit 3, and what was answered is there."""
    done = run("compare", source, "-p", "sim,loud", "--max-tokens", "10", "--budget", "0.0005",
               env=env)  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert 0 < sum(call["cost_pico"] for call in ledger(home)) <= 0.0005 * 1e12
    assert read(tmp_path / "in.compare.jsonl")
    assert "of $0.0005 spent" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_goes_on(
    env: dict[str, str], run: Run, sim: Simulator, other: Simulator, tmp_path: Path, number: int
) -> None:
    """No answer is lost or paid for twice but what was in flight; the end is whole."""
    sim.latency = other.latency = 0.1
    source = str(write(tmp_path / "in.jsonl", prompts(60)))
    command = ["compare", source, "-p", "sim,loud", "--no-cache"]
    process = subprocess.Popen(
        [LLMCTL, *command], env=env, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 20
    while len(read(tmp_path / "in.compare.sim.jsonl")) < 5 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert 5 <= len(read(tmp_path / "in.compare.jsonl")) < 60
    sim.latency = other.latency = 0.0
    done = run(*command, env=env)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "in.compare.jsonl")
    assert [row["index"] for row in rows] == list(range(60))
    assert all(row["agreement"][0]["equal"] for row in rows)
    in_flight = 16 if number == signal.SIGKILL else 0
    assert sim.billed.requests <= 60 + in_flight


def test_the_page_is_inert(
    env: dict[str, str], run: Run, source: str, sim: Simulator, tmp_path: Path
) -> None:
    """What a model says is text on the page, and no markup."""
    sim.reply = lambda _: "<script>alert(1)</script>\x1b[31m<img src=//x>"
    page = tmp_path / "page.html"
    done = run("compare", source, "-p", "sim,loud", "--report", str(page), env=env)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "ECHO: say 1." in text
    assert run("compare", source, "-p", "sim,loud", "--report", str(page), env=env).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["{source}", "-p", "sim"], "two or more different profiles"),
        (["{source}", "-p", "sim,sim"], "two or more different profiles"),
        (["{source}", "-p", "sim,laud"], 'did you mean "loud"?'),
        (["-", "-p", "sim,loud"], "put the rows into a file"),
        (["{source}", "-p", "sim,loud", "-o", "x.csv"], "ends in .jsonl"),
        (["{source}", "-p", "sim,loud", "-o", "{source}"], "is no comparison"),
        (["{source}", "-p", "sim,loud", "--report", "{source}"], "is no page"),
        (["gone.jsonl", "-p", "sim,loud"], "gone.jsonl"),
        ([], "missing argument"),
    ],
)
def test_what_makes_no_sense(
    env: dict[str, str], run: Run, source: str, sim: Simulator, arguments: list[str], wrong: str
) -> None:
    """It is refused before anything is sent, exit 2."""
    done = run("compare", *(word.format(source=source) for word in arguments), env=env)
    assert (done.returncode, sim.calls) == (2, []), done.stderr
    assert wrong in done.stderr
