"""`llmctl batch`: a file of prompts, resumable."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import (
    BudgetOption,
    ConfigOption,
    JsonOption,
    ModelOption,
    NoCacheOption,
    ProfileOption,
    QuietOption,
    RefreshOption,
    SchemaOption,
    SystemOption,
    TagOption,
    VerboseOption,
    cache_mode,
    pairs,
    parse_dollars,
    read_schema,
)


class EngineName(StrEnum):
    """Where the rows are sent from."""

    LOCAL = "local"


class LineFormat(StrEnum):
    """Format of an output line."""

    LLMCTL = "llmctl"
    OPENAI = "openai"


def command(
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="A .jsonl, .jsonl.gz or .csv file, or - for stdin (JSONL)."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where answers go; - is stdout, without resume. Default: NAME.out.jsonl "
            "beside INPUT.",
        ),
    ] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    system: SystemOption = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="TEXT|@FILE",
            help="Jinja2 template that makes a prompt of each record.",
        ),
    ] = None,
    schema: SchemaOption = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", metavar="NAME", help="Field that holds the id.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="Where the rows are sent from.")
    ] = EngineName.LOCAL,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", min=1, metavar="N", max=10_000, help="Calls in flight at a time."
        ),
    ] = None,
    rpm: Annotated[
        int | None, typer.Option("--rpm", min=1, metavar="N", help="Requests per minute at most.")
    ] = None,
    tpm: Annotated[
        int | None, typer.Option("--tpm", min=1, metavar="N", help="Tokens per minute at most.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Only the first N rows of INPUT."),
    ] = None,
    max_errors: Annotated[
        str | None,
        typer.Option(
            "--max-errors", metavar="N|N%", help="Stop once more rows than this have failed."
        ),
    ] = None,
    format: Annotated[
        LineFormat,
        typer.Option("--format", help="Output lines: llmctl's, or OpenAI's batch results."),
    ] = LineFormat.LLMCTL,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Put OUTPUT into the order of INPUT at the end.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard what OUTPUT holds and start over.")
    ] = False,
    no_cache: NoCacheOption = False,
    refresh: RefreshOption = False,
    tag: TagOption = None,
    budget: BudgetOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show rows, tokens, cost and time; send and write nothing."),
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Answer every row of a file. The same command again continues where it stopped.

    \b
    INPUT rows are JSON objects: {"id", "prompt"}, {"id", "messages"}, OpenAI batch lines, or
    with --template any record. Optional fields: system, model, max_tokens, temperature,
    schema, options, tags; what a row says wins over flags and profile. Everything is checked before
    anything is sent.

    \b
    OUTPUT gets a line for every row that was answered, OUTPUT with .errors.jsonl in place of
    .jsonl one for every row that failed (with -o - those go to stderr). Answered rows are
    never sent again; failed ones are.

    --budget, and the configuration's `budgets`, are never exceeded while the provider keeps to
    max_tokens: every row is held at its worst case before it is sent, and settled at its real
    cost. A row whose price is unknown, or that alone may cost more, fails as `budget`; when what
    is left is less than the next row may cost, the run stops. Both exit 3, and the same command
    with a larger budget continues.

    --dry-run is the plan: how many rows are answered already, cached, duplicates, too long for
    the context window or refused by the provider's format, and what the rest takes at the worst
    (all output that is allowed) and as expected (by the ledger's earlier calls of the profile
    and model). Rows whose price or output limit is unknown have no worst case: $? and null, and
    exit 3 under --budget. What failed attempts may add is not in it.

    \b
    --dry-run --json: rows = answered + cached + duplicates + over_context + refused + to_send;
    input_tokens, input_tokens_exact, max_output_tokens, expected_output_tokens (of to_send),
    worst_case_usd, expected_usd, unpriced_rows, provider_batch {worst_case_usd, expected_usd},
    expected_from_calls, time_s, time_bound_by, budget_usd, exit_code. null is unknown.

    \b
    Examples:
      llmctl batch prompts.jsonl -p local
      llmctl batch reviews.csv --template "Positive or negative? {{ text }}" -o labels.jsonl
      llmctl batch prompts.jsonl --dry-run --budget 5
      llmctl batch prompts.jsonl --budget 5
      zcat big.jsonl.gz | llmctl batch - -o - --concurrency 50 | jq -r .text
    """
    context = Context(profile, model, config, json, quiet, verbose)

    def work() -> int:
        from llmctl.cli.batch_run import BatchOptions, parse_max_errors, run

        options = BatchOptions(
            input=input,
            output=output,
            system=system,
            template=template,
            schema=read_schema(schema),
            id_field=id_field,
            concurrency=concurrency,
            rpm=rpm,
            tpm=tpm,
            limit=limit,
            max_errors=parse_max_errors(max_errors),
            format="openai" if format is LineFormat.OPENAI else "llmctl",
            engine=engine.value,
            ordered=ordered,
            restart=restart,
            cache_mode=cache_mode(no_cache=no_cache, refresh=refresh),
            tags=pairs("--tag", tag or ()),
            dry_run=dry_run,
            budget=None if budget is None else parse_dollars("--budget", budget),
        )
        return run(options, context)

    exit_with(work, context)
