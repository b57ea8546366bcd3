"""Secrets of Doppler.

Reference: docs.doppler.com/reference/secrets-get.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from llmctl.auth.key_auth import bearer
from llmctl.config.settings import SecretUri
from llmctl.errors import AuthFailed, BadResponse, CallError, NoKeyError
from llmctl.keys.manager_http import ManagerReply, ask_manager, failure, manager_address, said
from llmctl.keys.secrets import Secret
from llmctl.redact import remember

_HOST = "https://api.doppler.com"


class _Value(Struct, frozen=True):
    """A secret's value, with the references to others resolved."""

    computed: str | None


class Doppler:
    """The reader of `doppler://PROJECT/CONFIG/NAME`; see `SecretReader`. Who asks is said by
    `DOPPLER_TOKEN`; `DOPPLER_API_HOST` is another address than Doppler's own."""

    name = "Doppler"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """See `SecretReader`; earlier versions are not to be had."""
        if previous:
            return None
        token = self._environ.get("DOPPLER_TOKEN", "").strip()
        if not token:
            raise NoKeyError("DOPPLER_TOKEN is not set; set it to a service token of the config")
        remember(token)
        host = manager_address(self._environ.get("DOPPLER_API_HOST") or _HOST, "DOPPLER_API_HOST")
        query = urlencode(dict(zip(("project", "config", "name"), uri.parts, strict=True)))
        url = f"{host}/v3/configs/config/secret?{query}"
        reply = await ask_manager("GET", url, bearer(token))
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise _refusal(reply, uri)
        try:
            value = msgspec.convert(reply.required.get("value"), _Value).computed
        except msgspec.ValidationError:
            raise BadResponse("its reply is not of the form that Doppler's has") from None
        if value is None:
            raise NoKeyError("the token may not see its value, which is restricted there")
        return Secret(value)


def _refusal(reply: ManagerReply, uri: SecretUri) -> CallError:
    """The error of a reply that has no secret."""
    found, status = (reply.body or {}).get("messages"), reply.status
    words = said(", ".join(map(str, found)) if isinstance(found, list) else "")
    if status in {401, 403}:
        config = "/".join(uri.parts[:2])
        return AuthFailed(
            f"$DOPPLER_TOKEN may not read that{words}: it needs `read` access to {config}, and "
            "must not have expired",
            http_status=status,
        )
    return failure(reply, words)
