"""YAML text as a tree of nodes, each with its file and line, and the values that nodes mean.

PyYAML only finds the structure. `read` takes the meaning from the text, by the types of
`settings`, so that a price stays exact and YAML 1.1's surprises (`010` is eight, `1:30` is
ninety) cannot happen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields, replace

from llmctl.config.settings import Text
from llmctl.errors import ConfigError
from llmctl.redact import printable

if TYPE_CHECKING:
    import yaml

MAX_DEPTH = 40  # levels of nesting; orjson, which writes `params` to the wire, stops at 254
MAX_REPEATED = 10_000  # values that aliases may add: twenty lines can stand for billions

_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?"  # a group: no integer
)
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Node(Struct, frozen=True):
    """A value: text (`plain` when it was not quoted), a list or a mapping.

    `where` is `file:line`, or the variable or flag the value came from; `path` is its dotted
    name in the file, empty for variables and flags.
    """

    where: str
    path: str
    value: str | tuple[Node, ...] | Mapping[str, Node]
    plain: bool = True

    @classmethod
    def of(cls, value: str | Mapping[str, Any], where: str) -> Node:
        """A tree that no file says: text, and mappings of it."""
        if isinstance(value, str):
            return cls(where, "", value)
        return cls(where, "", {name: cls.of(child, where) for name, child in value.items()})

    def error(self, message: str) -> ConfigError:
        """The error that names this value; `message` begins with a verb."""
        place = f"{self.where}: {self.path}" if self.path else self.where
        return ConfigError(f"{place} {message}")

    @property
    def null(self) -> bool:
        """Whether nothing is written, or `null`."""
        return self.plain and self.value in ("", "~", "null", "Null", "NULL")

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


_PLACES = frozenset({"key", "admin_key", "auth", "env_file", "on_overflow"})
_EITHER = frozenset({"key", "auth"})  # one takes the other's place


def merge(under: Node, over: Node, *, sections: bool = True) -> Node:
    """Two mappings, key by key; `over` wins. Sections are merged too, one level deep, and the
    limits of each of their `models`: to name one lifts none of another."""
    if not isinstance(over.value, Mapping) or not isinstance(under.value, Mapping):
        return under if over.null and isinstance(under.value, Mapping) else over
    said = _EITHER & over.value.keys()
    merged = {k: v for k, v in under.value.items() if not said or k not in _EITHER - said}
    for name, child in over.value.items():
        # a key, or a file of keys, comes from one place: another one does not add to the first
        known = merged[name].value if name in merged else None
        priced = any(isinstance(v, Mapping) and "as" in v for v in (known, child.value))
        deep = name == "models"
        both = (sections or deep) and name not in _PLACES and not (name == "price" and priced)
        both = both and known is not None
        merged[name] = merge(merged[name], child, sections=deep) if both else child
    return replace(over, value=merged)


def quoted(text: str) -> str:
    """Text in quotation marks, at most 60 characters, control characters escaped."""
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:61])
    return f'"{safe[:60]}…"' if len(safe) > 60 else f'"{safe}"'


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error about an unknown name: the nearest valid name, or all of them."""
    names = list(valid)
    if close := _closest(name, names):
        return f'did you mean "{close}"?'
    return f"there are: {', '.join(names)}"


def _closest(name: str, valid: Iterable[str]) -> str:
    """The valid name that is written alike; empty where none is."""
    import difflib

    return next(iter(difflib.get_close_matches(name.lower()[:100], [*valid], n=1)), "")


# Nodes become values, by type.


@lru_cache
def keys_of(struct: type[Struct]) -> Mapping[str, FieldInfo]:
    """The keys of a section, with the fields of its struct they are read into."""
    derived = getattr(struct, "derived", ())
    return {each.encode_name: each for each in fields(struct) if each.name not in derived}


def read(node: Node, hint: Any) -> Any:
    """The value of a node by type: a section is a dict of what it says, an `object` the node."""
    if hint in (Any, object):
        return node if hint is object else json_value(node)
    if NoneType in get_args(hint):
        if node.null:
            return None
        hint = get_args(hint)[0]
    hint = _one_of(hint, node)
    kind, *_, meta = get_args(hint) if get_origin(hint) is Annotated else (hint, Meta())
    extra = meta.extra or {}
    if isinstance(kind, type) and issubclass(kind, Struct) and "parse" not in extra:
        return _section(node, kind, meta.description)
    if get_origin(kind) is Mapping:
        return _mapping(node, get_args(kind), extra.get("typed", {}))
    if get_origin(kind) is tuple and not ("parse" in extra and isinstance(node.value, str)):
        value: Any = tuple(read(item, get_args(kind)[0]) for item in node.items())
    elif "parse" in extra:
        text = node.value if isinstance(node.value, str) else ""
        fits = text.isprintable() or ("lines" in extra and text == printable(text))
        value = extra["parse"](text if fits else "")
    else:
        value = _scalar(node, kind)
    if kind is not hint or not isinstance(value, tuple):
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            raise _mistake(node, kind, meta) from None
    return value


