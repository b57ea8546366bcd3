"""What a configuration file may say: the table of keys, and a walk that holds a file to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.config import budgets
from llmctl.config import values as v
from llmctl.config.drafts import Draft, FileDraft
from llmctl.config.jsonvalue import json_value
from llmctl.config.settings import HTTP_CHOICES, OVERFLOWS
from llmctl.config.tree import Node, nearest, quoted
from llmctl.errors import ConfigError

Section = Mapping[str, v.Reader]

_MILLION = 1_000_000
_DAY = 86400.0


MAX_TOKENS = v.whole(1, 100 * _MILLION, null=True)
TEMPERATURE = v.number(0, 100, null=True)


def _params(node: Node) -> dict[str, Any]:
    readers = {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS}
    params: dict[str, Any] = {}
    for name, child in node.mapping().items():
        if name in ("model", "messages", "stream", "stream_options"):
            raise child.error("is not a parameter; llmctl sets it itself")
        params[name] = readers.get(name, json_value)(child)
    return params


def _query(node: Node) -> dict[str, str]:
    """What stands in the address of every call, such as Azure's `api-version`."""
    entries = node.mapping()
    for name, child in entries.items():
        if not name or not name.isprintable():
            raise child.error("needs a printable name")
    return {name: v.label(child) for name, child in entries.items()}


def _tags(node: Node) -> dict[str, str]:
    entries = node.mapping()
    for name, child in entries.items():
        if not name or not name.isprintable() or "=" in name:
            raise child.error("needs a printable name without =")
    return {name: v.label(child) for name, child in entries.items()}


PROFILE: Mapping[str, v.Reader | Section] = {
    "provider": v.text,
    "model": v.text,
    "api": v.one_of("chat", "responses"),
    "base_url": v.address,
    "key": {"env": v.variable, "keyring": v.key_name, "command": v.command},
    "key_header": v.header,
    "query": _query,
    "params": _params,
    "limits": {
        "concurrency": v.whole(1, 10_000),
        "rpm": v.whole(1, 1000 * _MILLION, null=True),
        "tpm": v.whole(1, 1000 * _MILLION, null=True),
    },
    "timeout": {
        "connect": v.seconds(_DAY),
        "first_byte": v.seconds(_DAY),
        "total": v.seconds(_DAY),
    },
    "retry": {
        "attempts": v.whole(1, 100),
        "max_wait": v.seconds(_DAY, zero=True),
        "ambiguous_attempts": v.whole(0, 100),
    },
    "breaker": {
        "failures": v.whole(1, _MILLION),
        "error_rate": v.number(0.01, 1),
        "window": v.seconds(_DAY),
        "open_for": v.seconds(_DAY),
    },
    "cache": {"enabled": v.flag, "ttl": v.seconds(36500 * _DAY, null=True)},
    "history": v.flag,
    "on_overflow": v.one_of(*OVERFLOWS),
    "http": v.one_of(*HTTP_CHOICES),
    "fallback": v.names,
    "price": {
        "input": v.money,
        "output": v.money,
        "cached_input": v.maybe_money,
        "cache_write": v.maybe_money,
    },
    "tags": _tags,
    "context": v.whole(1, 1000 * _MILLION, null=True),
    "model_path": v.text,
    "parallel": v.whole(1, 256),
}
"""Every key of a profile: its reader, or the keys of its section. Durations are seconds."""

FILE = ("default", "profiles", "budgets", "cache")

PROJECT = frozenset(
    {
        "provider",
        "model",
        "api",
        "params",
        "limits",
        "timeout",
        "retry",
        "breaker",
        "on_overflow",
        "fallback",
        "cache",
        "tags",
        "context",
        "parallel",
    }
)
"""What a project's configuration may set unasked. The rest decides where a key or a prompt goes,
runs a file or a command, keeps conversations, or what a budget buys: it needs the user's trust."""

LATER = frozenset({"headers", "proxy"})
"""Planned keys, so that the message does not call them misspelt."""

