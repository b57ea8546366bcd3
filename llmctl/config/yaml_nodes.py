"""YAML text as a tree of nodes, each with its file and line, and the values that nodes mean.

PyYAML only finds the structure. `read` takes the meaning from the text, by the types of
`settings`, so that a price stays exact and YAML 1.1's surprises (`010` is eight, `1:30` is
ninety) cannot happen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields, replace

from llmctl.config.settings import Text
from llmctl.errors import ConfigError

if TYPE_CHECKING:
    import yaml

MAX_NODES = 20_000
"""Values in one file, aliases counted each time: a few lines of aliases to aliases would
otherwise unfold into billions."""

MAX_DEPTH = 40
"""Levels of nesting; orjson, which writes `params` to the wire, stops at 254."""

_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?"  # a group: no integer
)
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NO_META = Meta()


class Node(Struct, frozen=True):
    """A value: text (`plain` when it was not quoted), a list or a mapping.

    `where` is `file:line`, or the variable or flag the value came from; `path` is its dotted
    name in the file, empty for variables and flags.
    """

    where: str
    path: str
    value: str | tuple[Node, ...] | Mapping[str, Node]
    plain: bool = True

    def error(self, message: str) -> ConfigError:
        """The error that names this value; `message` begins with a verb."""
        place = f"{self.where}: {self.path}" if self.path else self.where
        return ConfigError(f"{place} {message}")

    @property
    def bare(self) -> str | None:
        """The text of a scalar that is not quoted; None for all other values."""
        return self.value if self.plain and isinstance(self.value, str) else None

    @property
    def null(self) -> bool:
        """Whether nothing is written, or `null`."""
        return self.bare in {"", "~", "null", "Null", "NULL"}

    def mapping(self) -> Mapping[str, Node]:
        """The entries; none when nothing is written. Raises `ConfigError` for another kind."""
        if self.null:
            return {}
        if not isinstance(self.value, Mapping):
            raise self.error("must be a mapping (name: value)")
        return self.value

    def items(self) -> tuple[Node, ...]:
        """The items of a list; a single value stands for a list of one, nothing for none."""
        if self.null:
            return ()
        return self.value if isinstance(self.value, tuple) else (self,)


def node_of(value: str | Node | Mapping[str, Any], where: str) -> Node:
    """A tree that no file says: text, nodes, and mappings of them."""
    if isinstance(value, Node):
        return value
    if isinstance(value, str):
        return Node(where, "", value)
    return Node(where, "", {name: node_of(child, where) for name, child in value.items()})


def merge(under: Node, over: Node, *, sections: bool = True) -> Node:
    """Two mappings, key by key; `over` wins. Sections are merged too, one level deep."""
    if not isinstance(over.value, Mapping) or not isinstance(under.value, Mapping):
        return under if over.null and isinstance(under.value, Mapping) else over
    merged = dict(under.value)
    for name, child in over.value.items():
        # a key comes from one place: naming another one does not add to the first
        both = sections and name in merged and name != "key"
        merged[name] = merge(merged[name], child, sections=False) if both else child
    return replace(over, value=merged)


def quoted(text: str) -> str:
    """Text in quotation marks, at most 60 characters, control characters escaped."""
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:61])
    return f'"{safe[:60]}…"' if len(safe) > 60 else f'"{safe}"'


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest valid name, or all of them."""
    import difflib

    names = list(valid)
    if close := difflib.get_close_matches(name.lower()[:100], names, n=1):
        return f'did you mean "{close[0]}"?'
    return f"there are: {', '.join(names)}"


# Nodes become values, by type.


@lru_cache
def keys_of(struct: type[Struct]) -> Mapping[str, FieldInfo]:
    """The keys of a section, with the fields of its struct they are read into."""
    derived = getattr(struct, "derived", ())
    return {each.encode_name: each for each in fields(struct) if each.name not in derived}


