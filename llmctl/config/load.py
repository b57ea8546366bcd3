"""Configuration files, environment and flags, merged key by key over the presets.

A file is read by the types of `settings`: each key has the bounds of its field, and an error
names the file, the line, the key and what would be right.
"""

from __future__ import annotations

import os.path
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict, replace

from llmctl.config.paths import CONFIG_FILE, decoded, find_folders, home, project_file, read_bytes
from llmctl.config.profiles import pick
from llmctl.config.settings import (
    NOT_IN_FILES,
    PERIODS,
    BreakerPolicy,
    Budget,
    CachePolicy,
    Folders,
    KeySource,
    Limits,
    Profile,
    RetryPolicy,
    Settings,
    Timeouts,
    parse_duration,
    parse_share,
    parse_size,
)
from llmctl.config.trust import Untrusted, is_trusted
from llmctl.config.yaml_nodes import Node, json_value, nearest, parse_yaml, quoted
from llmctl.errors import ConfigError
from llmctl.keys.keyring_store import stored_slots
from llmctl.providers.registry import LOCAL, PRESETS, Preset
from llmctl.types import Price, Target

PROJECT_KEYS = frozenset(
    {"provider", "model", "api", "params", "limits", "timeout", "retry", "breaker", "cache",
     "on_overflow", "fallback", "tags", "context", "parallel"}
)  # fmt: skip
"""Keys of a profile that a project's configuration may set unasked. The others decide where a key
or a prompt goes, run a file or a command, keep conversations, or what a budget buys: they need
the user's trust."""

PLANNED_KEYS = frozenset({"headers", "proxy"})
"""Keys of later versions, so that the message does not call them misspelt."""

_KEY_PLACES = "{env: NAME}, {keyring: NAME} or {command: …}"
_KEY_HINT = "write key: {env: NAME}, where NAME is the environment variable that holds the key"
_HINTS = {
    "api_key": _KEY_HINT, "token": _KEY_HINT, "key_env": _KEY_HINT,
    "url": "write base_url", "endpoint": "write base_url", "api_base": "write base_url",
    "temperature": "it belongs under params", "max_tokens": "it belongs under params",
    "concurrency": "it belongs under limits", "rpm": "it belongs under limits",
    "tpm": "it belongs under limits", "ttl": "it belongs under cache",
}  # fmt: skip