_KEY_HINT = "write key: {env: NAME}, where NAME is the environment variable that holds the key"
_KEY_PLACES = "{env: NAME}, {keyring: NAME} or {command: …}"
_HINTS = {
    "api_key": _KEY_HINT, "token": _KEY_HINT, "key_env": _KEY_HINT,
    "url": "write base_url", "endpoint": "write base_url", "api_base": "write base_url",
    "temperature": "it belongs under params", "max_tokens": "it belongs under params",
    "concurrency": "it belongs under limits", "rpm": "it belongs under limits",
    "tpm": "it belongs under limits", "ttl": "it belongs under cache",
}  # fmt: skip
_NAME = re.compile(r"\w[\w.-]{0,63}")


def read_file(root: Node | None) -> FileDraft:
    """Hold a file's tree to the table. Raises `ConfigError`."""
    if root is None:
        return FileDraft()
    if not isinstance(root.value, Mapping) and not root.null:
        raise ConfigError(
            f"{root.where}: a configuration file holds `default:`, `profiles:` and `budgets:`"
        )
    entries = root.mapping()
    for name in entries:
        if name not in FILE:
            raise _unknown(root, name, FILE, name)
    profiles: dict[str, Draft] = {}
    for name, node in (entries["profiles"].mapping() if "profiles" in entries else {}).items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{node.where}: {quoted(name)} cannot name a profile; use letters, "
                "digits, dots, dashes and underscores"
            )
        profiles[name] = _profile(node)
    marks = [draft.marks for draft in profiles.values()]
    sensitive = tuple(node for each in marks for name, node in each.items() if name not in PROJECT)
    size = _cache_size(entries["cache"]) if "cache" in entries else None
    if size is not None:  # a project could empty the user's cache with it
        sensitive += (entries["cache"],)
    default = entries.get("default")
    limits = budgets.read(entries["budgets"]) if "budgets" in entries else ()
    if default is not None and not default.null:
        v.text(default)
        return FileDraft(default, profiles, sensitive, limits, size)
    return FileDraft(None, profiles, sensitive, limits, size)


def _cache_size(node: Node) -> int | None:
    """The section `cache` of the file itself: what holds for all profiles' answers together."""
    entries = node.mapping()
    for name in entries:
        if name != "max_size":
            raise _unknown(node, name, ("max_size",), name)
    return v.size(entries["max_size"]) if "max_size" in entries else None


def _profile(node: Node) -> Draft:
    said: dict[str, Any] = {}
    entries = node.mapping()
    for name, child in entries.items():
        rule = PROFILE.get(name)
        if rule is None:
            raise _unknown(node, name, PROFILE, name)
        said[name] = _section(child, name, rule) if isinstance(rule, Mapping) else rule(child)
    return Draft(said, dict(entries), (node.where,))


def _section(node: Node, name: str, rules: Section) -> dict[str, Any]:
    if name == "key" and not isinstance(node.value, Mapping):
        # whatever is written here may be a key: it is not repeated
        raise node.error(f"must be {_KEY_PLACES}; a key itself never belongs in a file")
    said: dict[str, Any] = {}
    for key, child in node.mapping().items():
        if key not in rules:
            full = f"{name}.{key}"
            if name == "key" and full not in LATER:
                raise ConfigError(f"{node.where}: {node.path} must be {_KEY_PLACES}")
            raise _unknown(node, key, rules, full)
        said[key] = rules[key](child)
    if name == "key" and len(said) != 1:
        raise node.error(f"must name one place: {_KEY_PLACES}")
    return said


def _unknown(parent: Node, name: str, valid: Iterable[str], full: str) -> ConfigError:
    child = parent.mapping()[name]
    if full in LATER:
        return child.error("is not supported by this version of llmctl")
    hint = _HINTS.get(name) or nearest(name, valid)
    if not parent.path and name in PROFILE:
        hint = "it belongs into a profile"
    place = f"{parent.path} has" if parent.path else "there is"
    return ConfigError(f"{child.where}: {place} an unknown key {quoted(name)}; {hint}")
