"""Writes `llmctl/cli/words.py` from what typer knows: `python -m tests.cli.words`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmctl.cli.program import COMMANDS, program

FILE = Path(__file__).parents[2] / "llmctl" / "cli" / "words.py"
_HEAD = '''"""Names and options of all commands. Written by `python -m tests.cli.words`."""
# ruff: noqa: E501

WORDS = """\\
'''
_TAIL = '''"""
"""A line each: what stands before | the words | values it takes | repeatable | choices | help."""
'''


def text() -> str:
    """What the file should be."""
    lines = [line for path, context in commands() for line in _lines(path, context)]
    return "\n".join([_HEAD + lines[0], *lines[1:], _TAIL])


def commands() -> Iterator[tuple[str, Any]]:
    """Typer's contexts of all of them, with the words that call them; the program's own first."""
    yield "", _context(program(), "llmctl")
    for name in COMMANDS:
        root = program((name,))
        context = _context(root.commands[name], name, _context(root, "llmctl"))
        yield name, context
        for below, inner in getattr(context.command, "commands", {}).items():
            yield f"{name} {below}", _context(inner, below, context)


def _context(command: Any, name: str, parent: Any = None) -> Any:
    return command.make_context(name, [], parent=parent, resilient_parsing=True)


def _lines(path: str, context: Any) -> Iterator[str]:
    for name, below in getattr(context.command, "commands", {}).items():
        yield _line(path, name, "", "", "", below.get_short_help_str())
    for param in context.command.get_params(context):
        choices = param.type_descriptor.choices if param.type_descriptor.is_choice else ()
        if param.param_type_name != "option" or param.hidden:
            assert not choices, "an argument's choices are not known"
            continue
        yield _line(
            path,
            " ".join(sorted([*param.opts, *param.secondary_opts], key=_short)),
            "0" if param.is_flag or param.count else str(param.nargs),
            "+" if param.multiple else "",
            " ".join(choice.value for choice in choices),
            param.help or "",
        )


def _short(name: str) -> bool:
    """Long names come first: those of `--help` are a set to typer."""
    return not name.startswith("--")


def _line(*columns: str) -> str:
    plain = [" ".join(column.split()) for column in columns]
    assert not any("|" in column or '"""' in column or "\\" in column for column in plain)
    return "|".join(plain)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
