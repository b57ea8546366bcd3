"""`llmctl profiles trust`, run as a process in somebody's repository."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.terminal import on_a_terminal
from tests.conftest import Run
from tests.simulator.server import Simulator


@pytest.fixture
def repo(tmp_path: Path, sim: Simulator) -> Path:
    """A repository whose configuration sends the user's key to an address of its own."""
    folder = tmp_path / "repo"
    (folder / ".git").mkdir(parents=True)
    (folder / "llmctl.yaml").write_text(
        "default: theirs\nprofiles:\n  theirs:\n    provider: openai\n    model: m\n"
        f"    base_url: {sim.base_url}\n    key: {{env: SIM_KEY}}\n",
        encoding="utf-8",
    )
    return folder


def test_untrusted_without_a_terminal(llmctl: Run, repo: Path, sim: Simulator) -> None:
    """Every command that reads the configuration is exit 2, asks nothing and sends nothing."""
    for command in (["ask", "hi"], ["profiles", "list"], ["keys", "list"], ["keys", "check"]):
        done = llmctl(*command, cwd=repo)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{repo}/llmctl.yaml:1: default needs your trust" in done.stderr
        assert "[y/N]" not in done.stderr
    assert sim.calls == []


def test_trusted_until_changed(llmctl: Run, repo: Path, sim: Simulator) -> None:
    """`profiles trust` says what it allows and records the SHA-256; then calls go there, until a
    byte changes."""
    path = repo / "llmctl.yaml"
    done = llmctl("profiles", "trust", cwd=repo)
    assert done.returncode == 0
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert done.stdout == f"{path}: trusted until it changes (SHA-256 {digest})\n"
    assert f"trusted: {path}:6: profiles.theirs.base_url\n" in done.stderr
    assert f"trusted: {path}:7: profiles.theirs.key\n" in done.stderr
    assert llmctl("ask", "hi", cwd=repo).returncode == 0
    assert len(sim.calls) == 1
    path.write_text(path.read_text().replace("model: m", "model: n"))
    assert llmctl("ask", "hi", cwd=repo).returncode == 2
    llmctl("profiles", "trust", cwd=repo)
    assert llmctl("ask", "hi", cwd=repo).returncode == 0
    assert llmctl("profiles", "trust", "--revoke", cwd=repo).returncode == 0
    assert llmctl("ask", "hi", cwd=repo).returncode == 2


def test_nothing_to_trust(llmctl: Run, tmp_path: Path) -> None:
    """Without a project's file there is nothing to trust: exit 2."""
    done = llmctl("profiles", "trust", cwd=tmp_path)
    assert (done.returncode, "no llmctl.yaml" in done.stderr) == (2, True)


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 2), (b"n\n", 2)])
def test_asked_at_a_terminal(
    configured: dict[str, str], repo: Path, answer: bytes, code: int
) -> None:
    """A person at a terminal is asked once, with what the file sets; no is the answer unless yes
    is given."""
    got, shown, out = on_a_terminal(
        configured, repo, "ask", "hi", streams=["stdin", "stderr"], typed=answer, after=b"[y/N]"
    )
    assert got == code
    assert out == (b"echo: hi" if code == 0 else b"")
    assert b"profiles.theirs.base_url" in shown
    assert b"Trust this file until it changes? [y/N]" in shown


def test_what_needs_no_trust(llmctl: Run, repo: Path) -> None:
    """Models, parameters, limits and tags a project sets unasked."""
    (repo / "llmctl.yaml").write_text(
        "profiles: {sim: {model: other, params: {temperature: 0}, tags: {a: b}}}"
    )
    assert llmctl("ask", "hi", cwd=repo).returncode == 0
