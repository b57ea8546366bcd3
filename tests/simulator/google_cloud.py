"""Google Cloud as its credentials see it: the token server, workload identity federation, a
machine's metadata server, and Secret Manager; one loopback server in a thread of its own."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ACCOUNT = "ci@sim.iam.gserviceaccount.com"
AUDIENCE = "https://oauth2.googleapis.com/token"
POOL = "//iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/ci/providers/github"
_SECRET = re.compile(r"/v1/projects/([^/]+)/secrets/([^/]+)/versions/([^/]+):access")
_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

Reply = tuple[int, dict[str, Any]]


@dataclass(kw_only=True)
class GoogleCloud:
    """A stub: `with GoogleCloud() as google:` serves at `google.origin`.

    These hold from the next request on:

    - `lifetime`: gives the seconds that the next token lives. `refusal`: what the token server says
      instead of one; it gets the request's fields.
    - `account`: the machine's, None where the metadata server has none.
    - `secrets`: the versions of each secret by project and name, the oldest first; of those that
      are none any more the state. `denied`: names of secrets that nobody may read.
    - `broken`: the status that Secret Manager replies with, whatever it is asked.

    `forms` are the fields of every request for a token, `given` the tokens in their order, `asked`
    method and path of every request, `headers` those of the last one.
    """

    lifetime: Callable[[], float] = lambda: 3600
    refusal: Callable[[dict[str, str]], Reply] | None = None
    account: str | None = ACCOUNT
    secrets: dict[tuple[str, str], list[str | bytes]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    broken: int | None = None
    forms: list[dict[str, str]] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Serve."""
        handler = type("Handler", (_Handler,), {"cloud": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Take no more connections; stopped twice is stopped."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    @property
    def host(self) -> str:
        """Host and port, as `GCE_METADATA_HOST` has them."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def origin(self) -> str:
        """Where it is."""
        return f"http://{self.host}"

    def service_account(self, path: Path, **more: str) -> Path:
        """Write a service account's file."""
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem = _KEY.private_bytes(serialization.Encoding.PEM, *form).decode()
        return _write(path, "service_account", {
            "client_email": ACCOUNT, "private_key": pem, "private_key_id": "1",
            "project_id": "sim", "token_uri": f"{self.origin}/token", **more,
        })  # fmt: skip

    def user(self, path: Path, **more: str) -> Path:
        """Write the file that `gcloud auth application-default login` does."""
        return _write(path, "authorized_user", {
            "client_id": "cli", "client_secret": "client-secret-canary-4711", "account": "",
            "refresh_token": "1//refresh-canary-4711", **more,
        })  # fmt: skip

    def federation(self, path: Path, token: Path) -> Path:
        """Write a file of workload identity federation whose subject's `token` is in a file."""
        return _write(path, "external_account", {
            "audience": POOL, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.origin}/v1/token", "credential_source": {"file": str(token)},
        })  # fmt: skip

    def reply(self, method: str, target: str, body: str) -> Reply | str:
        """What it replies: a status and JSON, or plain text."""
        path = urlsplit(target).path
        if path in ("/token", "/v1/token"):
            return self._token({k: v[0] for k, v in parse_qs(body).items()})
        if path == "/":
            return "computeMetadata/"
        if path.startswith("/computeMetadata/v1/"):
            return self._metadata(path.removeprefix("/computeMetadata/v1/"))
        if match := _SECRET.fullmatch(path):
            return self._version(*match.groups())
        return _error(404, "NOT_FOUND", f"{method} {path}")

    def _token(self, form: dict[str, str]) -> Reply:
        self.forms.append(form)
        if self.refusal:
            return self.refusal(form)
        if "assertion" in form:
            jwt.decode(form["assertion"], _KEY.public_key(), ["RS256"], audience=AUDIENCE)
        self.given.append(f"ya29.token-canary-{len(self.given) + 1:04}")
        said = {"access_token": self.given[-1], "token_type": "Bearer"}
        kind = "urn:ietf:params:oauth:token-type:access_token"
        return 200, {**said, "expires_in": self.lifetime(), "issued_token_type": kind}

    def _metadata(self, path: str) -> Reply | str:
        if path == "project/project-id":
            return "sim"
        if self.account is None:
            return 404, {"error": "no service account"}
        if path == "instance/service-accounts/default/":
            return 200, {"email": self.account, "scopes": [], "aliases": ["default"]}
        return self._token({"metadata": path})

    def _version(self, project: str, name: str, version: str) -> Reply:
        if self.broken:
            return _error(self.broken, "UNAVAILABLE", "The service is currently unavailable.")
        if self.headers.get("authorization") != f"Bearer {self.given[-1]}":
            return _error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if name in self.denied:
            said = "Permission 'secretmanager.versions.access' denied for resource (or it may not"
            return _error(403, "PERMISSION_DENIED", f"{said} exist).")
        versions = self.secrets.get((project, name), [])
        number = len(versions) if version == "latest" else int(version)
        if not 0 < number <= len(versions):
            return _error(404, "NOT_FOUND", f"Secret [{name}] not found or has no versions.")
        full, value = f"projects/7/secrets/{name}/versions/{number}", versions[number - 1]
        if value in ("DISABLED", "DESTROYED"):
            said = f"Secret Version [{full}] is in {value} state."
            return _error(400, "FAILED_PRECONDITION", said)
        data = value if isinstance(value, bytes) else value.encode()
        return 200, {"name": full, "payload": {"data": base64.b64encode(data).decode()}}


class _Handler(BaseHTTPRequestHandler):
    cloud: GoogleCloud

    def do_GET(self) -> None:
        """Serve a reading."""
        self._serve()

    def do_POST(self) -> None:
        """Serve a form."""
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        self.cloud.asked.append((self.command, self.path))
        self.cloud.headers = {name.lower(): value for name, value in self.headers.items()}
        found = self.cloud.reply(self.command, self.path, body)
        status, text, kind = 200, found, "application/text"
        if not isinstance(found, str):
            status, text, kind = found[0], json.dumps(found[1]), "application/json"
        self.send_response(status)
        data = str(text).encode()
        for name, value in (("content-type", kind), ("content-length", str(len(data)))):
            self.send_header(name, value)
        self.send_header("metadata-flavor", "Google")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _error(code: int, status: str, message: str) -> Reply:
    return code, {"error": {"code": code, "status": status, "message": message}}


def _write(path: Path, kind: str, fields: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": kind, **fields}), encoding="utf-8")
    return path
