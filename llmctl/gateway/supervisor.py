"""The supervisor: worker processes on one socket, started again when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from msgspec import Struct

from llmctl.errors import LlmctlError
from llmctl.gateway.log import log
from llmctl.gateway.server_options import ServerOptions
from llmctl.shutdown import DRAIN

_LOOK = 0.2  # seconds between two looks for signals
_PAUSE = 2.0  # seconds before a worker that did not start is started again
_OVERDUE = DRAIN + 10  # seconds after which a worker that does not end is killed


class StartFailure(LlmctlError):
    """A worker did not start, for a reason that it has told."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _Started(Struct, frozen=True):
    """What a worker tells its supervisor: the models that it serves."""

    models: tuple[str, ...]


class _Failed(Struct, frozen=True):
    """What a worker tells that cannot start."""

    message: str
    exit_code: int


class _Child:
    """A worker as its supervisor sees it; `due` is when it is to be started again."""

    def __init__(self, process: SpawnProcess, told: Connection) -> None:
        self.process, self.told = process, told
        self.ready = False
        self.due: float | None = None


class Supervisor:
    """Keeps `count` workers serving the socket. A signal to it is one to all of them."""

    def __init__(self, options: ServerOptions, listener: socket.socket, count: int) -> None:
        self._options, self._listener, self._count = options, listener, count
        self._spawn = multiprocessing.get_context("spawn")  # a fork would share open files
        self._signals: list[int] = []
        self._stopping: float | None = None
        self._given_up = False

    def run(self, started: Callable[[Collection[str]], None]) -> int:
        """Serve until a signal ends it; gives the exit code. `started` hears what models are
        served, when all workers answer. Raises `StartFailure` where none comes so far."""
        handled = [signal.SIGTERM, signal.SIGINT]
        if hasattr(signal, "SIGHUP"):  # Windows has none
            handled.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._note) for number in handled}
        children: dict[int, _Child] = {}
        try:
            for number in range(self._count):
                children[number] = self._start(number)
            models = self._wait_for_start(children)
            if models is not None:
                started(models)
            self._keep(children)
        finally:
            for child in children.values():
                child.process.kill()
                child.process.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 130 if self._given_up else 0

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _start(self, number: int) -> _Child:
        told, tell = self._spawn.Pipe(duplex=False)
        process = self._spawn.Process(
            target=run_worker, args=(self._options, self._listener, number, tell)
        )
        process.start()
        tell.close()
        return _Child(process, told)

    def _wait_for_start(self, children: dict[int, _Child]) -> Collection[str] | None:
        """What is served, once all workers answer; None where a signal came before."""
        models: Collection[str] = ()
        while not all(child.ready for child in children.values()):
            wait([child.told for child in children.values() if not child.ready], _LOOK)
            if self._pass_on(children):
                return None
            for child in children.values():
                if not child.ready and (said := _said(child)) is not None:
                    if isinstance(said, _Failed):
                        raise StartFailure(said.message, said.exit_code)
                    child.ready, models = True, said.models
        return models

    def _keep(self, children: dict[int, _Child]) -> None:
        """Start workers again that die, until all have ended after a signal."""
        while children:
            wait([child.process.sentinel for child in children.values()], _LOOK)
            self._pass_on(children)
            for number, child in [*children.items()]:
                if child.process.is_alive():
                    self._listen(child, number)
                elif self._stopping is not None:
                    child.process.join()
                    del children[number]
                elif child.due is None:
                    self._listen(child, number)
                    how = _end(child.process.exitcode)
                    log(f"error: worker {number} ({child.process.pid}) {how}: it is started again")
                    child.due = time.monotonic() + (0 if child.ready else _PAUSE)
                elif time.monotonic() >= child.due:
                    child.told.close()
                    children[number] = self._start(number)

    def _listen(self, child: _Child, number: int) -> None:
        if child.ready or child.told.closed or not child.told.poll():
            return
        said = _said(child)
        if isinstance(said, _Failed):
            log(f"error: worker {number} does not start: {said.message}")
        child.ready = isinstance(said, _Started)

    def _pass_on(self, children: dict[int, _Child]) -> bool:
        """Hand signals on to the workers; gives whether all is to end."""
        signals, self._signals = self._signals, []
        for number in signals:
            if number not in (signal.SIGTERM, signal.SIGINT):
                _signal([child for child in children.values() if child.ready], number)
            elif self._stopping is None:
                self._stopping = time.monotonic()
                self._listener.close()  # else callers would still be let in, and wait
                _signal(children.values(), signal.SIGTERM)
            elif number == signal.SIGINT:
                self._given_up = True
                _signal(children.values(), signal.SIGINT)
        if self._stopping is None:
            return False
        if time.monotonic() - self._stopping > _OVERDUE:
            for child in children.values():
                child.process.kill()
        return True


def _signal(children: Collection[_Child], number: int) -> None:
    for child in children:
        if child.process.is_alive() and child.process.pid is not None:
            os.kill(child.process.pid, number)


def _said(child: _Child) -> _Started | _Failed | None:
    """What the worker has told, None for nothing yet; one that died without a word has failed."""
    try:
        if not child.told.poll():
            return None
        said: _Started | _Failed = child.told.recv()
    except EOFError:
        child.process.join(_PAUSE)
        return _Failed(f"a worker {_end(child.process.exitcode)} before it served", 1)
    return said


def _end(code: int | None) -> str:
    return f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with {code}"


def run_worker(
    options: ServerOptions, listener: socket.socket, number: int, tell: Connection
) -> None:
    """A worker process, from its first line to its exit. `tell` leads to the supervisor."""
    from llmctl.gateway.worker import Worker

    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C at the terminal is the supervisor's to hand on

    def started(models: Collection[str]) -> None:
        tell.send(_Started((*models,)))

    try:
        code = Worker(options, listener, options.settings(), number).run(started)
    except LlmctlError as error:
        tell.send(_Failed(error.message, error.exit_code))
        code = error.exit_code
    finally:
        listener.close()
    raise SystemExit(code)
