"""A real Redis for tests, on a free port of loopback: Debian's redis-server."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from tests.keys.openbao import closed_port

_PATIENCE = 20.0


class RedisServer:
    """`with RedisServer(folder) as server:` serves at `server.url`, and keeps what it is told in
    the folder; `flags` are further ones of its program."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder, self._flags = folder, flags
        self._process: subprocess.Popen[bytes] | None = None
        self.port = closed_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Serve, by what it kept; return when it does."""
        self._process = subprocess.Popen(
            [
                "redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir",
                self._folder, "--save", "", "--appendonly", "yes", *self._flags,
            ],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            with suppress(RedisError, OSError):
                with suppress(AuthenticationError):  # it has a password, and so it is there
                    self.ask("PING")
                return
            time.sleep(0.01)
        self.kill()
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, *words: str) -> Any:
        """What it replies to a command."""
        with Redis("127.0.0.1", self.port, decode_responses=True) as client:
            return client.execute_command(*words)


def needs_redis() -> None:
    """Skip the test where redis-server is missing, but never in CI."""
    if shutil.which("redis-server") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("install Debian's redis-server")
