"""Configuration files, environment and flags, merged key by key over the presets."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llmctl.config.alerts import hiding, read_alerts
from llmctl.config.alerts import secret_variables as alert_variables
from llmctl.config.coordinator import hiding as coordinator_hiding
from llmctl.config.coordinator import read_coordinator
from llmctl.config.coordinator import secret_variables as coordinator_variables
from llmctl.config.data_rules import read_data
from llmctl.config.degrade import check_degrade
from llmctl.config.limit_tiers import with_tier
from llmctl.config.paths import (
    CONFIG_FILE,
    STORE_KEY,
    find_folders,
    named_path,
    project_file,
    read_file,
)
from llmctl.config.profiles import pick
from llmctl.config.route import route_mistake, scorer_places
from llmctl.config.serve import read_serve, secret_variables
from llmctl.config.settings import (
    Audit,
    AuthPlaces,
    Budget,
    ConfigFile,
    Folders,
    KeyPlaces,
    Limits,
    Profile,
    ServerUrls,
    Settings,
    SummariseOverflow,
    Telemetry,
    is_loopback,
)
from llmctl.config.trust import Untrusted, is_trusted, needs_trust
from llmctl.config.yaml_nodes import Node, keys_of, merge, nearest, parse_yaml, quoted, read
from llmctl.errors import ConfigError
from llmctl.providers.registry import BUILT_IN, LOCAL, PRESETS, Preset
from llmctl.types import Target

# What flags and `LLMCTL_…` set. An address is not among it: the profile's key would follow it.
_KNOBS = ("model", "max_tokens", "temperature", "concurrency", "rpm", "tpm", "rpd")

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
    """What the command line says about the profile that is used; None: not given. `rpm` and
    `tpm` are requests and tokens per minute, `rpd` requests per day."""

    profile: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None


_NO_OVERRIDES = Overrides()
_EMPTY = Node("", "", {})
_EMPTY_LIST = Node("", "", ())


class SourceFile(Struct, frozen=True):
    """A file as read: its bytes, its tree, what it says beside profiles, what in it `needs` the
    user's trust, and whether it is another user's (`foreign`)."""

    path: Path
    raw: bytes = b""
    root: Node = _EMPTY
    says: Mapping[str, Any] = {}
    profiles: Mapping[str, Node] = {}
    budgets: Mapping[str, tuple[Budget, Node]] = {}
    needs: tuple[Node, ...] = ()
    foreign: bool = False


def load(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    config: Path | None = None,
    overrides: Overrides = _NO_OVERRIDES,
    stored: Collection[tuple[str, str]] = (),
) -> Settings:
    """All profiles, each complete, which is the default, and which is to be used.

    Flags win over the environment, that over a project's `llmctl.yaml`, that over the user's
    `config.yaml`, and that over the presets. `config` is read instead of both files and counts as
    the user's own. `stored` are the slots (`keys.key.slot_of`) that hold a key. Nothing is
    written, nothing sent. Raises `ConfigError`, naming file and line, variable or flag;
    `Untrusted` for a project's file that says what needs the user's trust.
    """
    folders = find_folders(environ, cwd)
    files = _files(folders, cwd, environ) if config is None else [_read_file(config)]

    entries = dict.fromkeys(BUILT_IN, _EMPTY)
    sources = {name: ["built in"] for name in BUILT_IN}
    default: str | None = None
    size: int | None = None
    encrypt = False
    gateway, data = Node("", "serve", {}), Node("", "data", {})
    alerts = Node("", "alerts", {})
    audit: dict[str, Any] | None = None
    for file in files:
        for name, node in file.profiles.items():
            entries[name] = merge(entries.get(name, _EMPTY), node)
            sources.setdefault(name, []).append(node.where)
    for file in files:
        size = file.says.get("cache", {}).get("max_size", size)
        encrypt = file.says.get("store", {}).get("encrypt", encrypt)
        gateway = merge(gateway, file.says.get("serve", gateway))
        alerts = merge(alerts, file.says.get("alerts", alerts))
        if "audit" in file.says:
            said = _audit(file, environ)
            audit = said if said is None else {**(audit or {}), **said}
        data = merge(data, file.says.get("data", data))
        if (default := file.says.get("default") or default) not in (None, *entries):
            wrong = f"{quoted(str(default))}; {nearest(str(default), entries)}"
            raise file.root.mapping()["default"].error(f"names no profile: {wrong}")

    def complete(name: str) -> Profile:
        return _complete(name, _extended(name, entries), sources[name], environ, cwd)

    profiles = {name: complete(name) for name in entries}
    for name, entry in entries.items():
        _check_fallback(profiles[name], entry, profiles)
        _check_route(profiles[name], entry, profiles)
    used, why = pick(profiles, default, overrides.profile, environ, stored)
    if used in profiles and (given := _knobs(environ, overrides)):
        for knob in given:
            entries[used] = merge(entries[used], knob)
            sources[used].append(knob.where)
        profiles[used] = complete(used)
    rules = read_data(data, profiles)
    profiles = {name: replace(profile, data=rules) for name, profile in profiles.items()}
    serve = read_serve(gateway, profiles, environ, cwd)
    # Headers, and a password, belong to the address beside them.
    telemetry = _last(files, "telemetry")[1]
    sent = None if telemetry is None else msgspec.convert(telemetry, Telemetry)
    shared = read_coordinator(*_last(files, "coordinator"))
    budgets = {name: budget for file in files for name, (budget, _) in file.budgets.items()}
    told = read_alerts(alerts, profiles, budgets)
    variables = secret_variables(serve) | alert_variables(told) | coordinator_variables(shared)
    variables |= {place.env for place in sent.headers.values()} if sent else set()
    told = hiding(told, _hide_keys(profiles, variables))
    profiles = {name: _with_summariser(each, profiles) for name, each in profiles.items()}
    paths = tuple(file.path for file in files)
    own = tuple(budgets.values())
    kept = None if audit is None else msgspec.convert(audit, Audit)
    return Settings(
        profiles, default, folders, paths, own, size, used, why, serve, kept, sent, encrypt, told,
        coordinator_hiding(shared, told.hidden),
    )  # fmt: skip


def _last(files: Sequence[SourceFile], key: str) -> tuple[Node, Any]:
    """What the last file that has this key says there, and where."""
    for file in reversed(files):
        if key in file.says:
            return file.root.mapping()[key], file.says[key]
    return _EMPTY, None


def _audit(file: SourceFile, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What a file says of the audit; its checkpoint's path is relative to the file."""
    said: dict[str, Any] | None = file.says["audit"]
    if said and "://" not in (place := said.get("checkpoint") or "://"):
        said = {**said, "checkpoint": str(named_path(place, file.path.absolute(), environ))}
    return said


