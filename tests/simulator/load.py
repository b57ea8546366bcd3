"""Measure requests a second with a bare client: the ceiling any real client is compared with.

`python -m tests.simulator.load URL [--connections 32] [--seconds 3] [--stream]`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast
from urllib.parse import urlsplit


class _Client(asyncio.Protocol):
    """Sends one request after another on one connection and counts the whole answers."""

    def __init__(self, request: bytes, until: float) -> None:
        self.answers = 0
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not _is_whole(self._buffer):
            return
        self._buffer = b""
        self.answers += 1
        if time.monotonic() < self._until:
            self._transport.write(self._request)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(exc)


def _is_whole(data: bytes) -> bool:
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return False
    _, found, rest = head.partition(b"content-length: ")
    if not found:
        return body.endswith(b"0\r\n\r\n")
    return len(body) == int(rest.partition(b"\r\n")[0])


async def measure(url: str, *, connections: int, seconds: float, stream: bool) -> float:
    """Give whole answers a second, over so many keep-alive connections for so many seconds."""
    place = urlsplit(url)
    message = {"role": "user", "content": "Classify the sentiment: I like it."}
    body = json.dumps({"model": "sim-small", "messages": [message], "stream": stream}).encode()
    head = (
        f"POST {place.path}/chat/completions HTTP/1.1\r\nhost: {place.netloc}\r\n"
        f"content-type: application/json\r\nauthorization: Bearer load\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(request, started + seconds), place.hostname or "", place.port or 80
        )
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    return sum(client.answers for client in clients) / (time.monotonic() - started)


def main() -> None:
    """Print the figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.load", description=__doc__)
    parser.add_argument("url", help="base URL, as the simulator prints it")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    rate = asyncio.run(
        measure(
            given.url, connections=given.connections, seconds=given.seconds, stream=given.stream
        )
    )
    print(f"{rate:.0f} requests/s")


if __name__ == "__main__":
    main()
