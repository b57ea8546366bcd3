"""Load on an HTTP server: `load.py URL CONNECTIONS SECONDS HEADERS`, HEADERS a JSON object.

Chat completions, no two alike, over raw sockets: each connection asks again as soon as it has its
answer. Prints as JSON requests a second, the median and 99th percentile of the milliseconds that
one took, and how many there were with those before anything counted. A client that parsed more
would be slower than what it measures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

_WARM = 1.0  # seconds before anything counts
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_BODY = (
    b'{"model": "gpt-5-mini", "max_tokens": 100, "messages": [{"role": "user", "content": '
    b'"Is this review positive? I bought it %012d times, and would again."}]}'
)


class Load:
    """What all connections share: the next request, and how long each took."""

    def __init__(self, host: str, path: str, headers: dict[str, str]) -> None:
        said = {"host": host, "content-type": "application/json", **headers}
        said["content-length"] = str(len(_BODY % 0))
        lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        self._head = f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode()
        self._numbers = itertools.count(time.time_ns() % 10**12)  # none that an earlier run had
        self.took: list[float] = []
        self.failure = ""

    def next(self) -> bytes:
        """A request."""
        return self._head + _BODY % (next(self._numbers) % 10**12)


class Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, load: Load) -> None:
        self._load, self._buffer, self._sent = load, b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are not its kind
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Go on once the answer is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if length is None and not self._buffer.endswith(b"\r\n0\r\n\r\n"):  # in chunks
            return
        if length is not None and len(self._buffer) < end + 4 + int(length[1]):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            self._load.failure = self._buffer.decode("utf-8", "replace")
        self._load.took.append(time.perf_counter() - self._sent)
        self._buffer = b""
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._load.next())


async def measure(url: str, connections: int, seconds: float, headers: dict[str, str]) -> None:
    """Load the server, and print."""
    place = urlsplit(url)
    load = Load(place.netloc, place.path, headers)
    loop = asyncio.get_running_loop()
    host, port = place.hostname or "", place.port or 80
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), host, port)
    await asyncio.sleep(_WARM)
    warm = len(load.took)
    load.took.clear()
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    rate, took = len(load.took) / (time.perf_counter() - start), sorted(load.took)
    if load.failure or not took:
        raise SystemExit(load.failure or "no answer")
    shares = {"p50": took[len(took) // 2] * 1000, "p99": took[len(took) * 99 // 100] * 1000}
    print(json.dumps({"rate": rate, **shares, "all": warm + len(took)}))


if __name__ == "__main__":
    uvloop.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), json.loads(sys.argv[4])))