def _knobs(environ: Mapping[str, str], overrides: Overrides) -> list[Node]:
    """Each variable and flag that is given as the mapping of a profile, the weakest first."""
    variables = [(f"LLMCTL_{name.upper()}", name) for name in _KNOBS]
    given: list[Any] = [(*each, environ.get(each[0], "").strip()) for each in variables]
    given += [(f"--{name.replace('_', '-')}", name, getattr(overrides, name)) for name in _KNOBS]
    found = []
    for where, name, value in given:
        if value not in (None, ""):
            tree: Any = {name: str(value)}
            if name != "model":
                tree = {"limits" if name in keys_of(Limits) else "params": tree}
            found.append(Node.of(tree, where))
    return found


def project(
    folders: Folders, cwd: Path, environ: Mapping[str, str], user: SourceFile | None = None
) -> SourceFile | None:
    """The project's file, trusted or not; None when there is none. Raises `ConfigError`."""
    path = project_file(cwd)
    if path is None:
        return None
    user = user or _user_file(folders)
    file = _read_file(path)
    places = [
        url
        for node in file.profiles.values()
        for url in node.mapping().get("base_url", _EMPTY_LIST).items()
    ]
    if file.says.get("telemetry"):
        places.append(file.root.mapping()["telemetry"].mapping()["otlp"])
    for url in places:
        parts = urlsplit(str(url.value))
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            # a key and a prompt cross a network in the clear only where the user wrote that down
            raise url.error(
                "must be https:// in a project's configuration, trusted or not; plain http to "
                f"another machine belongs into your own file, {user.path}"
            )
    if file.foreign:
        return replace(file, needs=(file.root,) if file.says else ())
    own = {}
    for name in file.profiles.keys() & {*BUILT_IN, *user.profiles}:
        entry = user.profiles.get(name, _EMPTY)
        if name in BUILT_IN or "provider" in entry.mapping():
            own[name] = _complete(name, entry, [entry.where], environ, cwd)
    budgets = {name: budget for name, (budget, _) in user.budgets.items()}
    data = read_data(user.says.get("data", _EMPTY), {*BUILT_IN, *user.profiles, *file.profiles})
    found = needs_trust(
        file.root, file.profiles, file.budgets, own, budgets, data,
        default=user.says.get("default"),
    )  # fmt: skip
    return replace(file, needs=found)


