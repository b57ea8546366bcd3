"""Profiles in use: which one is chosen and why, how one is shown, and a file to begin with."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from msgspec.structs import replace

from llmctl.config.paths import CONFIG_FILE
from llmctl.config.settings import Profile, Settings
from llmctl.config.yaml_nodes import Node, json_value, keys_of, nearest, quoted
from llmctl.errors import ConfigError, NoKeyError, UsageError
from llmctl.providers.registry import BUILT_IN, LOCAL
from llmctl.storage.files import private_folder, write_private
from llmctl.types import origin_of

if TYPE_CHECKING:
    import yaml

_NOTHING = "no key is set"


def pick(
    profiles: Mapping[str, Profile],
    default: str | None,
    name: str | None,
    environ: Mapping[str, str],
    stored: Collection[tuple[str, str]],
) -> tuple[str, str]:
    """The name of the profile to use, which need not exist, and the reason: the name given, else
    the default, else the first built-in profile whose key is in the environment, else the first
    whose key is among the `stored` ones, else `local`."""
    if name is not None:
        return name, "asked for"
    if default is not None:
        return default, "the default of the configuration"
    for preset in BUILT_IN:
        key = profiles[preset].key
        if key is not None and key.env and environ.get(key.env, "").strip():
            return preset, f"{key.env} is set"
    for preset in BUILT_IN:
        key = profiles[preset].key
        place = (key and key.keyring) or preset, origin_of(profiles[preset].url)
        if preset != LOCAL and place in stored:
            return preset, "its key is stored"
    return LOCAL, _NOTHING


def named(settings: Settings, name: str) -> Profile:
    """The profile of that name. Raises `ConfigError` where there is none."""
    if name not in settings.profiles:
        hint = nearest(name, settings.profiles)
        raise ConfigError(f"there is no profile {quoted(name)}; {hint}")
    return settings.profiles[name]


def choose(settings: Settings, installed: Callable[[], bool]) -> Profile:
    """The profile to use, `settings.used`; its `chosen` says why.

    `installed` tells whether the local model can run. Raises `ConfigError` for an unknown name,
    `NoKeyError` when there is nothing to use.
    """
    profile = named(settings, settings.used)
    # a model file of the user's own does not need the one that is installed
    if settings.why == _NOTHING and profile.model_path is None and not installed():
        raise NoKeyError(_nothing_to_use(settings))
    return replace(profile, chosen=settings.why)


def _nothing_to_use(settings: Settings) -> str:
    from llmctl.providers.local_model_files import get_server, has_server

    own = settings.folders.config / CONFIG_FILE
    read = [f"{path} (names no `default:`)" for path in settings.files] or [f"{own} (not there)"]
    keys = [settings.profiles[name].key for name in BUILT_IN]
    variables = [key.env for key in keys if key is not None and key.env]
    server = "" if has_server() else f"{get_server()} && "
    return (
        "no provider to ask: no profile is chosen, no key is set, no local model is installed.\n"
        f"  configuration: {', '.join(read)}\n"
        f"  profiles to choose from with -p or `default:`: {', '.join(settings.profiles)}\n"
        f"  keys: {', '.join(variables)} (not set), none stored\n"
        "Three ways on:\n"
        "  1. set a key:         export OPENAI_API_KEY=…   (or llmctl keys set openai)\n"
        "  2. point at a server: llmctl profiles init   (then set its base_url)\n"
        f"  3. run a local model: {server}llmctl local install"
    )


def as_json(profile: Profile) -> dict[str, Any]:
    """The profile with the keys of a configuration file; never the key itself.

    Durations are seconds; prices are `Decimal`, USD per million tokens.
    """
    said = to_builtins(profile, builtin_types=(Decimal,), enc_hook=str)
    own = {name: said[name] for name in ("temperature", "max_tokens") if said[name] is not None}
    said["params"] = {**own, **profile.params}
    for name in ("limits", "cache", "batch", "price"):
        said[name] = {k: v for k, v in (said[name] or {}).items() if v not in (None, {})}
    if semantic := said["cache"].get("semantic"):
        said["cache"]["semantic"] = _said(semantic)
    if "as" in said["price"]:
        said["price"] = {"as": said["price"]["as"]}
    said["api"] = said["api"] if said["api"] != "chat" else None
    said["base_url"] = list(profile.servers) or profile.base_url
    said["base_url" if profile.provider == LOCAL else "parallel"] = None
    key = profile.key
    # a key in both places is what the provider brings along
    brought = key is None or (key.env and key.keyring)
    said["key"] = {} if brought else {k: v for k, v in said["key"].items() if v and k != "hidden"}
    said["admin_key"] = {} if profile.admin_key is None else said["admin_key"]
    said["admin_key"] = {k: v for k, v in said["admin_key"].items() if v and k != "hidden"}
    for name, place in (("key", key), ("admin_key", profile.admin_key)):
        if place is not None and place.secret:
            said[name] = {"secret": place.secret.text}
    said["route"] = _said(said["route"] or {})
    said["auth"] = {k: _said(v) for k, v in (said["auth"] or {}).items() if v is not None}
    said["degrade"] = [_set(step) for step in said["degrade"]]
    return {name: said[name] for name in keys_of(Profile) if said[name] not in (None, {}, (), [])}


def _said(section: dict[str, Any]) -> dict[str, Any]:
    """What is set in a section."""
    return {name: _set(value) for name, value in section.items() if value not in (None, ())}


def _set(value: Any) -> Any:
    if isinstance(value, dict):
        return _said(value)
    return [_set(each) for each in value] if isinstance(value, list | tuple) else value


def as_yaml(profile: Profile) -> str:
    """The profile as YAML that can be put into a configuration file and means the same there."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes text so that `load` takes it as text."""

    Dumper.add_representer(str, _write_text)
    Dumper.add_representer(Decimal, lambda dumper, price: dumper.represent_float(float(price)))
    document = {"profiles": {profile.name: as_json(profile)}}
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def _write_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        misread = json_value(Node("", "", value)) != value
    except ConfigError:
        misread = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'" if misread else None)


def starter() -> str:
    """The file that `profiles init` writes: all of it is comments."""
    return files("llmctl.config").joinpath("starter.yaml").read_text(encoding="utf-8")


def write_starter(path: Path, *, force: bool) -> None:
    """Write the starter and its folders, for the user alone. Raises `UsageError` when the file
    exists and `force` is not given, `DiskError`."""
    if not force and os.path.lexists(path):
        raise UsageError(f"{path} exists; --force overwrites it")
    private_folder(path.parent)
    write_private(path, starter().encode())
