"""What prompts cost that they need not: findings with rows, tokens and dollars. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter as Bag
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from statistics import median
from typing import Any

from msgspec import Struct

from llmctl.prompts import fix
from llmctl.prompts.prefix import PrefixScan, Pricing, caching_of, common_start, judged
from llmctl.types import Message, Request, Usage

_SAMPLES = 3
_SHORT = 50
"""Tokens of constant text behind the rows' own that are worth a word."""
_LONG, _TIMES = 1000, 10
"""Tokens, and times the median, from which a row is called long."""
_VOLATILE = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b\d\d:\d\d:\d\d\b|\b\d{6,}\b",
    re.IGNORECASE,
)
"""Dates and times, UUIDs, long numbers."""
_EXAMPLE = re.compile(r"^(?:example(?: \d+)?|q|input|question)\s*:", re.IGNORECASE | re.MULTILINE)


class Row(Struct, frozen=True):
    """One row: its line in the file, from 1, and its request."""

    line: int
    request: Request


class LintInputs(Struct, frozen=True):
    """What is looked at. Without rows the constant texts alone are.

    Attributes:
        rows: in the file's order.
        constants: text that every prompt has, by what it is, such as `template`.
        request: one of the profile, whose model and prices count.
        count: tokens of a text.
        count_request: tokens of a request's input.
        price: of usage.
        outputs: tokens of earlier answers.
        per_day: prompts a day; None: the rows, once.

    """

    rows: Sequence[Row]
    constants: dict[str, str]
    request: Request
    count: Callable[[str], int]
    count_request: Callable[[Request], int]
    price: Pricing
    outputs: Sequence[int] = ()
    per_day: int | None = None

    @property
    def prompts(self) -> int:
        """How many are sent: a day, or a run."""
        return self.per_day or max(1, len(self.rows))

    def scaled(self, tokens: int) -> int:
        """Tokens of all the rows, in as many prompts as are sent."""
        return round(tokens * self.prompts / max(1, len(self.rows)))


class Finding(Struct, frozen=True):
    """One finding.

    Attributes:
        tokens: of input that would not be sent, a day or run; 0: none less, but cheaper ones, or
            only a note.
        usd: dollars that it costs more than it need; None: not known.
        lines: of the file, where it is.
        fixable: `--fix` does it.

    """

    kind: str
    what: str
    tokens: int = 0
    usd: Decimal | None = Decimal(0)
    lines: tuple[int, ...] = ()
    fixable: bool = False

    @property
    def saves(self) -> bool:
        """Whether there is something to be saved, rather than to be known."""
        return self.tokens > 0 or bool(self.usd)


def lint(given: LintInputs) -> list[Finding]:
    """The findings, those that save most first, then notes."""
    found = [
        *_wording(given),
        *_duplicates(given),
        *_json(given),
        *_prefix(given),
        *_volatile(given),
        *_examples(given),
        *_long(given),
        *_limit(given),
    ]
    return sorted(found, key=lambda f: (not f.saves, -(f.usd or 0), -f.tokens))


def shared(rows: Sequence[Row]) -> tuple[str, str]:
    """The text that all rows' last turns begin with, and end with; the ends of words are whole."""
    texts = [_last(row.request) for row in rows]
    if len(texts) < 2:
        return "", ""
    start = texts[0]
    end = texts[0][::-1]
    for text in texts[1:]:
        start, end = common_start(start, text), common_start(end, text[::-1])
    least = min(map(len, texts))
    if any(len(text) > len(start) for text in texts):
        start = re.sub(r"\S+\Z", "", start)
    behind = end[::-1][max(0, len(start) + len(end) - least) :]
    return start, re.sub(r"\A\S+", "", behind)


def _last(request: Request) -> str:
    return request.messages[-1].text if request.messages else ""


def _saving(given: LintInputs, tokens: int) -> Decimal | None:
    return given.price(given.request, Usage(input=tokens))


def _wording(given: LintInputs) -> Iterator[Finding]:
    lines = tuple(row.line for row in given.rows)
    for name, text in given.constants.items():
        before = given.count(text)
        for step in fix.steps(text):
            after = given.count(step.text)
            saved, before = before - after, after
            if saved <= 0:
                continue
            samples = "; ".join(dict.fromkeys(step.changed[:_SAMPLES]))
            said = f": {samples}" if samples else ""
            tokens = saved * given.prompts
            yield Finding(
                step.kind, f"in the {name}, {saved:,} tokens of each prompt{said}", tokens,
                _saving(given, tokens), lines, fixable=True,
            )  # fmt: skip


def _duplicates(given: LintInputs) -> Iterator[Finding]:
    groups: dict[str, list[Row]] = {}
    for row in given.rows:
        groups.setdefault(row.request.fingerprint, []).append(row)
    again = [row for same in groups.values() for row in same[1:]]
    if not again:
        return
    tokens = given.scaled(sum(given.count_request(row.request) for row in again))
    what = f"{len(again):,} rows ask what an earlier one does (batch answers those once)"
    yield Finding("duplicates", what, tokens, _saving(given, tokens), _lines(again))


def _json(given: LintInputs) -> Iterator[Finding]:
    orders: dict[frozenset[str], Bag[tuple[str, ...]]] = {}
    keys: dict[int, tuple[str, ...]] = {}
    wide, saved = [], 0
    for row in given.rows:
        found = _object(_last(row.request))
        if found is None:
            continue
        text, value = found
        keys[row.line] = tuple(value)
        orders.setdefault(frozenset(value), Bag())[tuple(value)] += 1
        compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if (less := given.count(text) - given.count(compact)) > 0 and "\n" in text:
            wide.append(row)
            saved += less
    usual = {bag.most_common(1)[0][0] for bag in orders.values()}
    odd = tuple(line for line, order in keys.items() if order not in usual)
    if odd:
        what = (
            f"{len(odd):,} rows have the keys of their JSON in another order than most: sort them"
        )
        yield Finding("key order", f"{what}, for prompts that begin alike", lines=odd)
    if wide:
        tokens = given.scaled(saved)
        what = f"the JSON of {len(wide):,} rows is indented: write it on one line"
        yield Finding("json", what, tokens, _saving(given, tokens), _lines(wide))


