"""Child process of `local_model.py`: llama.cpp's HTTP server, on loopback.

`local_model.py` runs this file as a script, so it imports nothing of llmctl and needs no path to
it. It reads one JSON line from stdin (path, token, context, parallel, threads, alias, parent),
prints one on stdout, `{"url": …}` or `{"error": …, "import": bool}`, and then waits for the end
of stdin, which comes when its parent ends, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_HTTP_THREADS = 64
"""llama.cpp's own choice is a handful, and a kept-alive connection holds one: with more
connections than threads a request can wait behind all others, for minutes."""


def main() -> NoReturn:
    """Serve until stdin ends."""
    # The parent drains what is in flight after a first Ctrl-C or SIGTERM, which service
    # managers send to the whole group: the end of the parent is the one sign to go by.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    linux = _die_with_parent()
    _no_core_file()
    # Native code prints to descriptor 1 as well: only the report may reach the parent there.
    report = os.dup(1)
    os.dup2(2, 1)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        os._exit(0)
    settings: dict[str, Any] = json.loads(line)
    if linux and os.getppid() != settings["parent"]:
        os._exit(0)  # the parent was gone before it could be watched
    server, answer = _start(settings)
    if server is not None:
        _silence()
    os.write(report, json.dumps(answer).encode() + b"\n")
    if server is None:
        os._exit(1)
    os.close(report)
    while os.read(0, 4096):
        pass
    os._exit(0)  # not through native destructors: nothing of theirs is worth a crash


def _start(settings: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    try:
        import xllamacpp
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        return None, {"error": f"{type(error).__name__}: {error}", "import": True}
    try:
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
        server = xllamacpp.Server(params)
        _warm_up(server.listening_address, settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reports it
        return None, {"error": str(error) or type(error).__name__, "import": False}
    return server, {"url": server.listening_address}


def _warm_up(address: str, settings: dict[str, Any]) -> None:
    """Send one request, so that the user's first is not the slow one.

    Its answer is ignored: when a model cannot chat, the server tells every request so.
    """
    from http.client import HTTPConnection

    connection = HTTPConnection(address.removeprefix("http://"))
    message = {"role": "user", "content": "Hi"}
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps({"messages": [message], "max_tokens": 1}),
        {"Authorization": f"Bearer {settings['token']}", "Content-Type": "application/json"},
    )
    connection.getresponse().read()
    connection.close()


def _die_with_parent() -> bool:
    """Let the kernel kill this process with its parent, where it can (Linux).

    While a model loads, native code holds the interpreter and the end of stdin goes unseen.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # a libc without it; the end of stdin remains
        return False
    return bool(prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)


def _no_core_file() -> None:
    """A native crash must not leave prompts and the token in a file."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _silence() -> None:
    """Send stdout and stderr to nowhere: a pipe that nobody reads would stop the server."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


if __name__ == "__main__":
    main()
