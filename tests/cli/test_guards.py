"""Breaker, fallback, overflow and shared limits, as a user meets them."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, LLMCTL, Run, configure
from tests.simulator import errors
from tests.simulator.scripts import fail_first
from tests.simulator.server import Simulator

ROWS = 30


@pytest.fixture
def other() -> Iterator[Simulator]:
    """A second provider."""
    with Simulator(reply=lambda _: "from the other one") as simulator:
        yield simulator


def configured(home: Path, first: str, profile: str = "", more: str = "") -> dict[str, str]:
    """A configuration whose default `sim` points at `first`; what to add to the environment."""
    configure(home, first, "{env: SIM_KEY}", f"{profile}\n{more}")
    return {"SIM_KEY": KEY}


def other_profile(other: Simulator) -> str:
    """A profile `spare` at the second provider."""
    return f"""
  spare:
    provider: openai
    base_url: {other.base_url}
    model: gpt-5-nano
    key: {{env: SIM_KEY}}
    price: {{input: 3, output: 4}}
"""


def write(path: Path, count: int = ROWS) -> Path:
    """An input of `count` rows."""
    rows = (json.dumps({"id": f"r{n}", "prompt": f"say {n}"}) + "\n" for n in range(count))
    path.write_text("".join(rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_another_provider_answers_what_the_first_cannot(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """All rows of a batch are answered by the fallback; each says so and what it cost there, the
    provider that is down is soon left alone, every failed call has its own ledger row, and the
    same command again sends nothing."""
    sim.fault = errors.overloaded()
    env = {
        **environ,
        **configured(home, sim.base_url, "    fallback: [spare]", other_profile(other)),
    }
    source = write(tmp_path / "in.jsonl")
    done = run("batch", str(source), "--no-cache", env=env)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "in.out.jsonl")
    assert {row["id"] for row in rows} == {f"r{n}" for n in range(ROWS)}
    assert {(row["profile"], row["text"]) for row in rows} == {("spare", "from the other one")}
    assert other.billed.requests == ROWS
    assert sim.record.requests < ROWS  # eight in flight, and then the breaker is open
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        found = db.execute(
            "SELECT profile, status, count(*), sum(cost_pico) FROM calls GROUP BY 1, 2 ORDER BY 1"
        ).fetchall()
        assert db.execute("SELECT count(*) FROM holds").fetchone() == (0,)
    by_profile = {profile: (status, number, cost) for profile, status, number, cost in found}
    assert by_profile["spare"][:2] == ("ok", ROWS)
    assert by_profile["spare"][2] == sum(round(10**12 * row["cost_usd"]) for row in rows)
    assert by_profile["sim"][0] == "error"
    assert by_profile["sim"][2] == 0
    again = run("batch", str(source), "--no-cache", env=env)
    assert again.returncode == 0
    assert other.billed.requests == ROWS


def test_a_person_gets_the_fallbacks_answer(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, other: Simulator
) -> None:
    """`ask` tries, says that it tries again, and prints what the other provider said."""
    sim.fault = errors.out_of_quota()
    env = {
        **environ,
        **configured(home, sim.base_url, "    fallback: [spare]", other_profile(other)),
    }
    done = run("ask", "hello", "-u", env=env)
    assert (done.returncode, done.stdout) == (0, "from the other one"), done.stderr
    assert "spare/gpt-5-nano" in done.stderr
    assert "asking spare instead" in done.stderr


def test_a_bad_request_is_nobody_elses_business(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, other: Simulator
) -> None:
    """What the provider refuses for its content is not tried elsewhere."""
    sim.fault = errors.status(400, "temperature is out of range")
    env = {
        **environ,
        **configured(home, sim.base_url, "    fallback: [spare]", other_profile(other)),
    }
    assert run("ask", "hello", env=env).returncode == 1
    assert other.record.requests == 0


def test_a_fallback_without_a_key_is_left_out(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator
) -> None:
    """It is said at the start, and the rest goes on."""
    env = {**environ, **configured(home, sim.base_url, "    fallback: [anthropic]")}
    done = run("ask", "hello", env=env)
    assert (done.returncode, done.stdout) == (0, "echo: hello")
    assert "the fallback anthropic is left out" in done.stderr


def test_a_dearer_fallback_under_a_tight_budget(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """Rows that failed wait until the budget has room for the dearer call, and those that were
    getting ready meanwhile do not wait for them: the batch ends, and all are answered."""
    sim.fault = errors.out_of_quota()
    first = "    fallback: [spare]\n    context: 2000000"
    dear = other_profile(other).replace("output: 4", "output: 5") + "    context: 2000000\n"
    env = {**environ, **configured(home, sim.base_url, first, dear)}
    source = tmp_path / "in.jsonl"
    rows = [{"id": f"r{n}", "prompt": f"say {n}", "max_tokens": 500_000} for n in range(6)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    # Three calls of the first at a dollar each, or one of the other at two and a half.
    options = ("--no-cache", "--concurrency", "2", "--budget", "3.2")
    done = run("batch", str(source), *options, env=env)
    assert done.returncode == 0, done.stderr
    assert {row["profile"] for row in read(tmp_path / "in.out.jsonl")} == {"spare"}


@pytest.mark.parametrize("mode", ["truncate", "fallback"])
def test_a_prompt_that_is_too_long(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, other: Simulator, mode: str
) -> None:
    """`truncate` sends the beginning that fits and says so; `fallback` asks the other profile."""
    long = f"    context: 100\n    on_overflow: {mode}\n    fallback: [spare]"
    env = {**environ, **configured(home, sim.base_url, long, other_profile(other))}
    done = run("ask", "word " * 300, "--max-tokens", "20", env=env)
    assert done.returncode == 0, done.stderr
    if mode == "fallback":
        assert done.stdout == "from the other one"
        assert sim.record.requests == 0
        return
    assert "1 prompt was cut to fit the model's window" in done.stderr
    sent = sim.calls[0].prompt
    assert sent.startswith("word word")
    assert 50 <= sent.count("word") <= 80


def test_a_batch_waits_out_an_outage(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """The provider fails 20 times and comes back: no row fails, although none may be tried more
    than twice."""
    sim.fault = fail_first(20, errors.server_error())
    env = {**environ, **configured(home, sim.base_url)}
    path = home / ".config/llmctl/config.yaml"
    quick = "breaker: {failures: 3, open_for: 300ms}\n    retry: {attempts: 2, max_wait: 0.01}"
    path.write_text(path.read_text().replace("retry: {max_wait: 0.01}", quick))
    source = write(tmp_path / "in.jsonl")
    done = run("batch", str(source), "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == 0
    assert sim.billed.requests == ROWS


def test_a_wrong_port_ends_the_batch(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """Nobody waits for a server that never replied: every row fails with what happened, exit 5."""
    env = {**environ, **configured(home, "http://127.0.0.1:9/v1")}
    source = write(tmp_path / "in.jsonl")
    began = time.monotonic()
    done = run("batch", str(source), env=env)
    assert done.returncode == 5
    failed = read(tmp_path / "in.out.errors.jsonl")
    assert len(failed) == ROWS
    assert {row["error"]["type"] for row in failed} == {"connection"}
    assert time.monotonic() - began < 20


def test_the_providers_headers_hold_the_batch_back(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """A profile without limits keeps to what the headers say is left: hardly a request is
    refused."""
    with Simulator(rpm=300) as strict:
        strict_rows = 330  # the minute's 300 at once, and then 5 a second
        env = {**environ, **configured(home, strict.base_url)}
        done = run("batch", str(write(tmp_path / "in.jsonl", strict_rows)), env=env)
        assert done.returncode == 0, done.stderr
        refused = [call for call in strict.calls if call.status == 429]
    assert len(refused) <= 3


def test_two_processes_share_a_minute(
    environ: dict[str, str], home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Two batches at 300 a minute send 5 a second together, not each."""
    env = {**environ, **configured(home, sim.base_url, "    limits: {rpm: 300}")}
    sources = [write(tmp_path / f"in{n}.jsonl", 15) for n in range(2)]
    running = [
        subprocess.Popen([LLMCTL, "batch", str(source), "-q", "--no-cache"], env=env, cwd=tmp_path)
        for source in sources
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    at = sorted(call.received for call in sim.calls)
    assert len(at) == 30
    assert at[-1] - at[0] >= (30 - 2) / 5 - 0.2
