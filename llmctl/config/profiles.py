"""Profiles in use: which one is chosen and why, how one is shown, and a file to begin with."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict, replace

from llmctl.config.paths import CONFIG_FILE
from llmctl.config.settings import KeySource, Profile, Settings
from llmctl.config.yaml_nodes import Node, json_value, nearest, quoted
from llmctl.errors import ConfigError, NoKeyError, UsageError
from llmctl.keys.key import slot_of
from llmctl.keys.keyring_store import stored_slots
from llmctl.providers.registry import LOCAL, PRESETS
from llmctl.storage.files import private_folder, write_private

if TYPE_CHECKING:
    import yaml


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
        raise NoKeyError(_nothing_to_use(settings))
    return replace(profile, chosen=why)


def _nothing_to_use(settings: Settings) -> str:
    own = settings.folders.config / CONFIG_FILE
    read = [f"{path} (names no `default:`)" for path in settings.files]
    keys = [settings.profiles[name].key for name in PRESETS]
    variables = [key.env for key in keys if key is not None and key.env]
    mine = [name for name in settings.profiles if name not in PRESETS]
    choice = f"  profiles to choose from with -p or `default:`: {', '.join(mine)}\n" if mine else ""
    return (
        "no provider to ask: no profile is chosen, no key is set, no local model is installed.\n"
        f"  configuration: {', '.join(read) or f'{own} (not there)'}\n"
        f"  keys: {', '.join(variables)} (not set), none stored\n"
        "  local model: not installed\n"
        f"{choice}"
        "Three ways on:\n"
        "  1. set a key:         export OPENAI_API_KEY=…   (or llmctl keys set openai)\n"
        "  2. point at a server: llmctl profiles init   (then set its base_url)\n"
        "  3. run a local model: {GET_SERVER} && llmctl local install"
    )


def as_json(profile: Profile) -> dict[str, Any]:
    """The profile with the keys of a configuration file; never the key itself.

    Durations are seconds; prices are `Decimal`, USD per million tokens.
    """
    local = profile.provider == LOCAL
    own = {"temperature": profile.temperature, "max_tokens": profile.max_tokens}
    price = asdict(profile.price) if profile.price else {}
    said = {
        "provider": profile.provider,
        "model": profile.model,
        "base_url": None if local else profile.base_url,
        "api": profile.api if profile.api != "chat" else None,
        "query": dict(profile.query),
        "key_header": profile.key_header,
        "key": _key_source(profile.key),
        "params": {**{k: v for k, v in own.items() if v is not None}, **profile.params},
        "limits": asdict(profile.limits),
        "timeout": asdict(profile.timeout),
        "retry": asdict(profile.retry),
        "breaker": asdict(profile.breaker),
        "cache": asdict(profile.cache),
        "history": profile.history,
        "on_overflow": profile.on_overflow,
        "fallback": list(profile.fallback) or None,
        "price": {k: v for k, v in price.items() if v is not None},
        "tags": dict(profile.tags),
        "context": profile.context,
        "model_path": str(profile.model_path) if profile.model_path else None,
        "parallel": profile.parallel if local else None,
        "http": profile.http,
    }
    return {key: value for key, value in said.items() if value is not None and value != {}}


def _key_source(source: KeySource | None) -> dict[str, Any] | None:
    """What a file says of the key; nothing when it is what the provider brings along."""
    if source is None or (source.env and source.keyring):
        return None
    if source.command:
        return {"command": list(source.command)}
    return {"env": source.env} if source.env else {"keyring": source.keyring}


def as_yaml(profile: Profile) -> str:
    """The profile as YAML that can be put into a configuration file and means the same there."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes numbers as people do, and text so that `load` takes it as text."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    Dumper.add_representer(float, _write_number)
    Dumper.add_representer(Decimal, _write_number)
    Dumper.add_representer(str, _write_text)
    document = {"profiles": {profile.name: as_json(profile)}}
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def _write_number(dumper: yaml.SafeDumper, value: float | Decimal) -> yaml.ScalarNode:
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    written = f"{exact:f}" if -20 <= exact.adjusted() <= 20 else repr(float(value))
    if "." in written and "e" not in written:
        written = written.rstrip("0").rstrip(".")
    kind = "int" if written.lstrip("-").isdigit() else "float"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{kind}", written)


def _write_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        misread = json_value(Node("", "", value)) != value
    except ConfigError:
        misread = True
    style = "'" if misread else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def starter() -> str:
    """The file that `profiles init` writes: all of it is comments, nothing changes."""
    return files("llmctl.config").joinpath("starter.yaml").read_text(encoding="utf-8")


def write_starter(path: Path, *, force: bool) -> None:
    """Write the starter to `path`, readable by the user alone, whole or not at all.

    Folders that are missing are made, for the user alone. Raises `UsageError` when the file
    exists and `force` is not given, `DiskError` when the disk refuses.
    """
    if not force and os.path.lexists(path):
        raise UsageError(f"{path} exists; --force overwrites it")
    private_folder(path.parent)
    write_private(path, starter().encode())
