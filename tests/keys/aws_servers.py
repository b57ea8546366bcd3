"""AWS on loopback: moto's server, which keeps secrets and parameters as AWS does, and one that
answers what a test says."""

from __future__ import annotations

import json
import socket
import subprocess
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

REGION = "eu-central-1"
_MOTO = Path(sysconfig.get_path("scripts")) / "moto_server"
_PATIENCE = 60.0  # seconds that it may take to start
KEYS = {"AWS_ACCESS_KEY_ID": "AKIATEST00000001", "AWS_SECRET_ACCESS_KEY": "aws-secret-canary-4711"}


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class MotoServer:
    """`moto_server`, while it is open."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._clients: dict[str, Any] = {}
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [_MOTO, "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(self._end)
        end = time.monotonic() + _PATIENCE
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5):
                return self
            assert self._process.poll() is None, "moto_server ended"
            assert time.monotonic() < end, "moto_server does not answer"
            time.sleep(0.05)

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def client(self, service: str) -> Any:
        """The vendor's own client of a service, closed with the server."""
        from botocore.session import Session

        if service not in self._clients:
            self._clients[service] = Session().create_client(
                service,
                region_name=REGION,
                endpoint_url=self.url,
                aws_access_key_id="AKIAADMIN",
                aws_secret_access_key="admin",
            )
            self._stack.callback(self._clients[service].close)
        return self._clients[service]


Answer = tuple[int, dict[str, Any]]
"""A status and what is in the body."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections that may begin together


class AwsStub:
    """Answers as `reply` says: it gets the headers (lower case) and the body of a request.
    `clock`: the seconds that its `Date` is ahead of this machine's; `ahead` gives them."""

    def __init__(
        self, reply: Callable[[Mapping[str, str], dict[str, Any]], Answer], clock: float = 0.0
    ) -> None:
        self.calls: list[dict[str, str]] = []
        self.ahead: Callable[[], float] = lambda: clock
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(self.rfile.read(int(headers["content-length"])))
                stub.calls.append(headers)
                status, answer = reply(headers, body)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + stub.ahead())

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def error(code: str, message: str = "", status: int = 400) -> Answer:
    """A failure as AWS's JSON services write it."""
    return status, {"__type": code, "message": message}


def signed_at(headers: Mapping[str, str]) -> float:
    """The moment of a signature, in seconds since the epoch."""
    return datetime.strptime(headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
