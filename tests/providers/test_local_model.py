"""The embedded server, with the real model; its process ends with llmctl, and not before."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from llmctl.clock import SystemClock
from llmctl.errors import SetupError
from llmctl.providers import local_model
from llmctl.providers.local_model import LocalModelServer

pytest_plugins = ["tests.local_model"]


def server(path: Path, **changes: Any) -> LocalModelServer:
    """A server for `path` that tells nobody."""
    given: dict[str, Any] = {"alias": "tiny", "clock": SystemClock(), "say": lambda _: None}
    return LocalModelServer(path, **{**given, **changes})


def serve(path: Path, use: Callable[[LocalModelServer], Awaitable[None]], **changes: Any) -> None:
    """Run `use` on a server that has started."""

    async def run() -> None:
        running = server(path, **changes)
        await running.start()
        try:
            await use(running)
        finally:
            await running.close()

    asyncio.run(run())


def post(
    running: LocalModelServer, prompt: str = "Hi", *, token: str | None = None, max_tokens: int = 4
) -> tuple[int, Any]:
    """One chat completion: status and body."""
    connection = HTTPConnection(running.base_url.removeprefix("http://").removesuffix("/v1"))
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    headers = {"Authorization": f"Bearer {token or running.token}"}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def alive(pid: int | None) -> bool:
    """True while the process exists, be it as a zombie."""
    return Path(f"/proc/{pid}").exists()


async def spawned(running: LocalModelServer) -> int:
    """The child's process id, as soon as there is one."""
    while running.pid is None:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    return running.pid


def test_answers_those_who_know_the_token(model: Path) -> None:
    """A chat completion needs the token; the answer names the alias and counts tokens. A prompt
    over `context` is refused, one below it is not, whatever `parallel` is. More connections than
    the server works on at once are all answered."""
    said: list[str] = []

    async def use(running: LocalModelServer) -> None:
        status, body = await asyncio.to_thread(post, running)
        assert (status, body["model"], body["usage"]["completion_tokens"]) == (200, "tiny", 4)
        assert body["choices"][0]["message"]["content"]
        assert (await asyncio.to_thread(post, running, token="wrong"))[0] == 401
        assert (await asyncio.to_thread(post, running, "word " * 150))[0] == 200
        status, body = await asyncio.to_thread(post, running, "word " * 300)
        assert (status, body["error"]["type"]) == (400, "exceed_context_size_error")
        with ThreadPoolExecutor(24) as pool:
            replies = list(pool.map(lambda n: post(running, f"{n}", max_tokens=1), range(24)))
        assert [status for status, _ in replies] == [200] * 24

    serve(model, use, say=said.append, context=256, parallel=2)
    assert said[0] == "starting tiny …"
    assert said[-1].startswith("tiny ready in ")