def _files(folders: Folders, cwd: Path, environ: Mapping[str, str]) -> list[SourceFile]:
    """The user's own file and the project's, those that are there."""
    user = _user_file(folders)
    files = [user] if os.path.lexists(user.path) else []
    if found := project(folders, cwd, environ, user):
        # the bytes that are compared with the record are those that are used
        if found.needs and not is_trusted(folders, found.path, found.raw):
            raise Untrusted(found.needs, found.path, found.raw, user.path)
        files.append(found)
    return files


def _user_file(folders: Folders) -> SourceFile:
    path = folders.config / CONFIG_FILE
    return _read_file(path) if os.path.lexists(path) else SourceFile(path)


def _read_file(path: Path) -> SourceFile:
    """The file; its profiles are only told apart. Raises `ConfigError`."""
    raw, foreign = read_file(path)
    root = parse_yaml(raw, str(path)) if raw else None  # PyYAML takes 25 ms to load
    if root is None or root.null:
        return SourceFile(path, raw, foreign=foreign)
    if not isinstance(root.value, Mapping):
        keys = ", ".join(f"`{key}:`" for key in keys_of(ConfigFile))
        raise ConfigError(f"{root.where}: a configuration file holds {keys}")
    says = read(root, ConfigFile)
    budgets: dict[str, tuple[Budget, Node]] = {}
    nodes = root.value["budgets"].items() if "budgets" in says else ()
    for said, node in zip(says.get("budgets", ()), nodes, strict=True):
        match = said.pop("match", {})
        tags = {f"tag:{key}": value for key, value in match.pop("tags", {}).items()}
        shares = tuple(sorted(said.pop("warn_at", ())))
        limit = said.pop("limit_usd")
        budget = Budget(limit=limit, warn_at=shares, match={**match, **tags}, **said)
        if budget.name in budgets:
            raise node.error(f"has the name of another budget, {quoted(budget.name)}")
        budgets[budget.name] = budget, node
    return SourceFile(path, raw, root, says, says.get("profiles", {}), budgets, foreign=foreign)


# Entries become complete profiles.


