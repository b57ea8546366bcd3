"""`llmctl compare`: its options. The same rows, asked of several profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Struct
from typer import Argument, Option

from llmctl.cli.context import known_profiles
from llmctl.cli.options import (
    BudgetOption,
    MaxTokensOption,
    NoCacheOption,
    SchemaOption,
    SystemOption,
    TemperatureOption,
)


class CompareOptions(Struct, frozen=True, kw_only=True):
    """Ask several profiles the same rows, and compare.

    FILE is as in `batch`. All profiles are asked at the same time, each at its own limits, without
    its fallbacks, and all spend from one --budget. The same command again continues where it
    stopped: answered rows are never sent again.

    \b
    OUTPUT gets a line a row:
      {"id", "index", "answers": {PROFILE: {"output", "model", "cost_usd",
      "latency_ms", "tokens", "cache", "error"}}, "agreement": [{"profiles",
      "equal", "json_equal", "numbers_equal", "overlap"}]}
    A profile that was not asked yet is null. equal: but for case, white space
    and punctuation around; overlap: the share of words in common, 0 to 1.

    What each profile said stands beside it, in OUTPUT with .PROFILE.jsonl in place of .jsonl, as
    `batch` writes it. A row that fails with one profile is answered by the others.

    \b
    The table, and --json: {"rows", "profiles": [{"profile", "answers", "errors",
    "cost_usd", "p50_ms", "p95_ms", "agreement", "overlap"}], "exit_code"};
    agreement is the share of rows that say the same as the first profile's.

    \b
    Examples:
      llmctl compare reviews.csv --template "Positive? {{ text }}" -p small,large
      llmctl compare rows.jsonl -p a,b,c --limit 50 --budget 1 --report page.html
    """

    input: Annotated[
        str, Argument(metavar="FILE", help="A .jsonl, .jsonl.gz or .csv file.", show_default=False)
    ] = ""
    profiles: Annotated[
        str,
        Option(
            "--profile",
            "-p",
            metavar="A,B[,…]",
            help="The profiles; others are compared with the first.",
            autocompletion=known_profiles,
            show_default=False,
        ),
    ] = ""
    output: Annotated[
        str | None, Option("--output", "-o", help="Where lines go (NAME.compare.jsonl).")
    ] = None
    report: Annotated[Path | None, Option(metavar="FILE.html", help="Make a page of it, too.")] = (
        None
    )
    system: SystemOption = None
    template: Annotated[
        str | None, Option(metavar="TEXT|@FILE", help="Jinja2: makes a prompt of each record.")
    ] = None
    schema: SchemaOption = None
    id_field: Annotated[str | None, Option(metavar="NAME", help="Field that holds the id.")] = None
    max_tokens: MaxTokensOption = None
    temperature: TemperatureOption = None
    limit: Annotated[int | None, Option(min=1, metavar="N", help="Only the first N rows.")] = None
    restart: Annotated[bool, Option("--restart", help="Discard OUTPUT and start over.")] = False
    no_cache: NoCacheOption = False
    budget: BudgetOption = None
