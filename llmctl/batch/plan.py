"""What a batch would do and cost: counted exactly, without sending or writing anything.

The rows pass what they would pass in the run, in its order: the answers in OUTPUT, the cache,
identical rows, the context window, the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from msgspec import Struct

from llmctl.batch.answers import scan_only
from llmctl.batch.check import compare, validate
from llmctl.batch.index import Index, Rows
from llmctl.batch.places import check_output, default_output
from llmctl.batch.prepare import Job, Prepared
from llmctl.batch.read import Source
from llmctl.batch.spool import Spool
from llmctl.config.settings import Limits, Profile
from llmctl.errors import CallError, ContextTooLong
from llmctl.pricing import BATCH, Prices, Terms, terms_of
from llmctl.protocols import Codec
from llmctl.tokens import Counter, max_output
from llmctl.types import Request, Usage

ASSUMED_OUTPUT = 500
"""Tokens an answer is taken to have where the ledger knows none like it, or half of what is
allowed if that is less."""

_BUCKETS = 256
_ENTRY = "<16sQ"  # half a fingerprint, as in `Index`, and the row


class History(Protocol):
    """What earlier calls were like."""

    def usual(self, profile: str, model: str) -> Usual | None:
        """Of calls of this kind; None when there were none."""
        ...


class Usual(Struct, frozen=True):
    """The mean of earlier answers: `output` tokens, `latency` in seconds; `calls` of them."""

    output: Decimal
    latency: float
    calls: int


class Means(Struct, frozen=True):
    """What a plan is made with. `cached` tells whether the cache would answer a fingerprint;
    `now` is seconds since the epoch."""

    counter: Counter
    prices: Prices
    codec: Codec
    cached: Callable[[str], bool]
    history: History
    now: float


@dataclass(slots=True)
class Cost:
    """Dollars at the worst and as expected; None once a part of it is not known."""

    worst: Decimal | None = Decimal(0)
    expected: Decimal | None = Decimal(0)

    def add(self, worst: Decimal | None, expected: Decimal | None) -> None:
        """Add one row's."""
        self.worst = None if self.worst is None or worst is None else self.worst + worst
        if self.expected is not None:
            self.expected = None if expected is None else self.expected + expected


