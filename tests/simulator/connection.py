"""One client connection: bytes in, calls to the provider, bytes out, one call at a time."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Literal, cast

from .call import Call
from .errors import JSON
from .fault import Fault
from .http1 import Answer, Delivery, Head, parse_head, render
from .provider import Provider
from .wires.wire import dump

_LINGER_NONE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


Moment = Literal["received", "billed"]


class Gate:
    """Holds calls `received` (nothing is billed yet) or `billed` (the answer is made, not sent).

    `held` is the moment at which calls are held, None for no holding; any thread may set it.
    `enter` and `open` belong to the server's thread.
    """

    def __init__(self) -> None:
        self.held: Moment | None = None
        self._waiting: list[Callable[[], None]] = []

    def enter(self, moment: Moment, go_on: Callable[[], None]) -> None:
        """Go on now, or when the gate opens."""
        if self.held == moment:
            self._waiting.append(go_on)
        else:
            go_on()

    def open(self) -> None:
        """Let every held call go on, in the order they came; later ones obey `held`."""
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()


class Connection(asyncio.Protocol):
    """Serves keep-alive HTTP/1.1; further requests wait until the one before is answered."""

    def __init__(self, provider: Provider, gate: Gate, open_: set[Connection]) -> None:
        self._provider = provider
        self._record = provider.record
        self._gate = gate
        self._open = open_
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._head: Head | None = None
        self._call: Call | None = None
        self._gone = False
        self._number = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._record.connected()
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (the seam passes it)
        """End; a call that is not answered yet was abandoned by its client."""
        self._gone = True
        self._open.discard(self)
        if self._call is not None:
            self._record.finished(self._call, "abandoned")
        # asyncio closes the socket after this call: who waits for no connection to be open is to
        # find that the client can see it, too.
        self._loop.call_soon(self._record.disconnected)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and serve the requests that are complete."""
        self._buffer += data
        if self._call is None:
            self._advance()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def _advance(self) -> None:
        while self._call is None and not self._transport.is_closing():
            if self._head is None and not self._read_head():
                return
            head = self._head
            if head is None or len(self._buffer) < head.length:
                return
            with memoryview(self._buffer) as view:  # a batch's rows are copied once, not twice
                raw = bytes(view[: head.length])
            del self._buffer[: head.length]
            self._head = None
            self._serve(head, raw)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        try:
            head = parse_head(bytes(self._buffer[:end]))
        except ValueError:
            self._reject()
            return False
        del self._buffer[: end + 4]
        self._head = head
        return True

    def _reject(self) -> None:
        answer = Answer(400, (("content-type", "text/plain"),), (b"not HTTP as I know it\n",))
        self._transport.write(b"".join(render(answer, close=True).segments))
        self._transport.close()

    def _serve(self, head: Head, raw: bytes) -> None:
        call = self._call = self._provider.receive(head, raw, self._number)
        try:
            fault = self._provider.decide(call, self._loop.time())
        except Exception as error:  # noqa: BLE001  (kept for the thread that runs the test)
            self._failed(call, error)
            return
        delay = self._provider.behaviour.latency + fault.delay
        ready = partial(self._ready, call, fault, not head.keep_alive)
        if delay > 0:
            self._loop.call_later(delay, ready)
        else:
            ready()

    def _ready(self, call: Call, fault: Fault, close: bool) -> None:  # noqa: FBT001  (partial passes it)
        self._gate.enter("received", partial(self._answer, call, fault, close))

    def _answer(self, call: Call, fault: Fault, close: bool) -> None:  # noqa: FBT001  (partial passes it)
        try:
            delivery = self._provider.answer(call, fault, self._loop.time(), close=close)
        except Exception as error:  # noqa: BLE001  (kept for the thread that runs the test)
            self._failed(call, error)
            return
        self._gate.enter("billed", partial(self._send, call, delivery))

    def _failed(self, call: Call, error: Exception) -> None:
        self._record.errors.append(error)
        call.status = 500
        body = dump({"error": {"message": f"the test's script raised {error!r}"}})
        self._send(call, render(Answer(500, (JSON,), (body,))))

    def _send(self, call: Call, delivery: Delivery) -> None:
        if delivery.interval > 0 and len(delivery.segments) > 1:
            self._step(call, delivery, 0)
        elif not self._gone:
            self._transport.write(b"".join(delivery.segments))
            self._end(call, delivery)

    def _step(self, call: Call, delivery: Delivery, at: int) -> None:
        if self._gone:
            return
        self._transport.write(delivery.segments[at])
        if at + 1 < len(delivery.segments):
            self._loop.call_later(delivery.interval, self._step, call, delivery, at + 1)
        else:
            self._end(call, delivery)

    def _end(self, call: Call, delivery: Delivery) -> None:
        if delivery.end == "hang":
            return
        whole = delivery.end in {"keep", "close"}
        refused = (call.status or 0) >= 400 and bool(delivery.segments)
        self._record.finished(call, "refused" if refused else "answered" if whole else "dropped")
        self._call = None
        if delivery.end == "reset":
            sock = cast("socket.socket", self._transport.get_extra_info("socket"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            self._transport.abort()
        elif delivery.end in {"close", "cut"}:
            self._transport.close()
        elif self._buffer:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._call is None:
            self._advance()
