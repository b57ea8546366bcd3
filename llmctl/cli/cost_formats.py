"""Formats of a cost report for programs: JSON, CSV, and Markdown for a CI job's summary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
from msgspec.structs import asdict
from rich.filesize import pick_unit_and_suffix

from llmctl.batch.output import dollars
from llmctl.cli.figures import figure_json, targets_line
from llmctl.cli.output import age, json_text, money, percent, plural
from llmctl.reports.periods import iso
from llmctl.reports.report import BudgetState, Figures, Group, Report, percentiles
from llmctl.reports.targets import PERCENTILES, targeted
from llmctl.storage.ledger_queries import UnknownCall

MAX_NAMED = 20  # calls of unknown end that a report names one by one
_SPECIAL = re.compile(r'[",\r\n]')
_FORMULA = re.compile(r"[=+\-@\t\r]")
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$])")
_STATES = {"within": "✅ within", "warning": "⚠️ warning", "exceeded": "❌ exceeded"}


class Column(NamedTuple):
    """A column of figures: titles, the value beside the whole, and its texts.

    `title` and `show` are for a terminal, `long` and `full` for Markdown.
    """

    title: str
    long: str
    value: Callable[[Figures, Figures], Any]
    show: Callable[[Any], str]
    full: Callable[[Any], str]


def tokens(number: int) -> str:
    """`812`, `3.4k`, `1.2M`."""
    unit, suffix = pick_unit_and_suffix(number, ["", "k", "M", "G"], 1000)
    return f"{number / unit:.1f}{suffix}" if suffix else str(number)


def _latency(share: int) -> Column:
    return _time(f"p{share}", lambda figures: percentiles(figures.latencies, [share])[0])


def _time(title: str, value: Callable[[Figures], int | None]) -> Column:
    return Column(
        title,
        f"{title} (s)",
        lambda figures, _: value(figures),
        lambda ms: "-" if ms is None else f"{ms / 1000:.{1 if ms >= 10_000 else 2}f} s",
        lambda ms: "-" if ms is None else f"{ms / 1000:.2f}",
    )


_NOTHING = (None, 0)  # no amount, and no call whose amount is unknown
_dollars = (
    lambda amount: "-" if amount == _NOTHING else money(*amount),
    lambda amount: "-" if amount == _NOTHING else _usd(*amount),
)
COLUMNS = (
    Column("cost", "Cost (USD)", lambda f, _: (f.cost, f.unpriced), *_dollars),
    Column("share", "Share", lambda f, whole: f.share_of(whole), percent, percent),
    Column("calls", "Calls", lambda f, _: f.calls, "{:,}".format, "{:,}".format),
    Column("a call", "A call (USD)", lambda f, _: (f.mean_cost, f.unpriced), *_dollars),
    Column("in", "Tokens in", lambda f, _: f.input_tokens, tokens, "{:,}".format),
    Column("out", "Tokens out", lambda f, _: f.output_tokens, tokens, "{:,}".format),
    Column("saved", "Saved (USD)", lambda f, _: (f.saved, f.unsaved), *_dollars),
    Column("errors", "Errors", lambda f, _: f.error_rate, percent, percent),
    Column("retries", "Retries", lambda f, _: f.retries, "{:,}".format, "{:,}".format),
    Column("429s", "Rate-limit hits", lambda f, _: f.rate_limits, "{:,}".format, "{:,}".format),
    *map(_latency, PERCENTILES),
    _time("first token", lambda figures: percentiles(figures.first_tokens, [50])[0]),
)


def as_json(report: Report) -> str:
    """The whole report as one JSON object; see `llmctl cost report --help`."""
    query, zone, month = report.query, report.query.zone, report.month
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
            "targets": {one.name: figure_json(one) for one in targeted(report.total)},
            "token_trend": _rate(report.token_trend),
            "error_types": report.error_types,
            "masked": report.masked,
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
    return {
        "calls": figures.calls,
        "errors": figures.errors,
        "error_rate": _rate(figures.error_rate),
        "refused_calls": figures.refused,
        "retries": figures.retries,
        "rate_limit_hits": figures.rate_limits,
        "estimated_calls": figures.estimated,
        "cached_calls": figures.kept,
        "cache_hit_rate": _rate(figures.hit_rate),
        "input_tokens": figures.input_tokens,
        "output_tokens": figures.output_tokens,
        "cached_input_tokens": figures.cached_tokens,
        "cache_write_tokens": figures.cache_write_tokens,
        "reasoning_tokens": figures.reasoning_tokens,
        "cost_usd": dollars(figures.cost),
        "share": _rate(figures.share_of(whole)),
        "mean_cost_usd": dollars(figures.mean_cost),
        "saved_usd": dollars(figures.saved),
        "batch_saved_usd": dollars(figures.batch_saved),
        "routed_saved_usd": dollars(figures.routed_saved),
        "provider_cache_saved_usd": dollars(figures.provider_saved),
        "unpriced_calls": figures.unpriced,
        "uncertain_attempts": figures.doubtful,
        "may_have_been_billed_usd": dollars(figures.doubt),
        "latency_ms": _percentiles(figures.latencies),
        "first_token_ms": _percentiles(figures.first_tokens),
    }


def _percentiles(times: Counter[str]) -> dict[str, int | None]:
    values = percentiles(times, PERCENTILES)
    return {f"p{at}": ms for at, ms in zip(PERCENTILES, values, strict=True)}


def groups_json(groups: Sequence[Group], by: Sequence[str], whole: Figures) -> list[dict[str, Any]]:
    """One object a group: its `key` by dimension, then its figures."""
    return [
        {"key": dict(zip(by, group.key, strict=True)), **figures_json(group.figures, whole)}
        for group in groups
    ]


def budget_json(state: BudgetState, zone: tzinfo) -> dict[str, Any]:
    """Limit, usage and state of a budget."""
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
        "all_machines": state.everywhere is not None,
        "state": state.state,
    }


def calls_json(calls: Sequence[UnknownCall], zone: tzinfo) -> list[dict[str, Any]]:
    """Calls in doubt; `usd` is the most that one can have cost beyond what is known."""
    names = ("profile", "provider", "model")
    return [
        {
            "call_id": call.call_id,
            "run_id": call.run_id,
            "time": iso(call.started_ms, zone),
            **{name: getattr(call, name) for name in names},
            "usd": dollars(call.cost),
        }
        for call in calls
    ]


def total_of(calls: Sequence[UnknownCall]) -> tuple[Decimal, int]:
    """Most that the calls can have cost, in US dollars, and how many have an unknown price."""
    total = sum((call.cost or Decimal(0) for call in calls), Decimal(0))
    return total, sum(call.pico is None for call in calls)


def as_csv(report: Report) -> str:
    """One line a group, after a line of column names; amounts in USD, unknown is empty.

    Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV
    Injection").
    """

    def flat(figures: Figures) -> dict[str, Any]:
        fields = figures_json(figures, report.total)
        times = {what: fields.pop(f"{what}_ms") for what in ("latency", "first_token")}
        flat = {f"{what}_{at}_ms": ms for what, each in times.items() for at, ms in each.items()}
        return fields | flat

    head = [*report.query.by, *flat(Figures())]
    return csv_text([head, *([*each.key, *flat(each.figures).values()] for each in report.groups)])


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Lines of CSV (RFC 4180). None is empty; text that a spreadsheet would take for a formula gets
    an apostrophe in front."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            text = f"'{value}" if _FORMULA.match(value) else value
        else:
            text = "" if value is None else orjson.dumps(value).decode()
        # `csv` leaves a carriage return as it is
        return '"' + text.replace('"', '""') + '"' if _SPECIAL.search(text) else text

    return "".join(",".join(map(cell, row)) + "\n" for row in rows)


def as_markdown(report: Report) -> str:
    """Tables of groups and budgets, for a page that renders GitHub's or GitLab's Markdown."""
    total, names = report.total, [escaped(name.capitalize()) for name in dimensions(report)]
    rows = group_rows(report, escaped, "**total**")
    spent = summary(report).replace(" USD", " USD**", 1)
    lines = ["## LLM cost", "", f"**{spent}", "", _line(*names, *(each.long for each in COLUMNS))]
    lines.append("|" + ":--|" * len(names) + "--:|" * len(COLUMNS))
    for key, figures in rows:
        cells = (column.full(column.value(figures, total)) for column in COLUMNS)
        lines.append(_line(*key, *cells))
    if report.budgets:
        heads = ("Budget", "State", "Used (USD)", "Limit (USD)", "Share", "Until")
        lines += ["", _line(*heads), "|:--|:--|--:|--:|--:|:--|"]
    for state in report.budgets:
        used, limit = _usd(state.used, state.unknown), _usd(state.budget.limit)
        share = percent(None if state.share is None else float(state.share))
        end = iso(state.span.end - 1, report.query.zone)[:10] if state.span else "its run"
        name = escaped(state.budget.name)
        lines.append(_line(name, _STATES[state.state], used, limit, share, end))
    for remark in remarks(report, escaped):
        lines += ["", remark]
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def summary(report: Report) -> str:
    """Cost, calls, errors and savings of the span, and the month to date with its projection."""
    query, total, month = report.query, report.total, report.month
    first, last = (iso(at, query.zone)[:10] for at in (query.span.start, query.span.end - 1))
    return (
        f"{_usd(total.cost, total.unpriced)} USD for {plural(total.calls, 'call')}, "
        f"{first} to {last} ({query.zone}); "
        f"{percent(total.error_rate)} errors, {_usd(total.saved, total.unsaved)} USD saved by "
        f"the cache. Month to date {_usd(month.figures.cost, month.figures.unpriced)} USD, "
        f"projected to {_usd(month.projected)} USD at the month's end."
    )


def dimensions(report: Report) -> list[str]:
    """Titles of the columns that name a group."""
    return [name.removeprefix("tag:") for name in report.query.by]


def group_rows(
    report: Report, safe: Callable[[str], str], total: str
) -> list[tuple[list[str], Figures]]:
    """Names and figures of each group, and of the whole unless it is the only group."""
    rows = [([safe(value or "-") for value in group.key], group.figures) for group in report.groups]
    if len(rows) != 1:
        by = report.query.by
        rows.append(([total, *[""] * (len(by) - 1)] if by else [], report.total))
    return rows


def remarks(report: Report, safe: Callable[[str], str]) -> Iterator[str]:
    """How healthy it is, of what calls failed, and what the figures leave out: refused calls,
    estimated tokens, attempts in doubt, unknown prices."""
    total = report.total
    yield from _health(report)
    if report.error_types:
        kinds = ", ".join(f"{safe(name)} {count:,}" for name, count in report.error_types.items())
        yield f"Errors: {kinds}."
    if report.masked:
        kinds = ", ".join(f"{safe(kind)} {count:,}" for kind, count in report.masked.items())
        yield f"Masked before sending: {kinds}."
    yield from _savings(total)
    if total.refused:
        were = "was" if total.refused == 1 else "were"
        yield (
            f"{plural(total.refused, 'call')} {were} refused here, unsent: a budget, a limit of "
            "the day, a rule of `data` or `privacy`, or a provider that was down."
        )
    if total.estimated:
        yield (
            f"Of {plural(total.estimated, 'call')} the provider reported no tokens, or not all: "
            "they are estimates (~)."
        )
    if total.doubtful:
        amount = _usd(total.doubt, total.doubtful_unpriced)
        yield (
            f"{plural(total.doubtful, 'attempt')} may have been billed without an answer: "
            f"{amount} USD at the most, not in the figures."
        )
    if report.unknown:
        amount, count = _usd(*total_of(report.unknown)), len(report.unknown)
        yield f"In doubt: {plural(count, 'call')}, which may have cost {amount} USD more."
    if report.unpriced:
        calls = [(safe(f"{each.profile}/{each.model}"), each.calls) for each in report.unpriced]
        named = ", ".join(f"{name} ({count:,})" for name, count in calls)
        yield f"Calls whose price is unknown are not in the figures: {named}."


def _health(report: Report) -> Iterator[str]:
    """The figures that have healthy targets, and the trend of tokens."""
    if healthy := targeted(report.total):
        yield targets_line(healthy)
    if report.token_trend is not None:
        span, used = report.query.span, report.total.tokens
        long = age((span.end - span.start) / 1000)
        yield f"Tokens: {used:,}, {report.token_trend:+.0%} against the {long} before."


def _savings(total: Figures) -> Iterator[str]:
    """What batches, routes and prompt caches of providers saved, or cost more."""
    if total.batch_saved:
        yield f"Providers' batches cost {_usd(total.batch_saved)} USD less than single calls."
    if total.routed_saved:
        more = "more" if total.routed_saved < 0 else "less"
        amount = _usd(abs(total.routed_saved))
        yield f"Routes cost {amount} USD {more} than the strong model alone would have."
    if total.cached_tokens or total.cache_write_tokens:
        saved = total.provider_saved
        yield (
            f"Providers' prompt caches: {total.cached_tokens:,} tokens read, "
            f"{total.cache_write_tokens:,} written, {_usd(abs(saved))} USD "
            f"{'more' if saved < 0 else 'less'} than without."
        )


def escaped(text: str) -> str:
    """Text that Markdown and HTML take for nothing but text, on one line."""
    plain = " ".join(text.split())
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = _MARKDOWN.sub(r"\\\1", plain)
    # Nothing becomes a link or calls a user by itself (GitHub's "autolinks" and mentions).
    return plain.replace("@", "&#64;").replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def _usd(amount: Decimal | None, unknown: int = 0) -> str:
    """Dollars without their sign, which Markdown may take for mathematics; `?` is unknown."""
    return money(amount, unknown).removeprefix("$").replace("+?", " + ?")


def _rate(share: float | None) -> float | None:
    return None if share is None else round(share, 6)
