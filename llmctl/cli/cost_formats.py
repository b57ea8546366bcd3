"""Formats of a cost report for programs: JSON, CSV, and Markdown for a CI job's summary."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import orjson
from msgspec.structs import asdict

from llmctl.batch.output import dollars
from llmctl.cli.cost_release import MAX_NAMED, calls_json, total_of
from llmctl.cli.output import json_text, money, percent
from llmctl.reports.periods import iso
from llmctl.reports.report import BudgetState, Figures, Group, Report, percentiles

PERCENTILES = (50, 95, 99)
_SPECIAL = re.compile(r'[",\r\n]')
_FORMULA = re.compile(r"[=+\-@\t\r]")
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")
_STATES = {"within": "✅ within", "warning": "⚠️ warning", "exceeded": "❌ exceeded"}


class Column(NamedTuple):
    """A column of figures: its title, its title in Markdown, its kind, and its value.

    `kind` is money (dollars and calls of unknown price), share, count or latency (in ms).
    """

    title: str
    long: str
    kind: Literal["money", "share", "count", "tokens", "latency"]
    value: Callable[[Figures, Figures], Any]


COLUMNS = (
    Column("cost", "Cost (USD)", "money", lambda f, _: (f.cost, f.unpriced)),
    Column("share", "Share", "share", lambda f, whole: f.share_of(whole)),
    Column("calls", "Calls", "count", lambda f, _: f.calls),
    Column("in", "Tokens in", "tokens", lambda f, _: f.input_tokens),
    Column("out", "Tokens out", "tokens", lambda f, _: f.output_tokens),
    Column("saved", "Saved (USD)", "money", lambda f, _: (f.saved, f.unsaved)),
    Column("errors", "Errors", "share", lambda f, _: f.error_rate),
    Column("p50", "p50 (s)", "latency", lambda f, _: percentiles(f.latencies, [50])[0]),
    Column("p95", "p95 (s)", "latency", lambda f, _: percentiles(f.latencies, [95])[0]),
    Column("p99", "p99 (s)", "latency", lambda f, _: percentiles(f.latencies, [99])[0]),
)
"""Figures of a group in a table and in Markdown, beside the group and the whole."""


def as_json(report: Report) -> str:
    """The whole report as one JSON object; see `llmctl cost report --help`."""
    query, zone = report.query, report.query.zone
    month = report.month
    total, unpriced = total_of(report.unknown)
    return json_text(
        {
            "from": iso(query.span.start, zone),
            "to": iso(query.span.end - 1, zone),
            "timezone": str(zone),
            "by": list(query.by),
            "total": figures_json(report.total, report.total),
            "groups": groups_json(report.groups, query.by, report.total),
            "days": [
                {"day": day.isoformat(), "calls": figures.calls, "cost_usd": dollars(figures.cost)}
                for day, figures in report.days
            ],
            "month_to_date": {
                "from": iso(month.span.start, zone),
                "to": iso(month.span.end, zone),
                "calls": month.figures.calls,
                "cost_usd": dollars(month.figures.cost),
                "may_have_been_billed_usd": dollars(month.figures.doubt),
                "unpriced_calls": month.figures.unpriced,
                "projected_usd": dollars(month.projected),
            },
            "budgets": [budget_json(state, zone) for state in report.budgets],
            "unpriced": [asdict(each) for each in report.unpriced],
            "unknown": {
                "calls": len(report.unknown),
                "usd": dollars(total),
                "unpriced_calls": unpriced,
                "first": calls_json(report.unknown[:MAX_NAMED], zone),
            },
        }
    )


def figures_json(figures: Figures, whole: Figures) -> dict[str, Any]:
    """The figures of a group; `share` is its part of the whole's cost."""
    values = percentiles(figures.latencies, PERCENTILES)
    latency = {f"p{share}": ms for share, ms in zip(PERCENTILES, values, strict=True)}
    return {
        "calls": figures.calls,
        "errors": figures.errors,
        "error_rate": _rate(figures.error_rate),
        "cached_calls": figures.kept,
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
        "cached_input_tokens": figures.cached_tokens,
        "cache_write_tokens": figures.cache_write_tokens,
        "reasoning_tokens": figures.reasoning_tokens,
        "cost_usd": dollars(figures.cost),
        "share": _rate(figures.share_of(whole)),
        "saved_usd": dollars(figures.saved),
        "unpriced_calls": figures.unpriced,
        "uncertain_attempts": figures.doubtful,
        "may_have_been_billed_usd": dollars(figures.doubt),
        "latency_ms": latency,
    }


def groups_json(groups: Sequence[Group], by: Sequence[str], whole: Figures) -> list[dict[str, Any]]:
    """One object a group: its `key` by dimension, then its figures."""
    return [
        {"key": dict(zip(by, group.key, strict=True)), **figures_json(group.figures, whole)}
        for group in groups
    ]


def budget_json(state: BudgetState, zone: Any) -> dict[str, Any]:
    """How far a budget is used up."""
    span, figures = state.span, state.figures
    return {
        "name": state.budget.name,
        "period": state.budget.period if span else "run",
        "from": iso(span.start, zone) if span else None,
        "to": iso(span.end, zone) if span else None,
        "match": dict(state.budget.match),
        "limit_usd": dollars(state.budget.limit),
        "used_usd": dollars(state.used),
        "used_share": None if state.share is None else _rate(float(state.share)),
        "cost_usd": dollars(figures.cost),
        "may_have_been_billed_usd": dollars(figures.doubt),
        "in_flight_calls": state.in_flight,
        "unpriced_calls": state.unknown,
        "state": state.state,
    }


