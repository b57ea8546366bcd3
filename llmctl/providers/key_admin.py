"""Keys of OpenAI, OpenRouter and Anthropic, by an admin key; see `key_api.KeyApi`.

References: developers.openai.com/api/reference, Admin → Project service accounts;
openrouter.ai/docs/api/api-reference/api-keys; platform.claude.com/docs/en/api/admin/api_keys.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from llmctl.auth.key_auth import FixedKey, KeyAuth
from llmctl.clock import Clock
from llmctl.config.settings import KeyPlaces, Profile
from llmctl.errors import AuthFailed, BadResponse, NotFound, PermissionRefused, UsageError
from llmctl.protocols import WireRequest
from llmctl.providers import replies
from llmctl.providers.anthropic import VERSION
from llmctl.providers.key_api import Fetch, KeyApi, MadeKey
from llmctl.providers.models_api import endpoint_of
from llmctl.providers.registry import PRESETS, codec, key_api
from llmctl.redact import remember
from llmctl.types import origin_of

_MOST_PAGES = 100  # a listing without end must not hang the program


async def _ask(fetch: Fetch, wire: WireRequest) -> Mapping[str, Any]:
    """The JSON object of a reply. Raises `BadResponse`, which shows nothing of it."""
    found = replies.json_or_none(await fetch(wire))
    if not isinstance(found, dict):
        raise BadResponse("the provider's reply about its keys is no JSON object")
    return found


async def _end(fetch: Fetch, wire: WireRequest) -> None:
    """Ask for what may have been done before."""
    try:
        await fetch(wire)
    except NotFound:
        return


def _get(path: str, headers: Mapping[str, str] | None = None) -> WireRequest:
    return WireRequest(path, None, headers or {}, "GET")


def _made(value: object, identity: object) -> MadeKey:
    """The new key. Raises `BadResponse`, which shows nothing of the reply."""
    if not isinstance(value, str) or not isinstance(identity, str) or not value or not identity:
        raise BadResponse("the provider's reply holds no new key", retryable=False)
    remember(value)
    return MadeKey(value, identity)


class OpenAIKeys(KeyApi):
    """A service account for each key, in the project of the key that it replaces."""

    @property
    def lacks(self) -> str | None:
        """The project's id."""
        return None if self.project else "OPENAI_PROJECT_ID"

    @property
    def _path(self) -> str:
        return f"/organization/projects/{quote(self.project or '', safe='')}/service_accounts"

    async def create(self, name: str, like: str | None) -> MadeKey:  # noqa: ARG002 - see the project
        """A service account with its first key; its limits are the project's."""
        made = await _ask(self.fetch, WireRequest(self._path, {"name": name}))
        key = replies.object_or_empty(made.get("api_key"))
        return _made(key.get("value"), made.get("id"))

    async def named(self, name: str) -> list[str]:
        """Those of the project."""
        found, after = list[str](), ""
        for _ in range(_MOST_PAGES):
            query = urlencode({"limit": 100, **({"after": after} if after else {})})
            page = await _ask(self.fetch, _get(f"{self._path}?{query}"))
            rows = replies.objects(page, "data")
            found += [str(row["id"]) for row in rows if row.get("name") == name and "id" in row]
            following = str(page.get("last_id") or "")
            if not rows or not page.get("has_more") or following in ("", after):
                return found
            after = following
        raise BadResponse("the provider's list of service accounts has no end", retryable=False)

    async def revoke(self, name: str) -> None:
        """Delete the service account, and with it its keys."""
        path = f"{self._path}/{quote(name, safe='')}"
        await _end(self.fetch, WireRequest(path, None, method="DELETE"))


class OpenRouterKeys(KeyApi):
    """Keys of the management key's account, by the hash that it names them by."""

    async def create(self, name: str, like: str | None) -> MadeKey:
        """With the spending limit of the key before it, and in its workspace."""
        body: dict[str, Any] = {"name": name}
        if like is not None:
            found = await _ask(self.fetch, _get(_hashed(like)))
            old = replies.object_or_empty(found.get("data"))
            fields = ("limit", "limit_reset", "include_byok_in_limit", "workspace_id")
            body |= {field: old[field] for field in fields if old.get(field) is not None}
        made = await _ask(self.fetch, WireRequest("/keys", body))
        return _made(made.get("key"), replies.object_or_empty(made.get("data")).get("hash"))

    async def named(self, name: str) -> list[str]:
        """Those that are disabled, too."""
        found, seen = list[str](), 0
        for _ in range(_MOST_PAGES):
            query = urlencode({"include_disabled": "true", "offset": seen})
            rows = replies.objects(await _ask(self.fetch, _get(f"/keys?{query}")), "data")
            if not rows:
                return found
            found += [str(row["hash"]) for row in rows if row.get("name") == name and "hash" in row]
            seen += len(rows)
        raise BadResponse("the provider's list of keys has no end", retryable=False)

    async def revoke(self, name: str) -> None:
        """Delete it."""
        await _end(self.fetch, WireRequest(_hashed(name), None, method="DELETE"))


