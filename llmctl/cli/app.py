"""The program `llmctl`: its commands, its help, and its version."""

import sys
from importlib import import_module

import llmctl
from llmctl.cli.streams import SIGPIPE, open_streams

TYPE_CHECKING = False  # not typing's: that takes longer to import than all else here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import typer

    from llmctl.cli.context import Context

_PLAIN = {"a valid int range": "a whole number", "a valid float range": "a number"}
"""How typer words what a bounded number is not, and what is said instead."""


def main() -> None:
    """Run the command line; a bare `--version` answers before typer is imported."""
    if sys.platform != "win32" and sys.argv[1:] != ["--version"]:
        import resource

        # A dump of the memory would hold keys and prompts. Where Linux is set up to hand dumps to a
        # program it does so at a limit of 0, too (core(5)), but not at 1, its sign for a dump that
        # is not wanted (fs/coredump.c); and a file of one byte is never written.
        allowed = resource.getrlimit(resource.RLIMIT_CORE)[1]
        most = 1 if sys.platform == "linux" and allowed else 0
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    stdout = open_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:  # while modules come in; a running command handles it itself
        code = 130
    except SystemExit as end:  # typer's: completion, or a reader of its help who has gone
        code = end.code if isinstance(end.code, int) else 1
    except Exception as error:
        if error is not stdout.failure:
            raise
        from llmctl.cli.output import say

        say(f"error: {error}")
        code = 74
    if isinstance(stdout.failure, BrokenPipeError) and code == 1:
        code = SIGPIPE
    sys.exit(code)


def _run() -> int:
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"llmctl {llmctl.__version__}\n")
        return 0
    # Parsers of the others need not be made: that takes longer than most of the work.
    app = program([name for name in sys.argv[1:2] if name in _COMMANDS])
    try:
        return app(standalone_mode=False) or 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer says of a wrong command line
            raise
        from llmctl.cli.output import say

        words: str = error.format_message()
        if not words.startswith("Usage:"):  # the help, where a group of commands stands alone
            command = getattr(getattr(error, "ctx", None), "command_path", "llmctl")
            for theirs, plain in _PLAIN.items():
                words = words.replace(theirs, plain)
            words = words.rstrip(".")
            words = f"error: {words[:1].lower()}{words[1:]} (see `{command} -h`)"
        say(words)
        return 2


def program(names: "Iterable[str]" = ()) -> "typer.Typer":
    """The commands of these names; all without any. Their modules parse; what they need to work
    they import then."""
    from typing import Annotated

    import typer

    from llmctl.cli.options import EPILOG, show_version

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
        show_version(wanted=version)

    for name in names or _COMMANDS:
        _COMMANDS[name](app)
    return app


def _ask(app: "typer.Typer") -> None:
    from llmctl.cli.ask import AskOptions
    from llmctl.cli.options import command

    @command(app, "ask", "profile", "model", "config", "json", options=AskOptions)
    def ask(context: "Context", options: AskOptions) -> int:
        from llmctl.cli.ask_run import run

        return run(options, context)


def _batch(app: "typer.Typer") -> None:
    from llmctl.cli.batch import BatchOptions
    from llmctl.cli.options import command

    @command(app, "batch", "profile", "model", "config", "json", options=BatchOptions)
    def batch(context: "Context", options: BatchOptions) -> int:
        from llmctl.cli.batch_run import run

        return run(options, context)


def _compare(app: "typer.Typer") -> None:
    from llmctl.cli.compare import CompareOptions
    from llmctl.cli.options import command

    @command(app, "compare", "config", "json", options=CompareOptions)
    def compare(context: "Context", options: CompareOptions) -> int:
        from llmctl.cli.compare_run import run

        return run(options, context)


def _serve(app: "typer.Typer") -> None:
    from llmctl.cli.options import command
    from llmctl.cli.serve import ServeOptions

    @command(app, "serve", "config", "json", options=ServeOptions)
    def serve(context: "Context", options: ServeOptions) -> int:
        from llmctl.cli.serve import run

        return run(options, context)


def _queue(app: "typer.Typer") -> None:
    from llmctl.cli import queue
    from llmctl.cli.options import command

    @command(queue.app, "run", "config", "json", options=queue.QueueRunOptions)
    def run_queue(context: "Context", options: queue.QueueRunOptions) -> int:
        from llmctl.cli.queue_run import run

        return run(options, context)

    app.add_typer(queue.app)


def _prompt(app: "typer.Typer") -> None:
    from llmctl.cli import prompt
    from llmctl.cli.options import command

    @command(prompt.app, "lint", "profile", "model", "config", "json", options=prompt.LintOptions)
    def lint(context: "Context", options: prompt.LintOptions) -> int:
        from llmctl.cli.prompt_run import run

        return run(options, context)

    app.add_typer(prompt.app)


def _route(app: "typer.Typer") -> None:
    from llmctl.cli import route
    from llmctl.cli.options import command

    @command(route.app, "train", "profile", "config", "json", options=route.TrainOptions)
    def train(context: "Context", options: route.TrainOptions) -> int:
        from llmctl.cli.route_run import run_train

        return run_train(options, context)

    @command(route.app, "eval", "profile", "config", "json", options=route.EvalOptions)
    def evaluate(context: "Context", options: route.EvalOptions) -> int:
        from llmctl.cli.route_run import run_eval

        return run_eval(options, context)

    app.add_typer(route.app)


def _add(module: str) -> "Callable[[typer.Typer], None]":
    """What adds the commands of a module that imports its work by itself."""
    return lambda app: app.add_typer(import_module(f"llmctl.cli.{module}").app)


_COMMANDS = {
    "ask": _ask,
    "batch": _batch,
    "compare": _compare,
    "serve": _serve,
    "metrics": _add("metrics"),
    "report": _add("report"),
    "models": _add("models"),
    "keys": _add("keys"),
    "cost": _add("cost"),
    "cache": _add("cache_commands"),
    "profiles": _add("profiles_commands"),
    "local": _add("local_commands"),
    "history": _add("history_commands"),
    "tokens": _add("tokens_commands"),
    "pii": _add("pii_commands"),
    "route": _route,
    "prompt": _prompt,
    "queue": _queue,
    "audit": _add("audit"),
    "alerts": _add("alerts"),
    "limits": _add("limits"),
}
"""What adds each command, or group of commands, in the order of the help."""
