"""Server of the profile `local`: a child process that serves one GGUF file.

A process of its own, because llama.cpp holds the interpreter while it loads, and may abort: then
calls fail, and the batch lives. Run as a program, this module is the child: it reads one JSON line
from stdin (`LocalModelServer._settings`), prints one, `{"url": …}` or `{"error": …, "import":
bool}`, and waits for the end of stdin, which comes when its parent ends, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from llmctl.clock import Clock
from llmctl.errors import LlmctlError, SetupError
from llmctl.providers.local_model_files import GET_MODEL, SMOLLM2, get_server
from llmctl.redact import printable

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

START_LIMIT = 120.0  # seconds a model may take to start, and the time to read it
_SLOWEST = 20e6  # bytes a second: a slow disk's rate
_PARTING = 1.0  # seconds that a killed child may take to be gone; a stuck disk can hold it longer
_HTTP_THREADS = 64
"""llama.cpp's own choice is a handful, and a kept-alive connection holds one: with more
connections than threads a request can wait behind all others, for minutes."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LocalModelServer:
    """The server of one model file; nothing runs until `start`.

    `context` is each answer's window in tokens, `parallel` how many answers are worked on at
    once, `alias` the model's name in requests. `say` gets notes on progress. `start` and `close`
    belong to one event loop, and to the thread that started it: on Linux the child dies with
    that thread. `base_url` (`http://127.0.0.1:PORT/v1`) is empty before the server has started.
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
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self.base_url = ""
        self.pid: int | None = None
        self._path = model_path
        self._limit = START_LIMIT + model_path.stat().st_size / _SLOWEST
        self._alias = alias
        self._clock = clock
        self._say = say
        self._settings = {
            "path": str(model_path),
            "token": self.token,
            "context": context,
            "parallel": parallel,
            "threads": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
            "alias": alias,
            "parent": os.getpid(),
        }
        self._failure: LlmctlError | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the server and wait until it answers; at once when it has been started.

        A server that died is not started again: what killed it would kill the next. Raises
        `SetupError` when the model cannot be served; every later call raises the same.
        """
        if self._failure is not None:
            raise self._failure
        if self.base_url:
            return
        try:
            await self._start()
        except BaseException as error:
            if isinstance(error, LlmctlError):
                self._failure = error
            await self.close()
            raise

    async def close(self) -> None:
        """End the child, which has nothing to save, and reap it. Calls under way fail."""
        process, self._process, self.pid = self._process, None, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._watcher or process.wait(), _PARTING)

    async def _start(self) -> None:
        began = self._clock.monotonic()
        self._say(f"starting {self._alias} …")
        with tempfile.TemporaryFile() as stderr:
            self._process = process = await asyncio.create_subprocess_exec(
                # -P: no file in any folder of the user's may take a module's name.
                *(sys.executable, "-P", "-m", "llmctl.providers.local_model"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env=_DEFAULTS | {k: v for k, v in os.environ.items() if _CHILD_NEEDS.fullmatch(k)},
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )
            self.pid = process.pid
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(self._settings).encode() + b"\n")
            try:
                line = await asyncio.wait_for(process.stdout.readline(), self._limit)
            except TimeoutError:
                raise SetupError(
                    f"the server for {self._path} was not ready after {self._limit:.0f} s: "
                    "choose a smaller model, or a smaller `context`"
                ) from None
            # The line is not whole when the child died before it could make its report.
            report: dict[str, object] = json.loads(line) if line.endswith(b"\n") else {}
            if "url" not in report:
                code = await process.wait()
                stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 4096))
                raise _failure(self._path, code, report, stderr.read().decode("utf-8", "replace"))
        self.base_url = f"{report['url']}/v1"
        self._watcher = asyncio.create_task(self._watch(process))
        self._say(f"{self._alias} ready in {self._clock.monotonic() - began:.1f} s")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Say so when the server dies although nobody closed it."""
        code = await process.wait()
        if self._process is not None:
            self._say(f"warning: the server for {self._alias} {_death(code)}; its calls fail")


def _failure(path: Path, code: int, report: Mapping[str, object], noise: str) -> SetupError:
    """The error for a server that ended with `code` before it was ready. `report` is empty when it
    died before it could make one; `noise` is the end of what llama.cpp printed."""
    reasons = re.findall(r"error loading model: (.+)", noise) or noise.strip().splitlines()
    why = printable(reasons[-1].strip())[:300] if reasons else ""
    if report.get("import"):
        mend = get_server().replace("install", "install --force-reinstall", 1)
        return SetupError(
            f"the server for local models cannot be loaded ({report['error']}): run `{mend}`"
        )
    if report:
        mend = (
            f"run `{GET_MODEL}`, which checks and mends it"
            if path.name == SMOLLM2.file
            else "check the file, and the profile's `context`"
        )
        return SetupError(f"{path} cannot be served ({why or report['error']}): {mend}")
    return SetupError(
        f"the server for {path} {_death(code)} while it started{f' ({why})' if why else ''}: "
        "choose a smaller model, or a smaller `context`"
    )


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-code, f"signal {-code}")
    return f"was killed by {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"


# --- The child ----------------------------------------------------------------------------------


def _main() -> NoReturn:
    # The parent drains what is in flight after a first Ctrl-C or SIGTERM, which service
    # managers send to the whole group: the end of the parent is the one sign to go by.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    linux = _die_with_parent()
    with suppress(ImportError):  # Windows has no such limits
        import resource

        # A native crash must not leave prompts and the token in a file.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Native code prints to descriptor 1 as well: only the report may reach the parent there.
    report = os.dup(1)
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    settings: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {"parent": None}
    if settings["parent"] is None or (linux and os.getppid() != settings["parent"]):
        os._exit(0)  # the parent was gone before it could be watched
    try:
        server = _serve(settings)
        address = server.listening_address
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        said, unloaded = f"{type(error).__name__}: {error}", "xllamacpp" not in sys.modules
        failure = {"error": said, "import": unloaded}
        os.write(report, json.dumps(failure).encode() + b"\n")
        os._exit(1)
    # stdout and stderr go nowhere: a pipe that nobody reads would stop the server.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.write(report, json.dumps({"url": address}).encode() + b"\n")
    os.close(report)
    while os.read(0, 4096):
        pass
    os._exit(0)  # not through native destructors: nothing of theirs is worth a crash


def _serve(settings: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["token"]]
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context"] * settings["parallel"]  # llama.cpp counts all slots
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.n_threads_http = max(_HTTP_THREADS, 2 * settings["parallel"])
    params.cache_ram_mib = 0  # by default it keeps up to 8 GiB of old prompts
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1  # errors only: they tell why a model does not load
    return xllamacpp.Server(params)


def _die_with_parent() -> bool:
    """Let the kernel kill this process with its parent, where it can (Linux): while a model loads,
    native code holds the interpreter and the end of stdin goes unseen."""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # a libc without it; the end of stdin remains
        return False
    return bool(prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)


if __name__ == "__main__":
    _main()
