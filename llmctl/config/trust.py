"""Trust in a project's configuration: the user's word for one file as it is, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import to_builtins

from llmctl.config.data_rules import TAGS, looser
from llmctl.config.settings import Budget, DataRules, Folders, Limits, Profile
from llmctl.config.yaml_nodes import Node, json_value, keys_of
from llmctl.errors import ConfigError
from llmctl.storage.files import private_folder, write_private

_FILE = "trust.json"

SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "typical_p", "p", "k", "seed", "random_seed", "stop",
     "stop_sequences", "frequency_penalty", "presence_penalty", "repetition_penalty"}
)  # fmt: skip
"""Parameters that choose among the words a model would say: the only ones a project may set
unasked, beside a lower `max_tokens`. Others may send what nobody asked for, such as tools."""


class Untrusted(ConfigError):
    """A project's file, `path`, says what `needs` the user's trust: `asks`, one place each."""

    def __init__(self, needs: tuple[Node, ...], path: Path, raw: bytes, own: Path) -> None:
        whose = "needs" if needs[0].path else "belongs to another user, and so all of it needs"
        what = f"{whose} your trust in a project's configuration; read the file, then run "
        more = f"`llmctl profiles trust`, or put it into your own file, {own}"
        super().__init__(str(needs[0].error(what + more)))
        self.path = path
        self.raw = raw
        self.asks = places(needs)


def places(needs: tuple[Node, ...]) -> tuple[str, ...]:
    """What needs trust, one `file:line: key` each."""
    return tuple(f"{node.where}: {node.path or 'the file of another user'}" for node in needs)


def needs_trust(
    root: Node,
    profiles: Mapping[str, Node],
    budgets: Mapping[str, tuple[Budget, Node]],
    own: Mapping[str, Profile],
    own_budgets: Mapping[str, Budget],
    own_data: DataRules,
    *,
    default: str | None,
) -> tuple[Node, ...]:
    """What a project's file (`root`, its `profiles` and `budgets`) says that needs trust, given
    what the user has: profiles, budgets, rules of where data may go, the default profile.

    Unasked a project may choose the model within the provider the user chose, sampling parameters,
    lower limits, tags and models that no budget of the user's matches by, lower budgets, and
    stricter rules of where data may go. So a key that is added later needs trust until somebody
    lists it here.
    """
    matched = {name for budget in own_budgets.values() for name in budget.match}
    found = [
        node
        for key, node in root.mapping().items()
        if key not in {"profiles", "budgets", "data"}
        and not (key == "default" and node.value == default)
    ]
    if "data" in root.mapping():
        found += looser(root.mapping()["data"], own_data)
    for name, node in profiles.items():
        found += _in_profile(node, own.get(name), matched)
    for name, (budget, node) in budgets.items():
        mine = own_budgets.get(name, budget)
        same = (budget.period, dict(budget.match)) == (mine.period, dict(mine.match))
        if budget.limit > mine.limit or not same:
            found.append(node.mapping()["limit_usd"])
    return tuple(found)


def _in_profile(node: Node, mine: Profile | None, matched: set[str]) -> Iterator[Node]:
    """What needs trust in one profile; `mine` is the user's of that name, which may be built in."""
    for key, child in node.mapping().items():
        if mine is not None and key in {"params", "limits", "tags"}:
            for name, value in child.mapping().items():
                if not _may_say(key, name, value, mine, matched):
                    yield value
        elif mine is None or not (
            (key == "provider" and child.value == mine.provider)
            or (key == "model" and ("model" not in matched or child.value == mine.model))
        ):
            yield child


def _may_say(  # noqa: PLR0911 - one a kind
    section: str, name: str, node: Node, mine: Profile, matched: set[str]
) -> bool:
    """Whether a project may say this of a profile unasked."""
    if section == "tags":
        if name in TAGS and name in mine.tags and node.value != mine.tags[name]:
            return False  # it asked for something else
        return f"tag:{name}" not in matched or node.value == mine.tags.get(name)
    if section == "limits":  # of another name the reader of the file says that there is none
        if name == "models":
            return all(_is_tighter(node, mine.limits, model) for model in node.mapping())
        if name == "tier":  # another one may allow more
            return bool(node.value == mine.limits.tier)
        return name not in keys_of(Limits) or _is_lower(node, to_builtins(mine.limits)[name])
    if name == "max_tokens":
        return _is_lower(node, mine.max_tokens)
    return name in SAMPLING and _is_plain(node)


def _is_tighter(node: Node, mine: Limits, model: str) -> bool:
    """Whether what is said of one model's limits, below `node`, lets nothing more through.

    A model with limits of its own is counted apart: where the user's are for all models together,
    naming one would add to them.
    """
    known = (mine.rpm, mine.tpm, mine.rpd) != (None, None, None) or mine.entry(model) is not None
    if model not in mine.models and known:
        return False
    most = to_builtins(mine.of(model))
    said = node.mapping()[model].mapping()
    return all(_is_lower(value, most[name]) for name, value in said.items() if name in most)


def _is_lower(node: Node, most: int | None) -> bool:
    """Whether the value is a number, and not above `most` (None: any)."""
    text = node.value if isinstance(node.value, str) else ""
    try:
        return most is None or float(text.replace("_", "")) <= most
    except ValueError:  # nothing is written: no limit; or no number, as the file's reader will say
        return False


def _is_plain(node: Node) -> bool:
    """Whether the value is a number or text, or a list of these."""
    value = json_value(node)
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, dict | list) for item in items)


def is_trusted(folders: Folders, path: Path, raw: bytes) -> bool:
    """Whether the user trusts this file with exactly these bytes."""
    return _read(folders).get(os.path.realpath(path)) == hashlib.sha256(raw).hexdigest()


def record(folders: Folders, path: Path, raw: bytes) -> str:
    """Trust the file as it is; its SHA-256 in hex. Raises `DiskError`."""
    digest = hashlib.sha256(raw).hexdigest()
    _write(folders, {**_read(folders), os.path.realpath(path): digest})
    return digest


def forget(folders: Folders, path: Path) -> bool:
    """Trust the file no more; whether it was trusted. Raises `DiskError`."""
    known = _read(folders)
    if known.pop(os.path.realpath(path), None) is None:
        return False
    _write(folders, known)
    return True


def _read(folders: Folders) -> dict[str, str]:
    """The record: digests by path. One that is missing or damaged trusts nothing."""
    try:
        return dict(json.loads((folders.state / _FILE).read_bytes())["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write(folders: Folders, files: dict[str, str]) -> None:
    private_folder(folders.state)
    text = json.dumps({"version": 1, "files": files}, indent=2)
    write_private(folders.state / _FILE, text.encode())