def _one_of(hint: Any, node: Node) -> Any:
    """The type that is read: of a word or a section, the one that is written."""
    if get_origin(hint) is Union:
        return get_args(hint)[isinstance(node.value, Mapping)]
    return Text if hint is Path else hint


def _mapping(node: Node, hints: Any, typed: Mapping[str, Any]) -> dict[str, Any]:
    """Values by names that are the user's; `typed` are the types of some."""
    (names, values), found = hints, {}
    _, meta = get_args(names)
    for name, child in node.mapping().items():
        if not name.isprintable() or not re.search(meta.pattern, name):
            raise ConfigError(
                f"{child.where}: {node.path} cannot have the name {quoted(name)}, only "
                f"{meta.description}"
            )
        found[name] = read(child, typed.get(name, values))
    return found


def _section(node: Node, struct: type[Struct], choice: str | None) -> dict[str, Any]:
    """What a section says; with `choice`, its description, exactly one of its keys, which may be
    written as a word where it is among the struct's `words`. A struct's `text` is the key that text
    alone stands for."""
    keys = keys_of(struct)
    if isinstance(node.value, str):
        if (alone := getattr(struct, "text", "")) and not node.null:
            node = replace(node, value={alone: node})
        elif choice and node.value in getattr(struct, "words", ()):
            node = replace(node, value={node.value: replace(node, value={})})
    if choice:  # nothing of what is written is shown: it may be a key
        said = node.value if isinstance(node.value, Mapping) else {}
        if len(said) != 1 or not said.keys() <= keys.keys() or any(c.null for c in said.values()):
            meant = (_closest(name, keys) for name in said if name not in keys)
            hint = next((f'; did you mean "{name}"?' for name in meant if name), "")
            raise node.error(f"must be {choice}{hint}")
    entries = node.mapping()
    for name, child in entries.items():
        if name not in keys:
            hint = getattr(struct, "hints", {}).get(name) or nearest(name, keys)
            place = f"{node.path} has" if node.path else "there is"
            raise ConfigError(f"{child.where}: {place} an unknown key {quoted(name)}; {hint}")
    for name, each in keys.items():
        if each.required and name not in entries:
            raise node.error(f"needs {name}")
    return {name: read(child, keys[name].type) for name, child in entries.items()}


def _scalar(node: Node, kind: Any) -> Any:
    """What is written, as the type it should have; None where it is no such thing."""
    text = node.value if isinstance(node.value, str) else None
    if text is None or node.null:
        return None
    if kind is str or get_origin(kind) is Literal:
        return text if text.isprintable() else None
    if not node.plain:
        return None
    if kind is bool:
        return _BOOLEANS.get(text.lower())
    text = text.replace("_", "")
    try:
        value = kind(text) if _NUMBER.fullmatch(text) else None
    except (ValueError, ArithmeticError):
        return None
    return None if kind is Decimal and value and not 0 <= value <= 10**12 else value


def _mistake(node: Node, kind: Any, meta: Meta) -> ConfigError:
    """The error of a value that does not fit; it is shown where it can be no key."""
    text = node.value if isinstance(node.value, str) else None
    if forms := (meta.extra or {}).get("forms"):
        return node.error(f"must be {forms(text or '')}")
    secret = kind is str or get_origin(kind) is tuple
    shown = "a list or mapping" if text is None else quoted(text)
    words = get_args(kind) if get_origin(kind) is Literal else ()
    close = _closest(text, words) if text else ""
    hint = f'; did you mean "{close}"?' if close else ""
    return node.error(f"must be {_expected(kind, meta)}{'' if secret else f', not {shown}'}{hint}")


def _expected(kind: Any, meta: Meta) -> str:
    """What a value must be, for an error."""
    if meta.description:
        return meta.description
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if kind in (bool, Decimal):
        return "true or false" if kind is bool else "a price in USD per million tokens"
    return f"a {'whole ' if kind is int else ''}number from {meta.ge} to {meta.le}"