_PROFILE_NAME = re.compile(r"\w[\w.-]{0,63}")
_NUMBERS: Mapping[Any, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    int: (re.compile(r"[+-]?(0|[1-9][0-9_]{0,30})"), int),
    float: (
        re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?"),
        float,
    ),
    Decimal: (re.compile(r"[0-9]{1,9}(\.[0-9]{0,20})?([eE]-?[0-9]{1,2})?"), Decimal),
}
_DOLLARS = re.compile(r"[0-9]{1,12}(_[0-9]{3})*(\.[0-9]{0,12})?")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+(%[\w.-]+)?")
_LOCAL: Mapping[str, Any] = {
    # One answer on a busy two-core machine may take minutes, the first also loads the model.
    "timeout": {"first_byte": 300.0, "total": 600.0},
    # It runs on the user's own machine.
    "price": {"input": Decimal(0), "output": Decimal(0)},
    # A small model's own default, 0.8 without a limit, wanders off, now and then for minutes.
    "params": {"temperature": 0.2, "top_p": 0.9, "max_tokens": 512},
    "context": 2048,
    "parallel": 4,
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


VARIABLES = ("model", "max_tokens", "temperature", "concurrency", "rpm", "tpm")
"""Knobs that `LLMCTL_…` sets. An address is not among them: the profile's key would follow it."""

_NO_OVERRIDES = Overrides()


class ProfileEntry(Struct, frozen=True):
    """What one source, or several merged, say of a profile: checked values by key (sections are
    dicts), the node of each, and where the profile stood."""

    values: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def over(self, under: ProfileEntry) -> ProfileEntry:
        """Both, key by key; this one wins. Sections are merged one level deep."""
        merged = dict(under.values)
        for name, value in self.values.items():
            below = merged.get(name)
            # a key comes from one place: naming another one does not add to the first
            both = isinstance(value, dict) and isinstance(below, dict) and name != "key"
            merged[name] = {**below, **value} if both else value  # type: ignore[dict-item]
        return ProfileEntry(merged, {**under.nodes, **self.nodes}, under.sources + self.sources)


class ConfigFile(Struct, frozen=True):
    """One file: its path and bytes, and what it says, checked."""

    path: Path
    raw: bytes = b""
    default: Node | None = None
    profiles: Mapping[str, ProfileEntry] = field(default_factory=dict)
    budgets: tuple[tuple[Budget, Node], ...] = ()
    cache_size: tuple[int, Node] | None = None


class ProjectFile(Struct, frozen=True):
    """A project's file as it was read: its bytes, and what in it needs the user's trust."""

    path: Path
    raw: bytes
    asks: tuple[str, ...]


def load(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    config: Path | None = None,
    overrides: Overrides = _NO_OVERRIDES,
) -> Settings:
    """All profiles, each complete, and which is the default.

    Flags win over the environment (`VARIABLES`), that over a project's `llmctl.yaml`, that over
    the user's `config.yaml`, and that over the presets. `config` is read instead of both files
    and counts as the user's own. Flags and environment apply to the one profile that
    `choose(settings, overrides.profile, …)` gives. Nothing is written, nothing sent.

    Raises `ConfigError`, naming file and line, variable or flag; `Untrusted` for a project's
    file that says what needs the user's trust.
    """
    folders = find_folders(environ, cwd)
    files = [_read_file(config)] if config is not None else _own_and_project(folders, cwd)

    entries: dict[str, ProfileEntry] = {name: ProfileEntry() for name in PRESETS}
    for file in files:
        for name, entry in file.profiles.items():
            entries[name] = entry.over(entries.get(name, ProfileEntry()))
    default: str | None = None
    for node in (file.default for file in files if file.default is not None):
        default = str(node.value)
        if default not in entries:
            raise node.error(f"names no profile: {node.shown()}; {nearest(default, entries)}")

    profiles = {name: _complete(name, entry, environ, cwd) for name, entry in entries.items()}
    for name, entry in entries.items():
        _check_fallback(name, entry, profiles)
    last = _flags(overrides).over(_environment(environ))
    name, _ = pick(profiles, default, overrides.profile, environ, stored_slots(folders.state))
    if last.values and name in profiles:
        profiles[name] = _complete(name, last.over(entries[name]), environ, cwd)
    sizes = [file.cache_size[0] for file in files if file.cache_size is not None]
    return Settings(
        _with_hidden_variables(profiles),
        default,
        folders,
        tuple(file.path for file in files),
        tuple({budget.name: budget for file in files for budget, _ in file.budgets}.values()),
        sizes[-1] if sizes else None,
    )


# Which files are read, and what a project's may say.


def project(folders: Folders, cwd: Path) -> ProjectFile | None:
    """The project's file, trusted or not; None when there is none. Raises `ConfigError`."""
    path = project_file(cwd)
    if path is None:
        return None
    user = _read_file(folders.config / CONFIG_FILE, must_exist=False)
    file = _read_file(path)
    _refuse_plain_http(file, user.path)
    needs = _needs_trust(file, user)
    return ProjectFile(path, file.raw, tuple(f"{node.where}: {node.path}" for node in needs))


def _own_and_project(folders: Folders, cwd: Path) -> list[ConfigFile]:
    """The user's own file and the project's, those that are there."""
    user = _read_file(folders.config / CONFIG_FILE, must_exist=False)
    files = [user] if user.path.exists() else []
    path = project_file(cwd)
    if path is not None:
        file = _read_file(path)
        needs = _needs_trust(file, user)
        # the bytes that are compared with the record are those that are used
        if needs and not is_trusted(folders, path, file.raw):
            raise Untrusted(needs, path, file.raw, user.path)
        _refuse_plain_http(file, user.path)
        files.append(file)
    return files


def _needs_trust(project: ConfigFile, user: ConfigFile) -> tuple[Node, ...]:
    """What a project's file says that needs trust: keys that are not a project's to set, the
    cache's size (a small one would empty the user's cache), the provider of a profile of the
    user's, whose key would go to an origin it was not meant for, and a budget of the user's made
    looser. Profiles that a project adds itself may name any provider."""
    found: list[Node] = []
    for entry in project.profiles.values():
        found += [node for name, node in entry.nodes.items() if name not in PROJECT_KEYS]
    if project.cache_size is not None:
        found.append(project.cache_size[1])
    budgets = {budget.name: budget for budget, _ in user.budgets}
    for budget, node in project.budgets:
        own = budgets.get(budget.name)
        if own is not None and (
            budget.limit > own.limit
            or budget.period != own.period
            or dict(budget.match) != dict(own.match)
        ):
            found.append(node)
    for name, entry in project.profiles.items():
        mine = user.profiles.get(name, ProfileEntry())
        now = mine.values.get("provider") or (name if name in PRESETS else None)
        if now is not None and entry.values.get("provider", now) != now:
            found.append(entry.nodes["provider"])
    return tuple(found)


def _refuse_plain_http(project: ConfigFile, own: Path) -> None:
    """A key and a prompt cross a network in the clear only where the user wrote that down."""
    for entry in project.profiles.values():
        parts = urlsplit(str(entry.values.get("base_url", "")))
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise entry.nodes["base_url"].error(
                "must be https:// in a project's configuration, trusted or not; plain http to "
                f"another machine belongs into your own file, {own}"
            )


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# One file, the environment and the flags: nodes become checked values.


def _read_file(path: Path, *, must_exist: bool = True) -> ConfigFile:
    """The file, held to the schema; empty when it is missing and need not exist."""
    raw = read_bytes(path, must_exist=must_exist) or b""
    root = parse_yaml(decoded(raw, path), str(path)) if raw else None  # PyYAML takes 25 ms to load
    if root is None:
        return ConfigFile(path, raw)
    if not isinstance(root.value, Mapping) and not root.null:
        raise ConfigError(
            f"{root.where}: a configuration file holds `default:`, `profiles:` and `budgets:`"
        )
    entries = _entries(root, ("default", "profiles", "budgets", "cache"))
    default, size = entries.get("default"), None
    if default is not None and default.null:
        default = None
    if default is not None:
        _text(default)
    profiles: dict[str, ProfileEntry] = {}
    for name, node in (entries["profiles"].mapping() if "profiles" in entries else {}).items():
        if not _PROFILE_NAME.fullmatch(name):
            raise ConfigError(
                f"{node.where}: {quoted(name)} cannot name a profile; use letters, "
                "digits, dots, dashes and underscores"
            )
        said = {key: _key_of_profile(key, child) for key, child in _entries(node, KEYS).items()}
        profiles[name] = ProfileEntry(said, dict(node.mapping()), (node.where,))
    if "cache" in entries:
        said_size = _entries(entries["cache"], ("max_size",)).get("max_size")
        size = None if said_size is None else (_size(said_size), entries["cache"])
    budgets = _budgets(entries["budgets"]) if "budgets" in entries else ()
    return ConfigFile(path, raw, default, profiles, budgets, size)


def _environment(environ: Mapping[str, str]) -> ProfileEntry:
    """The knobs set by `LLMCTL_…` variables; an empty one is not set."""
    named = {name: f"LLMCTL_{name.upper()}" for name in VARIABLES}
    given = {name: environ.get(variable, "").strip() for name, variable in named.items()}
    return _knobs({name: Node(named[name], "", text) for name, text in given.items() if text})


def _flags(overrides: Overrides) -> ProfileEntry:
    """The knobs set by flags."""
    given = {name: value for name, value in asdict(overrides).items() if name != "profile"}
    return _knobs(
        {
            name: Node("--" + name.replace("_", "-"), "", str(value))
            for name, value in given.items()
            if value is not None
        }
    )


def _knobs(nodes: Mapping[str, Node]) -> ProfileEntry:
    said: dict[str, Any] = {}
    for name, node in nodes.items():
        if name == "model":
            said["model"] = _text(node)
        elif name in _fields(Limits):
            said.setdefault("limits", {})[name] = _value(node, _fields(Limits)[name])
        else:
            said.setdefault("params", {})[name] = _value(node, _fields(Profile)[name])
    return ProfileEntry(said, {}, tuple(node.where for node in nodes.values()))


def _entries(node: Node, valid: Iterable[str]) -> Mapping[str, Node]:
    """The entries of a mapping, none of which has another key than the `valid` ones."""
    entries = node.mapping()
    for name, child in entries.items():
        if name in valid:
            continue
        if name in PLANNED_KEYS and valid is KEYS:
            raise child.error("is not supported by this version of llmctl")
        hint = _HINTS.get(name) or nearest(name, valid)
        if not node.path and name in KEYS:
            hint = "it belongs into a profile"
        place = f"{node.path} has" if node.path else "there is"
        raise ConfigError(f"{child.where}: {place} an unknown key {quoted(name)}; {hint}")
    return entries


@lru_cache
def _fields(struct: type[Struct]) -> Mapping[str, Any]:
    """The types of a struct's fields, by name."""
    return get_type_hints(struct, include_extras=True)


KEYS: Mapping[str, Any] = {
    name: hint for name, hint in _fields(Profile).items() if name not in NOT_IN_FILES
}
"""Every key of a profile in a file, with its type."""


def _key_of_profile(name: str, node: Node) -> Any:
    """The value of one key of a profile."""
    if name == "params":
        return _params(node)
    if name == "base_url":
        return _base_url(node)
    if name == "key":
        return _key_source(node)
    if name in ("query", "tags"):
        return _labels(node, but="=" if name == "tags" else "")
    if name == "fallback":
        return _names(node)
    value = _value(node, KEYS[name])
    return value.lower() if name == "key_header" and value else value


def _value(node: Node, hint: Any) -> Any:
    """The value of a node by the type of its field: a scalar, or a section as a dict."""
    options = [option for option in get_args(hint) if option is not type(None)]
    if type(None) in get_args(hint) and get_origin(hint) is not Annotated:
        return None if node.null and not _is_struct(options[0]) else _value(node, options[0])
    if _is_struct(hint):
        fields = _fields(hint)
        return {name: _value(child, fields[name]) for name, child in _entries(node, fields).items()}
    kind, meta = (get_args(hint) if get_origin(hint) is Annotated else (hint, msgspec.Meta()))[:2]
    extra = meta.extra or {}
    if kind is Path or (kind is str and not extra):
        return _text(node)
    try:
        return msgspec.convert(_scalar(node, kind, extra.get("unit")), hint)
    except msgspec.ValidationError:
        shown = "" if extra.get("secret") else f", not {node.shown()}"
        raise node.error(f"must be {_expected(kind, meta)}{shown}") from None


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def _scalar(node: Node, kind: Any, unit: str | None) -> Any:
    """What is written, as the type it should have; None where it is no such thing."""
    bare = node.bare or ""
    if unit == "seconds":
        return parse_duration(node.value) if isinstance(node.value, str) else None
    if kind is bool:
        return _BOOLEANS.get(bare.lower())
    if kind in _NUMBERS:
        pattern, convert = _NUMBERS[kind]
        return convert(bare.replace("_", "")) if pattern.fullmatch(bare) else None
    return node.value


def _expected(kind: Any, meta: msgspec.Meta) -> str:
    """What a value must be, for an error."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    low, high = meta.ge or 0, meta.le or 0
    usual = {
        bool: "true or false",
        int: f"a whole number from {low} to {high}",
        float: f"a number from {low:g} to {high:g}",
        Decimal: "a price in USD per million tokens",
    }
    if (meta.extra or {}).get("unit") == "seconds":
        return f"a duration such as 10, 10s or 5m, at most {high:.0f} seconds"
    return meta.description or usual[kind]


def _text(node: Node) -> str:
    """Printable text on one line, not empty."""
    if not isinstance(node.value, str) or node.null:
        raise node.error("must be text")
    if not node.value.strip() or not node.value.isprintable():
        raise node.error("must be text on one line, without control characters, not empty")
    return node.value


def _names(node: Node) -> tuple[str, ...]:
    """A list of names; a single one may stand alone. Each of them once."""
    items = node.items()
    found = tuple(_text(item) for item in items)
    for item, name in zip(items, found, strict=True):
        if found.count(name) > 1:
            raise item.error(f"names {item.shown()} twice")
    return found


def _labels(node: Node, *, but: str = "") -> dict[str, str]:
    """A mapping of printable names, without the character `but`, to text, possibly empty."""
    found: dict[str, str] = {}
    for name, child in node.mapping().items():
        if not name or not name.isprintable() or (but and but in name):
            raise child.error(f"needs a printable name{f' without {but}' if but else ''}")
        if not isinstance(child.value, str) or child.null or not child.value.isprintable():
            raise child.error("must be text on one line, without control characters")
        found[name] = child.value
    return found


def _size(node: Node) -> int:
    value = parse_size(node.value) if isinstance(node.value, str) else None
    if not value:
        raise node.error(f"must be a size such as 500MB, 1GB or 2GiB, not {node.shown()}")
    return value


def _key_source(node: Node) -> dict[str, Any]:
    """The one place of a key. Nothing of what is written is shown: it may be a key."""
    if not isinstance(node.value, Mapping):
        raise node.error(f"must be {_KEY_PLACES}; a key itself never belongs in a file")
    fields = _fields(KeySource)
    for name, child in node.value.items():
        if name not in ("env", "keyring", "command"):
            raise node.error(f"must be {_KEY_PLACES}")
        if child.null:
            raise child.error("must be text")
    if len(node.value) != 1:
        raise node.error(f"must name one place: {_KEY_PLACES}")
    ((name, child),) = node.value.items()
    return {name: _command(child) if name == "command" else _value(child, fields[name])}


def _command(node: Node) -> tuple[str, ...]:
    """A program and its arguments: a list, or one line that is split as a shell would split it,
    without being run by one. What is written is never shown: it may hold a secret."""
    if isinstance(node.value, tuple):
        words = tuple(_text(item) for item in node.value)
    else:
        try:
            words = tuple(shlex.split(_text(node)))
        except ValueError:
            raise node.error("has a quotation mark that is not closed") from None
    if not words or not words[0]:
        raise node.error("must name a program and its arguments, such as op read op://…")
    return words


def _base_url(node: Node) -> str:
    """A base URL without its trailing slash: http or https, a host, no credentials.

    What is written is never shown: it may hold a password.
    """
    url = _text(node)
    if any(c.isspace() or c in '\\<>"' for c in url):
        raise node.error("must be a URL, without spaces, quotes or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its message may repeat what is written
        raise node.error("is not a URL: its host or port is malformed") from None
    if parts.scheme not in ("http", "https") or not host or not _HOST.fullmatch(host):
        raise node.error("must begin with http:// or https:// and a host")
    if port == 0:
        raise node.error("must have a port from 1 to 65535")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise node.error(
            "may hold no user, password, query (?) or fragment (#); "
            "a key goes into an environment variable, named by key: {env: NAME}"
        )
    for end in ("/chat/completions", "/responses", "/messages", "/models"):
        if parts.path.rstrip("/").endswith(end):
            raise node.error(f"must end before {end}, which llmctl adds")
    return url.rstrip("/")


def _params(node: Node) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, child in node.mapping().items():
        if name in ("model", "messages", "stream", "stream_options"):
            raise child.error("is not a parameter; llmctl sets it itself")
        known = name in ("max_tokens", "temperature")
        params[name] = _value(child, _fields(Profile)[name]) if known else json_value(child)
    return params


def _budgets(node: Node) -> tuple[tuple[Budget, Node], ...]:
    """The budgets of one file, each with the node of its limit."""
    if not node.null and not isinstance(node.value, tuple):
        raise node.error("must be a list: - {name: team, limit_usd: 100, period: month}")
    found: dict[str, tuple[Budget, Node]] = {}
    for item in node.items():
        entries = _entries(item, ("name", "limit_usd", "period", "warn_at", "match"))
        for name in ("name", "limit_usd", "period"):
            if name not in entries:
                raise item.error(f"needs {name}: {{name: team, limit_usd: 100, period: month}}")
        limit, shares = entries["limit_usd"], entries.get("warn_at")
        amount = limit.bare or ""
        if not _DOLLARS.fullmatch(amount):
            raise limit.error(
                f"must be an amount in USD such as 25 or 2_000.50, not {limit.shown()}"
            )
        budget = Budget(
            name=_text(entries["name"]),
            limit=Decimal(amount.replace("_", "")),
            period=_value(entries["period"], Literal[PERIODS]),
            warn_at=tuple(sorted(map(_share, shares.items()))) if shares else (),
            match=_match(entries["match"]) if "match" in entries else {},
        )
        if budget.name in found:
            raise item.error(f"has the name of another budget, {quoted(budget.name)}")
        found[budget.name] = budget, limit
    return tuple(found.values())


def _share(node: Node) -> Decimal:
    share = parse_share(node.value) if isinstance(node.value, str) else None
    if share is None:
        raise node.error(f"must be a share of the limit such as 0.8 or 80%, not {node.shown()}")
    return share


def _match(node: Node) -> Mapping[str, str]:
    valid = ("profile", "provider", "model", "user", "tags")
    found: dict[str, str] = {}
    for name, child in node.mapping().items():
        if name not in valid:
            raise ConfigError(
                f"{child.where}: a budget matches by {', '.join(valid)}, not by {quoted(name)}"
            )
        if name == "tags":
            found |= {f"tag:{key}": value for key, value in _labels(child).items()}
        else:
            found[name] = _text(child)
    return found


# Entries become complete profiles.


def _complete(name: str, entry: ProfileEntry, environ: Mapping[str, str], cwd: Path) -> Profile:
    """The profile: its preset, and over it what `entry` says.

    The key variable and the stored key that a preset brings along belong to the preset's origin:
    at another address the profile has the key it names itself, or none.
    """
    preset = _preset(name, entry)
    local = preset.name == LOCAL
    _refuse_misplaced(entry, local=local)
    base = {"model": preset.model, "base_url": preset.base_url, **(_LOCAL if local else {})}
    said = dict(entry.over(ProfileEntry(base)).values)

    path = _model_path(entry, environ, cwd)
    if path is not None and "model" not in entry.values:
        said["model"] = path.stem  # answers of two files must not meet in the cache
    params = dict(said.pop("params", {}))
    limits = dict(said.pop("limits", {}))
    if local:
        limits.setdefault("concurrency", said["parallel"])
    if "key" in said:
        said["key"] = KeySource(**said["key"])
    elif preset.key_env and _origin(said["base_url"]) == _origin(preset.base_url):
        known = [name for name in preset.key_env if environ.get(name, "").strip()]
        said["key"] = KeySource((known or preset.key_env)[0], keyring=preset.name)
    if "api" in said and said["api"] not in PRESETS[preset.adapter].codecs:
        raise entry.nodes["api"].error(f"is not spoken by {preset.name}, which has only chat")
    said["price"] = _price(said.get("price"), entry)
    # Who keeps no answers on the disk does not want them in the conversations either.
    said.setdefault("history", said.get("cache", {}).get("enabled", True))
    sections = {"timeout": Timeouts, "retry": RetryPolicy, "breaker": BreakerPolicy}
    for key, section in {**sections, "cache": CachePolicy}.items():
        said[key] = section(**said.get(key, {}))
    sources = (("built in",) if name in PRESETS else ()) + entry.sources
    return Profile(
        **{
            **said,
            "name": name,
            "provider": preset.name,
            "adapter": preset.adapter,
            "max_tokens": params.pop("max_tokens", None),
            "temperature": params.pop("temperature", None),
            "params": params,
            "limits": Limits(**limits),
            "model_path": path,
            "source": ", ".join(sources),
        }
    )


def _preset(name: str, entry: ProfileEntry) -> Preset:
    provider = entry.values.get("provider") or (name if name in PRESETS else None)
    if provider is None:
        raise ConfigError(
            f"{entry.sources[0]}: the profile {quoted(name)} needs a `provider:`, "
            f"one of {', '.join(PRESETS)}; or name it as a built-in profile to change that one"
        )
    if provider in PRESETS:
        return PRESETS[provider]
    raise entry.nodes["provider"].error(
        f"names no provider, {quoted(provider)}; {nearest(provider, PRESETS)} (any "
        "server that speaks OpenAI's API is `provider: openai` with its `base_url`)"
    )


def _refuse_misplaced(entry: ProfileEntry, *, local: bool) -> None:
    misplaced: Sequence[str] = ("model_path", "parallel")
    why = "is only for `provider: local`"
    if local:
        misplaced = ("base_url", "key", "key_header", "query")
        why = (
            "is not for `provider: local`, which llmctl starts itself; another server is "
            "`provider: openai`"
        )
    for key in misplaced:
        if key in entry.values:
            raise entry.nodes[key].error(why)


def _origin(base_url: str) -> str:
    """Scheme, host and port of an address: what a key is bound to."""
    return Target("", "", "", base_url, "").origin


def _price(said: Mapping[str, Decimal | None] | None, entry: ProfileEntry) -> Price | None:
    if not said:
        return None
    given, produced = said.get("input"), said.get("output")
    if given is None or produced is None:
        raise entry.nodes["price"].error("needs both input and output")
    return Price(given, produced, said.get("cached_input"), said.get("cache_write"))


def _model_path(entry: ProfileEntry, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The model's file: `~` is the home folder, a relative path begins at the file naming it."""
    if entry.values.get("model_path") is None:
        return None
    written = str(entry.values["model_path"])
    if written == "~" or written.startswith("~/"):
        return home(environ) / written[2:]
    file = entry.nodes["model_path"].where.rpartition(":")[0]
    return Path(os.path.normpath((cwd / file).parent / written))


def _check_fallback(name: str, entry: ProfileEntry, profiles: Mapping[str, Profile]) -> None:
    """Fallbacks are other profiles, and a prompt too long has one to go to."""
    for other in profiles[name].fallback:
        node = entry.nodes["fallback"]
        if other == name:
            raise node.error(f"names its own profile, {quoted(name)}")
        if other not in profiles:
            raise node.error(f"names no profile: {quoted(other)}; {nearest(other, profiles)}")
    if profiles[name].on_overflow == "fallback" and not profiles[name].fallback:
        raise entry.nodes["on_overflow"].error("needs `fallback:`, a list of profiles to go to")


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