def _complete(
    name: str, entry: Node, sources: list[str], environ: Mapping[str, str], cwd: Path
) -> Profile:
    """The profile: its preset, and over it what `entry` says.

    The key variable and the stored key that a preset brings along belong to its origin, or to that
    of the vendor's variable (`OPENAI_BASE_URL`) beside them, its headers to its origin: at another
    address the profile has what it names itself.
    """
    entries = entry.mapping()
    preset = _preset(name, entry, sources)
    local = preset.name == LOCAL
    for key in entries.keys() & {"base_url", "key"} if local else ():
        raise entries[key].error("is not for `provider: local`; a server is `provider: openai`")
    brought = _brought(preset, entry, environ, name)
    merged, servers = _servers(preset, merge(brought, entry), brought)
    said = read(merged, Profile)

    _name_files(said, entries, cwd, environ)
    if said.get("auth"):
        _check_auth(preset, said, entries.get("auth", entry))
    if said.get("model_path") and "model" not in entries:
        # answers of two files must not meet in the cache
        said["model"] = said["model_path"].stem.strip() or "model"
    said.pop("extends", None)
    if said.get("limits", {}).get("tier"):
        place = entries["limits"].mapping()["tier"]
        said["limits"] = with_tier(said["limits"], preset.name, place)
    if price := said.get("price"):
        _check_price(price, entries.get("price", entry))
    params = said.get("params", {})
    if local:
        said["limits"] = {"concurrency": said["parallel"], **said.get("limits", {})}
    else:
        origin = _origin(said["base_url"])
        at_home = origin == _origin(str(brought.mapping()["base_url"].value))
        said |= _who(preset, said, environ, at_home=at_home)
        if origin == _origin(preset.base_url):
            said["headers"] = {**_headers(preset, environ), **said.get("headers", {})}
    if said.get("api", "chat") not in PRESETS[preset.adapter].codecs:
        raise entries["api"].error(f"is not spoken by {preset.name}, which has only chat")
    kept = said.get("cache", {})
    if degrade := said.get("degrade"):
        cached = kept.get("enabled", True)
        check_degrade(degrade, entries["degrade"], kept.get("ttl"), cached=cached)
    # Who keeps no answers on the disk does not want them in the conversations either.
    said.setdefault("history", kept.get("enabled", True))
    own = {key: params.pop(key, None) for key in ("max_tokens", "temperature")}
    found = {"name": name, "adapter": preset.adapter, "source": ", ".join(sources)}
    return msgspec.convert({**said, **own, **found, "servers": servers}, Profile)


def _servers(preset: Preset, entry: Node, brought: Node) -> tuple[Node, tuple[str, ...]]:
    """The profile with the first address of a `base_url` that is a list, and all of them. Raises
    `ConfigError` where the first cannot stand for the others: what a provider's own address has,
    such as its key, is for it alone."""
    node = entry.mapping()["base_url"]
    urls: tuple[str, ...] = read(node, ServerUrls)
    origins = {_origin(url) for url in urls}
    if len(set(urls)) < len(urls):
        raise node.error("lists an address twice")
    if len(origins) > 1:
        if preset.cloud == "aws":
            raise node.error(f"is one address for {preset.name}, whose calls are signed for one")
        homes = (preset.base_url, str(brought.mapping()["base_url"].value))
        if own := origins & {_origin(url) for url in homes if url}:
            raise node.error(
                f"lists {min(own)}, the provider's own address, beside other servers; give it a "
                "profile of its own, such as a fallback"
            )
    first = {**entry.mapping(), "base_url": replace(node, value=urls[0])}
    return replace(entry, value=first), urls if len(urls) > 1 else ()


def _who(
    preset: Preset, said: Mapping[str, Any], environ: Mapping[str, str], *, at_home: bool
) -> dict[str, Any]:
    """What proves who asks, of a profile that does not say it."""
    if said.get("key") or said.get("auth"):
        return {}
    known = [variable for variable in preset.key_env if environ.get(variable, "").strip()]
    if preset.cloud and not (known and at_home):
        return {"auth": {preset.cloud: {}}}
    if not at_home:
        return {}
    stored = {} if preset.cloud else {"keyring": preset.name}
    return {"key": {"env": (known or preset.key_env)[0], **stored}}


