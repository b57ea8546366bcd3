"""The program `llmctl`: its commands, its help, and its version."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import llmctl

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command line; a bare `--version` answers before typer is imported."""
    _fill_closed_streams()
    if sys.argv[1:] == ["--version"]:
        print(f"llmctl {llmctl.__version__}")
        return
    try:
        program()()
    except KeyboardInterrupt:  # while modules come in; a running command handles it itself
        sys.exit(130)


def _fill_closed_streams() -> None:
    """Put something that refuses in the place of standard streams that are closed: the first file
    that is opened would get its number, and what is written to that stream."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if fd else os.O_WRONLY)
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:  # words for nobody
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def program() -> "typer.Typer":
    """All commands. Their modules parse; what they need to work they import then."""
    import typer

    from llmctl.cli import cache_commands, cost, keys, local_commands, models, profiles_commands
    from llmctl.cli.ask import AskOptions
    from llmctl.cli.batch import BatchOptions
    from llmctl.cli.context import Context
    from llmctl.cli.options import EPILOG, command

    app = typer.Typer(
        name="llmctl",
        help="Ad-hoc and batch calls to language models.",
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def root(
        *,
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
        ] = False,
    ) -> None:
        if version:
            print(f"llmctl {llmctl.__version__}")
            raise typer.Exit

    @command(app, "ask", "profile", "model", "config", "json", options=AskOptions)
    def ask(context: Context, options: AskOptions) -> int:
        from llmctl.cli.ask_run import run

        return run(options, context)

    @command(app, "batch", "profile", "model", "config", "json", options=BatchOptions)
    def batch(context: Context, options: BatchOptions) -> int:
        from llmctl.cli.batch_run import run

        return run(options, context)

    app.add_typer(keys.app, name="keys")
    app.add_typer(cost.app, name="cost")
    app.add_typer(cache_commands.app, name="cache")
    app.add_typer(profiles_commands.app, name="profiles")
    command(app, "models", "profile", "config", "json")(models.models)
    app.add_typer(local_commands.app, name="local")
    return app
