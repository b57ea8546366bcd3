"""Jinja2 templates over a record's fields: the template is the user's, the records may not be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from string import Formatter
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llmctl.batch.rows import RowError, field_names
from llmctl.errors import InputError

MAX_TEXT = 64 << 20
"""Characters a template may give for one record, and any text on the way: as much as a line of
the input may hold."""

_WORK = 4
"""How many times as much all texts on the way may have together."""

_MAX_BITS = 1 << 20


class Template:
    """A compiled template: called with a record's fields, gives the prompt.

    A field is named directly, or as `row["any name"]` where its name is no identifier.
    """

    def __init__(self, given: str, limit: int = MAX_TEXT) -> None:
        """`given` is the text, or `@FILE`. Raises `InputError` when it cannot be read or
        compiled."""
        self._name, text = _read(given)
        self._sandbox = BoundedSandbox(limit)
        try:
            text.encode()
            self._template = self._sandbox.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{self._name}, line {error.lineno}: {error.message}") from error
        except (UnicodeEncodeError, RecursionError, MemoryError, OverflowError) as error:
            raise InputError(f"{self._name} cannot be compiled: {error}") from error

    def __call__(self, fields: Mapping[str, Any]) -> str:
        """The prompt. Raises `RowError` for an undefined name, a forbidden access, a text that
        grows too large, or whatever else goes wrong while the template computes."""
        self._sandbox.made = 0
        try:
            text = self._template.render({"row": fields, **fields})
            text.encode()
        except jinja2.UndefinedError as error:
            raise RowError(f"{self._name}: {error.message}{field_names(fields)}") from error
        except SecurityError as error:
            raise RowError(f"{self._name}: not allowed: {error.message}") from error
        except UnicodeEncodeError as error:
            raise RowError(f"{self._name} gives text that is not valid Unicode") from error
        except Exception as error:  # a template computes: anything may come out of it
            raise RowError(f"{self._name} fails: {type(error).__name__}: {error}") from error
        return text


def _read(given: str) -> tuple[str, str]:
    """What messages call the template, and its text."""
    if not given.startswith("@"):
        return "--template", given
    path = given[1:]
    try:
        return path, Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the template {path} is not valid UTF-8: convert it") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the template {path or '@'}: {why}") from error


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with a bound on the text that one rendering makes, on its way included.

    The sandbox itself bars attributes of Python's insides and long ranges. What makes a long text
    from a short template (a width, a factor, a separator) is estimated before it is computed, and
    every result is counted in `made`, so that a loop that appends ends, too.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, limit: int) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False)
        self.made = 0
        self._limit = limit
        self.concat = self.concatenate  # type: ignore[method-assign]
        self.filters = {
            name: self._counted(function, _FILTERS.get(name))
            for name, function in self.filters.items()
        }
        del self.globals["lipsum"]  # makes as much text as a number says

    def concatenate(self, parts: Iterable[Any]) -> str:
        """The parts as one text: how Jinja2 puts outputs, blocks and `a ~ b` together."""
        found: list[str] = []
        size = 0
        for part in parts:
            found.append(str(part))
            size += len(found[-1])
            self._check(size)
        text: str = self._count("".join(found))
        return text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operator's result. Raises `SecurityError` where it would be too large."""
        if operator == "**" and _power_bits(left, right) > _MAX_BITS:
            raise SecurityError("the power is too large")
        self._check(_binary_size(operator, left, right))
        return self._count(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """The call's result. Raises `SecurityError` where it would be too large."""
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps `str.format`
        size = _METHODS.get(getattr(method, "__name__", ""))
        if size is not None and hasattr(method, "__self__"):
            own = {name: value for name, value in kwargs.items() if name[0] != "_"}  # not Jinja2's
            self._check(size(method.__self__, *args, **own))
        return self._count(super().call(context, obj, *args, **kwargs))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Concatenations().visit(super()._parse(source, name, filename))
        return tree

    def _counted(
        self, function: Callable[..., Any], size: Callable[..., int] | None
    ) -> Callable[..., Any]:
        passed = int(hasattr(function, "jinja_pass_arg"))

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if size is not None:
                value = args[passed]
                if not hasattr(value, "__len__") and isinstance(value, Iterable):
                    args = (*args[:passed], list(value), *args[passed + 1 :])
                self._check(size(*args[passed:], **kwargs))
            return self._count(function(*args, **kwargs))

        return call

    def _check(self, size: int) -> None:
        if size > self._limit or self.made + size > _WORK * self._limit:
            raise SecurityError("the text is too large")

    def _count(self, result: Any) -> Any:
        size = _length(result)
        self._check(size)
        self.made += size
        return result


class _Concatenations(NodeTransformer):
    """Makes `a ~ b` a call of `BoundedSandbox.concatenate`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja2's name
        """The call."""
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        function = nodes.EnvironmentAttribute("concatenate", lineno=node.lineno)
        return nodes.Call(function, [parts], [], None, None, lineno=node.lineno)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple) else 0


def _binary_size(operator: str, left: Any, right: Any) -> int:
    """The length of `left operator right`: characters, items of a list, or bits of a number."""
    if operator == "+":
        return _length(left) + _length(right)
    if operator == "%" and isinstance(left, str):
        return _printf_size(left, *(right if isinstance(right, tuple) else (right,)))
    if operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(times, int) and _length(sequence):
                return _length(sequence) * max(times, 0)
        if isinstance(left, int) and isinstance(right, int):
            return left.bit_length() + right.bit_length()
    return 0


def _power_bits(left: Any, right: Any) -> int:
    numbers = isinstance(left, int) and isinstance(right, int)
    return left.bit_length() * max(right, 0) if numbers else 0


def _printf_size(text: Any, *args: Any, **kwargs: Any) -> int:
    """The most characters of `text % args`."""
    return _format_size([" ".join(found) for found in _PRINTF(str(text))], args, kwargs)


def _brace_size(text: Any, *args: Any, **kwargs: Any) -> int:
    """The most characters of `text.format(*args, **kwargs)`."""
    fields = Formatter().parse(str(text))
    return _format_size(
        [spec or "" for _, name, spec, _ in fields if name is not None], args, kwargs
    )


def _format_size(specs: list[str], args: Iterable[Any], kwargs: Mapping[str, Any]) -> int:
    """Of fields with these widths and precisions; `*` and `{…}` in them stand for a value."""
    values = [*kwargs.values()]
    for arg in args:
        values += arg.values() if isinstance(arg, Mapping) else (arg,)
    size = sum(int(digits) for spec in specs for digits in _DIGITS(spec))
    if any("*" in spec or "{" in spec for spec in specs):
        size += sum(abs(value) for value in values if isinstance(value, int))
    return size + len(specs) * max(map(_length, values), default=0)


_PRINTF = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?").findall
_DIGITS = re.compile(r"\d+").findall


def _width(_: Any, width: Any = 0, *__: Any, **named: Any) -> int:
    """Of what is as long as its argument says: padding, parts of a list, bytes of a number."""
    return max((n for n in (width, *named.values()) if isinstance(n, int)), default=0)


def _indent_size(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return (str(text).count("\n") + 1) * (width if isinstance(width, int) else len(width))


def _tabs_size(text: Any, tabsize: int = 8) -> int:
    return len(text) * tabsize


def _replace_size(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return len(str(text)) + str(text).count(str(old)) * len(str(new))


def _join_size(items: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return sum(_length(item) + len(str(d)) for item in items)


def _wrap_size(text: Any, *args: Any, **named: Any) -> int:
    end = named.get("wrapstring") or (args[2] if len(args) > 2 else "") or ""
    return len(str(text)) * (len(end) or 1)


def _json_size(value: Any, indent: int | None = None) -> int:
    return len(str(value)) * indent if indent else 0


_FILTERS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "batch", "slice"), _width),
    "indent": _indent_size,
    "format": _printf_size,
    "replace": _replace_size,
    "join": _join_size,
    "wordwrap": _wrap_size,
    "tojson": _json_size,
}
"""The filters that can make much of little, each with the size of what it would give."""

_METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes"), _width),
    **dict.fromkeys(("format", "format_map"), _brace_size),
    "expandtabs": _tabs_size,
    "replace": _replace_size,
    "join": lambda separator, items: _join_size(items, separator),
}
"""The methods that can, likewise."""
