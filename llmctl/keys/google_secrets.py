"""Google Secret Manager: `gcp-sm://PROJECT/NAME[/VERSION]`.

Reference: docs.cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/
access. The checksum of a payload (CRC32C) is left to TLS.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from llmctl.auth.google import GoogleAuth, GoogleCredentials
from llmctl.clock import SystemClock
from llmctl.config.settings import SecretUri
from llmctl.errors import AuthFailed, BadResponse, NoKeyError
from llmctl.http import WholeReply, build, fetch
from llmctl.keys.secrets import LIMIT, Secret
from llmctl.providers import replies
from llmctl.redact import cut

ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER"
"""The variable by which `gcloud` is sent to another address."""

_ADDRESS = "https://secretmanager.googleapis.com"
_MOST = 64 * 1024 + 64 * 1024  # bytes of a reply: a payload of 64 KiB, in base64
_TRIED = 3  # versions below the newest of which the previous one may be
_ROLE = "roles/secretmanager.secretAccessor"


class SecretManager:
    """The `SecretReader` of the scheme `gcp-sm`; it keeps its token."""

    name = "Google Secret Manager"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get(ENDPOINT, "").strip().rstrip("/") or _ADDRESS
        self._auth = GoogleAuth(GoogleCredentials(environ), SystemClock())

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """The version that the address names, or the nearest enabled one below it. Raises as
        `SecretReader.read` does."""
        project, name, version = uri.parts
        secret = f"projects/{quote(project, safe=':')}/secrets/{name}"
        try:
            newest = await self._access(secret, version)
        except _DisabledError as error:
            raise NoKeyError(f"{error}; enable it, or add another version") from None
        return await self._before(secret, newest) if newest and previous else newest

    async def _before(self, secret: str, newest: Secret) -> Secret | None:
        number = int(newest.version.rpartition(" ")[2])
        for lower in range(number - 1, max(0, number - 1 - _TRIED), -1):
            with suppress(_DisabledError):
                if found := await self._access(secret, str(lower)):
                    return found
        return None

    async def _access(self, secret: str, version: str) -> Secret | None:
        """A version; None where there is none. Raises `_DisabledError`."""
        url = f"{self._address}/v1/{secret}/versions/{version}:access"
        reply = await fetch(await self._auth.sign(build("GET", url, {})), LIMIT, _MOST)
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise self._failure(reply)
        return _secret(reply.body)

    def _failure(self, reply: WholeReply) -> Exception:
        status, headers, body, _ = reply
        found = replies.error_object(replies.json_or_none(body))
        said = cut(replies.first_text(found, "message") or f"HTTP {status}", replies.SHOWN).rstrip(
            "."
        )
        if found.get("status") == "FAILED_PRECONDITION":
            return _DisabledError(said)
        if status == 403:
            mend = f"; grant it {_ROLE} on the secret" if "versions.access" in said else ""
            return AuthFailed(f"{self._auth.source} may not read it ({said}){mend}")
        if status == 400:
            return NoKeyError(f"{said}; check `key.secret`")
        return replies.error_from_reply(status, headers, body, now=0.0)


class _DisabledError(Exception):
    """A version that is there gives nothing: it is disabled or destroyed."""


def _secret(body: bytes) -> Secret:
    found: Mapping[str, Any] = replies.object_or_empty(replies.json_or_none(body))
    payload = replies.object_or_empty(found.get("payload"))
    number = str(found.get("name", "")).rpartition("/")[2]
    try:
        data = base64.b64decode(str(payload.get("data", "")), validate=True)
    except binascii.Error:
        raise BadResponse("its reply is no secret", retryable=False) from None
    if not number.isdecimal():
        raise BadResponse("its reply names no version", retryable=False)
    try:
        return Secret(data.decode(), f"version {number}")
    except UnicodeDecodeError:
        raise NoKeyError(f"version {number} is no text; store the key as it is") from None
