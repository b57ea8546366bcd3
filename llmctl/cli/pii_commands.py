"""`llmctl pii`: personal data and secrets in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.privacy.findings import Kind

app = command_group("pii", "Find personal data and secrets before they are sent.")


@command(app, "scan", "json")
def scan(
    context: Context,
    files: Annotated[
        list[str], Argument(metavar="FILE...", help="Text, JSONL or CSV; - is stdin.")
    ],
    kinds: Annotated[
        str | None,
        Option(metavar="A,B", help="Only these kinds; by default all but names."),
    ] = None,
    format: Annotated[Literal["table", "json", "sarif"], Option(help="See below.")] = "table",
) -> int:
    """List what masking would replace in files; exit 1 when there is anything.

    Kinds are email, phone, card, iban, ssn, ip and secret, which need the extra `pii`, and the
    names person and location, which need the extra `ner`. Values are never printed whole: of a
    secret the last four characters. Binary files are left out. Exit 0: nothing was found;
    2: a file could not be read, the others were.

    \b
    Examples:
      llmctl pii scan prompts.jsonl
      git diff | llmctl pii scan - --kinds secret
      llmctl pii scan *.csv --format sarif > pii.sarif

    \b
    --format table: a line each, FILE:LINE:COLUMN, the kind, and what may be
    shown of it.
    --format json (or --json), one object:
      findings   [{file, line, column, kind, excerpt}]
      counts     {kind: how many}
      files      how many were read
      skipped    [{file, reason}]
    --format sarif: SARIF 2.1.0, for code scanning.
    """
    from llmctl.cli.pii_scan import run

    return run(files, _kinds(kinds), "json" if context.json else format, context)


def _kinds(given: str | None) -> tuple[Kind, ...]:
    """The kinds of a list with commas. Raises `UsageError`."""
    from llmctl.config.yaml_nodes import nearest, quoted
    from llmctl.privacy.findings import IDENTIFIERS, KINDS

    if given is None:
        return IDENTIFIERS
    names = {name.strip().lower() for name in given.split(",")}
    for name in sorted(names.difference(KINDS)):
        raise UsageError(f"--kinds: there is no kind {quoted(name)}; {nearest(name, KINDS)}")
    return tuple(kind for kind in KINDS if kind in names)
