"""Breaker, fallback, overflow and shared limits, as a user meets them."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.conftest import KEY, LLMCTL, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.faults import Disconnect, Hang
from tests.simulator.scripts import Step, fail_first
from tests.simulator.server import Simulator

ROWS = 30
At = Callable[..., dict[str, str]]


@pytest.fixture
def at(home: Path, environ: dict[str, str]) -> At:
    """Configures a profile `sim` at an address, with further keys, and further profiles."""

    def point(url: str, profile: str = "", more: str = "") -> dict[str, str]:
        configure(home, url, "{env: SIM_KEY}", f"{profile}\n{more}")
        return {**environ, "SIM_KEY": KEY}

    return point


@pytest.fixture
def other() -> Iterator[Simulator]:
    """A second provider."""
    with Simulator(reply=lambda _: "from the other one") as simulator:
        yield simulator


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


def test_another_provider_answers_what_the_first_cannot(
    at: At, run: Run, home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """All rows of a batch are answered by the fallback; each says so and what it cost there, the
    provider that is down is soon left alone, every failed call has its own ledger row, and the
    same command again sends nothing."""
    sim.fault = errors.overloaded()
    env = at(sim.base_url, "    fallback: [spare]", other_profile(other))
    source = write(tmp_path / "in.jsonl", prompts(ROWS))
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
    at: At, run: Run, sim: Simulator, other: Simulator
) -> None:
    """`ask` tries, says that it tries again, and prints what the other provider said."""
    sim.fault = errors.out_of_quota()
    env = at(sim.base_url, "    fallback: [spare]", other_profile(other))
    done = run("ask", "hello", "-u", env=env)
    assert (done.returncode, done.stdout) == (0, "from the other one"), done.stderr
    assert "spare/gpt-5-nano" in done.stderr
    assert "asking spare instead" in done.stderr


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (errors.rate_limited(), None, ("ask", "q")),
        (fail_first(1, errors.rate_limited()), None, ("ask", "q", "--schema", '{"type": "null"}')),
        (errors.server_error(), errors.server_error(), ("batch", "in.jsonl", "--dedupe")),
    ],
)
def test_each_attempt_is_on_record_once(
    at: At, run: Run, home: Path, tmp_path: Path, sim: Simulator, other: Simulator, first: Step,
    second: Step, words: tuple[str, ...],
) -> None:  # fmt: skip
    """A55, A117: attempts and rate-limit hits of the ledger, and the requests of the summary, are
    those that the providers saw: through a fallback, another try for a schema, for equal rows."""
    sim.fault, other.fault = first, second
    env = at(sim.base_url, "    fallback: [spare]", other_profile(other))
    write(tmp_path / "in.jsonl", [{"id": str(n), "prompt": "the same"} for n in range(3)])
    done = run(*words, "--json", env=env)
    requests, rows = len(sim.calls) + len(other.calls), ledger(home)
    hits = sim.record.faults["Status 429 rate_limit_exceeded"]
    assert sum(row["attempts"] for row in rows) == requests, done.stderr
    assert sum(row["rate_limits"] for row in rows) == hits
    if words[0] == "batch":
        assert json.loads(done.stdout)["requests"] == requests


def test_a_batch_outlives_an_outage_of_both_providers(
    at: At, run: Run, home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """Rows that were sent to both wait with all others and are answered once one is back; every
    attempt is on record once, and no hold stays open."""
    sim.fault, other.fault = (fail_first(8, errors.server_error()) for _ in range(2))
    breaker = "    breaker: {failures: 2, open_for: 1}"
    env = at(sim.base_url, f"    fallback: [spare]\n{breaker}", other_profile(other) + breaker)
    source = write(tmp_path / "in.jsonl", prompts(ROWS))
    done = run("batch", str(source), env=env)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "in.out.jsonl")) == ROWS
    requests = len(sim.calls) + len(other.calls)
    assert sum(row["attempts"] for row in ledger(home)) == requests
    assert f"{requests} requests" in done.stderr
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM holds").fetchone() == (0,)


def test_interrupting_the_fallback_settles_its_call(
    at: At, home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """Ctrl-C while the other provider answers: exit 130, and both calls are on record, each at its
    provider with its own attempts."""
    sim.fault, other.fault = errors.out_of_quota(), Hang(pieces=2)
    env = at(sim.base_url, "    fallback: [spare]", other_profile(other))
    process = subprocess.Popen(
        [LLMCTL, "ask", "q", "--stream"], env=env, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, problem = process.communicate(timeout=20)
    assert process.returncode == 130, problem
    found = [(row["profile"], row["status"], row["attempts"]) for row in ledger(home)]
    assert sorted(found) == [("sim", "error", 1), ("spare", "cancelled", 1)]
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM holds").fetchone() == (0,)


def test_a_fallback_without_a_key_is_left_out(at: At, run: Run, sim: Simulator) -> None:
    """It is said at the start, and the rest goes on."""
    env = at(sim.base_url, "    fallback: [anthropic]")
    done = run("ask", "hello", env=env)
    assert (done.returncode, done.stdout) == (0, "echo: hello")
    assert "the fallback anthropic is left out" in done.stderr


def test_a_dearer_fallback_under_a_tight_budget(
    at: At, run: Run, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """Rows that failed wait until the budget has room for the dearer call, and those that were
    getting ready meanwhile do not wait for them: the batch ends, and all are answered."""
    sim.fault = errors.out_of_quota()
    first = "    fallback: [spare]\n    context: 2000000"
    dear = other_profile(other).replace("output: 4", "output: 5") + "    context: 2000000\n"
    env = at(sim.base_url, first, dear)
    rows = [{**row, "max_tokens": 500_000} for row in prompts(6)]
    source = write(tmp_path / "in.jsonl", rows)
    # Three calls of the first at a dollar each, or one of the other at two and a half.
    options = ("--no-cache", "--concurrency", "2", "--budget", "3.2")
    done = run("batch", str(source), *options, env=env)
    assert done.returncode == 0, done.stderr
    assert {row["profile"] for row in read(tmp_path / "in.out.jsonl")} == {"spare"}


@pytest.mark.parametrize("mode", ["truncate", "fallback"])
def test_a_prompt_that_is_too_long(
    at: At, run: Run, sim: Simulator, other: Simulator, mode: str
) -> None:
    """`truncate` sends the beginning that fits and says so; `fallback` asks the other profile."""
    long = f"    context: 100\n    on_overflow: {mode}\n    fallback: [spare]"
    env = at(sim.base_url, long, other_profile(other))
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


def test_the_answer_to_a_cut_prompt_is_not_kept(
    at: At, run: Run, sim: Simulator, other: Simulator, home: Path
) -> None:
    """The same prompt, once it may not be cut, gets no answer to a part of it from the cache."""
    long, question = "    context: 100\n    on_overflow: truncate", "word " * 300
    env = at(sim.base_url, long, other_profile(other))
    assert run("ask", question, env=env).returncode == 0
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("context: 100", "context: 100000"))
    assert run("ask", question, env=env).returncode == 0
    assert [call.prompt.count("word") for call in sim.calls][1:] == [300]


def test_a_wrong_port_ends_the_batch(at: At, run: Run, tmp_path: Path) -> None:
    """Nobody waits for a server that never replied: every row fails with what happened, exit 5."""
    env = at("http://127.0.0.1:9/v1")
    source = write(tmp_path / "in.jsonl", prompts(ROWS))
    began = time.monotonic()
    done = run("batch", str(source), env=env)
    assert done.returncode == 5
    failed = read(tmp_path / "in.out.errors.jsonl")
    assert len(failed) == ROWS
    assert {row["error"]["type"] for row in failed} == {"connection"}
    assert time.monotonic() - began < 20


def test_the_providers_headers_hold_the_batch_back(at: At, run: Run, tmp_path: Path) -> None:
    """A profile without limits keeps to what the headers say is left: hardly a request is
    refused."""
    with Simulator(rpm=300) as strict:
        strict_rows = 330  # the minute's 300 at once, and then 5 a second
        env = at(strict.base_url)
        done = run("batch", str(write(tmp_path / "in.jsonl", prompts(strict_rows))), env=env)
        assert done.returncode == 0, done.stderr
        refused = [call for call in strict.calls if call.status == 429]
    assert len(refused) <= 3


def test_two_processes_share_a_minute(at: At, tmp_path: Path, sim: Simulator) -> None:
    """Two batches at 300 a minute send 5 a second together, not each."""
    env = at(sim.base_url, "    limits: {rpm: 300}")
    sources = [write(tmp_path / f"in{n}.jsonl", prompts(15)) for n in range(2)]
    running = [
        subprocess.Popen([LLMCTL, "batch", str(source), "-q", "--no-cache"], env=env, cwd=tmp_path)
        for source in sources
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    times = sorted(call.received for call in sim.calls)
    assert len(times) == 30
    assert times[-1] - times[0] >= (30 - 2) / 5 - 0.2


def test_two_processes_that_wait_for_a_limit_pay_once(
    at: At, home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 73: questions that two batches share are billed once, also where the rate limit makes
    the one that asks wait for longer than a call may take."""
    env = at(sim.base_url, "    limits: {rpm: 120}\n    timeout: {first_byte: 0.3, total: 0.3}")
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("retry: {", "retry: {attempts: 1, "))
    sources = [write(tmp_path / f"in{n}.jsonl", prompts(8)) for n in range(2)]
    running = [
        subprocess.Popen([LLMCTL, "batch", str(source), "-q"], env=env, cwd=tmp_path)
        for source in sources
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert (len(sim.calls), sim.billed.repeated) == (8, 0)


def test_a_server_that_closes_kept_connections(
    at: At, run: Run, home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 72: a server that answers one request on each connection, and closes it when the next
    one comes, is not down: all rows are answered, and what may have been billed is on record."""
    seen: set[int] = set()

    def script(call: Call) -> Fault | None:
        if call.connection in seen:
            return Disconnect()
        seen.add(call.connection)
        return None

    sim.fault = script
    env = at(sim.base_url, "    breaker: {failures: 1}")
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("retry: {", "retry: {attempts: 1, "))
    done = run("batch", str(write(tmp_path / "in.jsonl", prompts(ROWS))), "--no-cache", env=env)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "in.out.jsonl")) == ROWS
    closed = sim.record.requests - ROWS
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        assert db.execute("SELECT sum(uncertain) FROM calls").fetchone() == (closed,)
    assert 0 < closed <= 8


def test_requests_of_a_day(
    llmctl: Run, configured: dict[str, str], tmp_path: Path, sim: Simulator
) -> None:
    """A71, B11: `rpd` holds for all commands of a UTC day; when they are used the run stops with
    exit 5 and what to do, and the same command goes on once there are more."""
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(f'{{"prompt": "p{n}"}}\n' for n in range(8)))
    assert llmctl("ask", "hi", env={**configured, "LLMCTL_RPD": "3"}).returncode == 0
    done = llmctl("batch", str(rows), "--rpd", "3", "--json")
    assert (done.returncode, len(sim.calls)) == (5, 3)
    summary = json.loads(done.stdout)
    assert (summary["ok"], summary["failed"], summary["errors"]) == (2, 6, {"quota": 6})
    assert "the 3 requests of this day (limits: rpd) are used" in done.stderr
    assert "or raise rpd" in done.stderr
    assert llmctl("ask", "more", env={**configured, "LLMCTL_RPD": "3"}).returncode == 5
    done = llmctl("batch", str(rows), "--rpd", "9")
    assert (done.returncode, len(sim.calls)) == (0, 9)


def test_limits_of_a_model(llmctl: Run, home: Path, tmp_path: Path, sim: Simulator) -> None:
    """`limits: {models: …}`: a named model has its own, counted apart from the others'."""
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text() + "    limits: {rpd: 4, models: {small: {rpd: 2}}}\n")
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "a", "model": "small"}\n' * 3 + '{"prompt": "b"}\n')
    done = llmctl("batch", str(rows), "--no-cache", "--concurrency", "1", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (5, 2)
    assert [call.ask.model for call in sim.calls if call.ask] == ["small"] * 2
    rows.write_text('{"prompt": "c"}\n' * 5)
    done = llmctl("batch", str(rows), "-o", str(tmp_path / "o.jsonl"), "--no-cache", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (5, 4)


def test_a_header_that_never_says_more_is_not_believed(
    llmctl: Run, tmp_path: Path, sim: Simulator
) -> None:
    """Case 74: "0 left" on every good answer does not throttle a run to a request a minute."""
    left = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "0"}
    sim.headers = {**left, "x-ratelimit-reset-requests": "1m0s"}
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(f'{{"prompt": "p{n}"}}\n' for n in range(40)))
    done = llmctl("batch", str(rows), "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, 40)
    assert json.loads(done.stdout)["elapsed_s"] < 30
