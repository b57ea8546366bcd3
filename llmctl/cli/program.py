"""All commands, put together; only the one that is asked for is loaded.

Loading every command takes ten times as long as Python's own start, and a shell's completion or
a cached answer needs one of them at the most: the others are stood in for by their summaries.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Annotated, Any

import typer
import typer.core
import typer.main

import llmctl
from llmctl.errors import EXIT_CODES

_EXIT_CODES = "\n".join(f"  {code:<10}{meaning}" for code, meaning in EXIT_CODES)
_EPILOG = f"\b\nExit codes:\n{_EXIT_CODES}"

COMMANDS = {
    "ask": "Ask one prompt and print the answer.",
    "batch": "Answer every row of a file.",
    "keys": "Store, list, check, rotate and remove provider keys.",
    "cost": "Report spending, check it against budgets, settle what is unknown, show the prices.",
    "cache": "Show what is kept of answers and what it saved; remove it.",
    "profiles": "List, show and begin the configuration of providers.",
    "models": "List the models that the provider offers this key.",
    "local": "Install, inspect and remove the embedded model of the profile `local`.",
}
"""Every command with its summary, in the order of `--help`. `cli/NAME.py` has a `command`, or,
for a group of them, an `app`."""


def program(words: Sequence[str] = ()) -> Any:
    """The program as one callable command of typer's own kind, which has no public name.

    `words` are those of the command line: only the command they name can be called.
    """
    app = typer.Typer(
        name="llmctl",
        help="Ad-hoc and batch calls to language models.",
        epilog=_EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
        ] = False,
    ) -> None:
        if version:
            print(f"llmctl {llmctl.__version__}")
            raise typer.Exit

    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == wanted:
            _load(app, name)
        else:
            app.command(name, help=summary)(_stand_in)
    whole: Any = typer.main.get_command(app)
    whole.commands = {name: whole.commands[name] for name in COMMANDS}
    if wanted == "ask":
        from llmctl.cli.ask import take_pairs

        take_pairs(whole.commands["ask"])
    return whole


def words_of(argv: Sequence[str], environ: Mapping[str, str]) -> Sequence[str]:
    """The words of the command line, or of the one that a shell wants completed (typer's scripts
    for bash and for the other shells hand it over in one of two variables)."""
    if "_LLMCTL_COMPLETE" not in environ:
        return argv[1:]
    line = environ.get("_TYPER_COMPLETE_ARGS") or environ.get("COMP_WORDS", "")
    return line.split()[1:]


def main() -> None:
    """Run the command line."""
    program(words_of(sys.argv, os.environ))()


def _load(app: typer.Typer, name: str) -> None:
    module = importlib.import_module(f"llmctl.cli.{name}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name, epilog=_EPILOG)(module.command)


def _stand_in() -> None:
    """A command whose turn it is not."""


class _Lazy:
    """Stands before what converts a parameter's values, which is made when it is needed.

    Most values need no conversion, but to find that out typer imports pydantic, which takes
    longer than all the rest of a start.
    """

    def __init__(self, parameter: Any, convert: Callable[[Any], Any]) -> None:
        self._convert: Callable[[], Any] = partial(convert, parameter)
        kind, about = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
        plain = kind in (str, int, bool) or (isinstance(kind, type) and issubclass(kind, Enum))
        bounded = about.min is not None or about.max is not None or about.parser is not None
        self._kind = kind if plain and not bounded else None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command gets it."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if type(value) is self._kind:
            return value
        return self._convert().coerce(value, param=param, ctx=ctx)


def _lighten(kind: Any) -> None:
    convert = kind.get_runtime_param
    kind.get_runtime_param = lambda parameter: _Lazy(parameter, convert)


_lighten(typer.core.TyperOption)
_lighten(typer.core.TyperArgument)
