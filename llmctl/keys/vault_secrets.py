"""Secrets of HashiCorp Vault and OpenBao: key/value engines, versions 1 and 2.

Reference: developer.hashicorp.com/vault/api-docs (secret/kv, auth/approle, auth/jwt).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from llmctl.auth.key_auth import FixedKey, KeyHolder
from llmctl.auth.token_holder import Token, TokenHolder
from llmctl.clock import Clock, SystemClock
from llmctl.config.paths import home
from llmctl.config.settings import SecretUri
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    LlmctlError,
    NoKeyError,
)
from llmctl.keys.manager_http import ManagerReply, ask_manager, failure, manager_address, said
from llmctl.keys.secrets import Secret
from llmctl.redact import remember

T = TypeVar("T")

_MEND = (
    "set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, or VAULT_ROLE and VAULT_JWT, or run "
    "`vault login`"
)


class _Metadata(Struct, frozen=True):
    version: int


class _Version(Struct, frozen=True):
    """A version of a secret; one that was deleted has no `data`."""

    data: Mapping[str, Any] | None
    metadata: _Metadata


class _Engine(Struct, frozen=True):
    """Where a secret is: `path` is what its engine is mounted at, with a slash; `options` say
    whether it keeps versions."""

    path: str
    options: Mapping[str, str] | None = None

    @property
    def versioned(self) -> bool:
        """Whether it is a key/value engine, version 2."""
        return (self.options or {}).get("version") == "2"


class _Login(Struct, frozen=True):
    """A token that a login gave, and the seconds it lives; 0: for ever."""

    client_token: str
    lease_duration: float


class Vault:
    """The reader of `vault://MOUNT/PATH#FIELD`; see `SecretReader`.

    The server and who asks are said as to the vendors' command line: `VAULT_ADDR`,
    `VAULT_NAMESPACE`, `VAULT_CACERT`; `VAULT_TOKEN`, or an AppRole's `VAULT_ROLE_ID` and
    `VAULT_SECRET_ID`, or `VAULT_ROLE` and `VAULT_JWT` (JWT and Kubernetes), or `~/.vault-token`.
    `VAULT_AUTH_MOUNT` is where a login is mounted. Each may begin with `BAO_` instead, and the
    `SECRET_ID` and the `JWT` may be in the file that `…_FILE` names.
    """

    name = "Vault"

    def __init__(self, environ: Mapping[str, str], clock: Clock | None = None) -> None:
        self._environ, self._clock = environ, clock or SystemClock()
        self._engines: dict[str, _Engine] = {}  # by the path of a secret
        self._logged_in: TokenHolder | None = None

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """See `SecretReader`. The engine of a secret is looked up once."""
        path, field = "/".join(uri.parts), uri.field or ""
        engine = await self._engine(path)
        if not engine.versioned:
            values = None if previous else await self._read(path, path, dict[str, Any])
            return None if values is None else Secret(_text(values, field))
        place = f"{engine.path}data/{path.removeprefix(engine.path)}"
        found = await self._read(place, place, _Version)
        if previous and found:
            older = found.metadata.version - 1
            query = f"{place}?version={older}"
            found = await self._read(query, place, _Version) if older else None
            if found is None or field not in (found.data or {}):
                return None
        if found is None:
            inner = path.removeprefix(engine.path)
            if inner.startswith("data/"):  # as the API writes it
                right = f"vault://{engine.path}{inner.removeprefix('data/')}#{field}"
                raise NoKeyError(f"there is no such secret; write {right}, without `data/`")
            return None
        if found.data is None:
            raise NoKeyError(
                f"its newest version, {found.metadata.version}, is deleted; store another one, or "
                "restore that with `vault kv undelete`"
            )
        return Secret(_text(found.data, field), f"version {found.metadata.version}")

    async def _engine(self, path: str) -> _Engine:
        """The engine that has the path, which may be mounted some folders down. Where nobody says
        so, one that keeps versions at the first folder, as most are."""
        if path not in self._engines:
            reply = await self._ask(f"sys/internal/ui/mounts/{path}")
            if reply.status in {403, 404}:
                return _Engine(path.partition("/")[0] + "/", {"version": "2"})
            self._engines[path] = _part(reply, "data", _Engine)
        return self._engines[path]

    async def _read(self, path: str, place: str, kind: type[T]) -> T | None:
        """The data that is kept at the path; None where there is none."""
        reply = await self._ask(path)
        if reply.status == 403:
            raise AuthFailed(
                f"{self._holder().source} may not read that{_errors(reply)}: its policy must allow "
                f"`read` of {place}, and it must not have expired",
                http_status=403,
            )
        if reply.status == 404 and not (reply.body or {}).get("data"):
            return None
        return _part(reply, "data", kind)

    async def _ask(self, path: str) -> ManagerReply:
        """The reply to a GET; after a refusal, to another one with a new login."""
        holder = self._holder()
        token = await holder.current()
        reply = await self._send("GET", path, token)
        if reply.status == 403 and await holder.refused(token):
            reply = await self._send("GET", path, await holder.current())
        return reply

    async def _send(
        self, method: str, path: str, token: str | None, body: Mapping[str, str] | None = None
    ) -> ManagerReply:
        variable, address = self._said("ADDR")
        if not address:
            raise NoKeyError("VAULT_ADDR is not set; set it to the server's address, https://…")
        namespace, certificates = self._said("NAMESPACE")[1], self._said("CACERT")[1]
        headers = {"x-vault-request": "true"}
        headers |= {"x-vault-token": token} if token else {}
        headers |= {"x-vault-namespace": namespace} if namespace else {}
        url = f"{manager_address(address, variable)}/v1/{quote(path, safe='/?=')}"
        return await ask_manager(method, url, headers, body, certificates or None)

    def _holder(self) -> KeyHolder:
        """Who asks. Raises `AuthFailed` where nothing says so."""
        variable, token = self._said("TOKEN")
        if token:
            return FixedKey(_secret(token), f"the token in ${variable}")
        if self._logged_in is None and self._said("ROLE_ID")[1]:
            self._logged_in = TokenHolder(self._approle, self._clock, "the AppRole's token")
        if self._logged_in is None and self._said("ROLE")[1]:
            self._logged_in = TokenHolder(self._jwt, self._clock, "the role's token")
        if self._logged_in is not None:
            return self._logged_in
        file = home(self._environ) / ".vault-token"
        try:
            return FixedKey(_secret(file.read_text().strip()), "the token in ~/.vault-token")
        except (OSError, UnicodeError):
            raise AuthFailed(f"nothing says who asks: {_MEND}", sent=False) from None

    async def _approle(self) -> Token:
        names = {"role_id": self._said("ROLE_ID")[1], "secret_id": self._kept("SECRET_ID")}
        return await self._log_in("approle", names, "VAULT_ROLE_ID and VAULT_SECRET_ID")

    async def _jwt(self) -> Token:
        names = {"role": self._said("ROLE")[1], "jwt": self._kept("JWT")}
        return await self._log_in("jwt", names, "VAULT_ROLE and VAULT_JWT")

    async def _log_in(self, kind: str, names: Mapping[str, str], variables: str) -> Token:
        """The token that a login gives. Raises `AuthFailed` where it is refused."""
        mount = self._said("AUTH_MOUNT")[1].strip("/") or kind
        now = self._clock.wall()
        reply = await self._send("POST", f"auth/{mount}/login", None, names)
        if reply.status in {400, 403, 404}:
            raise AuthFailed(
                f"the login at auth/{mount} is refused{_errors(reply)}; check {variables}, and "
                "VAULT_AUTH_MOUNT where it is mounted elsewhere",
                http_status=reply.status,
            )
        login = _part(reply, "auth", _Login)
        lives = login.lease_duration or float("inf")
        return Token(login.client_token, now + lives)

    def _said(self, name: str) -> tuple[str, str]:
        """The variable of this name that is set, and its value; "" where none is."""
        for variable in (f"BAO_{name}", f"VAULT_{name}"):
            if value := self._environ.get(variable, "").strip():
                return variable, value
        return f"VAULT_{name}", ""

    def _kept(self, name: str) -> str:
        """What the variable, or the file of another one, holds: read for each login, because it
        may be renewed meanwhile. Raises `AuthFailed`."""
        variable, value = self._said(name)
        file = self._said(f"{name}_FILE")[1]
        if not value and file:
            try:
                value = Path(file).read_text().strip()
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise AuthFailed(f"{file} cannot be read: {why}", sent=False) from None
        if not value:
            raise AuthFailed(f"{variable} is not set, nor {variable}_FILE: {_MEND}", sent=False)
        return _secret(value)


def _secret(value: str) -> str:
    """The value, cut from all messages from now on."""
    remember(value)
    return value


def _part(reply: ManagerReply, name: str, kind: type[T]) -> T:
    """What the reply holds under this name. Raises the error of a reply that is none."""
    if reply.status not in {200, 404}:
        raise _failure(reply)
    try:
        return msgspec.convert(reply.required.get(name), kind)
    except msgspec.ValidationError:
        raise BadResponse("its reply is not of the form that Vault's has") from None


def _failure(reply: ManagerReply) -> LlmctlError:
    """The error of a reply that has no answer."""
    words, status = _errors(reply), reply.status
    if status in {301, 302, 307, 308}:
        active = urlsplit(reply.location).netloc
        return NoKeyError(f"it is not the active node; set VAULT_ADDR to that{said(active)}")
    if status == 503 and "sealed" in words:
        return NoKeyError(f"it is sealed{words}; somebody must unseal it (`vault operator unseal`)")
    return failure(reply, words)


def _errors(reply: ManagerReply) -> str:
    errors = (reply.body or {}).get("errors")
    return said(", ".join(map(str, errors)) if isinstance(errors, list) else "")


def _text(values: Mapping[str, Any], field: str) -> str:
    """The value of the field. Raises `NoKeyError`, with the names of the others alone."""
    value = values.get(field)
    if isinstance(value, str):
        return value
    if field in values:
        raise NoKeyError(f"its field {field} is no text; check `key.secret`")
    raise NoKeyError(f"it has no field {field}{said(', '.join(values))}; check `key.secret`")