@dataclass(slots=True)
class Plan:
    """What the run would do with its `rows`; each is in one of the next six counts.

    Tokens and costs are those of the rows `to_send`. `worst` also holds what the `duplicates`
    could cost: an answer that is cut off is not kept, and the next identical row is sent then.
    `batch` is the same on the provider's batch interface. `unpriced` counts rows by model whose
    worst case nobody knows, `unlimited` those to send without `max_tokens`; `seen` is how many
    earlier calls the expectation rests on.
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
    unpriced: dict[str, int] = field(default_factory=dict)
    unlimited: int = 0
    seen: int = 0
    seconds: float | None = 0.0
    bound_by: str | None = None
    errors: dict[str, int] = field(default_factory=dict)


@contextmanager
def looked_at(job: Job) -> Iterator[Prepared]:
    """The job with its input checked and its output read, nothing locked, mended or made.

    Raises as `prepare.prepared` does, but for an output that another process writes to.
    """
    with ExitStack() as stack:
        path = check_output(job.input, job.output or default_output(job.input))
        source = stack.enter_context(Source.open(job.input))
        index = stack.enter_context(validate(source, job.reader, job.profile))
        joined = None
        if path is not None and path.exists() and not job.restart:
            with scan_only(path, job.format) as answers:
                joined = compare(source, job.reader, index, answers, path)
        yield Prepared(job, source, index, None, joined, 0)


def plan(batch: Prepared, means: Means) -> Plan:
    """Count, without sending anything. Raises `SetupError`, `DiskError` and `InputError`."""
    profile = batch.job.profile
    made = Plan(rows=batch.rows, answered=batch.skipped)
    use = batch.job.cache_mode == "use" and profile.cache.enabled
    repeats = _repeats(batch) if use else None
    usual: dict[str, Usual | None] = {}
    for request in batch.requests(lambda: ""):
        if use and means.cached(request.fingerprint):
            made.cached += 1
            continue
        problem = _problem(request, means)
        if problem is not None:
            if isinstance(problem, ContextTooLong):
                made.over_context += 1
            else:
                made.refused += 1
            made.errors.setdefault(problem.message, request.index)
            continue
        model = request.target.model
        if model not in usual:
            usual[model] = means.history.usual(profile.name, model)
        duplicate = repeats is not None and request.index in repeats
        _add(made, request, means, profile, usual[model], duplicate=duplicate)
    made.seen = sum(known.calls for known in usual.values() if known is not None)
    made.seconds, made.bound_by = duration(made, profile.limits, list(usual.values()))
    return made


def _problem(request: Request, means: Means) -> CallError | None:
    """Why the run would not send the request."""
    try:
        window = means.counter.window_to_check(request)
        if window is not None:
            means.counter.check_fits(request, means.counter.count(request), window)
        means.codec.encode(request, stream=False)
    except CallError as error:
        return error
    return None


def _add(
    made: Plan,
    request: Request,
    means: Means,
    profile: Profile,
    usual: Usual | None,
    *,
    duplicate: bool,
) -> None:
    counted = means.counter.count(request)
    most = means.counter.output_bound(request, counted)
    expected = _expected(most, usual)

    def cost(output: int | None, terms: Terms) -> Decimal | None:
        return means.prices.worst_case(
            request.target, profile.price, counted.tokens, output, means.now, terms
        )

    def likely(terms: Terms) -> Decimal | None:
        usage = Usage(input=counted.tokens, output=expected)
        return means.prices.price(request.target, profile.price, usage, means.now, terms)

    worst = cost(most, terms_of(request))
    batched = cost(most, BATCH)
    if worst is None:
        model = request.target.model
        made.unpriced[model] = made.unpriced.get(model, 0) + 1
    if duplicate:
        made.duplicates += 1
        made.cost.add(worst, Decimal(0))
        made.batch.add(batched, Decimal(0))
        return
    made.to_send += 1
    made.unlimited += max_output(request) is None
    made.input_tokens += counted.tokens
    made.exact = made.exact and counted.exact
    made.expected_output_tokens += expected
    if made.max_output_tokens is not None:
        made.max_output_tokens = None if most is None else made.max_output_tokens + most
    made.cost.add(worst, likely(terms_of(request)))
    made.batch.add(batched, likely(BATCH))


def _expected(most: int | None, usual: Usual | None) -> int:
    """The output tokens of an answer as one may expect it."""
    if usual is not None:
        likely = round(usual.output)
    else:
        likely = ASSUMED_OUTPUT if most is None else min(ASSUMED_OUTPUT, (most + 1) // 2)
    return likely if most is None else min(likely, most)


def duration(
    made: Plan, limits: Limits, usual: list[Usual | None]
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
    known = [each for each in usual if each is not None]
    if known:
        calls = sum(each.calls for each in known)
        latency = sum(each.latency * each.calls for each in known) / calls
        rounds = made.to_send / min(limits.concurrency, made.to_send)
        bounds.append((latency * rounds, "concurrency"))
    return max(bounds) if bounds else (None, None)


def _repeats(batch: Prepared) -> Rows:
    """The rows to be answered that ask what an earlier one of them asks."""
    found = Rows(batch.index.size)
    done = batch.answered.answered if batch.answered else ()
    spool = Spool(_BUCKETS, _ENTRY)
    try:
        for print_, row in _prints(batch.index):
            if row < batch.rows and row not in done:
                spool.add(print_[0], print_, row)
        for bucket in range(_BUCKETS):
            first: dict[bytes, int] = {}
            for print_, row in spool.read(bucket):
                # Rows come in the order of their ids' digests, not in their own.
                leader = first.setdefault(print_, row)
                if row < leader:
                    first[print_] = row
                    found.add(leader)
                elif row > leader:
                    found.add(row)
    finally:
        spool.close()
    return found


def _prints(index: Index) -> Iterator[tuple[bytes, int]]:
    for bucket in range(_BUCKETS):
        for _, print_, row in index.bucket(bucket):
            yield print_, row
