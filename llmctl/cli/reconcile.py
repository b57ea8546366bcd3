"""Use case `cost reconcile`: the ledger against the bill, and what is in doubt settled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llmctl.batch.output import dollars
from llmctl.cli.context import Context, can_ask, confirmed, load_settings
from llmctl.cli.cost_formats import calls_json
from llmctl.cli.options import pairs, parsed
from llmctl.cli.output import (
    Waiting,
    drawn,
    money,
    percent,
    plural,
    print_json,
    print_lines,
    write_stdout,
)
from llmctl.config.load import Overrides
from llmctl.config.settings import Profile, Settings, parse_share
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import ConfigError, InputError, LlmctlError, UsageError
from llmctl.providers.admin_pages import ask_all
from llmctl.providers.bills import BillApi, BillLine, ids_of
from llmctl.providers.registry import LOCAL, bill_api
from llmctl.redact import printable
from llmctl.reports.bill_csv import COLUMNS, read_bill
from llmctl.reports.periods import between, local, since
from llmctl.reports.reconcile import (
    Reconciliation,
    Row,
    Scope,
    Settlement,
    Span,
    compare,
    in_scope,
    settle,
)
from llmctl.storage.ledger import empty_reading, open_ledger
from llmctl.types import origin_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmctl.storage.ledger_queries import Reading

_DEFAULT = "7d"
_TOLERANCE = "2%"
_LONGEST = 366  # days that are compared at a time
_SCOPES = {
    "key": "the calls of this profile's key",
    "project": "all calls in this profile's project",
    "organization": "all calls of the organization; it does not tell whose they are",
}


class Question(Struct, frozen=True):
    """What is to be compared, as the command line says it."""

    csv: Path | None
    columns: Sequence[str]
    ago: str | None
    first: str | None
    last: str | None
    tolerance: str
    settle: bool
    yes: bool


class Bill(Struct, frozen=True):
    """A bill: its lines, the days it can tell of, and whose calls they are of."""

    lines: Sequence[BillLine]
    first: date
    last: date
    scope: Scope


def run(question: Question, context: Context) -> int:
    """Print where ledger and bill differ, and why; 3 where that is beyond the tolerance."""
    tolerance = _tolerance(question.tolerance)
    if question.columns and question.csv is None:
        raise UsageError("--columns names the columns of --csv FILE")
    if question.settle and not (question.yes or can_ask()):
        raise UsageError(
            "--settle changes the ledger, and nobody can be asked here: add --yes (without "
            "--settle it is only shown)"
        )
    now = round(context.clock.wall() * 1000)
    first, last = _days(question, now)
    settings = load_settings(context, Overrides(profile=context.profile))
    profile = settings.profiles.get(settings.used)
    if profile is None:
        hint = nearest(settings.used, settings.profiles)
        raise ConfigError(f"there is no profile {quoted(settings.used)}; {hint}")
    if question.csv is None:
        bill = asyncio.run(_ask(profile, settings, context, first, last))
    else:
        bill = _read(question, question.csv, first, last)
    span = Span(bill.first, bill.last, now, _sharing(profile, settings), bill.scope)
    return _Run(profile, settings, context, span, bill, tolerance).report(question)


def _tolerance(text: str) -> Decimal:
    if text.strip() in {"0", "0%"}:
        return Decimal(0)
    found = parsed("--tolerance", "a share such as 2% or 0.02", text, parse_share)
    assert found is not None
    return found


def _days(question: Question, now: int) -> tuple[date, date]:
    """The first and the last UTC day: bills know only whole ones. Raises `UsageError`."""
    if question.ago is not None and (question.first or question.last):
        raise UsageError("--since and --from/--to exclude each other; give one of them")
    if question.last is not None and question.first is None:
        raise UsageError("--to needs --from: a bill has no beginning")
    if question.first is None:
        span = since(question.ago or _DEFAULT, now, UTC)
    else:
        span = between(question.first, question.last, now, UTC)
    first, last = local(span.start, UTC).date(), local(min(span.end - 1, now), UTC).date()
    if (last - first).days >= _LONGEST:
        raise UsageError(f"that is more than {_LONGEST} days: compare a year at a time")
    return first, last


def _sharing(profile: Profile, settings: Settings) -> frozenset[str]:
    """The profiles that are on the same bill: at the same address with the same key."""
    origin, same = origin_of(profile.base_url), (profile.key, profile.auth)
    return frozenset(
        one.name
        for one in settings.profiles.values()
        if origin_of(one.base_url) == origin and (one.key, one.auth) == same
    )


def _read(question: Question, path: Path, first: date, last: date) -> Bill:
    """The bill in a file; of the days asked for it tells only those between its first and last."""
    columns = pairs("--columns", [word for text in question.columns for word in text.split(",")])
    for name in columns:
        if name not in COLUMNS:
            raise UsageError(f"--columns knows no {name!r}; {nearest(name, COLUMNS)}")
    lines = read_bill(path, columns)
    days = [line.day for line in lines]
    first, last = max(first, min(days)), min(last, max(days))
    if first > last:
        raise InputError(
            f"{path} tells of {min(days)} to {max(days)}, and none of those days is asked for: "
            f"add --from {min(days)} --to {max(days)}"
        )
    return Bill(lines, first, last, "organization")


async def _ask(
    profile: Profile, settings: Settings, context: Context, first: date, last: date
) -> Bill:
    """The bill, as the provider's administration gives it."""
    from llmctl.cli.admin_key import open_admin_of

    api = bill_api(profile.provider)
    if profile.provider == LOCAL:
        raise UsageError(
            f"the profile {profile.name} runs on this machine, which bills nothing: choose "
            "another one with -p"
        )
    if api is None:
        raise UsageError(
            f"the profile {profile.name} is of {profile.provider}, whose bill cannot be asked for: "
            "give the export of its page by --csv FILE"
        )
    today = datetime.fromtimestamp(context.clock.wall(), UTC).date()
    known = api.known(first, last, today)
    if known[0] > known[1]:
        raise UsageError(
            f"{profile.provider} tells nothing of {first} to {last}; it tells of "
            f"{_all_known(api, today)}"
        )
    first, last = known
    waiting = Waiting(f"asking {profile.provider} for its bill …", quiet=context.quiet)
    async with AsyncExitStack() as stack:
        stack.callback(waiting.stop)
        admin = await stack.enter_async_context(open_admin_of(profile, settings, context))
        own: tuple[str, ...] = ()
        listing = api.keys(admin.project) if admin.keys else None
        if listing is not None:
            try:
                own = ids_of(await ask_all(listing, admin.fetch, context.clock), admin.keys)
            except LlmctlError as error:  # a key that may see the bill, and not the keys
                context.info(f"the keys cannot be listed ({error.message})")
        lines: list[BillLine] = []
        for each in api.questions(first, last, own):
            lines += await ask_all(each, admin.fetch, context.clock)
    ours, scope = in_scope(lines, own, admin.project)
    return Bill(ours, first, last, scope)


