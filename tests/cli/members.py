"""Commands that run beside a test: `llmctl batch` as several processes, or one that goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import LLMCTL

DEADLINE = 60.0  # seconds


class Members:
    """Processes of the command, started in `folder`; all are ended at the end."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self._folder, self._environ = folder, environ
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        """`llmctl` with these arguments, and these changes of its environment."""
        process = subprocess.Popen(
            [LLMCTL, *arguments],
            cwd=self._folder,
            env={**self._environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdin is not None and process.stdin.closed:
                process.stdin = None
            process.communicate()


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that ends by itself."""
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out.decode(), err.decode()


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@contextlib.contextmanager
def members(folder: Path, environ: dict[str, str]) -> Iterator[Members]:
    """Members that are ended with the context."""
    made = Members(folder, environ)
    try:
        yield made
    finally:
        made.close()
