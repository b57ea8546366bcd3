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
from contextlib import suppress
from http.client import HTTPConnection
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
        server = _start(settings)
        address = server.listening_address
        _warm_up(address.removeprefix("http://"), settings["token"])
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


def _start(settings: dict[str, Any]) -> Any:
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


def _warm_up(address: str, token: str) -> None:
    """Send one request, so that the user's first is not the slow one.

    Its answer is ignored: when a model cannot chat, the server tells every request so.
    """
    connection = HTTPConnection(address)
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
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


if __name__ == "__main__":
    main()
