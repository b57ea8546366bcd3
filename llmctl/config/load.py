"""Configuration files, environment and flags, merged key by key over the presets."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.config.paths import CONFIG_FILE, find_folders, home, project_file, read_text
from llmctl.config.profiles import pick
from llmctl.config.settings import Budget, ConfigFile, Folders, Limits, Profile, Settings
from llmctl.config.trust import Untrusted, is_trusted
from llmctl.config.yaml_nodes import (
    Node,
    keys_of,
    merge,
    nearest,
    node_of,
    parse_yaml,
    quoted,
    read,
)
from llmctl.errors import ConfigError
from llmctl.providers.registry import LOCAL, PRESETS, Preset
from llmctl.types import Target

PROJECT_KEYS = frozenset(
    {"provider", "model", "api", "params", "limits", "timeout", "retry", "breaker", "cache",
     "on_overflow", "fallback", "tags", "context", "parallel"}
)  # fmt: skip
"""Keys of a profile that a project's configuration may set unasked. The others decide where a key
or a prompt goes, run a file or a command, keep conversations, or what a budget buys: they need
the user's trust."""

VARIABLES = ("model", "max_tokens", "temperature", "concurrency", "rpm", "tpm")
"""Knobs that `LLMCTL_…` sets. An address is not among them: the profile's key would follow it."""

_LOCAL = {
    # One answer on a busy two-core machine may take minutes, the first also loads the model.
    "timeout": {"first_byte": "300", "total": "600"},
    # It runs on the user's own machine.
    "price": {"input": "0", "output": "0"},
    # A small model's own default, 0.8 without a limit, wanders off, now and then for minutes.
    "params": {"temperature": "0.2", "top_p": "0.9", "max_tokens": "512"},
    "context": "2048",
    "parallel": "4",
}


class Overrides(Struct, frozen=True):
    """What the command line says; None: not given. All but `profile` apply to the profile that
    is used. `rpm` and `tpm` are requests and tokens per minute."""

    profile: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None


_NO_OVERRIDES = Overrides()
_EMPTY = Node("", "", {})


class SourceFile(Struct, frozen=True):
    """A file as read: its bytes, its nodes by key, what it says, checked but not complete, and
    what in it `needs` the user's trust."""

    path: Path
    raw: bytes
    nodes: Mapping[str, Node] = field(default_factory=dict)
    says: Mapping[str, Any] = field(default_factory=dict)
    budgets: Mapping[str, tuple[Budget, Node]] = field(default_factory=dict)
    needs: tuple[Node, ...] = ()

    @property
    def profiles(self) -> Mapping[str, Node]:
        """The node of each profile."""
        return self.nodes["profiles"].mapping() if "profiles" in self.nodes else {}


def load(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    config: Path | None = None,
    overrides: Overrides = _NO_OVERRIDES,
    stored: Collection[tuple[str, str]] = (),
) -> Settings:
    """All profiles, each complete, which is the default, and which is to be used.

    Flags win over the environment (`VARIABLES`), that over a project's `llmctl.yaml`, that over
    the user's `config.yaml`, and that over the presets. `config` is read instead of both files
    and counts as the user's own. Flags and environment apply to the profile that is used.
    `stored` are the slots (`Profile.slot`) that hold a key. Nothing is written, nothing sent.

    Raises `ConfigError`, naming file and line, variable or flag; `Untrusted` for a project's
    file that says what needs the user's trust.
    """
    folders = find_folders(environ, cwd)
    files = _files(folders, cwd) if config is None else [_read_file(config)]

    entries = dict.fromkeys(PRESETS, _EMPTY)
    sources = {name: ["built in"] for name in PRESETS}
    default: str | None = None
    for name, node in ((n, node) for file in files for n, node in file.profiles.items()):
        entries[name] = merge(entries.get(name, _EMPTY), node)
        sources.setdefault(name, []).append(node.where)
    for file in files:
        if (default := file.says.get("default") or default) not in (None, *entries):
            hint = nearest(str(default), entries)
            raise file.nodes["default"].error(f"names no profile: {quoted(str(default))}; {hint}")

    def complete(name: str) -> Profile:
        return _complete(name, entries[name], sources[name], environ, cwd)

    profiles = {name: complete(name) for name in entries}
    for name, entry in entries.items():
        _check_fallback(profiles[name], entry, profiles)
    used, why = pick(profiles, default, overrides.profile, environ, stored)
    variables = {name: f"LLMCTL_{name.upper()}" for name in VARIABLES}
    flags = {name: (f"--{name.replace('_', '-')}", getattr(overrides, name)) for name in VARIABLES}
    for given in (
        {n: (where, environ.get(where, "").strip() or None) for n, where in variables.items()},
        flags,
    ):
        knobs = _knobs({name: each for name, each in given.items() if each[1] is not None})
        read(knobs, Profile, whole=False)  # wrong ones are refused whatever profile is used
        if knobs.value and used in profiles:
            entries[used] = merge(entries[used], knobs)
            sources[used].append(knobs.where)
            profiles[used] = complete(used)
    sizes = [file.says["cache"].get("max_size") for file in files if "cache" in file.says]
    return Settings(
        _with_hidden_variables(profiles),
        default,
        folders,
        tuple(file.path for file in files),
        tuple({n: budget for file in files for n, (budget, _) in file.budgets.items()}.values()),
        next((size for size in reversed(sizes) if size is not None), None),
        used,
        why,
    )


