"""All commands, put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.main

import llmctl
from llmctl.cli import ask, batch, cache, cost, keys, local, models, profiles
from llmctl.errors import EXIT_CODES

_EXIT_CODES = "\n".join(f"  {code:<10}{meaning}" for code, meaning in EXIT_CODES)
_EPILOG = f"\b\nExit codes:\n{_EXIT_CODES}"


def program() -> Any:
    """The whole program as one callable command of typer's own kind, which has no public name."""
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

    app.command("ask", epilog=_EPILOG)(ask.command)
    app.command("batch", epilog=_EPILOG)(batch.command)
    app.add_typer(keys.app, name="keys")
    app.add_typer(cost.app, name="cost")
    app.add_typer(cache.app, name="cache")
    app.add_typer(profiles.app, name="profiles")
    app.command("models", epilog=_EPILOG)(models.command)
    app.add_typer(local.app, name="local")
    whole: Any = typer.main.get_command(app)
    ask.take_pairs(whole.commands["ask"])
    return whole
