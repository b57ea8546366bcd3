"""Secrets of Doppler, from a server of its API on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llmctl.errors import NoKeyError
from tests.conformance.secret_reader import NEW, SecretReaderSuite, find

TOKEN = "dp.st.dev.token-4711"


class _Api(BaseHTTPRequestHandler):
    """What docs.doppler.com/reference/secrets-get says: the secrets of the config llm/dev."""

    server: DopplerManager

    def do_GET(self) -> None:
        """Reply to a read."""
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked.append(asked)
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            self._say(401, {"messages": ["Invalid Service token"], "success": False})
        elif asked["name"] in self.server.denied:
            words = "This token does not have access to requested secret"
            self._say(403, {"messages": [words], "success": False})
        elif (value := self.server.kept.get(asked["name"], 0)) == 0:
            self._say(404, {"messages": ["Could not find requested secret"], "success": False})
        else:
            told = {"raw": "${other.KEY}", "computed": value, "note": ""}
            self._say(200, {"name": asked["name"], "value": told, "success": True})

    def _say(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(self.server.status or status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


class DopplerManager(ThreadingHTTPServer):
    """The server. `status`: what it replies with whatever is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.kept: dict[str, str | None] = {}
        self.denied: set[str] = set()
        self.asked: list[dict[str, str]] = []
        self.status = 0
        self.environ = {
            "DOPPLER_API_HOST": f"http://127.0.0.1:{self.server_port}/",
            "DOPPLER_TOKEN": TOKEN,
        }
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def uri(self, name: str) -> str:
        """A name of the config llm/dev."""
        return f"doppler://llm/dev/{name}"

    def put(self, name: str, value: str) -> None:
        """Store it."""
        self.kept[name] = value

    def deny(self, name: str) -> None:
        """The token may not read it."""
        self.denied.add(name)

    def stop(self) -> None:
        """Close it."""
        self.shutdown()
        self.server_close()


@pytest.fixture
def manager() -> Iterator[DopplerManager]:
    """A server on loopback."""
    server = DopplerManager()
    yield server
    server.stop()


class TestDoppler(SecretReaderSuite):
    """The suite."""

    name = "Doppler"
    allow = "it needs `read` access to llm/dev"
    versions = False


def test_what_is_asked(manager: DopplerManager) -> None:
    """Project, config and name, each by its own parameter."""
    manager.put("API_KEY", NEW)
    assert find(manager, "API_KEY").value == NEW
    assert manager.asked == [{"project": "llm", "config": "dev", "name": "API_KEY"}]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DOPPLER_TOKEN": ""}, "DOPPLER_TOKEN is not set; set it to a service token"),
        ({"DOPPLER_TOKEN": "dp.st.wrong-4712"}, r"may not read that \(Invalid Service token\)"),
        ({"DOPPLER_API_HOST": "http://api.example"}, r"\$DOPPLER_API_HOST is not https://"),
    ],
)
def test_what_is_said_wrong(manager: DopplerManager, environ: dict[str, str], message: str) -> None:
    """A token or an address that is none is one sentence without the token."""
    manager.environ |= environ
    with pytest.raises(NoKeyError, match=message) as caught:
        find(manager, "any")
    assert "4712" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "value", "message"),
    [
        (429, NEW, "it is asked too often"),
        (500, NEW, "it failed .HTTP 500."),
        (0, None, "may not see its value, which is restricted"),
    ],
)
def test_other_replies(
    manager: DopplerManager, status: int, value: str | None, message: str
) -> None:
    """What is no secret is one sentence."""
    manager.kept["any"], manager.status = value, status
    with pytest.raises(NoKeyError, match=message):
        find(manager, "any")
