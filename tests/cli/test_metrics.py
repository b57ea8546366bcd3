"""`llmctl metrics`: what it prints, writes and pushes, and what it sees of other processes."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.cli.jsonl import write
from tests.conftest import LLMCTL, Run
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost
from tests.prometheus import check, samples
from tests.simulator import errors
from tests.simulator.server import Simulator

CANARY = "push-canary-4711"
DOLLAR = 10**12


@pytest.fixture
def ledger(home: Path) -> Path:
    """A ledger of this hour with every kind of call, and one call of the hour before."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True, mode=0o700)
    now = round(time.time() * 1000) - 1000
    return a_ledger(
        folder / "ledger.db",
        *(a_call(started_ms=now, latency_ms=2000 + n, rate_limits=1, attempts=2) for n in range(3)),
        a_call(started_ms=now, latency_ms=900, first_token_ms=120, model="gpt-5", cost_pico=None),
        *(a_hit(started_ms=now) for _ in range(4)),
        a_failure(started_ms=now, error_type="timeout"),
        a_failure(started_ms=now, error_type="budget", attempts=0),
        lost(started_ms=now),
        a_call(started_ms=now - 3_700_000, latency_ms=60_000),
        a_call(started_ms=now - 7_300_000, latency_ms=60_000),
    )


