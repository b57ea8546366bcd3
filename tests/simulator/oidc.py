"""GitHub's OIDC endpoint, and the token exchanges of OpenAI and Anthropic, on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ASKING = "github-request-token-4711"
"""The token with which a job asks for its OIDC token."""

_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
_GRANT = "urn:ietf:params:oauth:grant-type:"
_CALLS = {"/v1/chat/completions": _CHAT, "/v1/messages": _MESSAGE}


def subject(name: str) -> str:
    """An OIDC token as it looks: three parts of base64, of which nobody here checks a signature."""
    parts = ({"alg": "RS256", "typ": "JWT"}, {"sub": name, "iss": "https://id.example"})
    head = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(part.rstrip("=") for part in (*head, f"signature-of-{name}-0815"))


@dataclass(frozen=True)
class Asked:
    """A request as it came; names of headers are lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Any


@dataclass
class Exchanges:
    """What the server does, and what it saw.

    `subjects` are the OIDC tokens that it takes, `jobs` those it gives to a job of GitHub Actions
    for an audience, `issued` the tokens it made, each for `life` seconds. `status` is another
    answer than 200, with `said` as the body.
    """

    origin: str = ""
    subjects: set[str] = field(default_factory=set)
    jobs: dict[str, str] = field(default_factory=dict)
    issued: list[str] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    life: float = 3600
    status: int = 200
    said: Any = None

    @property
    def github(self) -> dict[str, str]:
        """The variables of a job that may ask for its OIDC token."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.origin}/github/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ASKING,
        }

    def at(self, path: str) -> list[Asked]:
        """What was asked there."""
        return [each for each in self.asked if each.path == path]

    def reply(self, asked: Asked) -> tuple[int, Any]:
        """Status and body."""
        self.asked.append(asked)
        if asked.path in _CALLS:
            good = asked.headers.get("authorization", "").removeprefix("Bearer ") in self.issued
            return (200, _CALLS[asked.path]) if good else (401, {"error": {"message": "no"}})
        if self.status != 200:
            return self.status, self.said
        if asked.path == "/github/token":
            return self._of_github(asked)
        if asked.path == "/oauth/token":
            return self._exchanged(asked.body, "token-exchange", "subject_token")
        return self._exchanged(asked.body, "jwt-bearer", "assertion")

    def _of_github(self, asked: Asked) -> tuple[int, Any]:
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        if (scheme.lower(), token) != ("bearer", ASKING):
            return 401, {"message": f"unknown token {token}"}
        (audience,) = asked.query.get("audience", ["https://github.com/acme"])
        return 200, {"value": self.jobs.setdefault(audience, subject(audience))}

    def _exchanged(self, body: Any, grant: str, name: str) -> tuple[int, Any]:
        token = body.get(name)
        if body.get("grant_type") != _GRANT + grant or token not in self.subjects:
            said = f"the token {token} is not accepted"
            return 401, {"error": "invalid_grant", "error_description": said}
        self.issued.append(f"access-token-number-{len(self.issued) + 1:04}")
        made = {"access_token": self.issued[-1], "token_type": "bearer", "expires_in": self.life}
        return 200, made


@contextmanager
def serving() -> Iterator[Exchanges]:
    """While open, it answers at its `origin`."""
    exchanges = Exchanges()

    class Handler(BaseHTTPRequestHandler):
        """Answers one request."""

        def do_POST(self) -> None:
            """Answer as `reply` does."""
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(raw) if raw else None
            query = parse_qs(parts.query)
            asked = Asked(self.command, parts.path, query, headers, body)
            status, said = exchanges.reply(asked)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            """The same."""
            self.do_POST()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        exchanges.origin = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield exchanges
        finally:
            server.shutdown()
            thread.join()