def read(node: Node, hint: Any, *, whole: bool = True) -> Any:
    """The value of a node by the type of its field; a section is a dict of what it says.

    `whole`: a section says all that its struct requires. Raises `ConfigError`.
    """
    if hint is Any:
        return json_value(node)
    if NoneType in get_args(hint):
        if node.null:
            return None
        hint = next(option for option in get_args(hint) if option is not NoneType)
    hint = Text if hint is Path else hint
    kind, *_, meta = get_args(hint) if get_origin(hint) is Annotated else (hint, _NO_META)
    extra = meta.extra or {}
    kind, parse = extra.get("shape", kind), extra.get("parse")
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _section(node, kind, meta.description, whole=whole)
    if get_origin(kind) is Mapping:
        return _mapping(node, get_args(kind), extra.get("typed", {}), whole=whole)
    if get_origin(kind) is tuple and not (parse and isinstance(node.value, str)):
        value: Any = tuple(read(item, get_args(kind)[0]) for item in node.items())
        if kind is hint:
            return value
    elif parse:
        text = node.value if isinstance(node.value, str) and node.value.isprintable() else ""
        value = parse(text)
    else:
        value = _scalar(node, kind)
    if not _fits(value, hint):
        secret = kind is str or get_origin(kind) is tuple
        shown = quoted(node.value) if isinstance(node.value, str) else "a list or mapping"
        raise node.error(f"must be {_expected(kind, meta)}{'' if secret else f', not {shown}'}")
    return value