class Gateway(HTTPServer):
    """A Pushgateway that keeps what it was sent and answers `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pushed)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.status = 200
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []


class _Pushed(BaseHTTPRequestHandler):
    server: Gateway

    def do_PUT(self) -> None:
        length = int(self.headers["content-length"])
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.command, self.path, headers, self.rfile.read(length)))
        said = b"" if self.server.status < 300 else b"pushed metrics are\ninvalid"
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def pushgateway() -> Iterator[Gateway]:
    """A Pushgateway on loopback, while open."""
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("ledger")
def test_prometheus_text_adds_up_to_the_report(run: Run) -> None:
    """Into a pipe as `promtool` likes it; its sums are those of `cost report`."""
    page = run("metrics").stdout.encode()
    check(page)
    found = samples(page)
    report = json.loads(run("cost", "report", "--json").stdout)["total"]

    def total(name: str, *labels: str) -> float:
        return sum(n for names, n in found.items() if {f"llmctl_{name}", *labels} <= names)

    assert total("calls_total") + total("unknown_calls") == report["calls"]
    assert total("calls_total", "failed") + total("unknown_calls") == report["errors"]
    assert total("errors_total") + total("unknown_calls") == report["errors"]
    assert total("calls_total", "refused") == report["refused_calls"]
    assert total("calls_total", "cached") == report["cached_calls"]
    assert total("tokens_total", "input") == report["input_tokens"]
    assert total("tokens_total", "output") == report["output_tokens"]
    assert total("cost_usd_total") == report["cost_usd"]
    assert total("saved_usd_total", "cache") == report["saved_usd"]
    assert total("doubtful_cost_usd") == report["may_have_been_billed_usd"]
    assert total("unpriced_calls_total") == report["unpriced_calls"]
    assert total("retries_total") == report["retries"]
    assert total("rate_limit_hits_total") == report["rate_limit_hits"]


@pytest.mark.usefixtures("ledger")
def test_figures_with_their_targets(run: Run) -> None:
    """As JSON: those of the window, each with its target and whether it is met; the trend against
    the window before."""
    found = json.loads(run("metrics", "--json").stdout)
    figures = found["figures"]
    assert figures["calls"]["value"] == 11
    assert figures["latency_p95_ms"] == {"value": 2002, "target": {"below": 3000}, "met": True}
    assert figures["error_rate"] == {"value": 0.2, "target": {"below": 0.001}, "met": False}
    assert figures["cache_hit_rate"] == {"value": 0.4, "target": {"above": 0.4}, "met": False}
    assert figures["retries"] == {"value": 3, "target": None, "met": None}
    assert figures["token_trend"]["value"] == 5
    assert found["error_types"] == {"timeout": 1, "unknown": 1}
    assert (found["window_s"], found["circuits"]) == (3600, [])
    assert json.loads(run("metrics", "--json", "--window", "999999d").stdout)["figures"]["calls"]
    longer = json.loads(run("metrics", "--format", "json", "--window", "3h").stdout)["figures"]
    assert (longer["latency_p95_ms"]["value"], longer["latency_p95_ms"]["met"]) == (60_000, False)
    assert longer["token_trend"]["value"] is None  # the ledger does not reach back so far


@pytest.mark.usefixtures("ledger")
def test_the_table(run: Run) -> None:
    """For a person: each figure with its unit, its target and whether it is met, within 80
    columns."""
    done = run("metrics", "--format", "table")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["latency", "p95", "2.00", "s", "<", "3", "s", "met"] in lines
    assert ["errors", "20.00%", "<", "0.1%", "missed"] in lines
    assert ["cache", "hits", "40.00%", ">", "40%", "missed"] in lines
    assert ["tokens,", "against", "the", "time", "before", "+500%"] in lines
    assert max(map(cell_len, done.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("ledger")
def test_the_report_names_targets(run: Run) -> None:
    """`cost report` says them in words, and which are missed; as JSON with the trend."""
    said = " ".join(run("cost", "report", "--since", "1h").stdout.split())
    assert "Healthy targets: p95 2.00 s (< 3 s), errors 20.00% (< 0.1%: MISSED), cache hits" in said
    assert "+500% against the 1 h before" in said
    report = json.loads(run("cost", "report", "--since", "1h", "--json").stdout)
    assert report["targets"]["latency_p95_ms"]["met"] is True
    assert report["token_trend"] == 5


def test_without_a_ledger(run: Run, home: Path) -> None:
    """There is nothing yet, and none is made; `promtool` finds no fault."""
    done = run("metrics")
    check(done.stdout.encode())
    assert (done.returncode, done.stderr) == (0, "")
    done = run("metrics", "--format", "table")
    assert done.returncode == 0
    assert ["cost", "of", "a", "call", "-"] in [line.split() for line in done.stdout.splitlines()]
    assert "?" not in done.stdout
    assert not (home / ".local/state/llmctl/ledger.db").exists()


@pytest.mark.usefixtures("ledger")
def test_the_file_of_a_collector(run: Run, tmp_path: Path) -> None:
    """Whole in the place of the old one, nothing beside it, and any user may read it; nothing on
    stdout."""
    file = tmp_path / "collector/llmctl.prom"
    file.parent.mkdir()
    file.write_text("old")
    done = run("metrics", "-o", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert samples(file.read_bytes())
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(file.parent.iterdir()) == [file]
    done = run("metrics", "-o", str(tmp_path / "none/llmctl.prom"))
    assert done.returncode == 74
    assert "create the folder first" in done.stderr


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (CANARY, f"Bearer {CANARY}"),
        (f"ann:{CANARY}", "Basic " + base64.b64encode(f"ann:{CANARY}".encode()).decode()),
        (None, None),
    ],
)
def test_push(run: Run, environ: dict[str, str], value: str | None, sent: str | None) -> None:
    """A PUT takes the place of what this host pushed before; with a token, or user and password,
    out of the variable that is named."""
    with pushgateway() as server:
        key = () if value is None else ("--push-key", "PUSH")
        env = {**environ, "PUSH": value or ""}
        done = run("metrics", "--push", server.url, *key, env=env)
        grouped = f"{server.url}/metrics/job/nightly"
        assert run("metrics", "--push", grouped, *key, "-q", env=env).stderr == ""
    assert (done.returncode, done.stdout) == (0, "")
    (_, path, headers, body), (_, other, *_) = server.got
    assert path.startswith("/metrics/job/llmctl/instance/")
    assert other == "/metrics/job/nightly"
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert headers.get("authorization") == sent
    assert samples(body)
    assert CANARY not in done.stderr


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(("status", "code", "step"), [(400, 1, "--push"), (401, 4, "--push-key")])
def test_a_refused_push(
    run: Run, environ: dict[str, str], status: int, code: int, step: str
) -> None:
    """What the Pushgateway says, on one line, and where to look; never the token."""
    with pushgateway() as server:
        server.status = status
        env = {**environ, "PUSH": CANARY}
        done = run("metrics", "--push", server.url, "--push-key", "PUSH", env=env)
    assert done.returncode == code
    assert done.stderr == (
        "error: the metrics were not pushed: 127.0.0.1 answers "
        f"{status}: pushed metrics are invalid; check {step}\n"
    )


def test_nobody_to_push_to(run: Run) -> None:
    """A Pushgateway that is not there ends it with 5."""
    with pushgateway() as server:
        url = server.url
    done = run("metrics", "--push", url)
    assert done.returncode == 5
    assert done.stderr.startswith("error: the metrics were not pushed: ")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--window", "7"), 2, "--window wants a time such as 30m, 1h or 7d, not '7'"),
        (("--window", "0h"), 2, "--window wants"),
        (("--push", "push.example"), 2, "--push wants an address"),
        (("--push", f"https://ann:{CANARY}@push.example"), 2, "--push takes no password"),
        (("--push", "http://push.example", "--push-key", "HOME"), 2, "--push wants https://"),
        (("--push", "https://push.example", "--push-key", "NONE"), 4, "variable NONE"),
        (("--push-key", "HOME"), 2, "--push-key goes with --push URL"),
        (("--json", "-o", "x"), 2, "are for Prometheus"),
        (("--format", "table", "--push", "https://push.example"), 2, "are for Prometheus"),
    ],
)
def test_options_that_make_no_sense(run: Run, flags: tuple[str, ...], code: int, said: str) -> None:
    """Each is refused in a sentence that shows no secret, before anything is read or sent."""
    done = run("metrics", *flags)
    assert done.returncode == code
    assert said in done.stderr
    assert CANARY not in done.stderr


def test_others_see_a_circuit_that_opens_until_its_process_dies(
    llmctl: Run, configured: dict[str, str], tmp_path: Path, sim: Simulator
) -> None:
    """A batch whose provider is down opens its circuit: `llmctl metrics` in another process shows
    it, with the calls under way; after a `kill -9` there is neither."""
    sim.fault = errors.status(500)
    rows = write(tmp_path / "in.jsonl", [{"prompt": f"row {n}"} for n in range(40)])
    batch = subprocess.Popen(
        [LLMCTL, "batch", rows, "--concurrency", "4", "-q"],
        env=configured, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        seen = _wait_for_circuit(llmctl)
        page = llmctl("metrics").stdout.encode()
    finally:
        os.killpg(batch.pid, signal.SIGKILL)
        batch.wait(30)
    (circuit,) = seen["circuits"]
    assert (circuit["provider"], circuit["profile"], circuit["processes"]) == ("openai", "sim", 1)
    assert circuit["state"] in {"open", "half-open"}
    assert seen["figures"]["calls_in_flight"]["value"] > 0
    check(page)
    assert sum(n for names, n in samples(page).items() if "llmctl_circuits" in names) == 1
    after = json.loads(llmctl("metrics", "--json").stdout)
    assert after["circuits"] == []
    assert after["figures"]["calls_in_flight"]["value"] == 0


def _wait_for_circuit(llmctl: Run) -> Any:
    end = time.monotonic() + 60
    while not (found := json.loads(llmctl("metrics", "--json").stdout))["circuits"]:
        assert time.monotonic() < end, found
    return found
