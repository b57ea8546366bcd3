"""A sink on 127.0.0.1 that keeps the JSON it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_PATIENCE = 20.0


class Receiver:
    """`with Receiver() as sink:` takes what is posted to `sink.url`; replies `status`, and with
    `headers`; `hold` keeps replies back until it is set."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.paths: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.hold = threading.Event()
        self.hold.set()
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                with receiver._came:
                    receiver.paths.append(self.path)
                    receiver.asked.append({k.lower(): v for k, v in self.headers.items()})
                    receiver.got.append(json.loads(body))
                    receiver._came.notify_all()
                receiver.hold.wait(_PATIENCE)
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait(self, count: int) -> list[Any]:
        """The first so many messages, once they have come."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.got) >= count, _PATIENCE), self.got
            return self.got[:count]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
