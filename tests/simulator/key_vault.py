"""Azure Key Vault on loopback, over TLS: secrets, their versions, and the challenge of a 401."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.simulator.loopback import Asked, Loopback, Said

PAGE = 2  # versions


@dataclass(frozen=True)
class Version:
    """One version of a secret; `created` in seconds since the epoch."""

    name: str
    value: str
    created: int
    enabled: bool = True


def refused(code: str, message: str, inner: str | None = None) -> dict[str, Any]:
    """An error as Key Vault words it."""
    more = {"innererror": {"code": inner}} if inner else {}
    return {"error": {"code": code, "message": message, **more}}


class KeyVault(Loopback):
    """A vault. `secrets` by name, versions in any order; `refusal` is said instead of anything.

    It takes any token but those in `stale`, for whoever has none, or a stale one, the challenge.
    `resource` is what a token is to be for: by default of the vault's own domain.
    """

    def __init__(self, certificate: Path, login: str) -> None:
        super().__init__(certificate)
        self.secrets: dict[str, list[Version]] = {}
        self.refusal: tuple[int, Mapping[str, Any]] | None = None
        self.may_list = True
        self.stale: set[str] = set()
        self.resource = f"https://{self.host.partition('.')[2]}"
        self._login = login

    def reply(self, asked: Asked) -> Said:
        """A secret, the list of its versions, or a refusal."""
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or token in self.stale:
            challenge = f'Bearer authorization="{self._login}", resource="{self.resource}"'
            unsigned = refused("Unauthorized", "AKV10000: Request is missing a Bearer token.")
            return 401, {"www-authenticate": challenge}, unsigned
        if self.refusal:
            return self.refusal[0], {}, self.refusal[1]
        assert asked.query["api-version"]
        _, place, name, version = asked.path.split("/")
        versions = self.secrets.get(name)
        if place != "secrets" or not versions:
            message = f"A secret with (name/id) {name} was not found in this key vault."
            return 404, {}, refused("SecretNotFound", message)
        if version == "versions":
            return self._listed(name, versions, int(asked.query.get("$skiptoken", "0")))
        newest = max(versions, key=lambda each: each.created)
        (found,) = [each for each in versions if each.name == (version or newest.name)]
        if not found.enabled:
            message = "Operation get is not allowed on a disabled secret."
            return 403, {}, refused("Forbidden", message, "SecretDisabled")
        return 200, {}, {**self._item(name, found), "value": found.value}

    def _listed(self, name: str, versions: list[Version], first: int) -> Said:
        if not self.may_list:
            message = "The user, group or application does not have secrets list permission."
            return 403, {}, refused("Forbidden", message, "AccessDenied")
        after = first + PAGE
        following = f"{self.origin}/secrets/{name}/versions?api-version=7.4&$skiptoken={after}"
        page = [self._item(name, each) for each in versions[first:after]]
        return 200, {}, {"value": page, "nextLink": following if after < len(versions) else None}

    def _item(self, name: str, version: Version) -> dict[str, Any]:
        attributes = {"enabled": version.enabled, "created": version.created}
        identity = f"{self.origin}/secrets/{name}/{version.name}"
        return {"id": identity, "attributes": attributes}
