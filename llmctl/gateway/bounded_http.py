"""HTTP/1.1 with bounds on what a request may send before its body, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST = 64 * 1024  # bytes of a request's line and headers; browsers and SDKs send a few thousand


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, which by itself collects headers for as long as they come, and waits for
    them for as long as they do not."""

    head_time = 30.0  # seconds within which a request's line and headers must have come

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._head = True, 0
        self._overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """And has gone."""
        super().connection_lost(exc)
        self._stop_waiting()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head = True, 0
        self._stop_waiting()
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Its body begins."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes of the caller; a head that is too long ends the connection."""
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > _MOST and not self.transport.is_closing():
                self.send_400_response("The headers are too long.")

    def _wait_for_head(self) -> None:
        self._overdue = self.loop.call_later(self.head_time, self._give_up)

    def _stop_waiting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the one before it
            self._wait_for_head()
        else:
            self.transport.close()
