"""The embedded server's process ends with llmctl, however that ends, and not before."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

pytest_plugins = ["tests.local_model"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches processes as Linux does")

PARENT = """
import asyncio, sys
from pathlib import Path
from llmctl.clock import SystemClock
from llmctl.providers.local_model import LocalModelServer

async def main():
    server = LocalModelServer(Path(sys.argv[1]), alias="m", clock=SystemClock(), say=lambda _: None)
    starting = asyncio.create_task(server.start())
    while server.pid is None:
        await asyncio.sleep(0)
    print(server.pid, flush=True)
    await starting
    print(server.base_url, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    raise RuntimeError("the parent fails")

asyncio.run(main())
"""


class Pair:
    """A parent and its child; `child` is known, and held by `pidfd`, once it was spawned."""

    def __init__(self, model: Path) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.child = int(self.line())
        self.pidfd = os.pidfd_open(self.child)

    def line(self) -> str:
        """The next line the parent prints."""
        assert self.parent.stdout
        return self.parent.stdout.readline().decode()

    def reach(self, stage: str) -> str:
        """Wait until the child is `spawned`, `loading` its model or `serving` (then its URL);
        `stopped`, it serves and cannot run."""
        if stage in {"serving", "stopped"}:
            url = self.line()
            if stage == "stopped":
                os.kill(self.child, signal.SIGSTOP)
            return url
        deadline = time.monotonic() + 20
        while stage == "loading" and ".gguf" not in Path(f"/proc/{self.child}/maps").read_text():
            assert time.monotonic() < deadline
        return ""

    def gone(self, within: float) -> bool:
        """True when the child ends within so many seconds."""
        return bool(select.select([self.pidfd], [], [], within)[0])

    def close(self) -> None:
        """End both."""
        self.parent.kill()
        self.parent.wait()
        for stream in (self.parent.stdin, self.parent.stdout):
            assert stream
            stream.close()
        if not self.gone(5):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.close(self.pidfd)


@pytest.fixture
def pair(model: Path) -> Iterator[Pair]:
    """A parent that starts a server."""
    with ExitStack() as stack:
        made = Pair(model)
        stack.callback(made.close)
        yield made


@pytest.mark.parametrize("stage", ["spawned", "loading", "serving", "stopped"])
def test_kill_minus_9_leaves_no_process(pair: Pair, stage: str) -> None:
    """The child is gone at once when its parent is killed, at any moment of its life: the kernel
    ends even one that cannot run, as while native code holds the interpreter."""
    pair.reach(stage)
    pair.parent.kill()
    pair.parent.wait()
    assert pair.gone(1)


@pytest.mark.parametrize("end", ["exception", "SIGTERM"])
def test_another_end_leaves_no_process(pair: Pair, end: str) -> None:
    """A parent that fails without closing the server, or is terminated, takes it along."""
    pair.reach("serving")
    if end == "SIGTERM":
        pair.parent.terminate()
    else:
        pair.parent.communicate(b"\n", timeout=5)
    assert pair.gone(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_the_child_serving(pair: Pair, number: signal.Signals) -> None:
    """The child is in a group of its own, and even a signal sent to it does not end it: what is
    in flight can drain."""
    url = pair.reach("serving")
    assert os.getpgid(pair.child) != os.getpgid(pair.parent.pid)
    os.kill(pair.child, number)
    connection = HTTPConnection(url.strip().removeprefix("http://").removesuffix("/v1"))
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    assert not pair.gone(0)
