"""The profile a command works with: configuration read, choice made, flags applied."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from llmctl.cli.context import Context
from llmctl.cli.trusting import load
from llmctl.config import choosing
from llmctl.config.overrides import Overrides
from llmctl.config.settings import Budget, Folders, Profile, Settings
from llmctl.errors import SetupError
from llmctl.wiring import located


class Chosen(Struct, frozen=True):
    """The profile, complete, the folders, what the cache may grow to, in bytes, the profiles to
    fall back on, and the configured budgets."""

    profile: Profile
    folders: Folders
    cache_size: int | None = None
    fallbacks: tuple[Profile, ...] = ()
    budgets: tuple[Budget, ...] = ()


def choose(context: Context, overrides: Overrides) -> Chosen:
    """Read the configuration and choose. Raises `ConfigError`, `NoKeyError`, `SetupError`."""
    from llmctl.providers.embedded_model import installed

    settings = load(context, overrides)
    profile = choosing.choose(
        settings, overrides.profile, context.environ, lambda: installed(settings.folders)
    )
    if context.verbose:
        context.say(f"profile {profile.name}, model {profile.model}: {profile.chosen}")
    return Chosen(
        located(profile, settings.folders),
        settings.folders,
        settings.cache_size,
        tuple(_fallbacks(profile, settings, context)),
        settings.budgets,
    )


def _fallbacks(profile: Profile, settings: Settings, context: Context) -> Iterator[Profile]:
    for name in profile.fallback:
        try:
            yield located(settings.profiles[name], settings.folders)
        except SetupError as error:
            context.warn(f"the fallback {name} is left out: {error.message}")
