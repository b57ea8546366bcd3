"""The program `llmctl`: its commands, its help, and its version."""

import sys
from typing import TYPE_CHECKING, Annotated

import llmctl
from llmctl.cli.streams import SIGPIPE, open_streams

if TYPE_CHECKING:
    import typer


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
    app = program()
    try:
        return app(standalone_mode=False) or 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer says of a wrong command line
            raise
        from llmctl.cli.output import say

        words: str = error.format_message()
        if not words.startswith("Usage:"):  # the help, where a group of commands stands alone
            command = getattr(getattr(error, "ctx", None), "command_path", "llmctl")
            words = words.replace("Value error, ", "").rstrip(".")
            words = f"error: {words[:1].lower()}{words[1:]} (see `{command} -h`)"
        say(words)
        return 2


def program() -> "typer.Typer":
    """All commands. Their modules parse; what they need to work they import then."""
    import typer

    from llmctl.cli import (
        alerts,
        audit,
        cache_commands,
        cost,
        history_commands,
        keys,
        limits,
        local_commands,
        metrics,
        models,
        pii_commands,
        profiles_commands,
        queue,
        report,
        tokens_commands,
    )
    from llmctl.cli.ask import AskOptions
    from llmctl.cli.batch import BatchOptions
    from llmctl.cli.compare import CompareOptions
    from llmctl.cli.context import Context
    from llmctl.cli.options import EPILOG, command, show_version
    from llmctl.cli.prompt import LintOptions
    from llmctl.cli.prompt import app as prompts
    from llmctl.cli.route import EvalOptions, TrainOptions
    from llmctl.cli.route import app as routes
    from llmctl.cli.serve import ServeOptions

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

    @command(app, "ask", "profile", "model", "config", "json", options=AskOptions)
    def ask(context: Context, options: AskOptions) -> int:
        from llmctl.cli.ask_run import run

        return run(options, context)

    @command(app, "batch", "profile", "model", "config", "json", options=BatchOptions)
    def batch(context: Context, options: BatchOptions) -> int:
        from llmctl.cli.batch_run import run

        return run(options, context)

    @command(app, "compare", "config", "json", options=CompareOptions)
    def compare(context: Context, options: CompareOptions) -> int:
        from llmctl.cli.compare_run import run

        return run(options, context)

    @command(app, "serve", "config", "json", options=ServeOptions)
    def serve(context: Context, options: ServeOptions) -> int:
        from llmctl.cli.serve import run

        return run(options, context)

    @command(queue.app, "run", "config", "json", options=queue.QueueRunOptions)
    def run_queue(context: Context, options: queue.QueueRunOptions) -> int:
        from llmctl.cli.queue_run import run

        return run(options, context)

    @command(prompts, "lint", "profile", "model", "config", "json", options=LintOptions)
    def lint(context: Context, options: LintOptions) -> int:
        from llmctl.cli.prompt_run import run

        return run(options, context)

    @command(routes, "train", "profile", "config", "json", options=TrainOptions)
    def train(context: Context, options: TrainOptions) -> int:
        from llmctl.cli.route_run import run_train

        return run_train(options, context)

    @command(routes, "eval", "profile", "config", "json", options=EvalOptions)
    def evaluate(context: Context, options: EvalOptions) -> int:
        from llmctl.cli.route_run import run_eval

        return run_eval(options, context)

    app.add_typer(keys.app, name="keys")
    app.add_typer(cost.app, name="cost")
    command(app, "metrics", "config", "json")(metrics.metrics)
    command(app, "report", "config", "json")(report.report)
    app.add_typer(cache_commands.app, name="cache")
    app.add_typer(profiles_commands.app, name="profiles")
    command(app, "models", "profile", "config", "json")(models.models)
    app.add_typer(local_commands.app, name="local")
    app.add_typer(history_commands.app, name="history")
    app.add_typer(tokens_commands.app, name="tokens")
    app.add_typer(pii_commands.app, name="pii")
    app.add_typer(routes, name="route")
    app.add_typer(prompts, name="prompt")
    app.add_typer(queue.app, name="queue")
    app.add_typer(audit.app, name="audit")
    app.add_typer(alerts.app, name="alerts")
    app.add_typer(limits.app, name="limits")
    return app