def _hashed(name: str) -> str:
    return f"/keys/{quote(name, safe='')}"


class AnthropicKeys(KeyApi):
    """Keys of the organization; they are made on its page alone."""

    makes = False

    async def create(self, name: str, like: str | None) -> MadeKey:  # noqa: ARG002 - see `makes`
        """Raises `UsageError`: no program can."""
        raise UsageError("Anthropic's keys are made on its page alone")

    async def named(self, name: str) -> list[str]:  # noqa: ARG002 - see `makes`
        """None: no program made them."""
        return []

    async def revoke(self, name: str) -> None:
        """Make it inactive, which the page of keys can undo."""
        path = f"/organizations/api_keys/{quote(name, safe='')}"
        await _end(self.fetch, WireRequest(path, {"status": "inactive"}, _ANTHROPIC))

    async def find(self, key: str) -> str | None:
        """By its beginning and end (`sk-ant-api03-R2D...igAA`), where one active key alone has
        them."""
        found, after = list[str](), ""
        for _ in range(_MOST_PAGES):
            query = {"status": "active", "limit": 1000, **({"after_id": after} if after else {})}
            page = await _ask(
                self.fetch, _get(f"/organizations/api_keys?{urlencode(query)}", _ANTHROPIC)
            )
            rows = replies.objects(page, "data")
            found += [str(row["id"]) for row in rows if "id" in row and _hints_at(row, key)]
            following = str(page.get("last_id") or "")
            if not page.get("has_more") or following in ("", after):
                return found[0] if len(found) == 1 else None
            after = following
        return None


_ANTHROPIC = {"anthropic-version": VERSION}
_OF_CALLS = ("anthropic-version", "anthropic-beta")
_SHOWN_FIRST, _SHOWN_LAST = len("sk-ant-api03-") + 3, 4  # characters of a key's two ends


def _hints_at(row: Mapping[str, Any], key: str) -> bool:
    """Whether what is shown of a key fits this one; fewer characters would fit others, too."""
    head, _, tail = str(row.get("partial_key_hint") or "").partition("...")
    enough = len(head) >= _SHOWN_FIRST and len(tail) >= _SHOWN_LAST
    return enough and key.startswith(head) and key.endswith(tail)


def admin_places(profile: Profile, environ: Mapping[str, str]) -> KeyPlaces | None:
    """Where the profile's admin key is: its `admin_key`, else a variable of its provider, at that
    one's own address alone. None where there is none to look for."""
    preset = PRESETS[profile.provider]
    if profile.auth is not None or not preset.key_api:
        return None
    if profile.admin_key is None and origin_of(profile.base_url) == origin_of(preset.base_url):
        known = (name for name in preset.admin_env if environ.get(name, "").strip())
        return KeyPlaces(env=next(known, preset.admin_env[0]))
    return profile.admin_key


@asynccontextmanager
async def open_admin(
    profile: Profile, admin: str, source: str, clock: Clock
) -> AsyncGenerator[tuple[Fetch, str | None]]:
    """What asks the provider's administration by the `admin` key, which goes to the profile's
    address and nowhere else; and OpenAI's project of the profile. `source` is where the key was
    found, for people."""
    auth = KeyAuth(codec(profile.adapter, profile.api).auth, FixedKey(admin))
    # Headers of calls choose their project, and an admin key belongs to none; or Anthropic's betas.
    own = {*PRESETS[profile.provider].header_env, *_OF_CALLS}
    headers = {name.lower(): value for name, value in profile.headers.items()}
    others = {name: value for name, value in headers.items() if name not in own}
    async with endpoint_of(replace(profile, headers=others), auth, clock) as endpoint:

        async def fetch(wire: WireRequest) -> bytes:
            try:
                return await endpoint.fetch(wire)
            except (AuthFailed, PermissionRefused) as error:
                error.args = (f"the admin key of {source} is refused: {error.message}",)
                raise

        yield fetch, headers.get("openai-project")


@asynccontextmanager
async def open_key_api(
    profile: Profile, admin: str, source: str, clock: Clock
) -> AsyncGenerator[KeyApi]:
    """The provider's keys by the `admin` key; see `open_admin`."""
    kind = key_api(profile.provider)
    assert kind is not None
    async with open_admin(profile, admin, source, clock) as (fetch, project):
        yield kind(fetch, project)
