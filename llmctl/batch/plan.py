"""What a batch would do and cost: counted exactly, without sending or writing anything.

The rows pass what they would pass in the run, in its order: the answers in OUTPUT, the cache,
identical rows, the context window, the codec.
"""

from __future__ import annotations

from collections import Counter as Bag
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.batch.job import Batch
from llmctl.config.settings import Limits, Profile
from llmctl.errors import CallError, ContextTooLong
from llmctl.guards.masking import refuse
from llmctl.pricing import BATCH, Prices, terms_of
from llmctl.protocols import Codec, TokenCount
from llmctl.tokens import Counter
from llmctl.types import Masked, Request, Usage

ASSUMED_OUTPUT = 500
"""Tokens an answer is taken to have where the ledger knows none like it, or half of what is
allowed if that is less."""


class AverageCall(Struct, frozen=True):
    """The mean of earlier answers: `output` tokens, `latency` in seconds; `calls` of them."""

    output: Decimal
    latency: float
    calls: int


class PlanInputs(Struct, frozen=True):
    """What a plan is made with. `cached` tells whether the cache would answer a fingerprint;
    `average` knows earlier calls by profile and model; `now` is seconds since the epoch; `place`
    raises `DataRefused` for a request that may be sent nowhere."""

    counter: Counter
    prices: Prices
    codec: Codec
    cached: Callable[[str], bool]
    average: Callable[[str, str], AverageCall | None]
    now: float
    default_limit: int | None = None
    place: Callable[[Request], object] = lambda _: None


class Cost(Struct):
    """Dollars at the worst and as expected; None once a part of it is not known."""

    worst: Decimal | None = Decimal(0)
    expected: Decimal | None = Decimal(0)

    def add(self, worst: Decimal | None, expected: Decimal | None) -> None:
        """Add one row's."""
        self.worst = None if self.worst is None or worst is None else self.worst + worst
        if self.expected is not None:
            self.expected = None if expected is None else self.expected + expected


class Plan(Struct):
    """What the run would do with its `rows`; each is in one of the next six counts.

    Tokens and costs are those of the rows `to_send`. `worst` also holds what the `duplicates`
    could cost: an answer that is cut off is not kept, and the next identical row is sent then.
    `batch` is the same on the provider's batch interface. `unpriced` counts rows by model whose
    worst case nobody knows, `unlimited` those to send without `max_tokens`; `seen` is how many
    earlier calls the expectation rests on; `masked` are identifiers that were found, by kind.
    """

    rows: int = 0
    answered: int = 0
    cached: int = 0
    duplicates: int = 0
    over_context: int = 0
    refused: int = 0
    to_send: int = 0
    input_tokens: int = 0
    exact: bool = True
    max_output_tokens: int | None = 0
    expected_output_tokens: int = 0
    cost: Cost = field(default_factory=Cost)
    batch: Cost = field(default_factory=Cost)
    unpriced: dict[str, int] = {}
    unlimited: int = 0
    seen: int = 0
    seconds: float | None = 0.0
    bound_by: str | None = None
    errors: dict[str, int] = {}
    masked: Bag[str] = field(default_factory=Bag)


def plan(batch: Batch, inputs: PlanInputs) -> Plan:
    """Count, without sending anything. Raises `SetupError`, `DiskError` and `InputError`."""
    profile = batch.job.profile
    made = Plan(rows=batch.rows, answered=batch.skipped)
    use_cache = batch.job.cache_mode == "use" and profile.cache.enabled
    leaders = batch.index.first_of_question(batch.rows)
    leader = next(leaders, None)
    averages: dict[str, AverageCall | None] = {}  # by model
    for request in chain.from_iterable(batch.pages(str)):
        first = request.index == leader
        if first:
            leader = next(leaders, None)
        found = request.masked or Masked()
        made.masked.update(found.counts)
        if use_cache and not found.refused and inputs.cached(request.answer_key):
            made.cached += 1
            continue
        try:
            refuse(request)
            inputs.place(request)
            counted = inputs.counter.count(request)
            window = inputs.counter.window_to_check(request)
            if window is not None:
                inputs.counter.check_fits(request, counted, window)
            inputs.codec.encode(request, stream=False)
        except CallError as error:
            made.over_context += isinstance(error, ContextTooLong)
            made.refused += not isinstance(error, ContextTooLong)
            made.errors.setdefault(error.message, request.index)
            continue
        model = request.target.model
        if model not in averages:
            averages[model] = inputs.average(profile.name, model)
        duplicate = use_cache and not first and not request.sample
        _add(made, request, counted, inputs, profile, averages[model], duplicate=duplicate)
    known = [average for average in averages.values() if average is not None]
    made.seen = sum(average.calls for average in known)
    made.seconds, made.bound_by = duration(made, profile.limits.of(profile.model), known)
    return made


def _add(
    made: Plan,
    request: Request,
    counted: TokenCount,
    inputs: PlanInputs,
    profile: Profile,
    average: AverageCall | None,
    *,
    duplicate: bool,
) -> None:
    """Count a row that would be sent, or be answered by an identical one that is."""
    unlimited = inputs.counter.max_output(request) is None
    if inputs.default_limit is not None:
        limit = inputs.counter.limit_to_add(request, inputs.default_limit, counted)
        request = request if limit is None else replace(request, max_tokens=limit)
    most = inputs.counter.output_bound(request, counted)
    if average is not None:
        expected = round(average.output)
    else:
        expected = ASSUMED_OUTPUT if most is None else min(ASSUMED_OUTPUT, (most + 1) // 2)
    expected = expected if most is None else min(expected, most)
    usage = Usage(input=counted.tokens, output=expected)
    target, price, now = request.target, profile.price, inputs.now
    for cost, terms in ((made.cost, terms_of(request)), (made.batch, BATCH)):
        media = inputs.counter.has_media(request)
        worst = inputs.prices.worst_case(
            target, price, counted.tokens, most, now, terms, media=media
        )
        likely = inputs.prices.price(target, price, usage, now, terms)
        cost.add(worst, Decimal(0) if duplicate else likely)
        if worst is None and cost is made.cost:
            made.unpriced[target.model] = made.unpriced.get(target.model, 0) + 1
    if duplicate:
        made.duplicates += 1
        return
    made.to_send += 1
    made.unlimited += unlimited
    made.input_tokens += counted.tokens
    made.exact = made.exact and counted.exact
    made.expected_output_tokens += expected
    if made.max_output_tokens is not None:
        made.max_output_tokens = None if most is None else made.max_output_tokens + most


def duration(
    made: Plan, limits: Limits, averages: Sequence[AverageCall]
) -> tuple[float | None, str | None]:
    """The seconds that the limits allow the run to take at the least, with the limit that does
    it; None where nothing limits it but an unknown latency."""
    if not made.to_send:
        return 0.0, None
    bounds: list[tuple[float, str]] = []
    if limits.rpm:
        bounds.append((made.to_send / limits.rpm * 60, "rpm"))
    if limits.tpm:
        tokens = made.input_tokens + made.expected_output_tokens
        bounds.append((tokens / limits.tpm * 60, "tpm"))
    if limits.rpd and made.to_send > limits.rpd:
        bounds.append((86400 * ((made.to_send - 1) // limits.rpd), "rpd"))
    if averages:
        calls = sum(each.calls for each in averages)
        latency = sum(each.latency * each.calls for each in averages) / calls
        rounds = made.to_send / min(limits.concurrency, made.to_send)
        bounds.append((latency * rounds, "concurrency"))
    return max(bounds) if bounds else (None, None)
