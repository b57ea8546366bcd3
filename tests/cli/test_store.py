"""`store: {encrypt: true}`: what is kept of questions and answers can be read with the key only."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.cli.jsonl import read, write
from tests.cli.provider_batches import HAND, Provider
from tests.cli.test_batch_provider_crash import Unheard, killed_at
from tests.conftest import KEY, Run, configure
from tests.simulator.server import Simulator

SECRET, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
ON = "store: {encrypt: true}\n"


def turn(home: Path, *, on: bool) -> None:
    """Turn encryption on or off."""
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace(ON, "") + (ON if on else ""))


@pytest.fixture
def llmctl(run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path) -> Run:
    """Run `llmctl`, where encryption is on, with a key of the store."""
    configure(home, sim.base_url, "{env: SIM_KEY}")
    turn(home, on=True)
    (tmp_path / "tmp").mkdir()
    own = {"SIM_KEY": KEY, "LLMCTL_STORE_KEY": SECRET, "TMPDIR": str(tmp_path / "tmp")}
    return partial(run, env={**environ, **own})


@pytest.fixture
def stranger(llmctl: Run, environ: dict[str, str]) -> Run:
    """The same with another key of the store."""
    return partial(llmctl, env={**environ, "SIM_KEY": KEY, "LLMCTL_STORE_KEY": OTHER})


@pytest.fixture
def keyless(llmctl: Run, environ: dict[str, str]) -> Run:
    """The same without any."""
    null = "keyring.backends.null.Keyring"
    return partial(llmctl, env={**environ, "SIM_KEY": KEY, "PYTHON_KEYRING_BACKEND": null})


def holding(folder: Path, word: bytes = b"canary") -> list[str]:
    """The names of the files in which the word is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in files if word in path.read_bytes()]


def test_nothing_is_on_the_disk_in_clear(llmctl: Run, sim: Simulator, tmp_path: Path) -> None:
    """Conversations, cached answers and temporary files hold no word of questions and answers,
    which all the same come back: continued, shown, found, out of the cache. INPUT and OUTPUT are
    the user's own."""
    write(tmp_path / "in.jsonl", [{"id": f"r{n}", "prompt": f"canary {n}"} for n in range(9)])
    assert llmctl("ask", "canary one", "-s", "canary system").returncode == 0
    assert llmctl("ask", "-c", "canary two").stdout == "echo: canary two"
    assert llmctl("batch", "in.jsonl", cwd=tmp_path).returncode == 0
    assert holding(tmp_path) == ["in.jsonl", "in.out.jsonl"]
    asked = len(sim.calls)
    assert llmctl("ask", "canary one", "-s", "canary system", "-u").stderr.endswith("· hit\n")
    again = llmctl("batch", "in.jsonl", "--dry-run", "--json", "-o", "b.jsonl", cwd=tmp_path)
    assert json.loads(again.stdout)["to_send"] == 0
    assert llmctl("batch", "in.jsonl", "-o", "b.jsonl", cwd=tmp_path).returncode == 0
    assert len(sim.calls) == asked
    assert read(tmp_path / "b.jsonl")[0]["text"] == "echo: canary 0"
    sent = json.loads(sim.calls[1].raw)["messages"]
    assert [message["content"] for message in sent] == [
        "canary system", "canary one", "echo: canary one", "canary two",
    ]  # fmt: skip
    shown = llmctl("history", "search", "canary", "two")
    assert (shown.stdout.count("canary"), shown.stderr) == (1, "encrypted on this disk\n")
    assert json.loads(llmctl("history", "show", "--json").stdout)["encrypted"]
    assert llmctl("cache", "stats").stderr.endswith(", encrypted\n")
    assert holding(tmp_path) == ["b.jsonl", "in.jsonl", "in.out.jsonl"]


def test_turned_on_later_and_off_again(
    llmctl: Run, sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """What was kept in clear is encrypted by the next command, and can still be continued; turned
    off again, it can still be read."""
    turn(home, on=False)
    assert llmctl("ask", "canary one").returncode == 0
    assert holding(tmp_path) == ["cache.db", "history.db"]
    assert not json.loads(llmctl("cache", "stats", "--json").stdout)["encrypted"]
    turn(home, on=True)
    assert llmctl("ask", "-c", "canary two").returncode == 0
    assert holding(tmp_path) == []
    turn(home, on=False)
    assert llmctl("ask", "-c", "three").returncode == 0
    said = [message["content"] for message in json.loads(sim.calls[2].raw)["messages"]]
    assert said == ["canary one", "echo: canary one", "canary two", "echo: canary two", "three"]
    assert llmctl("ask", "canary one").stdout == "echo: canary one"
    assert len(sim.calls) == 3


def test_another_key(llmctl: Run, stranger: Run, sim: Simulator, home: Path) -> None:
    """Conversations say what to do, exit 4; cached answers are not used, with one warning; both
    are removed without the key, and what is new works."""
    assert llmctl("ask", "canary").returncode == 0
    refused = stranger("ask", "-c", "more")
    assert (refused.returncode, len(sim.calls)) == (4, 1)
    assert "set LLMCTL_STORE_KEY to the one of that time" in refused.stderr
    assert stranger("history", "list").returncode == 4
    asked = stranger("ask", "canary", "--no-history")
    assert (asked.returncode, asked.stderr.count("warning: "), len(sim.calls)) == (0, 1, 2)
    assert "another store key are not used" in asked.stderr
    assert stranger("history", "remove", "--all").stdout == "removed 1 conversation\n"
    assert stranger("cache", "prune", "--all").stdout.startswith("removed 2 answers")
    assert stranger("ask", "canary").stderr == ""
    assert holding(home) == []


def test_without_a_key_nothing_is_sent(keyless: Run, sim: Simulator, home: Path) -> None:
    """Exit 4, naming both ways to have one; what has nothing to encrypt works."""
    done = keyless("ask", "canary")
    assert (done.returncode, len(sim.calls)) == (4, 0)
    assert "set LLMCTL_STORE_KEY" in done.stderr
    assert "let a keyring be used" in done.stderr
    assert keyless("history", "list").returncode == keyless("cache", "stats").returncode == 0
    turn(home, on=False)
    assert keyless("ask", "canary").returncode == 0


def test_files_of_providers_batches(provider: Provider, tmp_path: Path) -> None:
    """Killed while its file goes up, a batch has left a file that holds no word; the next commands
    submit and fetch it."""
    provider.environ = {**provider.environ, "LLMCTL_STORE_KEY": SECRET}
    provider.configure(tail=ON)
    provider.rows([{"id": f"r{n}", "prompt": f"canary {n}"} for n in range(20)])
    provider.batches.settings.fates = (HAND,)
    batches = provider.home / ".local/state/llmctl/batches"
    killed_at(provider, "upload", Unheard())
    assert [path.name for path in batches.rglob("*.jsonl")] == ["lines.jsonl"]
    assert holding(tmp_path) == ["in.jsonl"]
    assert provider.batch("--detach").returncode == 6
    provider.batches.finish()
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.answers) == 20
    assert holding(tmp_path) == ["in.jsonl", "in.out.jsonl"]
