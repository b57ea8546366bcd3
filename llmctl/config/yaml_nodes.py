"""YAML text as a small tree of nodes, each with its file and line.

PyYAML only finds the structure. `load` reads the meaning from the text, so that a price stays
exact and YAML 1.1's surprises (`010` is eight, `1:30` is ninety) cannot happen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from llmctl.errors import ConfigError

if TYPE_CHECKING:
    import yaml

MAX_NODES = 20_000
"""Values in one file, aliases counted each time: a few lines of aliases to aliases would
otherwise unfold into billions."""

MAX_DEPTH = 40
"""Levels of nesting; orjson, which writes `params` to the wire, stops at 254."""


_JSON_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_JSON_FLOAT = re.compile(
    r"[+-]?([0-9]+\.[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)"
)


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
        return ConfigError(" ".join(filter(None, (self._prefix, self.path, message))))

    @property
    def _prefix(self) -> str:
        return f"{self.where}:" if self.path else self.where

    @property
    def null(self) -> bool:
        """Whether nothing is written, or `null`."""
        return self.bare in {"", "~", "null", "Null", "NULL"}

    @property
    def bare(self) -> str | None:
        """The text of a scalar that is not quoted; None for all other values."""
        return self.value if self.plain and isinstance(self.value, str) else None

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

    def shown(self) -> str:
        """The value for a message: short, without control characters."""
        return quoted(self.value) if isinstance(self.value, str) else "a list or mapping"


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


def parse_yaml(text: str, file: str) -> Node | None:
    """The tree of a YAML document, None when it is empty; `file` is its name in messages.

    Raises `ConfigError` for anything that is not one plain YAML document.
    """
    import yaml

    # Events, not `yaml.compose`: libyaml's composer is recursive and crashes the interpreter on
    # a file of 100,000 brackets.
    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _TreeBuilder(yaml.parse(text, Loader=loader), file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line if mark else 0, text.count("\n")) + 1  # not after the last one
        what = ", ".join(str(part) for part in (error.context, error.problem) if part)
        raise ConfigError(f"{file}:{line}: this is not YAML: {what}") from None
    except yaml.YAMLError as error:
        # a character that YAML forbids; the first line of the message names it
        what = str(error).partition("\n")[0]
        raise ConfigError(f"{file}: this is not YAML: {what}") from None
    except (ValueError, OverflowError):
        # PyYAML's own scanner lets these pass for numbers out of range in `\U` and `%YAML`
        raise ConfigError(f"{file}: this is not YAML: a number is out of range") from None


def json_value(node: Node, depth: int = 0) -> Any:
    """What a value of `params` means: JSON, read after YAML 1.2, in which `on` and `1:30` are
    text. Raises `ConfigError` for what JSON cannot carry."""
    if depth > MAX_DEPTH:  # aliases in aliases go deeper than the text does
        raise node.error(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(node.value, Mapping):
        return {
            _json_text(node, name): json_value(child, depth + 1)
            for name, child in node.value.items()
        }
    if isinstance(node.value, tuple):
        return [json_value(item, depth + 1) for item in node.value]
    return _json_scalar(node, node.value) if node.plain else _json_text(node, node.value)


def _json_scalar(node: Node, text: str) -> Any:
    """What an unquoted scalar means."""
    if node.null:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _JSON_INTEGER.fullmatch(text):
        if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
            raise node.error("is a number with more than 64 bits; quote it to send it as text")
        return int(text)
    if _JSON_FLOAT.fullmatch(text):
        if not math.isfinite(float(text)):
            raise node.error("is too large a number; quote it to send it as text")
        return float(text)
    return _json_text(node, text)


def _json_text(node: Node, value: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise node.error("holds half a character (\\ud800 to \\udfff); write the character itself")
    return value


class _TreeBuilder:
    """Turns PyYAML's events into nodes, within `MAX_NODES` and `MAX_DEPTH`."""

    def __init__(self, events: Iterator[yaml.Event], file: str) -> None:
        self._events = events
        self._file = file
        self._nodes = 0
        self._anchors: dict[str, tuple[Node, int]] = {}

    def document(self) -> Node | None:
        """The one document of the stream."""
        import yaml

        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        root = self._node(next(self._events), "", None, 0)
        next(self._events)  # the document ends
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise ConfigError(
                f"{self._at(after)}: a second document begins here; a configuration is one"
            )
        return root

    def _at(self, event: yaml.Event) -> str:
        mark = event.start_mark
        return f"{self._file}:{mark.line + 1 if mark else 1}"

    def _node(self, event: yaml.Event, path: str, where: str | None, depth: int) -> Node:
        """The node that begins with `event`; the value of a key stands where the key does."""
        import yaml

        where = where or self._at(event)
        before = self._nodes
        self._count(1, depth, where)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise ConfigError(f"{where}: this alias has no anchor before it")
            node, size = self._anchors[event.anchor]
            self._count(size, depth, where)
            return replace(node, where=where, path=path)
        assert isinstance(event, yaml.NodeEvent)
        if (tag := getattr(event, "tag", None)) is not None:
            raise ConfigError(f"{where}: the tag {quoted(tag)} is not supported; leave it out")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(where, path, event.value, plain=event.style in (None, ""))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node(where, path, self._list(path, depth))
        else:
            node = Node(where, path, self._mapping(path, depth))
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._nodes - before)
        return node

    def _list(self, path: str, depth: int) -> tuple[Node, ...]:
        import yaml

        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}[{len(items)}]", None, depth + 1))
        return tuple(items)

    def _mapping(self, path: str, depth: int) -> dict[str, Node]:
        import yaml

        entries: dict[str, Node] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            where = self._at(key)
            if not isinstance(key, yaml.ScalarEvent):
                raise ConfigError(f"{where}: a key must be plain text")
            name = str(key.value)
            if name == "<<":
                raise ConfigError(
                    f"{where}: merge keys (<<) are not supported; write the entries out"
                )
            if name in entries:
                raise ConfigError(
                    f"{where}: {quoted(name)} is written twice, first at {entries[name].where}"
                )
            shown = quoted(name)[1:-1]  # a path is for messages
            below = f"{path}.{shown}" if path else shown
            entries[name] = self._node(next(self._events), below, where, depth + 1)
        return entries

    def _count(self, nodes: int, depth: int, where: str) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ConfigError(
                f"{where}: this holds too much; at most {MAX_NODES} values, "
                f"{MAX_DEPTH} levels deep, are read, counting what aliases repeat"
            )