def _object(text: str) -> tuple[str, dict[str, Any]] | None:
    """The first JSON object in a text, as it stands there, and as a value."""
    at = text.find("{")
    if at < 0:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return None
    return (text[at:end], value) if isinstance(value, dict) else None


def _prefix(given: LintInputs) -> Iterator[Finding]:
    """Whether what rows begin with is kept by the provider, and what stands behind their own."""
    scan = PrefixScan()
    for row in given.rows:
        scan.add(row.request)
    prefixes = scan.prefixes(given.count_request).values()
    longest = max(prefixes, key=lambda prefix: prefix.tokens * prefix.rows, default=None)
    if longest is not None:
        verdict = judged(longest, given.price)
        if not verdict.why_not:
            what = (
                f"{longest.rows:,} rows begin with the same {longest.tokens:,} tokens, which the "
                "provider keeps at a lower price: batch --warm"
            )
            scale = Decimal(given.prompts) / len(given.rows)
            yield Finding("prefix", what, usd=round(verdict.saves * scale, 9))
        elif verdict.caching is not None and longest.tokens < verdict.caching.minimum:
            yield Finding("prefix", f"what {longest.rows:,} rows begin with: {verdict.why_not}")
    _, behind = shared(given.rows)
    tokens = given.count(behind)
    caching = caching_of(given.request.target)
    if tokens < _SHORT or len(given.rows) < 2:
        return
    before = longest.tokens if longest is not None and longest.rows == len(given.rows) else 0
    what = f"{tokens:,} constant tokens stand behind each row's own text"
    if caching is None or before + tokens < caching.minimum:
        yield Finding("order", f"{what}; too few to be kept by the provider in front, either")
        return
    rows = given.prompts
    anew = _saving(given, tokens * rows)
    read = given.price(given.request, Usage(input=tokens, cached_input=tokens))
    write = given.price(given.request, Usage(input=tokens, cache_write=tokens))
    usd = None if None in (anew, read, write) else anew - write - read * (rows - 1)  # type: ignore[operator]
    if usd is None or usd > 0:
        yield Finding(
            "order", f"{what}: in front they are kept at a lower price", 0, usd,
            _lines(given.rows), fixable="template" in given.constants,
        )  # fmt: skip


def _volatile(given: LintInputs) -> Iterator[Finding]:
    """A date or an id in front of text that all rows share."""
    if len(given.rows) < 2:
        return
    texts = ["\n".join(m.text for m in row.request.messages) for row in given.rows]
    plain = [_VOLATILE.sub("\0", text) for text in texts]
    now, then = texts[0], plain[0]
    for text, other in zip(texts[1:], plain[1:], strict=True):
        now, then = common_start(now, text), common_start(then, other)
    lost = given.count(then.replace("\0", "")) - given.count(now)
    caching = caching_of(given.request.target)
    if lost < _SHORT or "\0" not in then:
        return
    at = next((a.start() for a in _VOLATILE.finditer(texts[0]) if a.end() > len(now)), 0)
    sample = texts[0][at : at + 30].split("\n")[0]
    what = f"a date, time or id ({sample}…) stands before {lost:,} tokens that all rows share"
    usd: Decimal | None = Decimal(0)
    if caching is not None and given.count(then) >= caching.minimum:
        anew = _saving(given, lost * given.prompts)
        read = given.price(given.request, Usage(input=lost, cached_input=lost))
        usd = None if anew is None or read is None else anew - read * given.prompts
        what += ", which the provider could keep: move it behind them"
    yield Finding("volatile", what, 0, usd, _lines(given.rows))


def _examples(given: LintInputs) -> Iterator[Finding]:
    for name, text in given.constants.items():
        starts = [match.start() for match in _EXAMPLE.finditer(text)]
        if len(starts) >= 3:
            sizes = [given.count(text[one:other]) for one, other in pairwise(starts)]
            each = round(median(sizes))
            yield Finding(
                "examples",
                f"{len(starts):,} examples in the {name}, about {each:,} tokens each: try fewer",
            )


def _long(given: LintInputs) -> Iterator[Finding]:
    sizes = [given.count_request(row.request) for row in given.rows]
    usual = median(sizes) if sizes else 0
    long = [
        row
        for row, size in zip(given.rows, sizes, strict=True)
        if size >= _LONG and size > _TIMES * usual
    ]
    if long:
        what = f"{len(long):,} rows have more than {_TIMES} times the tokens of most ({usual:,.0f})"
        yield Finding("long rows", what, lines=_lines(long))


def _limit(given: LintInputs) -> Iterator[Finding]:
    limit, most = given.request.max_tokens, max(given.outputs, default=0)
    if limit and most and limit > 4 * most:
        what = (
            f"max_tokens is {limit:,}, and the longest of {len(given.outputs):,} answers had "
            f"{most:,}: a smaller one holds less of budgets and rate limits"
        )
        yield Finding("max_tokens", what)


def _lines(rows: Sequence[Row]) -> tuple[int, ...]:
    return tuple(row.line for row in rows)


def text_request(request: Request, text: str) -> Request:
    """A request of the text alone, to be counted."""
    return Request(id="", target=request.target, messages=(Message("user", text),))