def test_secrets_stay_secret(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is in no command line, environment or repr. The child sees no key, inherits no
    open file of its parent's, and prints nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")

    async def use(running: LocalModelServer) -> None:
        proc = Path(f"/proc/{running.pid}")
        arguments, environ = (proc / "cmdline").read_bytes(), (proc / "environ").read_bytes()
        assert b"llmctl.providers.local_model" in arguments
        assert b"HOME=" in environ
        for place in (arguments, environ, repr(running).encode()):
            assert running.token.encode() not in place
            assert b"sk-canary" not in place
        found = {int(path.name): str(path.readlink()) for path in (proc / "fd").iterdir()}
        assert found[1] == found[2] == os.devnull
        assert __file__ not in found.values()

    with Path(__file__).open("rb"):
        serve(model, use)


def test_close_is_prompt_and_leaves_nothing(model: Path) -> None:
    """Closing takes less than a second and reaps the child; closing again does nothing. A start
    that is cancelled half way ends its child, too."""

    async def run() -> None:
        running = server(model)
        await running.start()
        await running.start()
        pid, began = running.pid, time.monotonic()
        await running.close()
        assert time.monotonic() - began < 1
        assert not alive(pid)
        await running.close()
        running = server(model)
        starting = asyncio.create_task(running.start())
        pid = await spawned(running)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not alive(pid)

    asyncio.run(run())


def test_a_crash_fails_calls_and_hangs_nothing(model: Path) -> None:
    """When the child dies under way, the call ends with a connection error, and it is said."""
    said: list[str] = []

    def crash(running: LocalModelServer) -> None:
        connection = HTTPConnection(running.base_url[7:-3], timeout=5)
        body = {"messages": [{"role": "user", "content": "Count."}], "stream": True}
        headers = {"Authorization": f"Bearer {running.token}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        reply = connection.getresponse()
        assert reply.readline().startswith(b"data: ")
        assert running.pid
        os.kill(running.pid, signal.SIGABRT)
        with pytest.raises((ConnectionError, HTTPException)):
            reply.read()
        connection.close()

    async def use(running: LocalModelServer) -> None:
        await asyncio.to_thread(crash, running)
        while not said[-1].startswith("warning"):  # noqa: ASYNC110 - `say` is not awaited
            await asyncio.sleep(0.01)
        await running.start()
        with pytest.raises(ConnectionRefusedError):
            post(running)

    serve(model, use, say=said.append)
    assert said[-1] == "warning: the server for tiny was killed by SIGABRT; its calls fail"


def test_patience_ends(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not ready in time is given up, every time it is asked for."""
    monkeypatch.setattr(local_model, "START_LIMIT", -model.stat().st_size / 20e6)

    async def run() -> None:
        running = server(model)
        for _ in range(2):
            with pytest.raises(SetupError, match=r"was not ready after .* smaller model"):
                await running.start()
        assert running.pid is None

    asyncio.run(run())


def test_damaged_model_is_told_with_its_reason(model: Path, tmp_path: Path) -> None:
    """A truncated GGUF file is refused in llama.cpp's own words, with exit code 2."""
    path = tmp_path / "cut.gguf"
    with model.open("rb") as whole:
        path.write_bytes(whole.read(30_000_000))
    with pytest.raises(SetupError, match="not within the file bounds") as raised:
        asyncio.run(server(path).start())
    assert raised.value.exit_code == 2


def test_killed_while_loading_is_told(model: Path) -> None:
    """A child that is killed while it loads (for lack of memory, say) is a clear error."""

    async def run() -> None:
        running = server(model)
        starting = asyncio.create_task(running.start())
        os.kill(await spawned(running), signal.SIGKILL)
        with pytest.raises(SetupError, match=r"was killed by SIGKILL, perhaps .* while it started"):
            await starting

    asyncio.run(run())


def test_a_server_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose library does not load names the command that mends it."""
    (tmp_path / "xllamacpp.py").write_text("raise OSError('libggml.so: wrong ELF class')")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"wrong ELF class.*--force-reinstall 'xllamacpp==\d"):
        asyncio.run(server(tmp_path / "m.gguf").start())


linux = pytest.mark.skipif(sys.platform != "linux", reason="watches processes as Linux does")

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


@linux
@pytest.mark.parametrize("stage", ["spawned", "loading", "serving", "stopped"])
def test_kill_minus_9_leaves_no_process(pair: Pair, stage: str) -> None:
    """The child is gone at once when its parent is killed, at any moment of its life: the kernel
    ends even one that cannot run, as while native code holds the interpreter."""
    pair.reach(stage)
    pair.parent.kill()
    pair.parent.wait()
    assert pair.gone(1)


@linux
@pytest.mark.parametrize("end", ["exception", "SIGTERM"])
def test_another_end_leaves_no_process(pair: Pair, end: str) -> None:
    """A parent that fails without closing the server, or is terminated, takes it along."""
    pair.reach("serving")
    if end == "SIGTERM":
        pair.parent.terminate()
    else:
        pair.parent.communicate(b"\n", timeout=5)
    assert pair.gone(1)


@linux
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
