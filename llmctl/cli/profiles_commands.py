"""`llmctl profiles`: what is configured, from where, and a file to begin with."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group

app = command_group("List, show and begin the configuration of providers.")


@command(app, "list", "config", "json")
def list_profiles(context: Context) -> int:
    """List all profiles; * marks the one used without -p.

    KEY says whether the variable that should hold a profile's key is set; nothing is sent.
    """
    from llmctl.cli.profiles_run import run_list

    return run_list(context)


@command(app, "show", "config", "json")
def show(context: Context, name: Annotated[str, Argument(help="Profile to show.")]) -> int:
    """Show one profile, complete.

    It is printed as a configuration file would say it, with everything it inherits from its
    provider and what LLMCTL_ variables change; first, where it comes from and whether its key
    is found (the key itself is never shown).
    """
    from llmctl.cli.profiles_run import run_show

    return run_show(name, context)


@command(app, "init")
def init(
    context: Context,
    force: Annotated[bool, Option("--force", help="Overwrite the file when it exists.")] = False,
) -> int:
    """Write a configuration file to begin with; print where it is."""
    from llmctl.cli.profiles_run import run_init

    return run_init(context, force=force)


@command(app, "trust")
def trust(
    context: Context,
    revoke: Annotated[bool, Option("--revoke", help="Trust the project's file no more.")] = False,
) -> int:
    """Trust the project's llmctl.yaml, as it is now.

    A project's configuration may choose models, parameters and limits unasked. Where keys and
    prompts go (base_url, key, a command, …) it may say only when you trust the file: read it
    first. The trust is for this path and these bytes: any change ends it.
    """
    from llmctl.cli.profiles_run import run_trust

    return run_trust(context, revoke=revoke)
