"""`llmctl ask`: one prompt, streamed."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import (
    BudgetOption,
    ConfigOption,
    JsonOption,
    ModelOption,
    NoCacheOption,
    ParamOption,
    ProfileOption,
    QuietOption,
    RefreshOption,
    SchemaOption,
    SystemOption,
    TagOption,
    VerboseOption,
    cache_mode,
    pairs,
    params,
    parse_dollars,
    read_schema,
)
from llmctl.errors import UsageError


def command(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt. Text on stdin goes before it.")
    ] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    system: SystemOption = None,
    attach: Annotated[
        list[str] | None,
        typer.Option(
            "--attach",
            "-a",
            metavar="FILE|URL",
            help="Attach a text (inlined), image, PDF or audio file; an https URL of an image or "
            "PDF is passed on. Repeatable.",
        ),
    ] = None,
    schema: SchemaOption = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, metavar="N", help="Longest answer, in tokens."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-t", min=0, metavar="T", help="Sampling temperature."),
    ] = None,
    param: ParamOption = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Print the answer as it arrives (default: when stdout is a terminal).",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Render the answer's Markdown on a terminal.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--continue", "-c", help="Continue the last conversation.")
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Do not keep this conversation.")
    ] = False,
    tag: TagOption = None,
    no_cache: NoCacheOption = False,
    refresh: RefreshOption = False,
    budget: BudgetOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show tokens, worst-case price and cache state; send nothing."
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="With --dry-run: let the provider count the tokens (sends the prompt)."
        ),
    ] = False,
    usage: Annotated[
        bool, typer.Option("--usage", "-u", help="Print tokens, price and time on stderr.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask one prompt and print the answer.

    The answer goes to stdout and nothing else does: byte for byte into a pipe, without control
    sequences on a terminal. The conversation is kept for 30 days, so that -c can continue it.

    \b
    Examples:
      llmctl ask "Why is the sky blue?"
      cat notes.txt | llmctl ask "Summarise in three points"
      llmctl ask -a invoice.pdf --schema invoice.schema.json "Extract the fields"
      llmctl ask -p local --param top_p=0.9 --json "Hello"
    """
    context = Context(profile, model, config, json, quiet, verbose)

    def work() -> int:
        from llmctl.cli.ask_run import AskOptions, run

        if exact and not dry_run:
            raise UsageError("--exact belongs to --dry-run; a call reports its tokens itself (-u)")
        options = AskOptions(
            prompt=prompt,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            params=params(param or ()),
            attach=tuple(attach or ()),
            schema=read_schema(schema),
            stream=stream,
            markdown=markdown,
            resume=resume,
            history=not no_history,
            tags=pairs("--tag", tag or ()),
            cache_mode=cache_mode(no_cache=no_cache, refresh=refresh),
            dry_run=dry_run,
            exact=exact,
            usage=usage,
            budget=None if budget is None else parse_dollars("--budget", budget),
        )
        return run(options, context)

    exit_with(work, context)
