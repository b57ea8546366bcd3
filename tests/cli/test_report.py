"""`llmctl report`: the page in a file of its own, and what else may stand where it goes."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.ledgers import a_call, a_ledger

NAME = "llmctl-report.html"


@pytest.fixture
def spent(home: Path) -> Path:
    """A ledger with one call of a dollar, a second ago."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True, mode=0o700)
    started = round(time.time() * 1000) - 1000
    return a_ledger(folder / "ledger.db", a_call(started_ms=started, model="gpt-9"))


@pytest.mark.usefixtures("spent")
def test_the_page_is_written(run: Run, tmp_path: Path) -> None:
    """Its path alone is on stdout; the file is the user's, and whole; writing it again replaces
    it. With --json the figures are there."""
    done = run("report")
    assert (done.returncode, done.stdout) == (0, f"{NAME}\n")
    assert "1 call, $1.00; " in done.stderr
    file = tmp_path / NAME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert "gpt-9" in text
    said = json.loads(run("report", "--json", "--quiet").stdout)
    assert (said["file"], said["calls"], said["cost_usd"]) == (NAME, 1, 1)
    assert said["bytes"] == file.stat().st_size
    assert [*tmp_path.glob("*.html")] == [file]


@pytest.mark.usefixtures("spent")
def test_stdout(run: Run, tmp_path: Path) -> None:
    """`-o -` writes the page and nothing else, and no file."""
    done = run("report", "-o", "-", "--since", "7d", "--timezone", "Europe/Berlin")
    assert done.returncode == 0
    assert done.stdout.startswith("<!doctype html>")
    assert done.stdout.endswith("</html>\n")
    assert "Europe/Berlin" in done.stdout
    assert done.stderr == ""
    assert not [*tmp_path.glob("*.html")]


def test_without_a_ledger(run: Run, home: Path) -> None:
    """Before the first call the page says that there is none, and no ledger is made."""
    done = run("report", "-o", "-")
    assert (done.returncode, "No calls in this span" in done.stdout) == (0, True)
    assert not [*home.rglob("ledger.db")]


def test_other_files_are_not_replaced(run: Run, tmp_path: Path) -> None:
    """A file that is no page of ours stays, unless --force is given; an empty one may go."""
    notes = tmp_path / "notes.html"
    notes.write_text("<!doctype html>mine", encoding="utf-8")
    done = run("report", "-o", "notes.html")
    assert done.returncode == 2
    assert "no page of `llmctl report`; --force replaces it" in done.stderr
    assert notes.read_text(encoding="utf-8") == "<!doctype html>mine"
    assert run("report", "-o", "notes.html", "--force").returncode == 0
    assert "generator" in notes.read_text(encoding="utf-8")
    empty = tmp_path / "empty.html"
    empty.touch()
    assert run("report", "-o", "empty.html").returncode == 0


def test_what_cannot_be_done(run: Run, tmp_path: Path) -> None:
    """A folder, a folder that is not there, spans that exclude each other, and --open or --json
    without a file: each says what to do, and nothing is written."""
    for arguments, code, words in (
        (("-o", "."), 2, "name a file in it"),
        (("-o", "none/x.html"), 74, "create the folder first"),
        (("--since", "7d", "--from", "2026-01-01"), 2, "exclude each other"),
        (("--since", "soon"), 2, "--since wants a time"),
        (("-o", "-", "--open"), 2, "need a file"),
        (("-o", "-", "--json"), 2, "need a file"),
    ):
        done = run("report", *arguments)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert not [*tmp_path.rglob("*.html")]


def test_open(run: Run, environ: dict[str, str], tmp_path: Path) -> None:
    """The browser that $BROWSER names gets the file's address; without one that is said."""
    browser = tmp_path / "browser"
    browser.write_text('#!/bin/sh\nprintf %s "$1" >"$0.saw"\n', encoding="utf-8")
    browser.chmod(0o755)
    environ["BROWSER"] = f"{browser} %s"
    assert run("report", "-o", "a page.html", "--open").returncode == 0
    saw = (tmp_path / "browser.saw").read_text(encoding="utf-8")
    assert saw == (tmp_path / "a page.html").resolve().as_uri()
    environ |= {"BROWSER": "/no/such/browser", "PATH": "/nowhere"}
    done = run("report", "--open")
    assert (done.returncode, "open llmctl-report.html yourself" in done.stderr) == (0, True)
