"""A provider with nothing to it: `python -m tests.bench.loopback [LATENCY_MS]`.

Every request gets the same chat completion after the latency. The simulator parses, bills and
records each call, which takes longer than a fast client does: against it one would measure the
simulator. It prints its base URL and ends when stdin closes, as the simulator does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "gpt-5-mini-2026-05-01",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "The review is positive: the buyer would buy it again.",
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 31, "completion_tokens": 14, "total_tokens": 45},
    }
).encode()
_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Loopback(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other, each with a length."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._needed = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer when the request is complete."""
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(self._buffer, 0, end + 2)
            self._needed = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) >= self._needed:
            self._buffer = self._buffer[self._needed :]
            self._needed = 0
            if self._latency:
                self._loop.call_later(self._latency, self._answer)
            else:
                self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_REPLY)


@contextlib.contextmanager
def served(*command: str) -> Iterator[str]:
    """The base URL of a server in a process of its own: `served("tests.bench.loopback")`."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate("")


async def _serve(latency: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Loopback(latency), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)


def main() -> None:
    """Serve until stdin ends, on uvloop where it is installed."""
    latency = float(sys.argv[1]) / 1000 if len(sys.argv) > 1 else 0.0
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(latency))
    else:
        uvloop.run(_serve(latency))


if __name__ == "__main__":
    main()