def _mapping(node: Node, hints: Any, typed: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """Values by names that are the user's; `typed` are the types of some."""
    (names, values), found = hints, {}
    for name, child in node.mapping().items():
        if not name.isprintable() or not _fits(name, names):
            words = get_args(names)[1].description
            raise ConfigError(
                f"{child.where}: {node.path} cannot have the name {quoted(name)}, only {words}"
            )
        found[name] = read(child, typed.get(name, values), whole=whole)
    return found


def _section(node: Node, struct: type[Struct], choice: str | None, *, whole: bool) -> Any:
    """What a section says; with `choice`, its description, exactly one of its keys."""
    keys = keys_of(struct)
    if choice:  # nothing of what is written is shown: it may be a key
        said = node.value if isinstance(node.value, Mapping) else {}
        if len(said) != 1 or not said.keys() <= keys.keys() or any(c.null for c in said.values()):
            raise node.error(f"must be {choice}")
    entries = node.mapping()
    for name, child in entries.items():
        if name not in keys:
            hint = getattr(struct, "hints", {}).get(name) or nearest(name, keys)
            place = f"{node.path} has" if node.path else "there is"
            raise ConfigError(f"{child.where}: {place} an unknown key {quoted(name)}; {hint}")
    for name, each in keys.items():
        if whole and each.required and name not in entries:
            raise node.error(f"needs {name}")
    return {name: read(child, keys[name].type, whole=whole) for name, child in entries.items()}


def _scalar(node: Node, kind: Any) -> Any:
    """What is written, as the type it should have; None where it is no such thing."""
    if kind is str or get_origin(kind) is Literal:
        text = isinstance(node.value, str) and not node.null and node.value.isprintable()
        return node.value if text else None
    bare = node.bare or ""
    if kind is bool:
        return _BOOLEANS.get(bare.lower())
    bare = bare.replace("_", "")
    try:
        value = kind(bare) if _NUMBER.fullmatch(bare) else None
    except (ValueError, ArithmeticError):
        return None
    return None if kind is Decimal and value and not 0 <= value <= 10**12 else value


def _fits(value: Any, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _expected(kind: Any, meta: Meta) -> str:
    """What a value must be, for an error."""
    if meta.description:
        return meta.description
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if kind is bool:
        return "true or false"
    if kind is Decimal:
        return "a price in USD per million tokens"
    return f"a {'whole ' if kind is int else ''}number from {meta.ge} to {meta.le}"


def json_value(node: Node, depth: int = 0) -> Any:
    """What a value of `params` means: JSON, read after YAML 1.2, in which `on` and `1:30` are
    text. Raises `ConfigError` for what JSON cannot carry."""
    if depth > MAX_DEPTH:  # aliases in aliases go deeper than the text does
        raise node.error(f"is nested more than {MAX_DEPTH} levels deep")
    value = node.value
    if isinstance(value, tuple):
        return [json_value(item, depth + 1) for item in value]
    texts = list(value) if isinstance(value, Mapping) else [value]
    if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
        raise node.error("holds half a character (\\ud800 to \\udfff); write the character itself")
    if isinstance(value, Mapping):
        return {name: json_value(child, depth + 1) for name, child in value.items()}
    return _json_scalar(node, value) if node.plain else value


def _json_scalar(node: Node, text: str) -> Any:
    """What an unquoted scalar means."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        words = {"true": True, "false": False}
        return None if node.null else words.get(text.lower(), text)
    if not any(number.groups()):
        if len(text) <= 20 and -(2**63) <= int(text) < 2**64:
            return int(text)
    elif math.isfinite(float(text)):
        return float(text)
    raise node.error("is a number of more than 64 bits; quote it to send it as text")


# Text becomes nodes.


def parse_yaml(text: str, file: str) -> Node | None:
    """The tree of a YAML document, None when it is empty; `file` is its name in messages.

    Raises `ConfigError` for anything that is not one plain YAML document.
    """
    import yaml

    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # first its events: libyaml's composer is recursive and crashes on 100,000 brackets
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            where = f"{file}:{event.start_mark.line + 1 if event.start_mark else 1}"
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            _bound(0, depth, where)
            if tag := getattr(event, "tag", None):
                raise ConfigError(f"{where}: the tag {quoted(tag)} is not supported; leave it out")
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line if mark else 0, text.count("\n")) + 1  # not after the last one
        what = ", ".join(str(part) for part in (error.context, error.problem) if part)
        raise ConfigError(f"{file}:{line}: this is not YAML: {what}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # a character that YAML forbids, or a number out of range in `\U` and `%YAML`
        what = str(error).partition("\n")[0]
        raise ConfigError(f"{file}: this is not YAML: {what}") from None
    return None if root is None else _unfold(root, f"{file}:", "", "", [0], 0)


def _unfold(
    found: yaml.Node, file: str, where: str, path: str, count: list[int], depth: int
) -> Node:
    """PyYAML's node and those below, aliases repeated; a key's value stands where the key does."""
    import yaml

    where = where or f"{file}{found.start_mark.line + 1}"
    count[0] += 1
    _bound(count[0], depth, where)
    if isinstance(found, yaml.ScalarNode):
        return Node(where, path, str(found.value), plain=found.style in (None, ""))
    if isinstance(found, yaml.SequenceNode):
        items = enumerate(found.value)
        return Node(
            where,
            path,
            tuple(_unfold(item, file, "", f"{path}[{n}]", count, depth + 1) for n, item in items),
        )
    entries: dict[str, Node] = {}
    for key, value in found.value:
        at, name = f"{file}{key.start_mark.line + 1}", key.value
        if not isinstance(name, str) or name == "<<":
            raise ConfigError(f"{at}: a key must be plain text, and none is merged (<<)")
        if name in entries:
            first = entries[name].where
            raise ConfigError(f"{at}: {quoted(name)} is written twice, first at {first}")
        below = ".".join(filter(None, (path, quoted(name)[1:-1])))  # a path is for messages
        entries[name] = _unfold(value, file, at, below, count, depth + 1)
    return Node(where, path, entries)


def _bound(nodes: int, depth: int, where: str) -> None:
    if nodes > MAX_NODES or depth > MAX_DEPTH:
        raise ConfigError(
            f"{where}: this holds too much; at most {MAX_NODES} values, "
            f"{MAX_DEPTH} levels deep, are read, counting what aliases repeat"
        )
