"""Provider with nothing to it: `python -m tests.bench.loopback [LATENCY_MS]`.

Every request gets the same chat completion, after the latency. The simulator parses, bills and
records each call, which takes longer than a fast client does. It prints its base URL and ends when
stdin closes, as the simulator does.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,'
    b'"model":"gpt-5-mini-2026-05-01","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"The review is positive: the buyer would buy it again."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":31,"completion_tokens":14,"total_tokens":45}}'
)
_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)
)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Keep-alive connection; requests come one after the other, each with a length."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            self._buffer = self._buffer[whole:]
            if self._latency:
                self._loop.call_later(self._latency, self._transport.write, _REPLY)
            else:
                self._transport.write(_REPLY)


async def _serve(latency: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def served(*command: str) -> Iterator[str]:
    """Base URL of a server in a process of its own: `served("tests.bench.loopback")`."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate("")


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]) / 1000 if len(sys.argv) > 1 else 0.0))
