"""`llmctl alerts`, `batch --notify`, and rules that are looked at while calls are made."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.alerts.receiver import Receiver
from tests.cli.jsonl import prompts, write
from tests.cli.terminal import on_a_terminal
from tests.conftest import LLMCTL, Run
from tests.keys.openbao import closed_port
from tests.simulator import errors
from tests.simulator.faults import Hang
from tests.simulator.server import Simulator

ROWS = 25


@pytest.fixture
def watched(configured: dict[str, str], home: Path, receiver: Receiver) -> dict[str, str]:
    """The environment of a configuration with the sinks `ops` and `down`; rules tell `ops`."""
    file = home / ".config/llmctl/config.yaml"
    down = f"http://127.0.0.1:{closed_port()}/secret-path"
    sinks = f"{{ops: {{webhook: '{receiver.url}'}}, down: {{webhook: '{down}'}}}}"
    file.write_text(f"{file.read_text()}\nalerts: {{to: ops, sinks: {sinks}}}\n")
    return configured


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Prompts in a file."""
    write(tmp_path / "in.jsonl", prompts(ROWS))
    return "in.jsonl"


def test_nothing_was_ever_asked(run: Run, home: Path) -> None:
    """In an empty home the rules stand and nothing fires; a look at them makes no ledger."""
    done = run("alerts", "list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[:4] == [
        "error_rate_critical",
        "critical",
        "quiet",
        "-",
    ]
    assert len(done.stdout.splitlines()) == 11
    assert "there are no sinks" in done.stderr
    done = run("alerts", "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing fires (10 rules)\n", "")
    assert not (home / ".local/state/llmctl/ledger.db").exists()


def test_an_outage_is_told_by_the_batch_that_met_it(
    run: Run, watched: dict[str, str], receiver: Receiver, sim: Simulator, rows: str, tmp_path: Path
) -> None:
    """A run looks at its end; `check` finds what fires (exit 1), and tells nobody again. The table
    of the rules has a line for each on a terminal of 80 columns."""
    sim.fault = errors.status(400)
    assert run("batch", rows, env=watched).returncode == 1
    told = {got["name"]: got for got in receiver.got}
    assert told.keys() == {"error_rate_critical"}
    assert f"{ROWS} of {ROWS} calls failed: {ROWS} invalid_request" in told.popitem()[1]["text"]
    for words, code in ((("-q",), 1), (("--json",), 1)):
        done = run("alerts", "check", *words, env=watched)
        assert done.returncode == code
        assert "error_rate_critical" in done.stdout
    said = json.loads(done.stdout)
    assert (said["firing"], said["sent"]) == (["error_rate_critical"], [])
    (rule,) = [one for one in said["rules"] if one["state"] == "firing"]
    assert (rule["value"], rule["calls"], rule["to"]) == (1.0, ROWS, ["ops"])
    listed = run("alerts", "list", "--json", env=watched)
    assert json.loads(listed.stdout)["rules"] == said["rules"]
    _, shown, _ = on_a_terminal(watched, tmp_path, "alerts", "list")
    _, *lines, told_whom = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    assert [line.split()[0] for line in lines] == [rule["name"] for rule in said["rules"]]
    assert re.match(r"error_rate_critical  critical  firing \d+ s +100% +error_rate > 5%", lines[0])
    assert told_whom == "each of them tells ops"
    assert len(receiver.got) == 1


def test_a_sink_tried(run: Run, watched: dict[str, str], receiver: Receiver) -> None:
    """A test says of each sink how it went; of a rule all its sinks are tried."""
    done = run("alerts", "test", "ops", env=watched)
    assert (done.returncode, done.stdout) == (0, "ops (webhook) took it\n")
    assert run("alerts", "test", "latency_critical", env=watched).returncode == 0
    assert [got["status"] for got in receiver.got] == ["test", "test"]
    done = run("alerts", "test", "down", "--json", env=watched)
    assert done.returncode == 1
    assert "Connection refused" in json.loads(done.stdout)["sent"][0]["error"]
    assert "secret-path" not in done.stdout + done.stderr
    done = run("alerts", "test", "opps", env=watched)
    assert (done.returncode, 'did you mean "ops"' in done.stderr) == (2, True)