# Which files are read, and what a project's may say.


def project(folders: Folders, cwd: Path, user: SourceFile | None = None) -> SourceFile | None:
    """The project's file, trusted or not; None when there is none. Raises `ConfigError`."""
    path = project_file(cwd)
    if path is None:
        return None
    user = user or _read_file(folders.config / CONFIG_FILE, must_exist=False)
    file = _read_file(path)
    for node in file.profiles.values():
        url = node.mapping().get("base_url")
        parts = urlsplit(str(url.value) if url else "")
        if url and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            # a key and a prompt cross a network in the clear only where the user wrote that down
            raise url.error(
                "must be https:// in a project's configuration, trusted or not; plain http to "
                f"another machine belongs into your own file, {user.path}"
            )
    return replace(file, needs=_needs_trust(file, user))


def _files(folders: Folders, cwd: Path) -> list[SourceFile]:
    """The user's own file and the project's, those that are there."""
    user = _read_file(folders.config / CONFIG_FILE, must_exist=False)
    files = [user] if user.path.exists() else []
    if found := project(folders, cwd, user):
        # the bytes that are compared with the record are those that are used
        if found.needs and not is_trusted(folders, found.path, found.raw):
            raise Untrusted(found.needs, found.path, found.raw, user.path)
        files.append(found)
    return files


def _needs_trust(project: SourceFile, user: SourceFile) -> tuple[Node, ...]:
    """What a project's file says that needs trust: keys that are not a project's to set, the
    cache's size (a small one would empty the user's cache), the provider of a profile of the
    user's, whose key would go to an origin it was not meant for, and a budget of the user's made
    looser. Profiles that a project adds itself may name any provider."""
    found = [
        child
        for node in project.profiles.values()
        for key, child in node.mapping().items()
        if key not in PROJECT_KEYS
    ]
    found += [node for key, node in project.nodes.items() if key == "cache" and node.mapping()]
    for name, (budget, node) in project.budgets.items():
        own = user.budgets[name][0] if name in user.budgets else budget
        same = (budget.period, dict(budget.match)) == (own.period, dict(own.match))
        if budget.limit > own.limit or not same:
            found.append(node.mapping()["limit_usd"])
    for name, said in project.says.get("profiles", {}).items():
        mine = user.says.get("profiles", {}).get(name, {})
        now = mine.get("provider") or (name if name in PRESETS else None)
        if now is not None and said.get("provider", now) != now:
            found.append(project.profiles[name].mapping()["provider"])
    return tuple(found)


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# One file, the environment and the flags become nodes, held to the types of `settings`.


def _read_file(path: Path, *, must_exist: bool = True) -> SourceFile:
    """The file, held to the schema; empty when it is missing and need not exist."""
    raw, text = read_text(path, must_exist=must_exist)
    root = parse_yaml(text, str(path)) if text else None  # PyYAML takes 25 ms to load
    if root is None or root.null:
        return SourceFile(path, raw)
    if not isinstance(root.value, Mapping):
        keys = ", ".join(f"`{key}:`" for key in keys_of(ConfigFile))
        raise ConfigError(f"{root.where}: a configuration file holds {keys}")
    says = read(root, ConfigFile, whole=False)
    budgets: dict[str, tuple[Budget, Node]] = {}
    nodes = root.value["budgets"].items() if "budgets" in says else ()
    for said, node in zip(says.get("budgets", ()), nodes, strict=True):
        match = said.pop("match", {})
        tags = {f"tag:{key}": value for key, value in match.pop("tags", {}).items()}
        shares = sorted(said.pop("warn_at", ()))
        budget = msgspec.convert({**said, "match": {**match, **tags}, "warn_at": shares}, Budget)
        if budget.name in budgets:
            raise node.error(f"has the name of another budget, {quoted(budget.name)}")
        budgets[budget.name] = budget, node
    return SourceFile(path, raw, root.value, says, budgets)


