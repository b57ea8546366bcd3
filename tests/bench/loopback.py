"""A provider with nothing to it: `python -m tests.bench.loopback [LATENCY_MS]`.

Every request gets the same chat completion after the latency, counted from when the system had the
request (on Linux; elsewhere from when it was read): a provider is no slower because its client uses
the processors, as it would be here. Never before that. The simulator parses, bills and records each
call, which takes longer than a fast client does: against it one would measure the simulator. It
prints its base URL and ends when stdin closes, as the simulator does.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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
_READ = 64 * 1024
"""Bytes read in one go: room for more is asked of the system each time, and given back."""

_STAMPS = 35
"""Linux's SO_TIMESTAMPNS, which Python does not name: what is read comes with when it came."""
_STAMP = struct.Struct("qq")
"""That moment: seconds and nanoseconds of the wall clock."""


class Caller:
    """One keep-alive connection; requests come one after the other, each with a length."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self._buffer = b""
        self._needed = 0

    def asked(self) -> float | None:
        """Read what has come: when it came, by the wall clock, if a request is complete with it.
        Raises `OSError` at the end."""
        data, told, _, _ = self.connection.recvmsg(_READ, socket.CMSG_SPACE(_STAMP.size))
        if not data:
            raise ConnectionResetError
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = _LENGTH.search(self._buffer, 0, end + 2)
            self._needed = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < self._needed:
            return None
        self._buffer = self._buffer[self._needed :]
        self._needed = 0
        for level, kind, stamp in told:
            if (level, kind) == (socket.SOL_SOCKET, _STAMPS):
                seconds, nanoseconds = _STAMP.unpack(stamp)
                return float(seconds + nanoseconds * 1e-9)
        return time.time()

    def answer(self) -> None:
        """Send the reply, to whom is still there."""
        with contextlib.suppress(OSError):
            self.connection.send(_REPLY)


def stamped(listener: socket.socket) -> None:
    """What comes on the connections that it accepts is to come with when it came."""
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)


class Loopback:
    """A server on a free port of its own, whose answers take `latency` seconds."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.settimeout(0)
        if latency:
            stamped(self._listener)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._due: deque[tuple[float, Caller]] = deque()
        """Who gets an answer when. All take equally long, so the first in is the first out."""
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def serve(self, until: int) -> None:
        """Answer until there is something to read, or nothing any more, from that descriptor."""
        self._selector.register(until, selectors.EVENT_READ)
        own = [self._selector.fileno()]
        while True:
            wait = max(0.0, self._due[0][0] - time.time()) if self._due else None
            select.select(own, (), (), wait)  # to the microsecond, as the selector is not
            now = time.time()
            while self._due and self._due[0][0] <= now:
                self._due.popleft()[1].answer()
            for key, _ in self._selector.select(0):
                if key.data is None:
                    return
                key.data()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                caller = Caller(self._listener.accept()[0])
                read = partial(self._read, caller)
                self._selector.register(caller.connection, selectors.EVENT_READ, read)

    def _read(self, caller: Caller) -> None:
        try:
            came = caller.asked()
            if came is not None and self._latency:
                self._due.append((came + self._latency, caller))
            elif came is not None:
                caller.answer()
        except OSError:
            self._selector.unregister(caller.connection)
            caller.connection.close()


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


def main() -> None:
    """Serve until stdin ends."""
    server = Loopback(float(sys.argv[1]) / 1000 if len(sys.argv) > 1 else 0.0)
    print(server.url, flush=True)
    server.serve(sys.stdin.fileno())


if __name__ == "__main__":
    main()