def as_csv(report: Report) -> str:
    """One line a group, after a line of column names; amounts in USD, unknown is empty.

    Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV
    Injection").
    """
    rows = [[*report.query.by, *_flat(figures_json(Figures(), report.total))]]
    for group in report.groups:
        key = [f"'{value}" if _FORMULA.match(value or "") else value or "" for value in group.key]
        rows.append([*key, *_flat(figures_json(group.figures, report.total)).values()])
    return "".join(",".join(map(_quoted, row)) + "\n" for row in rows)


def _quoted(cell: str) -> str:
    """The cell as RFC 4180 wants it; `csv` would leave a carriage return as it is."""
    return '"' + cell.replace('"', '""') + '"' if _SPECIAL.search(cell) else cell


def _flat(figures: Mapping[str, Any]) -> dict[str, str]:
    flat = {name: value for name, value in figures.items() if name != "latency_ms"}
    flat |= {f"latency_{name}_ms": value for name, value in figures["latency_ms"].items()}
    return {k: "" if v is None else orjson.dumps(v).decode() for k, v in flat.items()}


def as_markdown(report: Report) -> str:
    """Tables of groups and budgets, for a page that renders GitHub's or GitLab's Markdown."""
    query, total, month = report.query, report.total, report.month
    zone = query.zone
    spent = (
        f"**{_usd(total.cost, total.unpriced)} USD** for {total.calls:,} calls, "
        f"{_day(query.span.start, zone)} to {_day(query.span.end - 1, zone)} ({zone}); "
        f"{percent(total.error_rate)} errors, {_usd(total.saved, total.unsaved)} USD saved by "
        f"the cache. Month to date {_usd(month.figures.cost, month.figures.unpriced)} USD, "
        f"projected to {_usd(month.projected)} USD at the month's end."
    )
    lines = ["## LLM cost", "", spent, "", *_group_table(report)]
    if report.budgets:
        lines += [
            "",
            "| Budget | State | Used (USD) | Limit (USD) | Share | Until |",
            "|:--|:--|--:|--:|--:|:--|",
        ]
        for state in report.budgets:
            end = _day(state.span.end - 1, zone) if state.span else "its run"
            lines.append(
                f"| {escaped(state.budget.name)} | {_STATES[state.state]} "
                f"| {_usd(state.used, state.unknown)} | {_usd(state.budget.limit)} "
                f"| {percent(None if state.share is None else float(state.share))} | {end} |"
            )
    return "\n".join([*lines, *_remarks(report)]) + "\n"


def _group_table(report: Report) -> list[str]:
    by = report.query.by
    head = [escaped(name.removeprefix("tag:").capitalize()) for name in by]
    head += [column.long for column in COLUMNS]
    keys = [[escaped(value or "-") for value in group.key] for group in report.groups]
    rows = list(zip(keys, [group.figures for group in report.groups], strict=True))
    if len(rows) != 1:
        rows.append((["**total**", *[""] * (len(by) - 1)] if by else [], report.total))
    return [
        f"| {' | '.join(head)} |",
        "|" + ":--|" * len(by) + "--:|" * len(COLUMNS),
        *(
            f"| {' | '.join([*key, *(_shown(c, figures, report.total) for c in COLUMNS)])} |"
            for key, figures in rows
        ),
    ]


def _shown(column: Column, figures: Figures, whole: Figures) -> str:
    value = column.value(figures, whole)
    if column.kind == "money":
        return _usd(*value)
    if column.kind == "share":
        return percent(value)
    if column.kind == "latency":
        return "-" if value is None else f"{value / 1000:.2f}"
    return f"{value:,}"


def _remarks(report: Report) -> list[str]:
    lines: list[str] = []
    total = report.total
    if total.doubtful:
        doubt = (
            f"{total.doubtful:,} attempts may have been billed although no answer came of them: "
            f"{_usd(total.doubt, total.doubtful_unpriced)} USD at the most, not in the figures."
        )
        lines += ["", doubt]
    if report.unknown:
        amount = _usd(*total_of(report.unknown))
        n = len(report.unknown)
        lines += ["", f"It is unknown how {n:,} calls ended; they may have cost {amount} USD."]
    if report.unpriced:
        named = ", ".join(
            f"{escaped(f'{u.profile}/{u.model}')} ({u.calls:,})" for u in report.unpriced
        )
        lines += ["", f"Calls whose price is unknown are not in the figures: {named}."]
    return lines


def escaped(text: str) -> str:
    """Text that Markdown and HTML take for nothing but text, on one line."""
    plain = " ".join(text.split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _MARKDOWN.sub(r"\\\1", plain)
    # Nothing becomes a link or calls a user by itself (GitHub's "autolinks" and mentions).
    return plain.replace("@", "&#64;").replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def _usd(amount: Decimal | None, unknown: int = 0) -> str:
    """Dollars without their sign, which Markdown may take for mathematics; `?` is unknown."""
    more = " + ?" if unknown and amount is not None else ""
    return money(amount).removeprefix("$") + more


def _day(moment: int, zone: Any) -> str:
    return iso(moment, zone)[:10]


def _rate(share: float | None) -> float | None:
    return None if share is None else round(share, 6)