def _all_known(api: BillApi, today: date) -> str:
    first, last = api.known(date(2000, 1, 1), today, today)
    return f"{first} to {last}"


class _Run:
    """One comparison: what it is of, and how it is told."""

    def __init__(
        self,
        profile: Profile,
        settings: Settings,
        context: Context,
        span: Span,
        bill: Bill,
        tolerance: Decimal,
    ) -> None:
        self.profile, self.context, self.span = profile, context, span
        self.bill, self.tolerance = bill, tolerance
        self._settings, self._path = settings, settings.folders.state / "ledger.db"

    def report(self, question: Question) -> int:
        """Compare, show, settle, and judge."""
        result, settlements = self._look()
        if not self.context.json:
            self._show(result, settlements, hint=not question.settle)
        settled: Sequence[Settlement] = ()
        if question.settle:
            settled = self._settle(settlements, question)
            if settled:
                result, _ = self._look()
        code = 3 if result.share > self.tolerance else 0
        if self.context.json:
            print_json(self._json(result, settlements, settled, code))
        elif settled:
            print_lines(f"the difference is now {_sum(result)}")
        if code:
            self.context.info(
                f"the bill and the ledger differ by {_share(result.share)}, more than the "
                f"tolerance of {_share(self.tolerance)}"
            )
        return code

    def _look(self) -> tuple[Reconciliation, list[Settlement]]:
        def work(reading: Reading) -> tuple[Reconciliation, list[Settlement]]:
            found = compare(reading, self.bill.lines, self.span)
            start = datetime.combine(self.span.first, datetime.min.time(), UTC)
            end = datetime.combine(self.span.last + timedelta(days=1), datetime.min.time(), UTC)
            edges = (round(moment.timestamp() * 1000) for moment in (start, end))
            return found, settle(found, reading.unknown(*edges))

        if not self._path.exists():
            with empty_reading() as reading:
                return work(reading)
        with closing(open_ledger(self._path, "", "")) as ledger:
            return ledger.report(work)

    def _settle(
        self, settlements: Sequence[Settlement], question: Question
    ) -> Sequence[Settlement]:
        """Write what the bill decides, in one transaction."""
        amounts = {one.call.call_id: one.usd for one in settlements if one.usd is not None}
        if not amounts:
            return ()
        count = plural(len(amounts), "call")
        if not question.yes and not confirmed(f"Settle {count} in the ledger so?"):
            self.context.info("nothing was settled")
            return ()
        from llmctl.cli import shared_budgets

        with closing(open_ledger(self._path, "", "")) as ledger:
            shared_budgets.release(
                self._settings, self.context, ledger, amounts, ids=tuple(amounts)
            )
        if not self.context.json:
            print_lines(f"settled {count}")
        return [one for one in settlements if one.usd is not None]

    # For people.

    def _show(
        self, result: Reconciliation, settlements: Sequence[Settlement], *, hint: bool
    ) -> None:
        from rich.text import Text

        span, rows = self.span, result.rows
        shown = [row for row in rows if self.context.verbose or not row.agrees]
        head = f"{printable(self.profile.name)}, {span.first} to {span.last} (UTC)"
        blocks: list[RenderableType] = [Text(head, "bold"), Text(_sum(result))]
        blocks.append(Text(f"Of the bill: {_SCOPES[span.scope]}.", "dim"))
        if shown:
            blocks += [Text(), _table(shown)]
        if len(shown) < len(rows):
            agree = sum(row.agrees for row in rows)
            blocks += [Text(), Text(f"{agree:,} of {plural(len(rows), 'row')} agree.")]
        if not rows:
            blocks.append(Text("Neither the ledger nor the bill has a call."))
        causes = [Text(line, overflow="fold") for row in shown for line in _causes(row)]
        blocks += [Text(), *causes] if causes else []
        waiting = sorted({row.day for row in rows if not row.complete})
        if waiting:
            days = ", ".join(map(str, waiting))
            blocks += [Text(), Text(f"Not complete, and not in the sums: {days}.", "yellow")]
        blocks += self._doubts(settlements, hint=hint)
        write_stdout(drawn(*blocks), coloured=True)

    def _doubts(self, settlements: Sequence[Settlement], *, hint: bool) -> list[RenderableType]:
        """The calls in doubt, each with what the bill says of it."""
        from rich.text import Text

        if not settlements:
            return []
        blocks: list[RenderableType] = [Text(), Text("In doubt:", "yellow")]
        for one in settlements:
            call = one.call
            at = f"{local(call.started_ms, UTC):%Y-%m-%d %H:%M}"
            now = "not decided" if one.usd is None else f"→ {money(one.usd)}"
            line = f"  {call.call_id}  {at}  {call.model}  {money(call.cost)} {now}: {one.why}"
            blocks.append(Text(printable(line), overflow="fold"))
        if hint and any(one.usd is not None for one in settlements):
            blocks.append(Text("--settle closes those that the bill decides."))
        return blocks

    # For programs.

    def _json(
        self,
        result: Reconciliation,
        settlements: Sequence[Settlement],
        settled: Sequence[Settlement],
        code: int,
    ) -> dict[str, Any]:
        done = {one.call.call_id for one in settled}
        doubtful = calls_json([one.call for one in settlements], UTC)
        return {
            "profile": self.profile.name,
            "from": self.span.first.isoformat(),
            "to": self.span.last.isoformat(),
            "scope": self.span.scope,
            "ledger_usd": dollars(result.ours),
            "bill_usd": dollars(result.theirs),
            "difference_usd": dollars(result.theirs - result.ours),
            "share": float(round(result.share, 6)),
            "tolerance": float(self.tolerance),
            "rows": [_row_json(row) for row in result.rows],
            "in_doubt": [
                {
                    **said,
                    "billed_usd": dollars(one.usd),
                    "why": one.why,
                    "settled": one.call.call_id in done,
                }
                for said, one in zip(doubtful, settlements, strict=True)
            ],
            "exit_code": code,
        }