def _knobs(given: Mapping[str, tuple[str, Any]]) -> Node:
    """The knobs, each a variable or flag and its value, as the mapping of a profile."""
    tree: dict[str, Any] = {}
    for name, (where, value) in given.items():
        section = "limits" if name in keys_of(Limits) else "params"
        node = Node(where, "", str(value))
        (tree if name == "model" else tree.setdefault(section, {}))[name] = node
    return node_of(tree, ", ".join(where for where, _ in given.values()))


# Entries become complete profiles.


def _complete(
    name: str, entry: Node, sources: list[str], environ: Mapping[str, str], cwd: Path
) -> Profile:
    """The profile: its preset, and over it what `entry` says.

    The key variable and the stored key that a preset brings along belong to the preset's origin:
    at another address the profile has the key it names itself, or none.
    """
    entries = entry.mapping()
    preset = _preset(name, entry, sources)
    local = preset.name == LOCAL
    for key in ("base_url", "key", "key_header", "query") if local else ("model_path", "parallel"):
        if key in entries:
            why = "is not for `provider: local`, which llmctl starts itself; another server is "
            raise entries[key].error(
                f"{why}`provider: openai`" if local else "is only for `provider: local`"
            )
    base = {"provider": preset.name, "model": preset.model, "base_url": preset.base_url}
    said = read(merge(node_of({**base, **(_LOCAL if local else {})}, name), entry), Profile)

    if written := said.get("model_path"):
        said["model_path"] = _model_path(written, entries["model_path"], environ, cwd)
        if "model" not in entries:
            # answers of two files must not meet in the cache
            said["model"] = said["model_path"].stem.strip() or "model"
    params = said.get("params", {})
    if local:
        said["limits"] = {"concurrency": said["parallel"], **said.get("limits", {})}
    elif (
        not said.get("key")
        and preset.key_env
        and _origin(said["base_url"]) == _origin(base["base_url"])
    ):
        known = [variable for variable in preset.key_env if environ.get(variable, "").strip()]
        said["key"] = {"env": (known or preset.key_env)[0], "keyring": preset.name}
    if said.get("api", "chat") not in PRESETS[preset.adapter].codecs:
        raise entries["api"].error(f"is not spoken by {preset.name}, which has only chat")
    # Who keeps no answers on the disk does not want them in the conversations either.
    said.setdefault("history", said.get("cache", {}).get("enabled", True))
    own = {key: params.pop(key, None) for key in ("max_tokens", "temperature")}
    found = {"name": name, "adapter": preset.adapter, "source": ", ".join(sources)}
    return msgspec.convert({**said, **own, **found}, Profile)


def _preset(name: str, entry: Node, sources: list[str]) -> Preset:
    node = entry.mapping().get("provider")
    provider = str(node.value) if node else name
    if provider in PRESETS:
        return PRESETS[provider]
    if node is None:
        raise ConfigError(
            f"{sources[0]}: the profile {quoted(name)} needs a `provider:`, one of "
            f"{', '.join(PRESETS)}; or name it as a built-in profile to change that one"
        )
    raise node.error(
        f"names no provider, {quoted(provider)}; {nearest(provider, PRESETS)} (any "
        "server that speaks OpenAI's API is `provider: openai` with its `base_url`)"
    )


def _origin(base_url: str) -> str:
    """Scheme, host and port of an address: what a key is bound to."""
    return Target("", "", "", base_url, "").origin


def _model_path(written: str, node: Node, environ: Mapping[str, str], cwd: Path) -> Path:
    """The model's file: `~` is the home folder, a relative path begins at the file naming it."""
    if written == "~" or written.startswith("~/"):
        return home(environ) / written[2:]
    file = node.where.rpartition(":")[0]
    return Path(os.path.normpath((cwd / file).parent / written))


def _check_fallback(profile: Profile, entry: Node, profiles: Mapping[str, Profile]) -> None:
    """Fallbacks are other profiles, and a prompt too long has one to go to."""
    for other in profile.fallback:
        node = entry.mapping()["fallback"]
        if other == profile.name or profile.fallback.count(other) > 1:
            raise node.error(f"names {quoted(other)}, its own profile, or one that it names twice")
        if other not in profiles:
            raise node.error(f"names no profile: {quoted(other)}; {nearest(other, profiles)}")
    if profile.on_overflow == "fallback" and not profile.fallback:
        node = entry.mapping()["on_overflow"]
        raise node.error("needs `fallback:`, a list of profiles to go to")


def _with_hidden_variables(profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The profiles; those whose key a command gives know which variables hold other keys."""
    named = {profile.key.env for profile in profiles.values() if profile.key and profile.key.env}
    named |= {variable for preset in PRESETS.values() for variable in preset.key_env}
    hidden = tuple(sorted(named))
    return {
        name: replace(profile, key=replace(profile.key, hidden=hidden))
        if profile.key and profile.key.command
        else profile
        for name, profile in profiles.items()
    }
