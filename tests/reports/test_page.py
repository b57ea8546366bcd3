"""The page of `llmctl report`: the report's figures, whole, inert and of bounded size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from llmctl.cli.cost_formats import as_json
from llmctl.config.settings import Budget
from llmctl.reports import page
from llmctl.reports.page import PageData, html, policy, read
from llmctl.reports.periods import moment, since, span_of
from llmctl.reports.report import Figures, Group, Month, Query, Report, Unpriced, make
from llmctl.storage.ledger import open_ledger
from llmctl.storage.ledger_rows import CallRow
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost

NOW = moment(datetime(2026, 11, 21, 12, tzinfo=UTC))
DAY = 86_400_000
DOLLAR = 10**12
EVIL = '"><script src=//evil.test></script><img src=x onerror=alert(1)>\u202e{{7*7}}\x1b]0;x\x07'
VOID = {"meta", "input", "br", "img", "link"}
LOADING = {
    "src", "srcset", "href", "xlink:href", "action", "formaction", "data", "poster", "background",
    "ping", "manifest", "style",
}  # fmt: skip


class Page(HTMLParser):
    """What a parser makes of a page: its elements, its policy and style, the words of each part."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.style = ""
        self.rows: list[list[str]] = []
        self._within: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element; cells and rows end where the next begins."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._within.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave the element, and those that end with it."""
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Text, of a cell where it is in one."""
        if self._within[-1:] == ["style"]:
            self.style += data
        elif data.strip():
            self.words.append(" ".join(data.split()))
            if {"td", "th"} & set(self._within):
                self.rows[-1][-1] += " ".join(data.split())

    @property
    def text(self) -> str:
        """All words, separated by blanks."""
        return " ".join(self.words)

    def row(self, name: str) -> list[str]:
        """The cells of the first row that begins so."""
        return next(row for row in self.rows if row and row[0] == name)


def data_of(path: Path, *, ago: str = "30d", zone: Any = UTC, budgets: Any = ()) -> PageData:
    """What the page shows of a ledger."""
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(
            lambda reading: read(reading, since(ago, NOW, zone), zone, NOW, budgets)
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Five dollars charged and half of one in doubt, one saved by the cache and two by a batch, one
    call at an unknown price, a failure; of two teams on three days."""
    red, blue = '{"team":"red"}', '{"team":"blue"}'
    return a_ledger(
        tmp_path / "l.db",
        a_call(started_ms=NOW - 1000, tags=red, latency_ms=500, call_id="01DEAREST", model="gpt-5",
               cost_pico=4 * DOLLAR),
        a_call(started_ms=NOW - DAY, tags=blue, latency_ms=12_000, call_id="01SLOWEST", user="bob"),
        a_hit(started_ms=NOW - DAY, tags=blue),
        a_failure(started_ms=NOW - 2 * DAY, error_type="timeout"),
        lost(started_ms=NOW - 2 * DAY, cost_pico=DOLLAR // 2),
        a_call(started_ms=NOW - DAY, cost_pico=0, saved_pico=2 * DOLLAR, job="b", latency_ms=None),
        a_call(started_ms=NOW - DAY, cost_pico=None, model="new", profile="mine"),
    )  # fmt: skip


def test_figures_are_those_of_the_json_report(path: Path) -> None:
    """Cost, calls, savings, rates and latencies of the whole and of each model; today, the month
    and its projection: the page says what `cost report --json` says."""
    found = Page(html(data_of(path)))
    query = Query(since("30d", NOW, UTC), ("model",), UTC, NOW)
    with closing(open_ledger(path, "", "")) as ledger:
        said = json.loads(as_json(ledger.report(lambda r: make(r, query, ()))), parse_float=Decimal)
    total, month = said["total"], said["month_to_date"]
    assert (total["cost_usd"], total["saved_usd"], total["batch_saved_usd"]) == (5, 1, 2)
    assert f"This span ${total['cost_usd']:.2f}+? {total['calls']} calls" in found.text
    assert "Today $4.00 1 call ; yesterday $1.00+?" in found.text.replace("call;", "call ;")
    assert f"${month['projected_usd']:.2f} projected by 30 Nov 2026" in found.text
    assert "Saved $3.00 cache $1.00, batches $2.00" in found.text
    assert f"Cache hit rate {total['cache_hit_rate']:.1%}" in found.text
    assert f"Error rate {total['error_rate']:.1%}" in found.text
    assert "Latency, p95 12.0 s" in found.text
    assert "timeout 1" in found.text
    for group in said["groups"]:
        row = found.row(group["key"]["model"])
        cost = group["cost_usd"]
        doubt = "+?" if group["unpriced_calls"] and cost else ""
        assert row[1] == ("$?" if cost is None else f"${cost:.2f}{doubt}")
        assert row[3] == str(group["calls"])
        assert row[9] == f"{group['error_rate']:.1%}"
        assert row[11] == (
            "-" if (ms := group["latency_ms"]["p95"]) is None
            else f"{ms / 1000:.1f} s" if ms >= 10_000 else f"{ms / 1000:.2f} s"
        )  # fmt: skip
    for day in said["days"]:
        at = date.fromisoformat(day["day"])
        row = found.row(f"{at:%a} {at.day} {at:%b %Y}")
        assert row[2] == str(day["calls"])


def test_what_nobody_knows_is_no_zero(path: Path) -> None:
    """A cost that is unknown is $?, what is in doubt has its own words, and both are explained."""
    found = Page(html(data_of(path)))
    assert found.row("new")[1] == "$?"
    assert "$0.50 more in doubt" in found.text
    assert "Calls at an unknown price: mine/new" in found.text.replace(" / ", "/")
    assert "2 attempts may have been billed" in found.text or "1 attempt may have" in found.text


def test_groups(path: Path) -> None:
    """By profile, user and tag; calls without the tag are together, and each adds up to all."""
    data = data_of(path)
    found = Page(html(data))
    assert [found.row(name)[1] for name in ("bob", "red", "blue")] == ["$1.00", "$4.00", "$1.00"]
    assert found.row("none")[3] == "4"
    for groups in (data.profiles, data.users, *data.tags.values()):
        assert sum(group.figures.calls for group in groups) == data.report.total.calls
        assert sum(group.figures.cost_pico for group in groups) == 5 * DOLLAR


def test_single_calls(path: Path) -> None:
    """The dearest and slowest come first, with who asked, what for, and their id; a call of
    unknown end costs at most what is in doubt."""
    data = data_of(path)
    assert data.dearest[0].call_id == "01DEAREST"
    assert data.slowest[0].call_id == "01SLOWEST"
    rows = [row for row in Page(html(data)).rows if row and row[-1] == "01SLOWEST"]
    assert "12.0 s" in rows[0]
    assert {"bob", "team=blue", "20 Nov 2026 12:00:00"} <= set(rows[0])
    assert any("≤ $0.50" in row for row in Page(html(data)).rows)


def test_budgets_are_gauges(path: Path) -> None:
    """Each with its state in words, usage, limit and end."""
    budgets = [Budget("team", Decimal(10), "month"), Budget("day", Decimal(1), "day")]
    found = Page(html(data_of(path, budgets=budgets)))
    assert "team within" in found.text
    assert "$5.50+? of $10.00 (55%); a month, until 30 Nov 2026" in found.text
    assert "day exceeded" in found.text
    names = [attrs["aria-label"] for tag, attrs in found.elements if attrs.get("class") == "gauge"]
    assert names == ["team: 55% of $10.00 used", "day: 400% of $1.00 used"]


def test_the_page_asks_for_nothing(path: Path) -> None:
    """No element loads, links elsewhere or runs; only the page's own style applies, by its hash."""
    found = Page(html(data_of(path)))
    for tag, attrs in found.elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        for name in attrs.keys() & LOADING:
            assert name == "href", (tag, name)
            assert str(attrs[name]).startswith("#"), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")]
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    wanted = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    metas = [attrs for tag, attrs in found.elements if tag == "meta"]
    (given,) = (m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert given == wanted == policy()
    assert not re.search(r"url\(|@import|@font-face|expression|https?:", found.style)


def test_links_lead_to_a_place_on_the_page(path: Path) -> None:
    """Of an empty page, too; no two places have one name, and labels name places."""
    empty = PageData(
        Report(Query(since("1d", NOW, UTC), (), UTC, NOW), Figures(), (), (),
               Month(since("1d", NOW, UTC), Figures(), None), (), ()),
        Figures(),
    )  # fmt: skip
    for data in (data_of(path, budgets=[Budget("b", Decimal(1), "day")]), empty):
        found = Page(html(data))
        ids = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
        assert len(ids) == len({*ids})
        links = {str(attrs["href"])[1:] for tag, attrs in found.elements if tag == "a"}
        labels = {str(a["aria-labelledby"]) for _, a in found.elements if "aria-labelledby" in a}
        assert links | labels <= {*ids}


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Models, profiles, users, tags, errors, kinds of masked text and budgets: whatever a provider
    or caller puts into a name stays a name, on one line, without control characters. The page has
    the very elements, with the very attributes, that it has with harmless names."""

    def page_with(name: str) -> str:
        named = dict.fromkeys(("model", "profile", "provider", "user"), name)
        named |= {"tags": json.dumps({name: name}), "masked": json.dumps({name: 1})}
        ledger = a_ledger(
            tmp_path / f"{len(name)}.db",
            a_call(started_ms=NOW - 1, **named),
            a_call(started_ms=NOW - 1, cost_pico=None, **named),
            a_failure(started_ms=NOW - 1, error_type=name, **named),
        )
        return html(data_of(ledger, budgets=[Budget(name, Decimal(1), "day")]))

    text = page_with(EVIL)
    evil, plain = Page(text), Page(page_with("plain"))
    assert [(tag, [*attrs]) for tag, attrs in evil.elements] == [
        (tag, [*attrs]) for tag, attrs in plain.elements
    ]
    assert "{{7*7}}" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_long_names_are_cut(tmp_path: Path) -> None:
    """A name of a megabyte takes no more room than others, wherever it stands, and a call's
    thousand tags no more than some."""
    long = "m" * 1_000_000
    tags = json.dumps({long: long, **{f"tag-{n}": "x" for n in range(1000)}})
    call = a_call(started_ms=NOW - 1, model=long, profile=long, user=long, tags=tags)
    assert len(html(data_of(a_ledger(tmp_path / "l.db", call)))) < 80_000


def crowd(number: int, figures: Figures) -> tuple[Group, ...]:
    """So many groups with long names."""
    return tuple(Group((f"name-of-group-{n:05d}-{'x' * 60}",), figures) for n in range(number))


@pytest.mark.parametrize("days", [30, 92, 365, 3650])
def test_size(days: int) -> None:
    """A million calls of hundreds of models, users, profiles and tags, over ten years: at most a
    megabyte."""
    span = span_of(f"{days}d", None, None, NOW, UTC)
    first = datetime.fromtimestamp(span.start / 1000, UTC).date()
    each = Figures(
        calls=123_456,
        cost_pico=123_456_789 * 10**9,
        input_tokens=10**9,
        errors=3_456,
        kept=45_678,
        saved_pico=98_765 * DOLLAR,
        doubtful=1,
        doubtful_pico=DOLLAR,
    )
    each.latencies.update(["1234", "5678"])
    models = [f"model-{n:04d}-{'y' * 60}" for n in range(300)]
    all_days = [first + timedelta(n) for n in range(days + 1)]
    groups = [
        Group((day.isoformat(), model), each)
        for at, day in enumerate(all_days)
        for model in (models if at < 40 else models[:8])
    ]
    call = CallRow("01" + "C" * 24, "run", NOW, "p" * 90, "x", "m" * 90, '{"team":"a"}', "u" * 90,
                   1, 1, cost_pico=1, latency_ms=1)  # fmt: skip
    report = Report(
        Query(span, ("day", "model"), UTC, NOW), each, tuple(groups),
        tuple((day, each) for day in all_days), Month(span, each, Decimal(1)), (),
        tuple(Unpriced("p" * 90, "x", f"m{n}" * 30, 1) for n in range(300)),
        error_types={f"type-{n}": n for n in range(20)},
    )  # fmt: skip
    tags = {f"tag-{n}": crowd(500, each) for n in range(page._TAGS)}
    data = PageData(report, each, crowd(300, each), crowd(500, each), tags, 40, [call] * 20,
                    [call] * 20)  # fmt: skip
    text = html(data)
    assert len(text.encode()) <= 1_000_000
    found = Page(text)
    unit = {30: "day", 92: "week", 365: "week", 3650: "month"}[days]
    assert f"Spend by {unit}" in found.words
    assert found.row("450 more")[3] == f"{450 * each.calls:,}"


def test_days_are_those_of_the_zone(tmp_path: Path) -> None:
    """A call just before midnight in UTC belongs to the next day in Berlin."""
    at = moment(datetime(2026, 11, 20, 23, 30, tzinfo=UTC))
    ledger = a_ledger(tmp_path / "l.db", a_call(started_ms=at))
    assert Page(html(data_of(ledger))).row("Fri 20 Nov 2026")[2] == "1"
    found = Page(html(data_of(ledger, zone=ZoneInfo("Europe/Berlin"))))
    assert found.row("Sat 21 Nov 2026")[2] == "1"
    assert "Today $1.00" in found.text
    assert "Europe/Berlin" in found.words


def test_free_calls_are_counted(tmp_path: Path) -> None:
    """Where nothing cost anything the chart shows calls; without calls there is none."""
    calls = [a_call(started_ms=NOW - n, cost_pico=0) for n in range(3)]
    assert "Calls by day" in Page(html(data_of(a_ledger(tmp_path / "l.db", *calls)))).words
    found = Page(html(data_of(tmp_path / "empty.db")))
    assert "No calls in this span" in found.words
    assert "Today $0" in found.text