def json_value(node: Node) -> Any:
    """What a value of `params` means: JSON, read after YAML 1.2, in which `on` and `1:30` are
    text. Raises `ConfigError` for numbers that JSON cannot carry."""
    value = node.value
    if isinstance(value, tuple):
        return [json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {name: json_value(child) for name, child in value.items()}
    if not node.plain:
        return value
    number = _NUMBER.fullmatch(value)
    if number is None:
        return None if node.null else {"true": True, "false": False}.get(value.lower(), value)
    if any(number.groups()):
        if math.isfinite(float(value)):
            return float(value)
    elif len(value) <= 20 and -(2**63) <= int(value) < 2**64:
        return int(value)
    raise node.error("is a number of more than 64 bits; quote it to send it as text")


# Text becomes nodes.


def parse_yaml(raw: bytes, file: str) -> Node | None:
    """The tree of a YAML document, None when it is empty; `file` is its name in messages.

    Raises `ConfigError` for anything that is not one plain YAML document in UTF-8.
    """
    import yaml

    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # its events: libyaml's composer is recursive and crashes on 100,000 brackets
        events = iter(yaml.parse(raw.decode("utf-8-sig"), Loader=loader))
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        root = _Reader(events, file).node(next(events))
        next(events)
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise ConfigError(f"{file}: a configuration is one YAML document; leave out `---`")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(str(part) for part in (error.context, error.problem) if part)
        line = min(mark.line if mark else 0, raw.count(b"\n")) + 1  # not after the last one
        raise ConfigError(f"{file}:{line}: this is not YAML: {what}") from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: this is not UTF-8 text") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # a character that YAML forbids, or a number out of range in `\U` and `%YAML`
        what = str(error).partition("\n")[0]
        raise ConfigError(f"{file}: this is not YAML: {what}") from None
    return root


class _Reader:
    """Reads nodes from PyYAML's `events`; an alias (`*a`) repeats what its anchor (`&a`) named."""

    def __init__(self, events: Iterator[Any], file: str) -> None:
        self._events, self._file = events, file
        self._anchors: dict[str, Node] = {}
        self._repeated = 0

    def node(self, event: Any, path: str = "", at: str = "", depth: int = 0) -> Node:
        """The node that begins with `event`, and those below; `at` is where its key stands."""
        import yaml

        where = at or self._place(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise ConfigError(f"{where}: *{event.anchor} repeats nothing that ends before it")
            return self._repeat(self._anchors[event.anchor], where, path, depth)
        if event.tag or depth > MAX_DEPTH:
            raise self._beyond(where)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(where, path, event.value, plain=not event.style)
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self.node(item, f"{path}[{len(items)}]", "", depth + 1))
            node = Node(where, path, tuple(items))
        else:
            node = Node(where, path, self._entries(path, depth))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _entries(self, path: str, depth: int) -> dict[str, Node]:
        """The entries of a mapping. What `<<` names is merged in below what is written."""
        import yaml

        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            at = self._place(key)
            if not isinstance(key, yaml.ScalarEvent):
                raise ConfigError(f"{at}: a key must be plain text")
            name = key.value
            if name == "<<" and not key.style:
                for each in self.node(next(self._events), path, at, depth + 1).items():
                    merged = {**each.mapping(), **merged}
                continue
            if name in entries:
                first = entries[name].where
                raise ConfigError(f"{at}: {quoted(name)} is written twice, first at {first}")
            below = _below(path, name)
            entries[name] = self.node(next(self._events), below, at, depth + 1)
        return {**merged, **entries}

    def _repeat(self, node: Node, where: str, path: str, depth: int) -> Node:
        """A copy of the node, as if it was written here."""
        self._repeated += 1
        if self._repeated > MAX_REPEATED or depth > MAX_DEPTH:
            raise self._beyond(where)
        value = node.value
        if isinstance(value, tuple):
            copies = (
                self._repeat(item, where, f"{path}[{n}]", depth + 1) for n, item in enumerate(value)
            )
            value = tuple(copies)
        elif isinstance(value, Mapping):
            value = {
                name: self._repeat(child, where, _below(path, name), depth + 1)
                for name, child in value.items()
            }
        return replace(node, where=where, path=path, value=value)

    def _place(self, event: Any) -> str:
        return f"{self._file}:{event.start_mark.line + 1}"

    def _beyond(self, where: str) -> ConfigError:
        return ConfigError(
            f"{where}: tags (!), more than {MAX_DEPTH} levels and more than {MAX_REPEATED:,} "
            "values by aliases (*) are not supported"
        )


def _below(path: str, name: str) -> str:
    """The dotted name of an entry, for messages."""
    return ".".join(filter(None, (path, quoted(name)[1:-1])))
