"""A site to attack: a gateway with every way to say who one is, its issuer, and a raw client."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2

from llmctl.clock import SystemClock
from llmctl.config.settings import Caps
from llmctl.storage.virtual_keys import Token, TokenStore
from llmctl.types import JSON
from tests.conftest import KEY
from tests.gateway.issuer import AUDIENCE, ISSUER, claims, key_set, public, rsa_key, signed
from tests.gateway.serving import Gateway, configure, serving
from tests.simulator.server import Simulator

IDP_SECRET = "idp-secret-4711"
HELLO = [{"role": "user", "content": "hello"}]
CHAT = {"model": "sim", "messages": HELLO}
MESSAGE = {"model": "claude", "max_tokens": 10, "messages": HELLO}

IDENTITIES = """
serve:
  profiles: [sim, answers, claude]
  teams: {{search: {{profiles: [claude]}}}}
  limits: {{queue: 1000, wait: 1}}
  jwt: {{issuer: "{issuer}", audience: {audience}, jwks: "{peer}/jwks"}}
  introspection:
    {{url: "{peer}/introspect", client_id: gateway, client_secret: {{env: IDP_SECRET}}, cache: 0}}
"""


class Identity(ThreadingHTTPServer):
    """The issuer's server: its key set, and what it says of the opaque tokens in `known`. `status`
    is that of what it says; `asked` are the paths it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.key = rsa_key()
        self.known: dict[str, Mapping[str, Any]] = {}
        self.status = 200
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def keys(self) -> bytes:
        """The key set."""
        return key_set(public(self.key, kid="one"))

    def token(self, **changes: Any) -> str:
        """A good token with these claims."""
        return signed(self.key, claims(**changes))


class _Answers(BaseHTTPRequestHandler):
    server: Identity

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._say(self.server.keys)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        form = self.rfile.read(int(self.headers["content-length"])).decode()
        token = form.partition("token=")[2].partition("&")[0]
        self._say(json.dumps(self.server.known.get(token, {"active": False})).encode())

    def _say(self, body: bytes) -> None:
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def identity() -> Iterator[Identity]:
    """An issuer, while open."""
    server = Identity()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Site:
    """A running gateway with all that belongs to it: its configuration's file, and the secrets of
    its virtual keys by name."""

    home: Path
    environ: dict[str, str]
    sim: Simulator
    config: Path
    secrets: dict[str, str] = field(default_factory=dict)
    gateway: Gateway = field(default_factory=lambda: Gateway(None, ""))  # type: ignore[arg-type]

    def token(self, name: str, **said: Any) -> str:
        """The secret of a new virtual key: `token("web", admin=True)`."""
        folder = self.home / ".local/state/llmctl"
        folder.mkdir(parents=True, exist_ok=True)
        store = TokenStore(folder / "tokens.db", SystemClock())
        with closing(store):
            return store.create(
                Token(name, said.pop("user", name), time.time(), **{"caps": Caps(), **said})
            )

    @cached_property
    def client(self) -> httpx2.Client:
        """A client of the gateway's, without a token."""
        return self.gateway.client()

    def post(
        self,
        token: str | None,
        body: Any = CHAT,
        path: str = "/v1/chat/completions",
        **headers: str,
    ) -> Any:
        """The reply to a body."""
        key = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.client.post(path, json=body, headers={**key, **headers})

    def get(self, token: str | None, path: str) -> Any:
        """The reply of a page."""
        key = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.client.get(path, headers=key)

    def raw(self, request: bytes, seconds: float = 10.0) -> bytes:
        """All that comes back for these bytes, until the gateway closes."""
        return raw(self.gateway, request, seconds)


def raw(gateway: Gateway, request: bytes, seconds: float = 10.0) -> bytes:
    """All that comes back for these bytes, until the gateway closes."""
    port = int(gateway.url.rpartition(":")[2])
    found = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(request)
        while piece := connection.recv(65536):
            found += piece
    return found


def status_of(reply: bytes) -> int:
    """The status of raw bytes that came back."""
    return int(reply.split(b" ", 2)[1])


@contextmanager
def site(
    folder: Path,
    environ: Mapping[str, str],
    serve: str,
    *flags: str,
    tokens: JSON = MappingProxyType({}),
) -> Iterator[Site]:
    """A gateway with this `serve:` as YAML, and virtual keys of these names, with what else is said
    of them: those that are made later are known to it half a second after."""
    home = folder / "home"
    home.mkdir()
    with Simulator() as sim:
        keys = {"SIM_KEY": KEY, "IDP_SECRET": IDP_SECRET}
        env = {**keys, **environ, "HOME": str(home)}
        made = Site(home, env, sim, configure(home, sim, serve))
        for name, said in tokens.items():
            made.secrets[name] = made.token(name, **said)
        with serving(env, *flags) as gateway:
            made.gateway = gateway
            with made.client:
                yield made


def identities(peer: Identity) -> str:
    """`serve:` with every way to say who one is."""
    return IDENTITIES.format(issuer=ISSUER, audience=AUDIENCE, peer=peer.url)
