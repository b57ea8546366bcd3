"""Server of the profile `local`: a child process that serves one GGUF file.

A process of its own, because llama.cpp holds the interpreter while it loads, and may abort: then
calls fail, and the batch lives. `local_model_server.py` is the child's side.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from llmctl.clock import Clock
from llmctl.errors import LlmctlError, SetupError
from llmctl.providers.local_model_files import (
    GET_MODEL,
    SMOLLM2,
    extra_version,
    require_extra,
    require_gguf,
)
from llmctl.redact import printable

_CHILD = Path(__file__).with_name("local_model_server.py")

_CHILD_NEEDS = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TMPDIR|TEMP|TMP|(LD|DYLD)_LIBRARY_PATH|XDG_CACHE_HOME|VIRTUAL_ENV"
    r"|PYTHONPATH|PYTHONHOME|PYTHONUSERBASE|PYTHONNOUSERSITE|SYSTEMROOT|(CUDA|HIP)_VISIBLE_DEVICES"
    r"|GOMP_SPINCOUNT"
)
"""Variables that the child may see; keys are none of them."""

_DEFAULTS = {
    # Threads that wait for each other spin for long by default. On an idle machine a short spin
    # is as fast; where others want the processors too, starting and answering is up to ten
    # times faster (measured with 2 cores at a load of 6).
    "GOMP_SPINCOUNT": "1000",
    # Otherwise ggml runs a debugger on itself before it aborts, which may take for ever.
    "GGML_NO_BACKTRACE": "1",
}

_START_LIMIT = 120.0
_SLOWEST = 20e6
"""A model may take `_START_LIMIT` seconds to start, and the time to read it at `_SLOWEST` bytes a
second: a slow disk's rate."""

_NOTE_EVERY = 5.0
"""Seconds between two notes while a model loads."""

_PARTING = 1.0
"""Seconds that a killed child may take to be gone; only a stuck disk can hold it longer."""


