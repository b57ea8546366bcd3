"""Jinja2 templates over a record's fields: the template is the user's, the records may not be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmctl.batch.questions import RowError, known_keys
from llmctl.errors import InputError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

MAX_TEXT = 64 << 20
"""Characters a template may give for one record: as much as a line of the input may hold."""

_MAX_BITS = 1 << 20
_PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))


class Template:
    """A compiled template: called with a record's fields, gives the prompt.

    A field is named directly, or as `row["any name"]` where its name is no identifier.
    """

    def __init__(self, given: str, limit: int = MAX_TEXT) -> None:
        """`given` is the text, or `@FILE`. Raises `InputError` when it cannot be read or
        compiled."""
        from jinja2 import TemplateSyntaxError

        self._name, text = _read(given)
        self._limit = limit
        try:
            text.encode()
            self._template = _environment(limit).from_string(text)
        except TemplateSyntaxError as error:
            raise InputError(f"{self._name}, line {error.lineno}: {error.message}") from error
        except (UnicodeEncodeError, RecursionError, MemoryError, OverflowError) as error:
            raise InputError(f"{self._name} cannot be compiled: {error}") from error

    def __call__(self, fields: Mapping[str, Any]) -> str:
        """The prompt. Raises `RowError` for an undefined name, a forbidden access, or whatever
        else goes wrong while the template computes."""
        from jinja2 import UndefinedError
        from jinja2.exceptions import SecurityError

        try:
            text = self._render(fields)
            text.encode()
        except RowError:
            raise
        except UndefinedError as error:
            raise RowError(f"{self._name}: {error.message}{known_keys(fields)}") from error
        except SecurityError as error:
            raise RowError(f"{self._name}: not allowed: {error.message}") from error
        except UnicodeEncodeError as error:
            raise RowError(f"{self._name} gives text that is not valid Unicode") from error
        except Exception as error:  # a template computes: anything may come out of it
            raise RowError(f"{self._name} fails: {type(error).__name__}: {error}") from error
        return text

    def _render(self, fields: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate({"row": fields, **fields}):
            size += len(piece)
            if size > self._limit:
                raise RowError(f"{self._name} gives more than {self._limit >> 20} MiB of text")
            pieces.append(piece)
        return "".join(pieces)


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


def _environment(limit: int) -> SandboxedEnvironment:
    """Jinja2's sandbox, which also refuses to compute values of gigabytes.

    The sandbox itself bars attributes of Python's insides and long ranges.
    """
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**"))

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if operator == "*" and _product(left, right) > limit:
                raise SecurityError("the product is too large")
            if operator == "**" and _power(left, right) > _MAX_BITS:
                raise SecurityError("the power is too large")
            return super().call_binop(context, operator, left, right)

        def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
            wide = (*args, *kwargs.values())
            if getattr(obj, "__name__", "") in _PADDING and any(
                isinstance(width, int) and width > limit for width in wide
            ):
                raise SecurityError("the width is too large")
            return super().call(context, obj, *args, **kwargs)

    environment = Environment(undefined=StrictUndefined, autoescape=False)
    del environment.globals["lipsum"]  # makes as much text as a number says
    return environment


def _product(left: Any, right: Any) -> int:
    """How long `left * right` would be: items of a sequence, or bits of a number."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(times, int):
            return len(sequence) * max(times, 0)
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    return 0


def _power(left: Any, right: Any) -> int:
    """How many bits `left ** right` would have."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * max(right, 0)
    return 0
