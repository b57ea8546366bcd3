"""Answers of several profiles to the same rows, side by side: agreement, figures, a page; pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Struct, field

from llmctl.redact import printable
from llmctl.reports import page
from llmctl.reports.amounts import money, percent

if TYPE_CHECKING:
    from jinja2 import Template

JSON = Mapping[str, Any]

_FENCE = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_EDGES = " \t\n.,;:!?\"'`*_()[]"
_ROWS = 500  # rows on a page
_LONGEST = 6000  # characters of an answer there


class Agreement(Struct, frozen=True):
    """How far two answers agree.

    Attributes:
        equal: the same words, but for case, white space and punctuation around them.
        json_equal: the same JSON value; None where one of them is no object or list.
        numbers_equal: the same numbers, in any order; None where neither has one.
        overlap: the share of words that they have in common, 0 to 1 (Dice's coefficient).

    """

    equal: bool
    json_equal: bool | None
    numbers_equal: bool | None
    overlap: float

    @property
    def agree(self) -> bool:
        """Whether they say the same: as words, or as JSON."""
        return self.equal or bool(self.json_equal)


def agreement(one: str, other: str) -> Agreement:
    """How far the two texts agree; symmetric."""
    first, second = _normal(one), _normal(other)
    mine, theirs = _value(one), _value(other)
    both = isinstance(mine, dict | list) and isinstance(theirs, dict | list)
    numbers = _numbers(one), _numbers(other)
    words = Counter(re.findall(r"\w+", first)), Counter(re.findall(r"\w+", second))
    total = words[0].total() + words[1].total()
    shared = 2 * (words[0] & words[1]).total()
    return Agreement(
        equal=first == second,
        json_equal=mine == theirs if both else None,
        numbers_equal=numbers[0] == numbers[1] if any(numbers) else None,
        overlap=round(shared / total, 4) if total else float(first == second),
    )


def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(_EDGES)


def _value(text: str) -> Any:
    """The JSON that the text is, also in a fence of Markdown; None where it is none."""
    fenced = _FENCE.match(text)
    try:
        return orjson.loads(fenced[1] if fenced else text)
    except orjson.JSONDecodeError:
        return None


def _numbers(text: str) -> list[Decimal]:
    return sorted(Decimal(found.replace(",", "")) for found in _NUMBER.findall(text))


def line(id: str, index: int, records: Mapping[str, JSON | None]) -> dict[str, Any]:
    """The line of a row: `records` are the lines that batches have written of it, by profile; None
    where a profile was not asked yet."""
    answers = {name: record and _answer(record) for name, record in records.items()}
    texts = {name: said["output"] for name, said in answers.items() if said and not said["error"]}
    pairs = [
        {"profiles": [one, other], **_as_json(agreement(texts[one], texts[other]))}
        for one, other in combinations(texts, 2)
    ]
    return {"id": id, "index": index, "answers": answers, "agreement": pairs}


def _as_json(found: Agreement) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def _answer(record: JSON) -> dict[str, Any]:
    """What a line of a batch says, in the words of a comparison."""
    usage = record.get("usage") or {}
    error = record.get("error")
    return {
        "output": record.get("text"),
        "model": record.get("model"),
        "cost_usd": record.get("cost_usd"),
        "latency_ms": record.get("latency_ms"),
        "tokens": (
            error is None
            and {"input": usage.get("input_tokens"), "output": usage.get("output_tokens")}
        )
        or None,
        "cache": record.get("cache"),
        "error": error and {"type": error.get("type"), "message": error.get("message")},
    }


class Side(Struct):
    """The figures of one profile. `latencies` are milliseconds, of answers that were not kept
    ones; `alike` of the `compared` rows that the first profile answered too agree with it, and
    `overlap` is the sum of the words they share."""

    name: str
    answers: int = 0
    errors: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    latencies: list[int] = field(default_factory=list)
    compared: int = 0
    alike: int = 0
    overlap: float = 0.0

    def percentile(self, share: int) -> int | None:
        """The latency that so many percent of the answers do not exceed, by nearest rank."""
        found = sorted(self.latencies)
        return found[max(0, -(-len(found) * share // 100) - 1)] if found else None

    @property
    def agreed(self) -> float | None:
        """The share of rows that agree with the first profile's."""
        return self.alike / self.compared if self.compared else None

    @property
    def shared(self) -> float | None:
        """The mean share of words in common with the first profile's answers."""
        return self.overlap / self.compared if self.compared else None


def add(sides: Sequence[Side], row: JSON) -> None:
    """Count a row; the first of the sides is what the others are compared with."""
    for side in sides:
        said = row["answers"].get(side.name)
        if said is None:
            continue
        side.answers += said["error"] is None
        side.errors += said["error"] is not None
        if said["cost_usd"] is None:
            side.unpriced += 1
        else:
            side.cost += Decimal(str(said["cost_usd"]))
        if said["cache"] == "miss" or said["cache"] == "bypass":
            side.latencies.append(said["latency_ms"])
    for pair in row["agreement"]:
        if pair["profiles"][0] == sides[0].name:
            side = next(side for side in sides if side.name == pair["profiles"][1])
            side.compared += 1
            side.alike += pair["equal"] or bool(pair["json_equal"])
            side.overlap += pair["overlap"]


def html(source: str, sides: Sequence[Side], rows: Iterable[JSON], count: int) -> str:
    """The page of so many rows, of which the first `_ROWS` are shown."""
    shown = [row for row, _ in zip(rows, range(_ROWS), strict=False)]
    return _template().render(
        source=source,
        sides=sides,
        rows=shown,
        count=count,
        verdict=_verdict,
    )


def _verdict(row: JSON) -> str:
    """Whether the answers of a row agree, in a word."""
    pairs = row["agreement"]
    if not pairs:
        return "not compared"
    alike = sum(pair["equal"] or bool(pair["json_equal"]) for pair in pairs)
    return "agree" if alike == len(pairs) else "differ"


def _text(text: str | None) -> str:
    """Somebody else's text: no control characters, of bounded length."""
    plain = "\n".join(printable(part) for part in (text or "").splitlines())
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}…"


def milliseconds(number: int | None) -> str:
    """A latency in seconds; a dash for none."""
    return "-" if number is None else f"{number / 1000:,.2f} s"


@lru_cache(maxsize=1)
def _template() -> Template:
    return page.template(
        "comparison.html",
        percent=percent,
        text=_text,
        seconds=milliseconds,
        usd=lambda cost: money(None if cost is None else Decimal(str(cost))),
    )
