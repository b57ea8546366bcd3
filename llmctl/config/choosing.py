"""Which profile is used, and why; without any, what can be done about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from llmctl.config.paths import CONFIG_FILE
from llmctl.config.settings import Profile, Settings
from llmctl.config.tree import nearest, quoted
from llmctl.errors import ConfigError, NoKeyError
from llmctl.keys.key import slot_of
from llmctl.keys.keyring_store import stored_slots
from llmctl.providers.registry import LOCAL, PRESETS


def pick(
    profiles: Mapping[str, Profile],
    default: str | None,
    name: str | None,
    environ: Mapping[str, str],
    stored: Collection[tuple[str, str]],
) -> tuple[str, str]:
    """The name of the profile to use and the reason, without asking whether it exists or works.

    The name given, else the default, else the first built-in profile whose key is in the
    environment, else the first whose key is among the `stored` ones, else `local`.
    """
    if name is not None:
        return name, "asked for"
    if default is not None:
        return default, "the default of the configuration"
    for preset in PRESETS:
        key = profiles[preset].key
        if key is not None and key.env and environ.get(key.env, "").strip():
            return preset, f"{key.env} is set"
    for preset in PRESETS:
        if preset != LOCAL and slot_of(profiles[preset]) in stored:
            return preset, "its key is stored"
    return LOCAL, "no key is set"


def choose(
    settings: Settings, name: str | None, environ: Mapping[str, str], installed: Callable[[], bool]
) -> Profile:
    """The profile to use; its `chosen` says why.

    `name` is what `--profile` or `LLMCTL_PROFILE` say (and what `load` was told);
    `installed` tells whether the local model can run, and is asked only when nothing else is
    left. Raises `ConfigError` for an unknown name, `NoKeyError` when there is nothing to use.
    """
    stored = stored_slots(settings.folders.state)
    chosen, why = pick(settings.profiles, settings.default, name, environ, stored)
    if chosen not in settings.profiles:
        names = ", ".join(settings.profiles)
        hint = nearest(chosen, settings.profiles)
        raise ConfigError(
            f"there is no profile {quoted(chosen)}; {hint}"
            + ("" if hint.endswith(names) else f" (there are: {names})")
        )
    profile = settings.profiles[chosen]
    last_resort = name is None and settings.default is None and chosen == LOCAL
    # a model file of the user's own does not need the one that is installed
    if last_resort and profile.model_path is None and not installed():
        raise NoKeyError(_nothing(settings))
    return replace(profile, chosen=why)


def _nothing(settings: Settings) -> str:
    own = settings.folders.config / CONFIG_FILE
    read = [f"{path} (names no `default:`)" for path in settings.files]
    looked = ", ".join(read) or f"{own} (not there)"
    keys = [settings.profiles[name].key for name in PRESETS]
    variables = [key.env for key in keys if key is not None and key.env]
    mine = [name for name in settings.profiles if name not in PRESETS]
    lines = [
        "no provider to ask: no profile is chosen, no key is set, no local model is installed.",
        f"  configuration: {looked}",
        f"  keys: {', '.join(variables)} (not set), none stored",
        "  local model: not installed",
    ]
    if mine:
        lines.append(f"  profiles to choose from with -p or `default:`: {', '.join(mine)}")
    lines += [
        "Three ways on:",
        "  1. set a key:         export OPENAI_API_KEY=…   (or llmctl keys set openai)",
        "  2. point at a server: llmctl profiles init   (then set its base_url)",
        "  3. run a local model: pip install 'llmctl[local]' && llmctl local install",
    ]
    return "\n".join(lines)