def _check_auth(preset: Preset, said: Mapping[str, Any], node: Node) -> None:
    """Who one is in a cloud is told nobody else, and a profile has one proof. Raises
    `ConfigError`."""
    if said.get("key"):
        raise node.error("stands beside `key`; a profile has one of them")
    kind = next(iter(said["auth"]))
    if kind not in AuthPlaces.words:  # a provider's own exchange
        return
    if kind == "aws" and preset.cloud != "aws":
        raise node.error("aws signs for Amazon Bedrock alone, which is `provider: bedrock`")
    if preset.cloud not in {"", kind}:
        raise node.error(f"{kind} is not for {preset.name}, which has `auth: {preset.cloud}`")
    if preset.base_url and _origin(said["base_url"]) == _origin(preset.base_url):
        raise node.error(
            f"{kind} is not for {urlsplit(preset.base_url).netloc}: write the address in the cloud "
            "as `base_url:`"
        )


def _name_files(
    said: dict[str, Any], entries: Mapping[str, Node], cwd: Path, environ: Mapping[str, str]
) -> None:
    """Make the paths of files absolute: they are relative to the file that names them."""
    places = [(said, "model_path", "model_path"), (said.get("env_file") or {}, "path", "env_file")]
    places += [(one, "scorer", "route") for one in scorer_places(said.get("route") or {})]
    for section in (said.get("auth") or {}).values():
        places += [(section, "credentials", "auth"), (section.get("token") or {}, "file", "auth")]
    for section, key, entry in places:
        if written := section.get(key):
            file = cwd / entries[entry].where.rpartition(":")[0]
            section[key] = named_path(written, file, environ)


def _brought(preset: Preset, entry: Node, environ: Mapping[str, str], name: str) -> Node:
    """What a profile has that says nothing itself; its address by the vendor's own variable, or by
    region and project."""
    base = {"provider": preset.name, "model": preset.model, "base_url": preset.base_url}
    if preset.address:
        base |= _place(preset, entry, environ)
    tree = Node.of({**base, **(_LOCAL if preset.name == LOCAL else {})}, name)
    variable, rest = preset.url_env
    if url := environ.get(variable, "").strip().rstrip("/"):
        tree = merge(tree, Node.of({"base_url": url.removesuffix(rest) + rest}, f"${variable}"))
    return tree


def _place(preset: Preset, entry: Node, environ: Mapping[str, str]) -> dict[str, str]:
    """Region, project and address of a cloud's provider. Raises `ConfigError` where the profile
    does not say what they are made of."""
    assert preset.address
    said, found, types = entry.mapping(), dict[str, str](), keys_of(Profile)
    signed = preset.cloud == "aws" and "key" not in said
    for key, variables in zip(("region", "project"), preset.place_env, strict=True):
        written = (Node.of(environ.get(name, "").strip(), f"${name}") for name in variables)
        node = said.get(key) or next((each for each in written if each.value), None)
        value = node and read(node, types[key].type)
        if value:
            found[key] = value
        elif variables and ("base_url" not in said or signed):  # a signature holds the region, too
            raise entry.error(f"needs {key}, or ${variables[0]}")
    address = preset.address(found.get("region", ""), found.get("project", ""))
    return {**found, "base_url": address}


def _headers(preset: Preset, environ: Mapping[str, str]) -> dict[str, str]:
    """The headers that variables name for the preset's own address."""
    hints, found = keys_of(Profile)["headers"].type, dict[str, str]()
    for header, variables in preset.header_env.items():
        for variable in variables:
            if value := environ.get(variable, "").strip():
                found |= read(Node.of({header: value}, f"${variable}"), hints)
                break
    return found


def _check_price(price: Mapping[str, Any], node: Node) -> None:
    """A price is both amounts, or another model's."""
    if (like := price.get("as")) is None:
        if lacking := [name for name in ("input", "output") if name not in price]:
            raise node.error(f"needs {lacking[0]}")
        return
    if len(price) > 1:
        raise node.error("is either amounts or `as`, the price of a known model")
    if (provider := like.partition("/")[0]) not in PRESETS:
        raise node.error(f"names no provider, {quoted(provider)}; {nearest(provider, PRESETS)}")


