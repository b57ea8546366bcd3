"""`llmctl cost report --watch`: live, and the terminal as before at its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from rich.cells import cell_len

from llmctl.storage.ledger import open_ledger
from tests.cli.terminal import _own_terminal, _until, on_a_terminal
from tests.conformance.calls import a_hold, a_request
from tests.conftest import LLMCTL, Run
from tests.ledgers import a_call, a_ledger

RESTORED = b"\x1b[?1049l"
WATCH = ("cost", "report", "--watch", "--every", "1s")


@pytest.fixture
def path(home: Path) -> Path:
    """Where the ledger will be."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True, mode=0o700)
    return folder / "ledger.db"


def now() -> int:
    """The present, in milliseconds."""
    return round(time.time() * 1000)


@contextmanager
def watching(
    environ: dict[str, str], cwd: Path, columns: int = 80
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The command on a terminal of its own: that terminal, and the process."""
    leader, follower = pty.openpty()
    resize(follower, columns)
    with subprocess.Popen(
        [LLMCTL, *WATCH], env={"TERM": "xterm", **environ}, cwd=cwd, start_new_session=True,
        preexec_fn=_own_terminal, stdin=follower, stdout=follower, stderr=follower,  # noqa: PLW1509
    ) as process:  # fmt: skip
        os.close(follower)
        try:
            yield leader, process
        finally:
            process.kill()
    os.close(leader)


def resize(terminal: int, columns: int) -> None:
    """Give the terminal another width."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))


@pytest.mark.parametrize("columns", [80, 200])
def test_it_ends_with_ctrl_c(
    path: Path, environ: dict[str, str], tmp_path: Path, columns: int
) -> None:
    """A139: the present day within the terminal's columns, what is in flight, and what is spent an
    hour; exit code 0, and the terminal is as before."""
    a_ledger(path, a_call(started_ms=now(), model="m\x1b[31mevil[red]"))
    a_ledger(path, a_call(started_ms=now() - 2 * 86_400_000, model="of-another-day"))
    with closing(open_ledger(path, "", "")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        code, shown, _ = on_a_terminal(
            {**environ, "NO_COLOR": "1"}, tmp_path, *WATCH, columns=columns,
            typed=b"\x03", after=b"first token",
        )  # fmt: skip
    assert code == 0
    assert shown.count(b"\x1b[?1049h") == shown.count(RESTORED) == 1
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    text = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "\n", plain)
    assert "1 call in flight, $0.012 held for them; last 5 min: 1 call, $1.00, $12.00" in text
    assert "mevil[red]" in text
    assert "of-another-day" not in text
    lines = text.replace("^C", "").splitlines()  # the terminal's own echo
    assert [line for line in lines if cell_len(line.rstrip()) > columns] == []


def test_it_is_live(path: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """Without a ledger it begins with nothing; what is written is seen, nothing is in the writers'
    way, the WAL is not held, and the ledger may be moved away."""
    with watching(environ, tmp_path) as (terminal, process):
        _until(terminal, b"no calls in this span")
        a_ledger(path, a_call(started_ms=now(), model="new-one"))
        _until(terminal, b"new-one")
        with closing(open_ledger(path, "", "")) as ledger:
            a_ledger(path, *(a_call(started_ms=now(), model="more") for _ in range(300)))
            _until(terminal, b"more")
            assert ledger.database.rebuild()
        path.rename(path.with_name("moved.db"))
        _until(terminal, b"no calls in this span")
        os.write(terminal, b"\x03")
        assert RESTORED in _until(terminal, None)
        assert process.wait(timeout=30) == 0


def test_another_size(path: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """The report is drawn anew in the columns that there are now; SIGTERM ends it with 143, and
    the terminal is as before."""
    a_ledger(path, a_call(started_ms=now()))
    with watching({**environ, "NO_COLOR": "1"}, tmp_path) as (terminal, process):
        _until(terminal, b"first token")
        resize(terminal, 150)
        _until(terminal, b" " * 140)
        process.send_signal(signal.SIGTERM)
        assert RESTORED in _until(terminal, None)
        assert process.wait(timeout=30) == 143


@pytest.mark.parametrize(
    ("flags", "why"),
    [((), "stdout is none"), (("--json",), "--json"), (("--format", "csv"), "--format"),
     (("--every", "2"), "2s"), (("--every", "0s"), "second")],
)  # fmt: skip
def test_it_needs_a_terminal(run: Run, flags: tuple[str, ...], why: str) -> None:
    """Else it is refused at once, with what to do."""
    done = run("cost", "report", "--watch", *flags)
    assert done.returncode == 2
    assert why in done.stderr
