"""`llmctl audit`, and the calls it speaks of, run as processes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_prune import prune
from llmctl.storage.ledger_queries import DAY
from tests.cli.jsonl import read, write
from tests.conftest import KEY, LLMCTL, Run
from tests.simulator import errors
from tests.simulator.server import Simulator

SECRET = "a secret of the store, longer than thirty-two characters"


@pytest.fixture
def configured(configured: dict[str, str], home: Path) -> dict[str, str]:
    """The environment with an audit that holds what was said."""
    file = home / ".config/llmctl/config.yaml"
    file.write_text(f"{file.read_text()}audit: {{content: full}}\n")
    return {**configured, "LLMCTL_STORE_KEY": SECRET}


@pytest.fixture
def folder(home: Path) -> Path:
    """Where the log lies."""
    return home / ".local/state/llmctl/audit"


def verdict(llmctl: Run, *flags: str) -> dict[str, Any]:
    """What `audit verify` says; its exit code is that of a verdict."""
    done = llmctl("audit", "verify", "--json", *flags)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return found


def rows(tmp_path: Path, count: int) -> str:
    """An input of so many rows."""
    questions = (
        {"id": f"r{n}", "prompt": f"canary {n}", "tags": {"n": str(n)}} for n in range(count)
    )
    return str(write(tmp_path / "in.jsonl", questions))


def test_every_call_has_its_line(llmctl: Run, tmp_path: Path, folder: Path, sim: Simulator) -> None:
    """Of `ask`, `batch` and the cache; the log is whole and complete, and holds no key."""
    assert llmctl("ask", "canary hello").returncode == 0
    assert llmctl("ask", "canary hello").returncode == 0
    assert llmctl("batch", rows(tmp_path, 20)).returncode == 0
    sim.fault = errors.unauthorized()
    assert llmctl("ask", "canary").returncode == 4
    found = verdict(llmctl)
    assert found["ok"], found
    assert found["integrity"]["lines"] == 24
    assert found["completeness"]["compared"] == 23
    said = llmctl("audit", "verify").stdout
    assert said.startswith("integrity: whole (24 lines in 1 segment)\ncompleteness: complete (23 ")
    lines = [json.loads(line) for line in llmctl("audit", "export").stdout.splitlines()]
    calls = [line for line in lines if line["kind"] == "call"]
    assert [line["cache"] for line in calls[:2]] == ["miss", "hit"]
    assert calls[-1]["error"] == "auth"
    assert "canary hello" in calls[0]["content"]["prompt"]["text"]
    assert {line["tags"].get("n") for line in calls} == {None, *map(str, range(20))}
    assert KEY not in (text := b"".join(p.read_bytes() for p in folder.iterdir()).decode())
    assert SECRET not in text
    assert len(sim.calls) >= 22


def test_off_by_default(run: Run, home: Path, configured: dict[str, str], folder: Path) -> None:
    """Without `audit:` nothing is kept, no store key is needed, and there is nothing to verify."""
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace("audit: {content: full}\n", ""))
    del configured["LLMCTL_STORE_KEY"]
    assert run("ask", "canary", env=configured).returncode == 0
    assert not folder.exists()
    done = run("audit", "verify", env=configured)
    assert (done.returncode, "there is no audit log" in done.stdout) == (1, True)
    assert run("audit", "export", env=configured).returncode == 2


def test_no_store_key(run: Run, configured: dict[str, str], sim: Simulator) -> None:
    """Without a secret and a keyring nothing is sent: exit 4, naming both ways."""
    del configured["LLMCTL_STORE_KEY"]
    configured["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
    done = run("ask", "canary", env=configured)
    assert done.returncode == 4
    assert "set LLMCTL_STORE_KEY" in done.stderr
    assert "let a keyring be used" in done.stderr
    assert not sim.calls


def test_a_key_of_the_keyring(llmctl_keyed: Run, home: Path) -> None:
    """With a keyring the secret is made there, and found again by the next command."""
    file = home / ".config/llmctl/config.yaml"
    file.write_text(f"{file.read_text()}audit: {{}}\n")
    assert llmctl_keyed("keys", "set", "sim", stdin=KEY).returncode == 0
    assert llmctl_keyed("ask", "canary").returncode == 0
    assert verdict(llmctl_keyed)["integrity"]["lines"] == 2


def test_a_change_is_named(llmctl: Run, folder: Path, tmp_path: Path) -> None:
    """Exit 1, with file and line, when somebody has changed a line or cut the end off."""
    assert llmctl("batch", rows(tmp_path, 5)).returncode == 0
    path = folder / "000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"canary 1", b"canary 7"))
    done = llmctl("audit", "verify")
    assert done.returncode == 1
    assert "integrity: NOT WHOLE" in done.stdout
    assert f"{path}:" in done.stdout
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    (finding,) = verdict(llmctl)["integrity"]["findings"]
    assert (finding["file"], finding["line"]) == (str(path), 6)
    assert "the log ends at number 5; the head says it went on to 6" in finding["what"]


def test_calls_that_one_of_both_does_not_have(llmctl: Run, home: Path, tmp_path: Path) -> None:
    """A call that was made with the audit off, and one that the ledger has lost, are named."""
    assert llmctl("ask", "canary first").returncode == 0
    off = tmp_path / "off.yaml"
    own = (home / ".config/llmctl/config.yaml").read_text()
    off.write_text(own.replace("audit: {content: full}\n", ""))
    assert llmctl("ask", "canary second", "--config", str(off)).returncode == 0
    assert llmctl("ask", "canary third").returncode == 0
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db, db:
        first, second, _ = db.execute("SELECT call_id FROM calls ORDER BY started_ms").fetchall()
        db.execute("DELETE FROM calls WHERE call_id = ?", first)
    found = verdict(llmctl)
    assert found["integrity"]["ok"]
    assert found["completeness"]["without_line"] == [*second]
    assert found["completeness"]["without_row"] == [*first]
    said = llmctl("audit", "verify").stdout
    assert "completeness: NOT COMPLETE" in said
    assert second[0] in said


def test_calls_that_were_pruned_from_the_ledger(llmctl: Run, home: Path) -> None:
    """They are neither missing nor unknown; a younger call that the ledger has lost is."""
    path = home / ".local/state/llmctl/ledger.db"
    for _ in range(2):
        assert llmctl("ask", "--no-cache", "canary").returncode == 0
    with closing(open_ledger(path, "", "")) as ledger:
        assert prune(ledger.database, round(time.time() * 1000) + DAY) == 2
    assert llmctl("ask", "--no-cache", "canary").returncode == 0
    found = verdict(llmctl)
    assert found["ok"]
    assert (found["completeness"]["compared"], found["completeness"]["removed"]) == (1, 2)
    assert "2 calls of the audit removed from the ledger" in llmctl("audit", "verify").stdout
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE counts SET at_ms = at_ms - ? WHERE what = 'call'", (DAY,))
    assert len(verdict(llmctl)["completeness"]["without_row"]) == 2


def test_a_killed_batch_is_whole_and_complete(
    configured: dict[str, str], llmctl: Run, tmp_path: Path, sim: Simulator
) -> None:
    """Killed with calls under way: the log is whole, and what has no line is called killed, once
    the next command has put it on record; the same command goes on."""
    source = rows(tmp_path, 200)
    sim.latency = 0.05
    command = [str(LLMCTL), "batch", source, "-o", str(tmp_path / "out.jsonl")]
    with subprocess.Popen(
        command, env=configured, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while len(sim.calls) < 40:
            assert process.poll() is None
            os.sched_yield()
        os.killpg(process.pid, signal.SIGKILL)
    assert verdict(llmctl)["ok"]
    assert llmctl("batch", source, "-o", str(tmp_path / "out.jsonl")).returncode == 0
    assert len(read(tmp_path / "out.jsonl")) == 200
    found = verdict(llmctl)
    assert found["ok"], found
    assert found["completeness"]["killed"]


def test_a_checkpoint(llmctl: Run, home: Path, tmp_path: Path, folder: Path) -> None:
    """The head that was written elsewhere finds a log that was put back to an older state."""
    place = tmp_path / "elsewhere" / "head.json"
    place.parent.mkdir()
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace("{content: full}", f"{{checkpoint: {place}}}"))
    assert llmctl("ask", "canary 1").returncode == 0
    older = {path: path.read_bytes() for path in folder.iterdir()}
    assert llmctl("ask", "canary 2").returncode == 0
    assert verdict(llmctl, "--checkpoint", str(place))["ok"]
    for path, text in older.items():
        path.write_bytes(text)
    assert verdict(llmctl)["integrity"]["ok"]
    findings = verdict(llmctl, "--checkpoint", str(place))["integrity"]["findings"]
    assert "the checkpoint says it went on to 3" in findings[0]["what"]
    assert llmctl("audit", "verify", "--checkpoint", str(tmp_path / "none")).returncode == 2


def test_export(llmctl: Run, tmp_path: Path) -> None:
    """As CSV for a spreadsheet, which takes nothing in it for a formula; by date; into a file that
    is private."""
    assert llmctl("ask", "canary, hello").returncode == 0
    assert llmctl("ask", "canary", "--tag", "team==HYPERLINK(1)").returncode == 0
    file = tmp_path / "calls.csv"
    assert llmctl("audit", "export", "--format", "csv", "-o", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    begin, first, second = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
    assert (begin["kind"], first["kind"]) == ("begin", "call")
    assert "canary, hello" in first["prompt"]
    assert first["model"] == "gpt-5-mini"
    assert json.loads(second["tags"]) == {"team": "=HYPERLINK(1)"}
    exported = llmctl("audit", "export", "--since", "1h").stdout
    assert len(exported.splitlines()) == 3
    assert llmctl("audit", "export", "--to", "2020-01-01").stdout == ""
    assert llmctl("audit", "export", "--since", "soon").returncode == 2


def test_erase(llmctl: Run, folder: Path) -> None:
    """What a user, or a call, has said is gone, the log stays whole; a dry run says what would
    go, and nobody's content is an error."""
    assert llmctl("ask", "canary of mine").returncode == 0
    assert llmctl("ask", "canary number two").returncode == 0
    calls = [json.loads(line) for line in llmctl("audit", "export").stdout.splitlines()][1:]
    flags = ("--erase-call", calls[0]["call"])
    done = llmctl("audit", "prune", *flags, "--dry-run")
    assert done.stdout == "would erase the content of 1 line in 1 segment\n"
    assert b"canary of mine" in (folder / "000001.jsonl").read_bytes()
    done = llmctl("audit", "prune", *flags, "--json")
    assert json.loads(done.stdout) == {"segments": 1, "lines": 1, "dry_run": False}
    done = llmctl("audit", "prune", "--erase-user", calls[1]["user"])
    assert done.stdout == "erased the content of 1 line in 1 segment\n"
    assert b"canary" not in b"".join(path.read_bytes() for path in folder.iterdir())
    found = verdict(llmctl)
    assert (found["ok"], found["integrity"]["erased_lines"]) == (True, 2)
    done = llmctl("audit", "prune", "--erase-user", "nobody")
    assert (done.returncode, "nothing was erased" in done.stderr) == (2, True)


def test_retention(llmctl: Run, home: Path, folder: Path) -> None:
    """By the age that the configuration names, or a flag; the segment in use stays."""
    assert llmctl("ask", "canary").returncode == 0
    done = llmctl("audit", "prune")
    assert (done.returncode, "retain" in done.stderr) == (2, True)
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace("{content: full}", "{retain: 1d}"))
    done = llmctl("audit", "prune", "--json")
    assert json.loads(done.stdout) == {"segments": 0, "lines": 0, "dry_run": False}
    assert llmctl("audit", "prune", "--older-than", "1ms").stdout.startswith("removed 0 segments")
    assert [path.name for path in folder.glob("*.json*")] == ["000001.jsonl"]
    assert llmctl("audit", "prune", "--older-than", "1d", "--erase-user", "x").returncode == 2
    assert verdict(llmctl)["ok"]
