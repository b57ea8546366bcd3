"""What asks a provider's administration: a profile's admin key, beside its own keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from llmctl.cli.context import Context
from llmctl.config.settings import Profile, Settings
from llmctl.errors import ConfigError, NoKeyError, SetupError
from llmctl.keys.keyring_store import stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.providers.key_admin import admin_places, open_admin
from llmctl.providers.key_api import Fetch
from llmctl.providers.registry import PRESETS
from llmctl.types import origin_of


class Admin(Struct, frozen=True):
    """A provider's administration.

    Attributes:
        fetch: asks it, by the admin key, which goes nowhere else.
        project: OpenAI's id of the profile's project; None: not known.
        keys: the profile's own keys, to find them in the provider's list; they are not sent.

    """

    fetch: Fetch
    project: str | None
    keys: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Admin(project={self.project!r})"


@asynccontextmanager
async def open_admin_of(
    profile: Profile, settings: Settings, context: Context
) -> AsyncGenerator[Admin]:
    """The administration of the profile's provider. Raises `NoKeyError` where its admin key is not
    set up, or cannot be used."""
    resolver = KeyResolver(context.environ, stored_slots(settings.folders.state))
    place = admin_places(profile, context.environ)
    admin = None if place is None else await resolver.find(replace(profile, key=place))
    if admin is None:
        raise NoKeyError(_missing(profile))
    keys: list[str] = []
    try:
        own = await resolver.find(profile, reserve=True) if profile.auth is None else None
    except (NoKeyError, SetupError, ConfigError):  # then nobody can be told apart by it
        own = None
    while own is not None:
        keys.append(own.value)
        own = own.previous
    async with open_admin(profile, admin.value, admin.source, context.clock) as (fetch, project):
        yield Admin(fetch, project, tuple(keys))


def _missing(profile: Profile) -> str:
    """What is not there, and how it comes there."""
    place, variables = profile.admin_key, PRESETS[profile.provider].admin_env
    if place is not None and place.env:
        return f"no admin key for the profile {profile.name}: ${place.env} is not set"
    if place is not None:
        return f"no admin key for the profile {profile.name} where its `admin_key` says"
    at_home = origin_of(profile.base_url) == origin_of(PRESETS[profile.provider].base_url)
    own = f"set ${variables[0]} to one, or name it" if variables and at_home else "name one"
    return (
        f"no admin key for the profile {profile.name}, and its own key may not ask for this: "
        f"{own} in the profile, as admin_key: {{env: NAME}}"
    )
