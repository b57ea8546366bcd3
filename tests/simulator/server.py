"""The simulated provider as tests use it: a server on loopback in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from .batches import Batches, BatchSettings
from .bills import Bills
from .call import Call
from .connection import Connection, Gate, Moment
from .key_admin import KeyAdmin
from .prompt_caches import PromptCaches
from .provider import Provider
from .record import Billed, Record
from .reply import Reply
from .scripts import Step

HOST = "127.0.0.1"
_BACKLOG = 4096
_STOP_SECONDS = 10.0


def echo(call: Call) -> str:
    """Answer `echo: ` and the last user text."""
    return f"echo: {call.ask.last if call.ask else ''}"


@dataclass(kw_only=True)
class Simulator:
    """A loopback provider: `with Simulator(latency=0.1) as sim:` serves at `sim.base_url`.

    On leaving, connections are dropped and the first exception raised by a script or a reply is
    raised again (each gave its client a 500). A simulator runs once. These hold from the next
    request on; callables run in the server's thread and must not block:

    - `fault`: a fault for every request, a script that picks one, or None.
    - `reply`: what the model says to a call, as text or a `Reply`.
    - `latency`: seconds before each answer. `stream_interval`: seconds between SSE events.
    - `headers`: added to every answer to a request.
    - `keys`: accepted API keys, None for any (while it runs: `accept_keys`).
    - `batch`: how batches go; the batches themselves are in `batches`.
    - `key_admin`: who makes and revokes keys there, None for nobody.
    - `bills`: who tells of bills and limits there, None for nobody.
    - `prompt_caches`: what the provider keeps of prompts, None for nothing.

    These are fixed: `rpm`, `tpm`, requests and tokens a minute (a request counts its prompt and
    `max_tokens`), refused with an honest 429 beyond; `record_bodies`, whether calls are kept in
    `calls`; `port` on 127.0.0.1, 0 for a free one.
    """

    fault: Step = None
    reply: Callable[[Call], str | Reply] = echo
    latency: float = 0.0
    stream_interval: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    keys: Collection[str] | None = None
    rpm: int | None = None
    tpm: int | None = None
    record_bodies: bool = True
    batch: BatchSettings = field(default_factory=BatchSettings)
    key_admin: KeyAdmin | None = None
    bills: Bills | None = None
    prompt_caches: PromptCaches | None = None
    port: int = 0

    def __post_init__(self) -> None:
        """Prepare what is read before and after it runs."""
        self.record = Record(keep_calls=self.record_bodies)
        self.batches = Batches(self.batch)
        self.batches.in_loop = self._in_loop
        self.gate = Gate()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None
        self._connections: set[Connection] = set()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://{HOST}:{self.port}"

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:PORT/v1`."""
        return f"{self.origin}/v1"

    @property
    def calls(self) -> list[Call]:
        """Every request so far, in the order they arrived (empty without `record_bodies`)."""
        return self.record.calls

    @property
    def billed(self) -> Billed:
        """What the provider has billed so far."""
        return self.record.billed

    def __enter__(self) -> Self:
        """Start; OSError when the port is taken."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stop, and raise what a script raised unless something else is being raised."""
        self._in_loop(self._stop.set if self._stop else lambda: None)
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            message = "the simulator does not stop: a script or a reply blocks its thread"
            raise RuntimeError(message)
        if error is None and self.record.errors:
            raise self.record.errors[0]

    def accept_keys(self, keys: Iterable[str] | None) -> None:
        """Accept these API keys from now on and answer 401 to others; None accepts any."""
        self.keys = None if keys is None else frozenset(keys)

    def hold(self, moment: Moment = "received") -> None:
        """Hold answers from now on: before they are billed, or `billed` but not sent."""
        self.gate.held = moment

    def release(self) -> None:
        """Let held answers go, and later ones pass."""
        self.gate.held = None
        self._in_loop(self.gate.open)

    def drop_connections(self) -> None:
        """Drop every open connection at once, as a provider that is restarted does."""
        self._in_loop(self._abort_all)

    def wait_for_calls(self, count: int, timeout: float = 10.0) -> None:
        """Block until `count` requests have arrived in all; TimeoutError after `timeout` s."""
        self.record.wait_until(lambda: self.record.requests >= count, timeout)

    def wait_until(self, holds: Callable[[], bool], timeout: float = 10.0) -> None:
        """Block until `holds()`, asked again after every event; TimeoutError after `timeout` s."""
        self.record.wait_until(holds, timeout)

    def _in_loop(self, do: Callable[[], object]) -> bool:
        running = self._loop is not None and not self._loop.is_closed()
        if self._loop is not None and running:
            self._loop.call_soon_threadsafe(do)
        return running

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # noqa: BLE001  (kept for the thread that runs the test)
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        provider = Provider(self, self.record)
        server = await loop.create_server(
            lambda: Connection(provider, self.gate, self._connections),
            HOST,
            self.port,
            backlog=_BACKLOG,
        )
        self.port = server.sockets[0].getsockname()[1]
        self._stop = asyncio.Event()
        self._loop = loop
        self._started.set()
        await self._stop.wait()
        server.close()
        while self._connections:
            self._abort_all()
            await asyncio.sleep(0)
