"""`llmctl profiles`: what is configured, from where, and a file to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import (
    EPILOG,
    ConfigOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    command_group,
)

app = command_group("List, show and begin the configuration of providers.")


@app.command("list", epilog=EPILOG)
def list_command(
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List all profiles; * marks the one used without -p.

    The built-in profiles are listed too. KEY says whether the variable that should hold a
    profile's key is set; nothing is sent.
    """
    from llmctl.cli.profiles_run import run_list

    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_list(context), context)


@app.command("show", epilog=EPILOG)
def show_command(
    name: Annotated[str, typer.Argument(help="Profile to show.")],
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show one profile, complete.

    It is printed as a configuration file would say it, with everything it inherits from its
    provider and what LLMCTL_ variables change; first, where it comes from and whether its key
    is found (the key itself is never shown).
    """
    from llmctl.cli.profiles_run import run_show

    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_show(name, context), context)


@app.command("init", epilog=EPILOG)
def init_command(
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file when it exists.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Write a configuration file to begin with.

    Every line of it is a comment until you change it. Prints where it is.
    """
    from llmctl.cli.profiles_run import run_init

    context = Context(quiet=quiet, verbose=verbose)
    exit_with(lambda: run_init(context, force=force), context)


@app.command("trust", epilog=EPILOG)
def trust_command(
    *,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Trust the project's file no more.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Trust the project's llmctl.yaml, as it is now.

    A project's configuration may choose models, parameters and limits unasked. Where keys and
    prompts go (base_url, key, a command, …) it may say only when you trust the file: read it
    first. The trust is for this path and these bytes: any change ends it.
    """
    from llmctl.cli.profiles_run import run_trust

    context = Context(quiet=quiet, verbose=verbose)
    exit_with(lambda: run_trust(context, revoke=revoke), context)
