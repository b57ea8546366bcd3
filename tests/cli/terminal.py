"""A command on a terminal of its own, for tests."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conftest import LLMCTL


def on_a_terminal(
    env: Mapping[str, str],
    cwd: Path,
    *arguments: str,
    columns: int = 80,
    streams: Sequence[str] = ("stdin", "stdout", "stderr"),
    typed: bytes = b"",
    after: bytes = b"",
) -> tuple[int, bytes, bytes]:
    """Run `llmctl` with these streams on a terminal, the others on pipes (stdin: nothing).

    `typed` goes in once `after` has been shown. Gives the exit code, all that the terminal
    showed, and all that came from stdout where that is a pipe.
    """
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    ends = {name: follower if name in streams else pipe for name, pipe in pipes.items()}
    with subprocess.Popen(
        [LLMCTL, *arguments], env={"TERM": "xterm", **env}, cwd=cwd, start_new_session=True,
        preexec_fn=_own_terminal if "stdin" in streams else None,  # noqa: PLW1509 - one system call
        stdin=ends["stdin"], stdout=ends["stdout"], stderr=ends["stderr"],
    ) as process:  # fmt: skip
        os.close(follower)
        try:
            shown = _until(leader, after) if typed else b""
            os.write(leader, typed)
            shown += _until(leader, None)
            piped = process.stdout.read() if process.stdout else b""
            code = process.wait(timeout=60)
        finally:
            process.kill()  # where what was waited for did not come
    os.close(leader)
    return code, shown.replace(b"\r\n", b"\n"), piped


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _until(terminal: int, words: bytes | None) -> bytes:
    """What the terminal shows, up to these words, or to its end."""
    text = b""
    while words is None or words not in text:
        assert select.select([terminal], [], [], 60)[0], text
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        text += piece
    return text
