"""One HTTP exchange: what ASGI says of a request, and how its reply is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cached_property
from typing import Any

from llmctl.gateway.failures import refused

ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]
ASGIScope = MutableMapping[str, Any]

JSON_TYPE = "application/json"
EVENTS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}
"""The headers of a stream of events: proxies must hand on every one at once."""

BODY_TIME = 120.0
"""Seconds within which a body must have come."""

_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:")


class Exchange:
    """A request and its reply. `path` is what is asked for, `target` the same as it was written.
    `status` is 0 until the reply has begun, `replied` says whether it is whole; `more` are headers
    for it."""

    def __init__(self, scope: ASGIScope, receive: Receive, send: Send, id: str) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.method: str = scope["method"]
        # Never an address made of the `Host` header: that may hold a path.
        self.path: str = scope["path"]
        self.target: str = scope["raw_path"].decode("latin-1")
        self.status = 0
        self.replied = False
        self.own_id, self.id = id, self._given_id() or id
        self.more: dict[str, str] = {"x-request-id": self.id, "x-content-type-options": "nosniff"}

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name; those that came more than once, joined by commas."""
        found: dict[str, str] = {}
        for name, value in self.scope["headers"]:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            found[key] = f"{found[key]}, {text}" if key in found else text
        return found

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of whoever has opened the connection."""
        host, port = self.scope.get("client") or ("", 0)
        return host, port

    @property
    def server(self) -> tuple[str, int]:
        """Address and port at which it was answered."""
        host, port = self.scope.get("server") or ("", 0)
        return host, port

    def _given_id(self) -> str:
        """The caller's own id of the request, where it is one."""
        given = self.headers.get("x-request-id", "")
        return given if len(given) <= 128 and _ID.issuperset(given) else ""

    async def body(self, most: int) -> bytes:
        """The whole body, of at most so many bytes. Raises `Refused` (408, 413, 415)."""
        if self.headers.get("content-encoding", "identity") != "identity":
            raise refused(415, "invalid_request", "send the body as it is, without compression")
        length = self.headers.get("content-length", "0")
        found = None
        try:
            if not length.isdecimal() or int(length) <= most:
                async with asyncio.timeout(BODY_TIME):
                    found = await self._body(most)
        except TimeoutError:
            self.more["connection"] = "close"
            why = f"the body did not come within {BODY_TIME:.0f} s"
            raise refused(408, "invalid_request", why) from None
        if found is None:
            raise refused(413, "invalid_request", f"the body has more than {most:,} bytes")
        return found

    async def _body(self, most: int) -> bytes | None:
        """The body; None for one that is too long."""
        found: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            size += len(piece)
            if size > most:
                return None
            found.append(piece)
            if not message.get("more_body"):
                return b"".join(found)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin the reply."""
        self.status = status
        pairs = {**self.more, **headers}
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(n.encode(), v.encode("latin-1", "replace")) for n, v in pairs.items()],
            }
        )

    async def write(self, body: bytes, *, last: bool = False) -> None:
        """The next bytes of the reply's body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": not last})
        self.replied = self.replied or last

    async def reply(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        """The whole reply, JSON unless `headers` say otherwise."""
        length = {} if status == 204 else {"content-length": str(len(body))}
        kind = {"content-type": JSON_TYPE} if body else {}
        kept = {"cache-control": "no-store"}
        await self.start(status, {**kind, **kept, **headers, **length})
        await self.write(body, last=True)

    async def gone(self) -> None:
        """Return when whoever asked has hung up."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Disconnected(Exception):
    """The caller hung up while its request was read."""
