"""`llmctl prompt lint`: its options. What prompts cost that they need not."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct
from typer import Argument, Option

from llmctl.cli.options import BudgetOption, SystemOption, command_group

app = command_group("prompt", "Find what prompts cost that they need not.")


class LintOptions(Struct, frozen=True, kw_only=True):
    """Find what prompts cost that they need not; exit 1 when there is anything to save.

    FILE holds rows (.jsonl, .jsonl.gz, .csv, - for stdin), as `batch` takes them, or is a template
    or a prompt (any other name). Without FILE the profile's system prompt is looked at. Nothing is
    sent but with --try. Tokens and dollars are those of one run of FILE, or of N prompts a day.

    Found are: pleasantries, wordy phrases and repeated instructions (in English), white space,
    duplicates, indented JSON and keys in another order, a start that the provider would keep at a
    lower price or how far it is from that, dates and ids before constant text, constant text
    behind variable text, examples, long rows, and a max_tokens far above what was used.

    --fix writes the shorter template (or FILE with its constant text shorter) to -o, or to stdout
    with the findings on stderr. Every field of a template is kept, in its order. Read it before
    use: --try asks both templates on the first N rows, within --budget, and shows the answers side
    by side with what they cost.

    \b
    Examples:
      llmctl prompt lint prompts.jsonl
      llmctl prompt lint reviews.csv --template @label.j2 --fix -o shorter.j2
      llmctl prompt lint reviews.csv --template @label.j2 --try 5 --budget 0.10
      llmctl prompt lint label.j2 --per-day 20000
      llmctl prompt lint -p support --per-day 5000

    \b
    With --json, one object: {profile, model, rows, prompts, per_day,
    findings [{kind, what, tokens, usd, lines, fixable, saves}], fixed (a
    template or prompt, with --fix), tried [{line, now {text, usd, error},
    fixed {text, usd, error}}] (with --try)}. null is unknown.
    """

    file: Annotated[
        str, Argument(metavar="FILE", help="Rows, or a template.", show_default=False)
    ] = ""
    template: Annotated[
        str | None, Option(metavar="TEXT|@FILE", help="Jinja2: makes a prompt of each row.")
    ] = None
    system: SystemOption = None
    per_day: Annotated[
        int | None, Option(min=1, metavar="N", help="Prompts a day, for tokens and dollars.")
    ] = None
    fix: Annotated[bool, Option("--fix", help="Write the shorter version.")] = False
    output: Annotated[
        str | None, Option("--output", "-o", help="Where --fix writes; - is stdout.")
    ] = None
    try_: Annotated[
        int | None, Option("--try", min=1, metavar="N", help="Ask both versions on N rows.")
    ] = None
    budget: BudgetOption = None
