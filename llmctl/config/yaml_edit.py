"""Edits of a configuration file's text: numbers are set, and everything else stays as it is.

PyYAML says where in the text a value is. What comes out is read again, and must say what the file
said before, but for these numbers; where it does not, there is no edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmctl.config.yaml_nodes import Node, parse_yaml
from llmctl.errors import ConfigError

if TYPE_CHECKING:
    import yaml

Path = tuple[str, ...]
"""Keys, from the top of the file to a value."""

_BOM = "\ufeff"
_STEP = "  "  # how far a section that is new is indented


class NotEditable(Exception):
    """The file is written in a way that cannot be edited safely; says why."""


def edited(raw: bytes, values: Mapping[Path, int]) -> bytes:
    """The file with these numbers in it; sections that are not there are added. Raises
    `NotEditable`, and `ConfigError` for a file that is not YAML."""
    text = raw.decode("utf-8-sig")
    mark = _BOM if raw.startswith(_BOM.encode()) else ""
    wanted = _plain(parse_yaml(raw, "the file") if raw else None)
    for path, number in values.items():
        if not _set(wanted, path, number):
            continue
        text = _written(text, path, number)
    after = (mark + text).encode()
    try:
        found = _plain(parse_yaml(after, "the file") if after else None)
    except ConfigError:
        raise NotEditable("it repeats (*) what would change") from None
    if found != wanted:
        raise NotEditable("it repeats (* or <<) what would change, or is laid out unusually")
    return after


def as_yaml(values: Mapping[Path, int]) -> str:
    """The numbers as they stand in a file, a section a line but for the innermost one."""
    text = ""
    for path, number in values.items():
        text = _written(text, path, number)
    return text


def _plain(node: Node | None) -> Any:
    """The meaning of a tree, without places; texts are told from what is not quoted."""
    if node is None:
        return {}
    if isinstance(node.value, tuple):
        return [_plain(item) for item in node.value]
    if isinstance(node.value, Mapping):
        return {name: _plain(child) for name, child in node.value.items()}
    return {} if node.null else (node.value, node.plain)


def _set(tree: Any, path: Path, number: int) -> bool:
    """Put the number into the tree; False where it is there already. Raises `NotEditable`."""
    for above, name in zip(("the file", *path), path[:-1], strict=False):
        if not isinstance(tree, dict):
            raise NotEditable(f"{above} is no section there")
        tree = tree.setdefault(name, {})
    if not isinstance(tree, dict):
        raise NotEditable(f"{path[-2]} is no section there")
    old = tree.get(path[-1])
    if isinstance(old, tuple) and old[0].replace("_", "") == str(number):
        return False
    tree[path[-1]] = (str(number), True)
    return True


def _written(text: str, path: Path, number: int) -> str:
    """The text with the number in its place."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # the number before this one took away what something repeats
        raise NotEditable("it repeats (*) what would change") from None
    if root is None or _is_empty(root):
        lines = _section(path, number, "", _newline(text))
        return text + ("" if not text or text.endswith("\n") else _newline(text)) + lines
    node, depth = root, 0
    while isinstance(node, yaml.MappingNode):
        key, value = _child(node, path[depth])
        if key is None:
            return _added(text, node, path[depth:], number)
        if value.start_mark.index < key.end_mark.index:
            raise NotEditable(f"{path[depth]} repeats another part of it (*)")
        node, depth = value, depth + 1
        if depth == len(path):
            break
    if not isinstance(node, yaml.ScalarNode):
        raise NotEditable(f"{path[depth - 1]} is no number there")
    inner = _inline(path[depth:], number)
    start, end = node.start_mark.index, node.end_mark.index
    return text[:start] + (" " if start == end else "") + inner + text[end:]


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node.value, str) and not node.value and not node.style  # type: ignore[attr-defined]


def _child(node: yaml.MappingNode, name: str) -> tuple[Any, Any]:
    for key, value in node.value:
        if key.value == name:
            return key, value
    return None, None


def _added(text: str, node: yaml.MappingNode, path: Path, number: int) -> str:
    """The text with an entry more in a mapping: behind its last one, or, where the end of that
    cannot be told, before its first."""
    entry = f"{_key(path[0])}: {_inline(path[1:], number)}"
    if node.flow_style:
        if not node.value:
            at = node.start_mark.index + 1
            return text[:at] + entry + text[at:]
        at = _flow_end(*node.value[-1])
        return f"{text[:at]}, {entry}{text[at:]}"
    first = node.value[0][0].start_mark
    start = first.index - first.column
    indent = text[start : first.index]
    if indent.strip():
        raise NotEditable("a section of it does not begin on a line of its own")
    key, value = node.value[-1]
    newline, end = _newline(text), _end(key.end_mark.index, value)
    lines = _section(path, number, indent, newline)
    if end is None:
        return text[:start] + lines + text[start:]
    at = text.find("\n", end) + 1
    if at == 0:
        return text + newline + lines
    return text[:at] + lines + text[at:]


def _flow_end(key: yaml.Node, value: yaml.Node) -> int:
    """Where the last entry of a mapping in braces ends."""
    if value.start_mark.index < key.end_mark.index:
        raise NotEditable("a section of it ends in a repetition (*)")
    return max(int(value.end_mark.index), int(key.end_mark.index))


def _end(start: int, value: yaml.Node) -> int | None:
    """An index within the last line of a value, which begins behind `start`; None: not to be told
    (a text of several lines)."""
    import yaml

    if value.start_mark.index < start:  # what a `*` repeats stands elsewhere
        return start
    if isinstance(value, yaml.ScalarNode):
        return None if value.style in ("|", ">") else int(value.end_mark.index)
    if not isinstance(value, yaml.CollectionNode) or value.flow_style or not value.value:
        return int(value.end_mark.index)
    last = value.value[-1]
    if isinstance(last, tuple):
        return _end(int(last[0].end_mark.index), last[1])
    return _end(int(value.start_mark.index), last)


def _section(path: Path, number: int, indent: str, newline: str) -> str:
    """An entry as lines of their own: the innermost section in braces."""
    *outer, name = path[:-1] or path
    lines = ""
    for each in outer:
        lines += f"{indent}{_key(each)}:{newline}"
        indent += _STEP
    inner = _inline(path[len(outer) + 1 :], number)
    return f"{lines}{indent}{_key(name)}: {inner}{newline}"


def _inline(path: Sequence[str], number: int) -> str:
    """A value below a path, in braces."""
    if not path:
        return str(number)
    return f"{{{_key(path[0])}: {_inline(path[1:], number)}}}"


def _key(name: str) -> str:
    """A name as a key: in quotation marks where YAML could take it for something else."""
    import re

    plain = re.fullmatch(r"[A-Za-z][\w./-]*", name)
    return name if plain else "'" + name.replace("'", "''") + "'"


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