def _extended(name: str, entries: Mapping[str, Node], above: tuple[str, ...] = ()) -> Node:
    """What the profile says, over what the one that it extends does. Raises `ConfigError` for a
    name that is none and for a circle."""
    entry, above = entries[name], (*above, name)
    said = entry.mapping().get("extends")
    if said is None or said.null:
        return entry
    other = said.value if isinstance(said.value, str) else ""
    if other not in entries:
        raise said.error(f"names no profile: {quoted(other)}; {nearest(other, entries)}")
    if other in above:
        raise said.error(f"makes a circle: {' → '.join((*above, other))}")
    under = _extended(other, entries, above)
    # Where one leads, the other, which may be its cheaper variant, need not.
    under = replace(under, value={k: v for k, v in under.mapping().items() if k != "route"})
    if "provider" not in under.mapping():  # a built-in profile is its own
        under = merge(Node.of({"provider": other}, said.where), under)
    return merge(under, entry)


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


def _check_fallback(profile: Profile, entry: Node, profiles: Mapping[str, Profile]) -> None:
    """Fallbacks and judges are profiles, and a prompt too long has one to go to."""
    said = entry.mapping()
    for other in profile.fallback:
        if other not in profiles:
            wrong = f"{quoted(other)}; {nearest(other, profiles)}"
            raise said["fallback"].error(f"names no profile: {wrong}")
    if (semantic := profile.cache.semantic) is not None:
        cache = said.get("cache", entry)  # the profile that it extends may say it
        node = cache.mapping().get("semantic", cache)
        if semantic.mode == "judge" and semantic.judge is None:
            raise node.error("needs the name of a profile that judges: {mode: judge, judge: NAME}")
        if semantic.judge is not None and semantic.judge not in profiles:
            wrong = f"{quoted(semantic.judge)}; {nearest(semantic.judge, profiles)}"
            raise node.error(f"names no profile as its judge: {wrong}")
    if profile.on_overflow == "fallback" and not profile.fallback:
        raise said["on_overflow"].error("needs `fallback:`, a list of profiles to go to")
    if isinstance(profile.on_overflow, SummariseOverflow):
        other = profile.on_overflow.summarise
        if other not in profiles:
            wrong = f"{quoted(other)}; {nearest(other, profiles)}"
            node = said["on_overflow"].mapping()["summarise"]
            raise node.error(f"names no profile: {wrong}")


def _with_summariser(profile: Profile, profiles: Mapping[str, Profile]) -> Profile:
    """The profile with the one that its `on_overflow` names."""
    if not isinstance(profile.on_overflow, SummariseOverflow):
        return profile
    return replace(profile, summariser=profiles[profile.on_overflow.summarise])


def _check_route(profile: Profile, entry: Node, profiles: Mapping[str, Profile]) -> None:
    """A route leads to profiles, and from none of those any further."""
    if profile.route is None:
        return
    node = entry.mapping()["route"]
    for other in profile.route.names:
        if other not in profiles:
            raise node.error(f"names no profile: {quoted(other)}; {nearest(other, profiles)}")
    routes = {name: one.route for name, one in profiles.items()}
    if mistake := route_mistake(profile.name, routes, profile.fallback):
        raise node.error(mistake)


def _hide_keys(profiles: dict[str, Profile], secrets: Collection[str]) -> tuple[str, ...]:
    """Tell a command that gives a key which variables, holding other keys or `secrets`, it may
    not see; gives their names."""
    held = {name for each in PRESETS.values() for name in (*each.key_env, *each.admin_env)}
    held |= {STORE_KEY, *secrets}
    places = [place for each in profiles.values() for place in (each.key, each.admin_key) if place]
    hidden = tuple(sorted(held.union(place.env for place in places if place.env)))
    for name, profile in profiles.items():
        profiles[name] = replace(
            profile, key=_hiding(profile.key, hidden), admin_key=_hiding(profile.admin_key, hidden)
        )
    return hidden


def _hiding(place: KeyPlaces | None, hidden: tuple[str, ...]) -> KeyPlaces | None:
    return replace(place, hidden=hidden) if place and place.command else place
