"""Azure Key Vault: `azure-kv://VAULT/NAME` (learn.microsoft.com/rest/api/keyvault/secrets)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmctl.auth.azure import KEY_VAULT, AzureCredentials
from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.auth.token_holder import TokenHolder
from llmctl.clock import SystemClock
from llmctl.config.settings import SecretUri
from llmctl.errors import AuthFailed, BadResponse, CallError, NoKeyError, RateLimited, ServerFailed
from llmctl.http import build, fetch
from llmctl.keys.secrets import LIMIT, Secret
from llmctl.providers.replies import (
    error_object,
    first_text,
    json_or_none,
    object_or_empty,
    objects,
)
from llmctl.redact import redact_possible_keys

_VERSION = "api-version=7.4"  # which every cloud of Microsoft's has
_LARGEST = 1 << 20  # bytes of a reply; a secret has 25 KB at most
_MOST_PAGES = 40  # of 25 versions each
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_ROLE = "give who asks the role `Key Vault Secrets User` for the vault, or the permission Get"
_STEPS = {"ForbiddenByFirewall": "let this machine through the vault's firewall"}


class KeyVault:
    """The `SecretReader` of Azure Key Vault. A VAULT with a dot or a port is a host itself (of
    another of Microsoft's clouds); that is asked which scope a token is to have, as the SDK does.
    """

    name = "Azure Key Vault"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._credentials = AzureCredentials(environ=environ)
        self._holders: dict[str, TokenHolder] = {}
        self._scopes: dict[str, str] = {}  # by host, as it said itself

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """See `SecretReader.read`."""
        vault, name = uri.parts
        host = vault if re.search("[.:]", vault) else f"{vault}.vault.azure.net"
        version = ""
        if previous:
            version = await self._previous(host, name)
            if not version:
                return None
        status, found = await self._ask(host, f"/secrets/{name}/{version}")
        if status == 404:
            return None
        _require(status, found)
        value, identity = first_text(found, "value"), first_text(found, "id")
        if value is None or identity is None:
            raise NoKeyError("the secret is empty; store the key in it")
        return Secret(value, _version(identity))

    async def _previous(self, host: str, name: str) -> str:
        """The newest enabled version but the current one; none for who may not list them. A page
        is in no order of time."""
        versions: list[Mapping[str, Any]] = []
        path = f"/secrets/{name}/versions"
        for _ in range(_MOST_PAGES):
            status, found = await self._ask(host, path)
            if status in {403, 404}:
                return ""
            _require(status, found)
            versions += objects(found, "value")
            following = urlsplit(first_text(found, "nextLink") or "")
            if following.netloc != host:
                break
            path = f"{following.path}?{following.query}"
        versions.sort(key=_created, reverse=True)
        enabled = (v for v in versions[1:] if _attributes(v).get("enabled") is True)
        return next((_version(first_text(v, "id") or "") for v in enabled), "")

    async def _ask(self, host: str, path: str) -> tuple[int, Mapping[str, Any]]:
        """Status and body of a reply. A challenge to another scope is followed once. Raises
        `CallError`."""
        url = f"https://{host}{path}{'' if '?' in path else f'?{_VERSION}'}"
        known = KEY_VAULT if host.endswith(".vault.azure.net") else None
        for last in (False, True):
            scope = self._scopes.get(host, known)
            request = build("GET", url, {"accept": "application/json"})
            if scope is not None:
                request = await KeyAuth(bearer, self._holder(scope)).sign(request)
            reply = await fetch(request, LIMIT, _LARGEST)
            wanted = challenged(reply.headers.get("www-authenticate", ""), host)
            if last or reply.status != 401 or wanted is None or wanted == scope:
                return reply.status, object_or_empty(json_or_none(reply.body))
            self._scopes[host] = wanted
        raise AssertionError

    def _holder(self, scope: str) -> TokenHolder:
        if scope not in self._holders:
            self._holders[scope] = self._credentials.holder(SystemClock(), scope)
        return self._holders[scope]


def challenged(challenge: str, host: str) -> str | None:
    """The scope that a 401's `WWW-Authenticate` asks for. None where it says none, or one of a
    domain that the vault is not in: a token for somebody else is not handed to a vault
    (learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses)."""
    said = dict(_CHALLENGE.findall(challenge))
    resource = said.get("scope") or said.get("resource", "")
    resource = resource.removesuffix("/.default").rstrip("/")
    domain = urlsplit(resource).netloc.lower()
    if not domain or not host.lower().endswith(f".{domain}"):
        return None
    return f"{resource}/.default"


def _require(status: int, found: Mapping[str, Any]) -> None:
    """Raises what a status says that is no success."""
    if 200 <= status < 300:
        return
    error = error_object(found)
    inner = object_or_empty(error.get("innererror")).get("code")
    why = redact_possible_keys((first_text(error, "message") or "").partition("\n")[0].rstrip(". "))
    said = f"it answers {status}" + (f", {why}" if why else "")
    if inner == "SecretDisabled":
        raise NoKeyError("the newest version of the secret is disabled; enable it, or add one")
    if status == 403:
        raise AuthFailed(f"{said}; {_STEPS.get(str(inner), _ROLE)}")
    raise _error(status, said)


def _error(status: int, said: str) -> CallError:
    if status == 401:
        return AuthFailed(f"{said}; the token must be of the tenant that the vault belongs to")
    if status == 429:
        return RateLimited(said)
    return ServerFailed(said) if status >= 500 else BadResponse(said, retryable=False)


def _attributes(version: Mapping[str, Any]) -> Mapping[str, Any]:
    return object_or_empty(version.get("attributes"))


def _created(version: Mapping[str, Any]) -> float:
    created = _attributes(version).get("created")
    return created if isinstance(created, int | float) else 0.0


def _version(identity: str) -> str:
    """The last part of a version's address."""
    return identity.rstrip("/").rpartition("/")[2][:64]
