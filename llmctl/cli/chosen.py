"""The profile a command works with: configuration read, choice made, flags applied."""

from __future__ import annotations

from dataclasses import dataclass

from llmctl import config
from llmctl.cli.context import Context
from llmctl.cli.trusting import load
from llmctl.config import Overrides
from llmctl.connecting import located
from llmctl.settings import Folders, Profile


@dataclass(frozen=True, slots=True)
class Chosen:
    """The profile, complete, the folders, and what the cache may grow to, in bytes."""

    profile: Profile
    folders: Folders
    cache_size: int | None = None


def choose(context: Context, overrides: Overrides) -> Chosen:
    """Read the configuration and choose. Raises `ConfigError`, `NoKeyError`, `SetupError`."""
    from llmctl.providers.embedded_model import installed

    settings = load(context, overrides)
    profile = config.choose(
        settings, overrides.profile, context.environ, lambda: installed(settings.folders)
    )
    if context.verbose:
        context.say(f"profile {profile.name}, model {profile.model}: {profile.chosen}")
    return Chosen(located(profile, settings.folders), settings.folders, settings.cache_size)