def _row_json(row: Row) -> dict[str, Any]:
    theirs, ours = row.theirs, row.ours
    sides: dict[str, Any] = {}
    for name, side in (("ledger", ours), ("bill", theirs)):
        usage = side and side.usage
        sides[name] = side and {
            "usd": dollars(side.cost),
            "list_usd": None if side.list_cost is None else dollars(side.list_cost),
            "requests": side.requests,
            "input_tokens": usage.input if usage else None,
            "output_tokens": usage.output if usage else None,
            "cached_input_tokens": usage.cached_input if usage else None,
            "cache_write_tokens": usage.cache_write if usage else None,
        }
    return {
        "day": row.day.isoformat(),
        "model": row.model,
        "batch": row.batch,
        "complete": row.complete,
        **sides,
        "difference_usd": dollars(row.difference),
        "agrees": row.agrees,
        "causes": [
            {
                "cause": cause.kind,
                "usd": None if cause.usd is None else dollars(cause.usd),
                "text": cause.text,
            }
            for cause in row.causes
        ],
    }


def _plus(amount: Decimal) -> str:
    """A difference with its sign."""
    sign = "+" if amount > 0 else "-" if amount < 0 else ""
    return sign + money(abs(amount))


def _sum(result: Reconciliation) -> str:
    difference = result.theirs - result.ours
    return (
        f"billed {_cost(result.theirs)}, in the ledger {money(result.ours)}: {_plus(difference)} "
        f"({_share(result.share)})"
    )


def _cost(amount: Decimal) -> str:
    """An amount of the bill, which credits may bring below 0."""
    return _plus(amount) if amount < 0 else money(amount)


def _share(share: Decimal) -> str:
    return percent(float(share))


def _name(row: Row) -> str:
    name = " ".join(printable(row.model).split()) or "(no model)"
    return f"{name} (batch)" if row.batch else name


def _table(rows: Sequence[Row]) -> RenderableType:
    """Day, model and the three amounts of each row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("day", no_wrap=True)
    table.add_column("model", overflow="fold")
    for name in ("ledger", "bill", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        theirs = "-" if row.theirs is None else _cost(row.theirs.cost)
        colour = "" if row.agrees else "yellow"
        last = Text(_plus(row.difference), colour)
        table.add_row(str(row.day), Text(_name(row)), money(row.ours.cost), theirs, last)
    return table


def _causes(row: Row) -> list[str]:
    """The row's name, and a line for each cause."""
    lines = [f"{row.day}  {_name(row)}"] if row.causes else []
    for cause in row.causes:
        usd = "" if cause.usd is None else f"{_plus(cause.usd)}  "
        lines.append(f"  {usd}{cause.kind.replace('_', ' ')}: {cause.text}")
    return lines