def ended(receiver: Receiver) -> dict[str, Any]:
    """What was told of the end of a batch."""
    (got,) = [got for got in receiver.got if got["status"] == "ended"]
    found: dict[str, Any] = got
    return found


def test_how_a_batch_ended(
    run: Run, watched: dict[str, str], receiver: Receiver, rows: str
) -> None:
    """Exit code, counts, cost, time and files; a second run of it says that nothing was left."""
    done = run("batch", rows, "--notify", "ops", "--json", env=watched)
    assert done.returncode == 0
    got, summary = ended(receiver), json.loads(done.stdout)
    assert got["title"] == "[BATCH] in.jsonl: done, exit code 0"
    assert got["severity"] == "info"
    assert got["text"].startswith(f"{ROWS} rows: {ROWS} answered, 0 failed; $")
    assert got["text"].endswith("output in.out.jsonl")
    batch = got["batch"]
    assert (batch["input"], batch["output"]) == ("in.jsonl", "in.out.jsonl")
    for name in summary.keys() - {"elapsed_s"}:
        assert batch[name] == summary[name], name
    del receiver.got[:]
    assert run("batch", rows, "--notify", "ops", env=watched).returncode == 0
    assert f"{ROWS} answered before" in ended(receiver)["text"]


def test_how_a_batch_failed(
    run: Run, watched: dict[str, str], receiver: Receiver, sim: Simulator, rows: str
) -> None:
    """Rows that failed, with what; a run that could not begin, with why. What fails in telling is
    said, changes no exit code, and is tried again."""
    sim.fault = errors.status(400)
    done = run("batch", rows, "--notify", "down", "--notify", "ops", env=watched)
    assert done.returncode == 1
    assert "the sink down did not take" in done.stderr
    assert "secret-path" not in done.stderr
    assert f"failed: {ROWS} invalid_request" in ended(receiver)["text"]
    assert ended(receiver)["batch"]["errors_file"] == "in.out.errors.jsonl"
    del receiver.got[:]
    env = {name: value for name, value in watched.items() if name != "SIM_KEY"}
    done = run("batch", rows, "--notify", "ops", env=env)
    assert done.returncode == 4
    got = ended(receiver)
    assert (got["batch"]["exit_code"], got["severity"]) == (4, "warning")
    assert "$SIM_KEY is not set" in got["text"]


def test_an_unknown_sink_sends_nothing(
    run: Run, watched: dict[str, str], sim: Simulator, rows: str
) -> None:
    """A name that is no sink's is exit 2 before any row is sent."""
    done = run("batch", rows, "--notify", "opps", env=watched)
    assert done.returncode == 2
    assert 'there is no sink "opps"; did you mean "ops"?' in done.stderr
    assert not sim.calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_that_was_interrupted(
    watched: dict[str, str], receiver: Receiver, sim: Simulator, rows: str, tmp_path: Path,
    number: int,
) -> None:  # fmt: skip
    """Ctrl-C and SIGTERM are told like any other end."""
    sim.fault = Hang()
    batch = subprocess.Popen(
        [LLMCTL, "batch", rows, "--notify", "ops", "-q"],
        env=watched, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not sim.calls and time.monotonic() < deadline:
        time.sleep(0.02)
    batch.send_signal(number)
    time.sleep(0.2)
    batch.send_signal(number)  # give up what is in flight
    assert batch.wait(30) == 128 + number
    got = ended(receiver)
    assert got["batch"]["exit_code"] == 128 + number
    assert got["title"] == f"[BATCH] in.jsonl: interrupted, exit code {128 + number}"


def test_the_gateway_looks(
    watched: dict[str, str], receiver: Receiver, sim: Simulator, tmp_path: Path
) -> None:
    """What callers of the gateway meet is told, at its end at the latest, by one of its workers."""
    sim.fault = errors.status(400)
    gateway = subprocess.Popen(
        [LLMCTL, "serve", "--port", "0", "--workers", "2", "--json"],
        env=watched, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert gateway.stdout
        address = json.loads(gateway.stdout.readline())["url"]
        body = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(ROWS):
            assert httpx2.post(f"{address}/v1/chat/completions", json=body).status_code == 400
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(30) == 0
    finally:
        gateway.kill()
        gateway.communicate()
    assert [got["name"] for got in receiver.got] == ["error_rate_critical"]
