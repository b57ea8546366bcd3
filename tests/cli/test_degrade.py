"""`degrade:` as a user meets it: answers that are marked, in line, row and exit code."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.jsonl import read, write
from tests.conftest import KEY, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.server import Simulator

SETTINGS = """
    retry: {attempts: 1}
    cache: {ttl: 0.001}
    degrade: [{stale: 24h}, {static: "come back later"}]
"""


def setting(home: Path, sim: Simulator, environ: dict[str, str]) -> dict[str, str]:
    """The environment with a profile that has `degrade:`."""
    configure(home, sim.base_url, "{env: SIM_KEY}", "")
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace("    retry: {max_wait: 0.01}", SETTINGS.strip("\n")))
    return {**environ, "SIM_KEY": KEY}


def test_ask_gives_an_expired_answer_and_says_so(
    home: Path, sim: Simulator, environ: dict[str, str], run: Run
) -> None:
    """Exit 0 with a line on stderr, 5 with --strict, and its marks in --json; it is free, and the
    failed calls are on record beside it."""
    env = setting(home, sim, environ)
    assert run("ask", "hello", env=env).stdout == "echo: hello"
    sim.fault = errors.server_error()
    done = run("ask", "hello", env=env)
    assert (done.returncode, done.stdout) == (0, "echo: hello")
    assert "the provider is down: this answer is" in done.stderr
    strict = run("ask", "--strict", "--json", "hello", env=env)
    assert strict.returncode == 5
    row = json.loads(strict.stdout)
    assert (row["cache"], row["degraded"], row["cost_usd"]) == ("stale", "stale", 0)
    assert row["age_s"] >= 0
    kinds = sorted((call["status"], call["cache"] or "") for call in ledger(home))
    assert kinds == [("error", "")] * 2 + [("ok", "miss")] + [("ok", "stale")] * 2


def test_a_static_text_is_an_answer_to_a_person_and_none_to_a_row(
    home: Path, sim: Simulator, environ: dict[str, str], run: Run, tmp_path: Path
) -> None:
    """`ask` prints it, and keeps it in no conversation; a row of a batch is an error and is sent
    again by the same command, and one with a stale answer is marked."""
    env = setting(home, sim, environ)
    assert run("ask", "row 0", env=env).returncode == 0
    sim.fault = errors.server_error()
    done = run("ask", "new", env=env)
    assert (done.returncode, done.stdout) == (0, "come back later")
    assert "no answer of a model" in done.stderr
    assert json.loads(run("history", "list", "--json", env=env).stdout)[0]["excerpt"] == "row 0"
    rows = tmp_path / "rows.jsonl"
    write(rows, [{"id": "a", "prompt": "row 0"}, {"id": "b", "prompt": "new"}])
    out = tmp_path / "out.jsonl"
    done = run("batch", str(rows), "-o", str(out), env=env)
    assert done.returncode == 1
    assert [(row["id"], row["degraded"]) for row in read(out)] == [("a", "stale")]
    assert [row["error"]["type"] for row in read(tmp_path / "out.errors.jsonl")] == ["unavailable"]
    assert "1 of them stale" in done.stderr
    sim.fault = None
    assert run("batch", str(rows), "-o", str(out), env=env).returncode == 0
    assert [row["id"] for row in read(out)] == ["a", "b"]
