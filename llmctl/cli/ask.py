"""`llmctl ask`: one prompt, streamed."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from llmctl.cli.context import Context
from llmctl.cli.options import (
    BUDGET_FLAG,
    BudgetOption,
    DryRunOption,
    NoCacheOption,
    RefreshOption,
    SchemaOption,
    SystemOption,
    TagOption,
    cache_mode,
    pairs,
    params,
    parse_dollars,
    read_schema,
)
from llmctl.errors import UsageError


def ask(
    context: Context,
    prompt: Annotated[str | None, Argument(help="Text on stdin goes before it.")] = None,
    system: SystemOption = None,
    attach: Annotated[
        list[str] | None,
        Option("--attach", "-a", metavar="FILE|URL", help="Text, image, PDF or audio; repeatable."),
    ] = None,
    schema: SchemaOption = None,
    max_tokens: Annotated[int | None, Option(min=1, metavar="N", help="Longest answer.")] = None,
    temperature: Annotated[float | None, Option("--temperature", "-t", min=0, metavar="T")] = None,
    param: Annotated[
        list[str] | None,
        Option(metavar="KEY=VALUE", help="Passed to the provider, JSON where it parses."),
    ] = None,
    stream: Annotated[
        bool | None,
        Option("--stream/--no-stream", help="Print as it arrives (default on a terminal)."),
    ] = None,
    markdown: Annotated[bool, Option("--markdown", help="Render Markdown on a terminal.")] = False,
    resume: Annotated[
        bool, Option("--continue", "-c", help="Continue the last conversation.")
    ] = False,
    no_history: Annotated[bool, Option("--no-history", help="Do not keep this one.")] = False,
    tag: TagOption = None,
    no_cache: NoCacheOption = False,
    refresh: RefreshOption = False,
    budget: BudgetOption = None,
    dry_run: DryRunOption = False,
    exact: Annotated[
        bool, Option("--exact", help="With --dry-run: the provider counts the prompt's tokens.")
    ] = False,
    usage: Annotated[
        bool, Option("--usage", "-u", help="Print tokens, price and time on stderr.")
    ] = False,
) -> int:
    """Ask one prompt and print the answer.

    Only the answer goes to stdout: byte for byte into a pipe, without control sequences on a
    terminal. Texts that are attached are inlined, an https URL is passed on. The conversation is
    kept for 30 days, so that -c can continue it.

    \b
    Examples:
      llmctl ask "Why is the sky blue?"
      cat notes.txt | llmctl ask "Summarise in three points"
      llmctl ask -a invoice.pdf --schema invoice.schema.json "Extract the fields"
      llmctl ask -p local --param top_p=0.9 --json "Hello"
    """
    from llmctl.cli.ask_run import AskOptions, run

    if exact and not dry_run:
        raise UsageError("--exact belongs to --dry-run; a call reports its tokens itself (-u)")
    options = AskOptions(
        prompt=prompt,
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
        params=params(param),
        attach=tuple(attach or ()),
        schema=read_schema(schema),
        stream=stream,
        markdown=markdown,
        resume=resume,
        history=not no_history,
        tags=pairs("--tag", tag),
        cache_mode=cache_mode(no_cache=no_cache, refresh=refresh),
        dry_run=dry_run,
        exact=exact,
        usage=usage,
        budget=parse_dollars(BUDGET_FLAG, budget),
    )
    return run(options, context)