class LocalModelServer:
    """The server of one model file; nothing runs until `start`.

    `context` is each answer's window in tokens, `parallel` how many answers are worked on at
    once, `alias` the model's name in requests. `say` gets notes on progress. `start` and `close`
    belong to one event loop, and to the thread that started it: on Linux the child dies with
    that thread. As an `async with` it starts and closes by itself.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        alias: str,
        clock: Clock,
        say: Callable[[str], None],
        context: int = 2048,
        parallel: int = 4,
        start_limit: float | None = None,
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self._path = model_path
        self._alias = alias
        self._clock = clock
        self._say = say
        self._context = context
        self._parallel = parallel
        self._start_limit = start_limit
        self._url: str | None = None
        self._failure: LlmctlError | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stderr = bytearray()

    def __repr__(self) -> str:
        return f"LocalModelServer({str(self._path)!r}, alias={self._alias!r}, url={self._url!r})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`, once it has started."""
        if self._url is None:
            raise RuntimeError("the server has not been started")
        return f"{self._url}/v1"

    @property
    def pid(self) -> int | None:
        """The child's process id, from the moment there is one."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the server and wait until it answers; at once when it has been started.

        A server that died is not started again: what killed it would kill the next. Raises
        `SetupError` when the extra or the model is missing, or the model cannot be served; every
        later call raises the same.
        """
        if self._failure is not None:
            raise self._failure
        if self._url is not None:
            return
        try:
            await self._start()
        except LlmctlError as error:
            self._failure = error
            await self.close()
            raise
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the child, which has nothing to save, and reap it. Calls under way fail."""
        process, self._process = self._process, None
        tasks, self._tasks = self._tasks, []
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        _, late = await asyncio.wait(
            [*tasks, asyncio.ensure_future(process.wait())], timeout=_PARTING
        )
        for task in late:
            task.cancel()

    async def _start(self) -> None:
        require_extra()
        path = require_gguf(self._path)
        began = self._clock.monotonic()
        self._say(f"starting {self._alias} …")
        self._process = process = await asyncio.create_subprocess_exec(
            # -P: no file in any folder of the user's may take a module's name.
            *(sys.executable, "-P", str(_CHILD)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environ(os.environ),
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
        )
        assert process.stdin
        assert process.stdout
        self._tasks = [asyncio.create_task(self._listen(process))]
        process.stdin.write(self._settings(path))
        report = asyncio.ensure_future(process.stdout.readline())
        try:
            await self._await_report(report, path, began)
        finally:
            report.cancel()
        line = report.result()  # not whole when the child died before it made a report
        answer: dict[str, object] = json.loads(line) if line.endswith(b"\n") else {}
        if "url" not in answer:
            code = await process.wait()
            await asyncio.wait(self._tasks, timeout=_PARTING)
            raise _failure(path, code, answer, self._stderr.decode("utf-8", "replace"))
        self._url = str(answer["url"])
        self._tasks.append(asyncio.create_task(self._watch(process)))
        self._say(f"{self._alias} ready in {self._clock.monotonic() - began:.1f} s")

    def _settings(self, path: Path) -> bytes:
        settings = {
            "path": str(path),
            "token": self.token,
            "context": self._context,
            "parallel": self._parallel,
            "threads": _cpus(),
            "alias": self._alias,
            "parent": os.getpid(),
        }
        return json.dumps(settings).encode() + b"\n"

    async def _await_report(self, report: asyncio.Future[bytes], path: Path, began: float) -> None:
        limit = self._start_limit or _start_limit_for(path)
        while True:
            passed = self._clock.monotonic() - began
            if passed >= limit:
                raise SetupError(
                    f"the server for {path} was not ready after {passed:.0f} s: "
                    "choose a smaller model, or a smaller `context`"
                )
            await asyncio.wait([report], timeout=min(_NOTE_EVERY, limit - passed))
            if report.done():
                return
            self._say(f"still starting {self._alias}: {self._clock.monotonic() - began:.0f} s")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keep the end of what native code prints until the server is ready."""
        assert process.stderr
        while piece := await process.stderr.read(4096):
            self._stderr += piece
            del self._stderr[:-4096]

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Say so when the server dies although nobody closed it."""
        code = await process.wait()
        if self._process is not None:
            self._say(f"warning: the server for {self._alias} {_death(code)}; its calls fail")


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: what it may see of ours, and the defaults."""
    kept = {name: value for name, value in environ.items() if _CHILD_NEEDS.fullmatch(name)}
    return _DEFAULTS | kept


def _cpus() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_limit_for(path: Path) -> float:
    return _START_LIMIT + path.stat().st_size / _SLOWEST


def _failure(path: Path, code: int, answer: Mapping[str, object], noise: str) -> SetupError:
    """The error for a server that ended with `code` before it was ready.

    `answer` is its report, empty when it died before it could make one; `noise` is the end of
    what llama.cpp printed.
    """
    words = _last_words(noise)
    if answer.get("import"):
        return SetupError(
            f"the server for local models cannot be loaded ({answer['error']}): "
            f"run `pip install --force-reinstall xllamacpp=={extra_version() or '*'}`"
        )
    if answer:
        mend = (
            f"run `{GET_MODEL}`, which checks and mends it"
            if path.name == SMOLLM2.file
            else "check the file, and the profile's `context`"
        )
        return SetupError(f"{path} cannot be served ({words or answer['error']}): {mend}")
    return SetupError(
        f"the server for {path} {_death(code)} while it started{f' ({words})' if words else ''}: "
        "choose a smaller model, or a smaller `context`"
    )


def _death(code: int) -> str:
    """How a process ended, from its return code."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"


def _last_words(noise: str) -> str:
    """Why llama.cpp did not load a model: its own reason, or the last it printed."""
    reasons = re.findall(r"error loading model: (.+)", noise) or noise.strip().splitlines()
    return printable(reasons[-1].strip())[:300] if reasons else ""
