"""Examples for `llmctl route`: a file of verdicts, or two batches and what says who is right."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from statistics import fmean
from typing import Any

import orjson
from msgspec import Struct

from llmctl import pricing
from llmctl.batch.input import InputFile
from llmctl.batch.plan import ASSUMED_OUTPUT
from llmctl.batch.rows import RowError, RowReader
from llmctl.cli.context import Context
from llmctl.cli.route import ExampleOptions
from llmctl.config.settings import Folders, Profile
from llmctl.errors import InputError, UsageError
from llmctl.pricing import Prices, terms_of
from llmctl.providers.registry import codec
from llmctl.request import Question, compose
from llmctl.routing.calibration import Example
from llmctl.routing.check_command import CheckCommand
from llmctl.routing.curve import Verdict
from llmctl.routing.router import question_text
from llmctl.storage.ledger_queries import LedgerPeek
from llmctl.tokens import Counter
from llmctl.types import KEPT, Message, Usage


class _Called(Struct, frozen=True):
    """A model's answer and the price of it in US dollars, where they are known."""

    text: str | None = None
    cost: object = None


Judge = Callable[[Mapping[str, Any], str], Awaitable[float]]
"""How good an answer to a row of the input is, from 0 to 1."""


class Pair(Struct, frozen=True):
    """The profiles of a route: the `weak` one is the cheap one."""

    weak: Profile
    strong: Profile


def read_examples(
    sources: ExampleOptions, pair: Pair, folders: Folders, context: Context
) -> list[Example]:
    """All examples of the files. Raises `InputError` that names file and line, `UsageError`."""
    costs = _Costs(pair, folders, context)
    judges = ("labels", "expected", "matches", "check")
    given = [name for name in judges if getattr(sources, name) is not None]
    if sources.weak is None and sources.strong is None:
        if given:
            raise UsageError(f"--{given[0]} belongs to --weak and --strong, outputs of batches")
        found = [one for name in sources.files for one in _verdicts(name, costs)]
        costs.warn(context)
        return found
    if sources.weak is None or sources.strong is None:
        raise UsageError("--weak and --strong go together: two outputs of the same INPUT")
    if len(given) != 1:
        raise UsageError(
            "what says which answers are right: one of --labels, --expected, --matches and --check"
        )
    found = asyncio.run(_of_batches(sources, pair, costs, context))
    costs.warn(context)
    return found


