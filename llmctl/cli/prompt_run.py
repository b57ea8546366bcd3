"""Use case `prompt lint`: rows or a template → findings, a shorter version, and its trial."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct

from llmctl import pricing
from llmctl.attachments import text_argument
from llmctl.batch.input import InputFile, Record
from llmctl.batch.output import STDOUT, dollars
from llmctl.batch.rows import RowError, RowReader
from llmctl.cli.context import Context, Selection, runner_for, select_profile
from llmctl.cli.options import BUDGET_FLAG, budget_windows, parse_dollars, system_prompt
from llmctl.cli.output import (
    money,
    plural,
    print_json,
    print_lines,
    print_table,
    write_stdout,
)
from llmctl.cli.prompt import LintOptions
from llmctl.config.settings import Profile
from llmctl.errors import BudgetRefused, CallError, InputError, UsageError
from llmctl.pricing import Prices, terms_of
from llmctl.prompts import fix
from llmctl.prompts.lint import Finding, LintInputs, Row, lint, shared, text_request
from llmctl.protocols import Handler
from llmctl.providers.registry import codec
from llmctl.request import Question, compose
from llmctl.runner import user_name
from llmctl.storage.files import disk
from llmctl.storage.ledger_queries import LedgerPeek
from llmctl.tokens import Counter
from llmctl.types import KEPT, CallRecord, Message, Request, Usage

MOST = 20_000
"""Rows that are looked at: the first ones of a longer file."""

_ROWS = (".jsonl", ".jsonl.gz", ".csv")
_LINES = 5
"""Numbers of lines that are printed for a finding."""


class Subject(Struct, frozen=True):
    """What is looked at.

    Attributes:
        records: of the file, those of the rows.
        start, behind: what all rows have in common, where no template says it.

    """

    rows: list[Row]
    records: list[Record]
    template: str | None
    system: str | None
    whole: bool = True
    start: str = ""
    behind: str = ""

    @property
    def constants(self) -> dict[str, str]:
        """The text that every prompt has, by what it is."""
        named = {
            "template": self.template, "start of all rows": self.start,
            "end of all rows": self.behind, "system prompt": self.system,
        }  # fmt: skip
        return {name: text for name, text in named.items() if text and text.strip()}


def run(options: LintOptions, context: Context) -> int:
    """Look, print, and give the exit code. Raises `LlmctlError`."""
    budget = parse_dollars(BUDGET_FLAG, options.budget)
    _check(options)
    selection = select_profile(context)
    profile = selection.profile
    subject = _subject(options, profile)
    given = _inputs(subject, selection, context, options.per_day)
    findings = lint(given)
    fixed = _fixed(subject, findings) if options.fix or options.try_ else None
    tried: list[dict[str, Any]] = []
    code = int(any(each.saves for each in findings))
    if options.try_:
        assert fixed is not None
        tried, stopped = asyncio.run(_try(subject, fixed, options, budget, selection, context))
        code = stopped or code
    if context.json:
        print_json(_as_json(given, findings, profile, options, fixed, tried))
    lines = _lines(subject, given, findings, options)
    to_stdout = options.fix and options.output in (None, STDOUT)
    if to_stdout and not context.json:
        context.info("\n".join(lines))
        write_stdout(_written(subject, fixed))
    elif not context.json:
        print_lines(*lines)
    if options.fix and not to_stdout:
        path = Path(str(options.output))
        with disk("write", path):
            path.write_text(_written(subject, fixed), encoding="utf-8")
        context.info(f"written: {path}; read it before use, or compare answers with --try")
    if tried and not context.json:
        _print_trial(tried)
    return code


def _check(options: LintOptions) -> None:
    """Raises `UsageError` for options that do not go together."""
    rows = options.file == STDOUT or options.file.endswith(_ROWS)
    if options.template is not None and not rows:
        raise UsageError(
            "--template goes with a FILE of rows; for a template alone, name it as FILE"
        )
    if options.try_ and options.template is None:
        raise UsageError(
            "--try wants a FILE of rows and --template: both templates are asked on them"
        )
    if options.output is not None and not options.fix:
        raise UsageError("-o says where --fix writes: give that, too")
    if options.budget is not None and not options.try_:
        raise UsageError("--budget goes with --try: nothing else is sent")


def _subject(options: LintOptions, profile: Profile) -> Subject:
    """Raises `InputError` for what cannot be read, and `UsageError` for nothing to look at."""
    given = system_prompt(options.system)
    system = profile.system if given is None else given
    if not options.file:
        if not system:
            raise UsageError(
                f"profile {profile.name} has no system prompt: name a FILE (see "
                "`llmctl prompt lint -h`)"
            )
        return Subject([], [], None, system)
    if options.file != STDOUT and not options.file.endswith(_ROWS):
        text = text_argument("FILE", "template", f"@{options.file}")[1]
        if not text.strip():
            raise InputError(f"{options.file} is empty")
        return Subject([], [], text, system)
    template = None
    if options.template is not None:
        template = text_argument("--template", "template", options.template)[1]
    reader = _reader(options.template, system)
    rows: list[Row] = []
    records: list[Record] = []
    whole = True
    with InputFile.open(options.file) as source:
        for index, record in enumerate(source.records()):
            if index >= MOST:
                whole = False
                break
            try:
                rows.append(Row(record[0], reader.request(record, profile, index)))
            except RowError as error:
                raise InputError(f"{source.name}, line {record[0]}: {error}") from None
            records.append(record)
        if not rows:
            raise InputError(f"{source.name} has no rows")
    start, behind = ("", "") if template else shared(rows)
    return Subject(rows, records, template, system, whole, start, behind)


def _reader(template: str | None, system: str | None) -> RowReader:
    from llmctl.batch.template import Template

    return RowReader(template=None if template is None else Template(template), system=system)


def _inputs(
    subject: Subject, selection: Selection, context: Context, per_day: int | None
) -> LintInputs:
    profile, now = selection.profile, context.clock.wall()
    prices = Prices(partial(pricing.load, selection.settings.folders.state, context.warn))
    counter = Counter(prices.window, codec)
    request = compose(Question(messages=(Message("user", "-"),)), profile, id="")
    empty = counter.usage(text_request(request, ""), "").input

    def price(request: Request, usage: Usage) -> Decimal | None:
        return prices.price(request.target, profile.price, usage, now, terms_of(request))

    with LedgerPeek(selection.settings.folders.state / "ledger.db") as ledger:
        outputs = [tokens for tokens, _ in ledger.recent(profile.name, profile.model)]
    return LintInputs(
        rows=subject.rows,
        constants=subject.constants,
        request=request,
        count=lambda text: counter.usage(text_request(request, text), "").input - empty,
        count_request=lambda asked: counter.usage(asked, "").input,
        price=price,
        outputs=outputs,
        per_day=per_day,
    )


def _fixed(subject: Subject, findings: Sequence[Finding]) -> str:
    """The shorter template, or the system prompt where there is none."""
    text = subject.template or subject.system or ""
    made = fix.shorter(text)
    if subject.template and any(each.kind == "order" and each.fixable for each in findings):
        made = fix.constant_first(made) or made
    assert fix.tags(made) == fix.tags(text)
    return made


def _written(subject: Subject, fixed: str | None) -> str:
    """What `--fix` writes: the text, or the rows with what they share shorter. Raises
    `UsageError` for rows that cannot be written again."""
    if subject.template or not subject.rows:
        return fixed or ""
    if not subject.whole:
        raise UsageError(f"--fix takes {MOST:,} rows at the most; use --template for more")
    return "".join(_row(record, subject) for record in subject.records)


def _row(record: Record, subject: Subject) -> str:
    if not isinstance(record[1], bytes):
        raise UsageError("--fix cannot write a CSV file again: put the constant text in --template")
    fields = orjson.loads(record[1])
    text, start, behind = fields.get("prompt"), subject.start, subject.behind
    if isinstance(text, str) and text.startswith(start) and text.endswith(behind):
        middle = text[len(start) : len(text) - len(behind)]
        fields["prompt"] = f"{fix.shorter(start)}{middle}{fix.shorter(behind)}"
    if isinstance(fields.get("system"), str):
        fields["system"] = fix.shorter(fields["system"])
    return orjson.dumps(fields).decode() + "\n"


# --- Trial --------------------------------------------------------------------------------------


async def _try(
    subject: Subject,
    fixed: str,
    options: LintOptions,
    budget: Decimal | None,
    selection: Selection,
    context: Context,
) -> tuple[list[dict[str, Any]], int]:
    """Ask both templates on the first rows; what came of it, and 3 when a budget ended it."""
    assert subject.template is not None
    readers = [_reader(text, subject.system) for text in (subject.template, fixed)]
    tried: list[dict[str, Any]] = []
    async with runner_for(selection, context) as live:
        live.budget.limit(
            budget_windows(budget, selection.settings.budgets, live.run_id, user_name())
        )
        records: list[CallRecord] = []

        async def sink(record: CallRecord) -> None:
            await live.budget.settle(record)
            records.append(record)

        handler = live.handler(sink, exact=True, on_retry=lambda _: None)
        for index, record in enumerate(subject.records[: options.try_]):
            both: dict[str, Any] = {"line": record[0]}
            for name, reader in zip(("now", "fixed"), readers, strict=True):
                asked = live.stamp(reader.request(record, selection.profile, index))
                asked = asked if live.masker is None else live.masker(asked)
                both[name], refused = await _asked(handler, asked, records)
                if refused:
                    return [*tried, both], BudgetRefused.exit_code
            tried.append(both)
    return tried, 0


async def _asked(
    handler: Handler, request: Request, records: list[CallRecord]
) -> tuple[dict[str, Any], bool]:
    """Text, cost and error of one call, and whether a budget refused it."""
    try:
        answer = await handler(request, None)
    except CallError as error:
        refused = isinstance(error, BudgetRefused)
        return {"text": None, "usd": None, "error": error.message}, refused
    kept = answer.cache in KEPT  # free now; what it costs to ask is of interest
    cost = records[-1].saved if kept else records[-1].cost
    return {"text": answer.text, "usd": cost, "error": None}, False


def _print_trial(tried: list[dict[str, Any]]) -> None:
    cells: list[list[str]] = []
    for both in tried:
        row = [str(both["line"])]
        for name in ("now", "fixed"):
            said = both.get(name) or {"text": None, "usd": None, "error": "not asked"}
            row += [said["text"] if said["error"] is None else f"({said['error']})"]
            row += [money(said["usd"]) if said["error"] is None else ""]
        cells.append(row)
    print_lines("")
    print_table(("LINE", "NOW", "COST", "FIXED", "COST"), cells)
    for name in ("now", "fixed"):
        costs = [each[name]["usd"] for each in tried if each.get(name)]
        known = [cost for cost in costs if cost is not None]
        print_lines(f"{name:<6}{money(sum(known, Decimal(0)))} for {plural(len(known), 'answer')}")


# --- Printing -----------------------------------------------------------------------------------


def _lines(
    subject: Subject, given: LintInputs, findings: Sequence[Finding], options: LintOptions
) -> list[str]:
    """The findings for a person."""
    target = given.request.target
    name = options.file or f"profile {target.profile}"
    each = "a day" if options.per_day else "a run"
    size = f"{plural(len(given.rows), 'row')}, " if given.rows else ""
    if not subject.whole:
        size = f"the first {size}"
    found = [f"{name}: {size}{given.prompts:,} prompts {each}, {target.profile}/{target.model}"]
    for one in findings:
        worth = [f"{one.tokens:,} tokens"] if one.tokens else []
        worth += [f"{money(one.usd)} {each}"] if one.usd is None or one.usd else []
        where = f" [{_places(one.lines)}]" if one.lines else ""
        fixable = " (--fix)" if one.fixable else ""
        what = f"{', '.join(worth)}: {one.what}" if worth else one.what
        found.append(f"  {one.kind}: {what}{where}{fixable}")
    return found if findings else [*found, "  nothing found"]


def _places(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_LINES]))
    if len(lines) > _LINES and tuple(lines) == tuple(range(lines[0], lines[-1] + 1)):
        return f"lines {lines[0]}-{lines[-1]}"
    more = f" and {len(lines) - _LINES:,} more" if len(lines) > _LINES else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{more}"


def _as_json(
    given: LintInputs,
    findings: Sequence[Finding],
    profile: Profile,
    options: LintOptions,
    fixed: str | None,
    tried: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "model": profile.model,
        "rows": len(given.rows),
        "prompts": given.prompts,
        "per_day": options.per_day is not None,
        "findings": [
            {
                "kind": each.kind,
                "what": each.what,
                "tokens": each.tokens,
                "usd": dollars(each.usd),
                "lines": each.lines,
                "fixable": each.fixable,
                "saves": each.saves,
            }
            for each in findings
        ],
        **({"fixed": fixed} if options.fix else {}),
        **({"tried": [_tried_json(both) for both in tried]} if options.try_ else {}),
    }


def _tried_json(both: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"line": both["line"]}
    for name in ("now", "fixed"):
        if name in both:
            said[name] = {**both[name], "usd": dollars(both[name]["usd"])}
    return said
