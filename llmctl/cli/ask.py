"""`llmctl ask`: its options. One prompt, streamed."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct
from typer import Argument, Option

from llmctl.cli.options import (
    BudgetOption,
    DryRunOption,
    MaxTokensOption,
    NoCacheOption,
    ParamOption,
    RefreshOption,
    SchemaOption,
    SchemaRetriesOption,
    SystemOption,
    TagOption,
    TemperatureOption,
)


class AskOptions(Struct, frozen=True, kw_only=True):
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

    prompt: Annotated[
        str | None, Argument(metavar="PROMPT", help="Text on stdin goes before it.")
    ] = None
    system: SystemOption = None
    attach: Annotated[
        list[str] | None,
        Option("--attach", "-a", metavar="FILE|URL", help="Text, image, PDF or audio; repeatable."),
    ] = None
    schema: SchemaOption = None
    schema_retries: SchemaRetriesOption = 1
    max_tokens: MaxTokensOption = None
    temperature: TemperatureOption = None
    param: ParamOption = None
    stream: Annotated[
        bool | None,
        Option("--stream/--no-stream", help="Print as it arrives (default on a terminal)."),
    ] = None
    markdown: Annotated[bool, Option("--markdown", help="Render Markdown on a terminal.")] = False
    resume: Annotated[bool, Option("--continue", "-c", help="Continue the last conversation.")] = (
        False
    )
    no_stdin: Annotated[bool, Option("--no-stdin", help="Do not read stdin.")] = False
    no_history: Annotated[bool, Option("--no-history", help="Do not keep this one.")] = False
    tag: TagOption = None
    no_cache: NoCacheOption = False
    refresh: RefreshOption = False
    budget: BudgetOption = None
    strict: Annotated[
        bool, Option("--strict", help="Exit 5 for a stale or static answer (`degrade:`).")
    ] = False
    dry_run: DryRunOption = False
    exact: Annotated[
        bool, Option("--exact", help="With --dry-run: the provider counts the prompt's tokens.")
    ] = False
    usage: Annotated[
        bool, Option("--usage", "-u", help="Print tokens, price and time on stderr.")
    ] = False