def _lines(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`FILE:LINE` and object of every line."""
    with InputFile.open(name) as source:
        for number, data in source.records():
            where = f"{source.name}:{number}"
            if isinstance(data, dict):
                yield where, dict(data)
                continue
            try:
                value = orjson.loads(data) if not isinstance(data, str) else None
            except orjson.JSONDecodeError as error:
                raise InputError(f"{where}: not valid JSON: {error.msg}") from None
            if not isinstance(value, dict):
                raise InputError(f"{where}: a line is a JSON object")
            yield where, value


def _verdicts(name: str, costs: _Costs) -> Iterator[Example]:
    for where, row in _lines(name):
        prompt = row.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{where}: needs `prompt`, a text")
        weak, strong = (_verdict(row, side, where) for side in ("weak", "strong"))
        calls = [_called(row, side, where) for side in ("weak", "strong")]
        paid = costs.of(prompt, *calls)
        yield Example(prompt, Verdict(weak, strong, *paid), calls[0].text)


def _called(row: Mapping[str, Any], side: str, where: str) -> _Called:
    text = row.get(f"{side}_answer")
    if not isinstance(text, str | None):
        raise InputError(f"{where}: `{side}_answer` must be text")
    return _Called(text, row.get(f"{side}_cost_usd"))


def _verdict(row: Mapping[str, Any], side: str, where: str) -> float:
    """How one model did."""
    found = row.get(f"{side}_score", row.get(f"{side}_right"))
    if not isinstance(found, bool | int | float) or not 0 <= found <= 1:
        raise InputError(
            f"{where}: needs `{side}_right`, true or false, or `{side}_score`, from 0 to 1"
        )
    return float(found)


async def _of_batches(
    sources: ExampleOptions, pair: Pair, costs: _Costs, context: Context
) -> list[Example]:
    assert sources.weak is not None
    assert sources.strong is not None
    sides = [_answers(name) for name in (sources.weak, sources.strong)]
    labels = None if sources.labels is None else _labels(sources.labels)
    judge = None if labels is not None else _judge(sources, context)
    found: list[Example] = []
    left_out = 0
    reader = RowReader(system=pair.strong.system)
    for name in sources.files:
        with InputFile.open(name) as source:
            for record in source.records():
                try:
                    row = reader.parse(record)
                except RowError as error:
                    raise InputError(f"{source.name}:{record[0]}: {error}") from None
                if any(row.id not in side for side in sides):
                    left_out += 1
                    continue
                weak, strong = (side[row.id] for side in sides)
                if labels is not None:
                    if row.id not in labels:
                        left_out += 1
                        continue
                    scores = labels[row.id]
                else:
                    assert judge is not None
                    scores = (
                        await judge(row.fields, weak["text"]),
                        await judge(row.fields, strong["text"]),
                    )
                asked = question_text(compose(row.question, pair.strong, id=row.id))
                paid = costs.of(asked, *(_paid(one) for one in (weak, strong)))
                found.append(Example(asked, Verdict(*scores, *paid), weak["text"]))
    if left_out:
        context.info(
            f"{left_out:,} rows are left out: they lack an answer of one model, or a label"
        )
    return found


def _paid(row: Mapping[str, Any]) -> _Called:
    """An output's row; a kept answer cost nothing this time."""
    kept = row.get("cache") in KEPT
    return _Called(row["text"], None if kept else row.get("cost_usd"))


def _answers(name: str) -> dict[str, dict[str, Any]]:
    """The answers of an output by the row's id."""
    found = {}
    for where, row in _lines(name):
        if "error" in row:
            continue
        if not isinstance(row.get("text"), str) or "id" not in row:
            raise InputError(f"{where}: is no answer of a batch: needs `id` and `text`")
        found[str(row["id"])] = row
    return found


def _labels(name: str) -> dict[str, tuple[float, float]]:
    """How the weak and the strong model did, by the row's id."""
    found = {}
    for where, row in _lines(name):
        values = [row.get(side) for side in ("weak", "strong")]
        if "id" not in row or not all(
            isinstance(v, bool | int | float) and 0 <= v <= 1 for v in values
        ):
            raise InputError(f"{where}: needs `id`, and `weak` and `strong` from 0 to 1")
        found[str(row["id"])] = float(row["weak"]), float(row["strong"])
    return found


def _judge(sources: ExampleOptions, context: Context) -> Judge:
    if sources.expected is not None:
        return partial(_is_expected, sources.expected)
    if sources.matches is not None:
        try:
            pattern = re.compile(sources.matches)
        except re.error as error:
            raise UsageError(f"--matches is no regular expression: {error}") from None

        async def matches(_: Mapping[str, Any], text: str) -> float:
            return float(pattern.search(text) is not None)

        return matches
    assert sources.check is not None
    try:
        words = shlex.split(sources.check)
    except ValueError as error:
        raise UsageError(f"--check is no command: {error}") from None
    if not words:
        raise UsageError("--check is empty: name a program")
    command = CheckCommand(words, context.environ)

    async def passes(_: Mapping[str, Any], text: str) -> float:
        return float(await command.passes(text))

    return passes


async def _is_expected(name: str, fields: Mapping[str, Any], text: str) -> float:
    """Whether an answer ends in what a field of its row says, upper and lower case alike."""
    if name not in fields:
        raise InputError(f"--expected: a row has no field {name!r}")
    wanted = re.escape(str(fields[name]).strip().casefold())
    end = text.strip().rstrip(".!*`'\"").casefold()
    return float(re.search(rf"(?<!\w){wanted}\Z", end) is not None)


class _Costs:
    """What calls of both profiles cost, or would, in US dollars; 0 where that is unknown."""

    def __init__(self, pair: Pair, folders: Folders, context: Context) -> None:
        self._pair, self._now = pair, context.clock.wall()
        self._prices = Prices(partial(pricing.load, folders.state, context.warn))
        self._counter = Counter(self._prices.window, codec)
        self._usual: dict[str, int] = {}  # tokens of an answer, by profile
        with LedgerPeek(folders.state / "ledger.db") as ledger:
            for profile in (pair.weak, pair.strong):
                if known := ledger.recent(profile.name, profile.model):
                    self._usual[profile.name] = round(fmean(tokens for tokens, _ in known))
        self.unknown: set[str] = set()

    def of(self, question: str, weak: _Called, strong: _Called) -> tuple[float, float]:
        """The cost of both calls: as given, else by the price of an answer as long as it was, or as
        the profile's usually are, or as the other one's."""
        pair, texts = self._pair, (weak.text, strong.text)
        return (
            self._cost(pair.weak, question, weak.cost, texts),
            self._cost(pair.strong, question, strong.cost, texts[::-1]),
        )

    def warn(self, context: Context) -> None:
        """Say where costs are not known."""
        if self.unknown:
            named = ", ".join(sorted(self.unknown))
            context.warn(f"the price is not known, and counted as 0, of: {named} (set `price:`)")

    def _cost(
        self, profile: Profile, question: str, given: object, texts: tuple[str | None, ...]
    ) -> float:
        if isinstance(given, int | float) and not isinstance(given, bool) and given >= 0:
            return float(given)
        request = compose(Question((Message("user", question),)), profile, id="")
        own, other = texts
        wrote = self._usual.get(profile.name) if own is None else None
        if wrote is None:
            text = other if own is None else own
            wrote = ASSUMED_OUTPUT if text is None else self._counter.usage(request, text).output
        usage = Usage(self._counter.count(request).tokens, wrote)
        target, terms = request.target, terms_of(request)
        found = self._prices.price(target, profile.price, usage, self._now, terms)
        if found is None:
            self.unknown.add(profile.name)
        return float(found or 0)
