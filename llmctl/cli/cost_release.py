"""`llmctl cost release`: a person says what calls cost whose end is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from llmctl.cli.context import Context, finish
from llmctl.cli.options import (
    ConfigOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    parse_dollars,
)
from llmctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from llmctl.storage.ledger_queries import UnknownCall


class ReleaseOptions(Struct, frozen=True):
    """Which calls: `ids`, or those of a run, or all; `billed` US dollars each."""

    ids: tuple[str, ...] = ()
    run_id: str | None = None
    all: bool = False
    billed: Decimal = Decimal(0)


def command(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CALL_ID]...",
            help="Calls, as `llmctl cost report` names them.",
            show_default=False,
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="All such calls of one run.", show_default=False),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All such calls.")] = False,
    billed: Annotated[
        str | None,
        typer.Option(
            "--billed",
            metavar="USD",
            help="What the provider billed for each of them. Default: nothing.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Say what calls cost whose end is unknown, so that budgets count that instead.

    A call that was sent and got no answer (its connection broke, or llmctl was killed) may have
    been billed: it counts at its worst case until somebody knows better. Look it up on your
    provider's bill, then release it. Nothing is sent. A call whose end is known stays as it is.

    \b
    --json: {"released": [{call_id, run_id, time, profile, provider, model, usd}], "usd",
    "billed_usd"}; usd is what it counted at before, billed_usd what each counts at now.

    \b
    Examples:
      llmctl cost release 01JD4T1E8ZVMKQ0R4Y1ZB7K3NQ
      llmctl cost release --run 01JD4T1DWW3XQ2P6F9M5A0R8CH --billed 0.0012
      llmctl cost release --all
    """
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)

    def run_() -> int:
        given = ReleaseOptions(
            ids=tuple(ids or ()),
            run_id=run_id,
            all=all_,
            billed=Decimal(0) if billed is None else parse_dollars("--billed", billed),
        )
        return run(given, context)

    finish(run_, context)


def run(options: ReleaseOptions, context: Context) -> int:
    """Release and print what was released. Raises `UsageError` and `InputError`."""
    if sum((bool(options.ids), options.run_id is not None, options.all)) != 1:
        raise UsageError(
            "which calls are to be released? give their ids (`llmctl cost report` lists them), "
            "--run ID, or --all"
        )
    from datetime import UTC

    from llmctl.batch.output import dollars as exact
    from llmctl.cli.cost_table import money
    from llmctl.cli.cost_unknown import call_json, total_of
    from llmctl.cli.render import safe, write_stdout
    from llmctl.reports.periods import iso

    released = _release(options, context)
    total, unpriced = total_of(released)
    if context.json:
        import orjson

        said = {
            "released": [call_json(call, UTC) for call in released],
            "usd": exact(total),
            "billed_usd": exact(options.billed),
        }
        write_stdout(orjson.dumps(said, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    now = money(options.billed)
    lines = [
        f"{safe(call.call_id)}  {iso(call.started_ms, UTC)}  {safe(call.profile)}/"
        f"{safe(call.model)}  {money(call.cost)} → {now}"
        for call in released
    ]
    if released:
        each = " each" if options.billed and len(released) > 1 else ""
        several = f"{len(released):,} call{'s' * (len(released) != 1)}"
        lines.append(f"released {several}: {money(total, unpriced)} at the most → {now}{each}")
    else:
        lines.append("nothing to release: of every such call it is known how it ended")
    write_stdout("\n".join(lines) + "\n")
    return 0


def _release(options: ReleaseOptions, context: Context) -> Sequence[UnknownCall]:
    from llmctl.cli.trusting import load
    from llmctl.config.overrides import Overrides
    from llmctl.storage.ledger import UnknownSelection, open_ledger

    path = load(context, Overrides()).folders.state / "ledger.db"
    if not path.exists():
        if options.all:
            return ()
        raise InputError("there is no ledger yet, and so no call to release")
    ledger = open_ledger(path, "", "")
    try:
        return ledger.release(UnknownSelection(options.ids, options.run_id), options.billed)
    finally:
        ledger.close()
