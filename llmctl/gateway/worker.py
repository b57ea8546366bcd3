"""A worker: the process that answers requests, from its start to the end of the last call."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import multiprocessing
import signal
import socket
import ssl
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import uvicorn

from llmctl.alerts.alarm import watch
from llmctl.clock import SystemClock
from llmctl.config.paths import CONFIG_FILE
from llmctl.config.settings import Settings
from llmctl.errors import ConfigError, LlmctlError
from llmctl.gateway.app import App, Refusals
from llmctl.gateway.bounded_http import BoundedHttp
from llmctl.gateway.listener import is_loopback, load_certificate, tls_context
from llmctl.gateway.log import log, warn
from llmctl.gateway.metrics import Metrics
from llmctl.gateway.opening import opened
from llmctl.gateway.pages import pages
from llmctl.gateway.server_options import ServerOptions
from llmctl.gateway.service import Service
from llmctl.shutdown import DRAIN, handle_signals
from llmctl.storage.virtual_keys import FILE as TOKENS

LOOK = 1.0  # seconds between two looks at the configuration's files


class Worker:
    """Serves one socket. `number` tells the workers of one server apart."""

    def __init__(
        self, options: ServerOptions, listener: socket.socket, settings: Settings, number: int = 0
    ) -> None:
        self._options, self._listener = options, listener
        self._loopback = is_loopback(listener)
        metrics = Metrics(settings.folders.state / "ledger.db", str(number))
        refusals = Refusals(log, calls=options.calls)
        self._app = App(self._open, pages(metrics), refusals, metrics.http.ended)
        metrics.http.in_flight = lambda: self._app.in_flight
        self._tls = tls_context(settings.serve.tls)
        self._server = _Server(_uvicorn_config(self._app, self._tls))
        self._hangup = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._alerting: asyncio.Task[None] | None = None
        # From before they are read: a change meanwhile must not be missed.
        self._seen = self._looked = _looks(self._files(settings, tokens=True))
        self._read: frozenset[Path] = frozenset()
        self._failure: LlmctlError | None = None
        self._given_up = False

    def run(self, started: Callable[[Collection[str]], None]) -> int:
        """Answer requests until a signal ends it; gives the exit code. `started` hears what models
        are served when the first request can come. Raises what opening raises."""

        def on_start() -> None:
            gc.freeze()  # calls come and go, the program stays: no use in looking through it
            self._watching = asyncio.create_task(self._watch())
            self._alerting = asyncio.create_task(self._alert())
            started(self._app.service.offers)

        self._server.on_start = on_start
        # A thread back from the disk waits this long for Python's lock, not 5 ms.
        sys.setswitchinterval(0.001)
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())
        return 130 if self._given_up else 0

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Service]:
        async with AsyncExitStack() as stack:
            try:
                opening = opened(self._options, loopback=self._loopback)
                service = await stack.enter_async_context(opening)
                self._check_whole(service.settings)
            except LlmctlError as error:
                self._failure = error  # the server would tell only what it says
                raise
            yield service

    def _check_whole(self, settings: Settings) -> None:
        """Raise `ConfigError` where a file is gone by which calls are served now: its caps and
        rules would go with it."""
        for path in sorted(self._read.difference(settings.files)):
            raise ConfigError(f"{path} is gone: put it back, or start again without it")
        self._read = frozenset(settings.files)

    async def _serve(self) -> None:
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._interrupt,
        }
        if hasattr(signal, "SIGHUP"):  # Windows has none
            handlers[signal.SIGHUP] = self._hangup.set
        try:
            with handle_signals(lambda number: handlers[number](), handlers):
                await self._server.serve([self._listener])
        except SystemExit:
            raise self._failure or LlmctlError("the gateway did not start") from None
        finally:
            if self._watching is not None:
                self._watching.cancel()
            if self._alerting is not None:
                self._ended.set()
                await self._alerting

    async def _alert(self) -> None:
        """Look at the rules of alerts now and then, as one process of the machine."""
        await watch(
            lambda: self._app.service.settings,
            self._options.environ,
            SystemClock(),
            warn,
            self._ended,
        )

    def _stop(self) -> None:
        if (under_way := self._app.in_flight) and not self._server.should_exit:
            log(f"stopping when the calls under way ({under_way}) end; Ctrl-C now gives them up")
        self._app.draining = True
        self._server.should_exit = True

    def _interrupt(self) -> None:
        """The first ends as SIGTERM does, the second gives up what is in flight: every call puts
        on record what it may have cost."""
        if self._server.should_exit:
            self._given_up = True
            for task in [*self._server.server_state.tasks]:
                task.cancel()
        self._stop()

    async def _watch(self) -> None:
        """Reload on SIGHUP and when a file of the configuration has changed; end when the process
        that started this one has gone."""
        parent = multiprocessing.parent_process()
        while parent is None or parent.is_alive():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._hangup.wait()
            service = self._app.service
            now = _looks(self._files(service.settings, tokens=service.authenticate is None))
            changed = [path for path, look in now.items() if self._seen.get(path, look) != look]
            # An editor may just be writing a file: two looks must agree.
            settled, self._looked = now == self._looked, now
            tokens = any(path.name.startswith(TOKENS) for path in changed)
            if (changed and (settled or tokens)) or self._hangup.is_set():
                self._seen = now
                self._hangup.clear()
                await self._reload()
            elif not changed:
                self._seen = now
        self._stop()

    def _files(self, settings: Settings, *, tokens: bool) -> list[Path]:
        """The files whose change is a reload, those among them that may yet come; with `tokens`
        also theirs: where nobody is asked for one the first ends that."""
        tls, state = settings.serve.tls, settings.folders.state
        found = [*settings.files, *((tls.cert, tls.key) if tls else ())]
        if self._options.config is None:
            found.append(settings.folders.config / CONFIG_FILE)
        return [*found, state / TOKENS, state / f"{TOKENS}-wal"] if tokens else found

    async def _reload(self) -> None:
        try:
            await self._app.reload()
            files = self._app.service.settings.serve.tls
            if self._tls is not None and files is not None:
                load_certificate(self._tls, files)
        except LlmctlError as error:
            log(f"error: the configuration stays as it was before: {error.message}")
        except Exception as error:  # noqa: BLE001 - the gateway goes on with what it has
            what = f"a mistake in llmctl, {type(error).__name__}\n{traceback.format_exc()}"
            log(f"error: the configuration stays as it was before: {what}")
        else:
            log("the configuration was read again")


def _looks(files: Iterable[Path]) -> dict[Path, object]:
    """What tells one state of each file from another."""
    found: dict[Path, object] = {}
    for path in files:
        found[path] = None
        with suppress(OSError):
            status = path.stat()
            found[path] = status.st_mtime_ns, status.st_size, status.st_ino
    return found


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are the worker's."""

    on_start: Callable[[], None]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the worker."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell."""
        await super().startup(sockets)
        self.on_start()


def _uvicorn_config(app: App, tls: ssl.SSLContext | None) -> uvicorn.Config:
    logging.getLogger("uvicorn").propagate = False  # the log is ours; see `access_log`
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        # An address in a header is believed only as `serve: ip: trusted_proxies:` says.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(DRAIN),
        # Longer than proxies keep connections (mostly 60 s): the side that sends closes them.
        timeout_keep_alive=75,
        ssl_context_factory=None if tls is None else lambda _, __: tls,
    )
