"""What a batch would do and cost: counted exactly, without sending or writing anything.

The rows pass what they would pass in the run, in its order: the answers in OUTPUT, the cache,
identical rows, the context window, the codec.
"""

from __future__ import annotations

from collections import Counter as Bag
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from itertools import chain

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.batch.job import Batch
from llmctl.config.settings import Limits, Profile
from llmctl.errors import CallError, ContextTooLong
from llmctl.guards.masking import refuse
from llmctl.guards.summarise import SYSTEM_TOKENS, WINDOW, longest_text, sizes
from llmctl.pricing import BATCH, Prices, Terms, terms_of
from llmctl.protocols import Codec, TokenCount
from llmctl.providers.registry import codec
from llmctl.request import retarget, target_for
from llmctl.routing.router import Choice, Router
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


class PlanRoute(Struct, frozen=True):
    """The route of the job's profile: the `router`, the profiles it leads to by name, and how many
    answers of the cheap one are compared with each other."""

    router: Router
    profiles: Mapping[str, Profile]
    samples: int = 1


class PlanInputs(Struct, frozen=True):
    """What a plan is made with. `cached` tells whether the cache would answer a fingerprint;
    `average` knows earlier calls by profile and model; `now` is seconds since the epoch; `place`
    raises `DataRefused` for a request that may be sent nowhere; `route` is None without one."""

    counter: Counter
    prices: Prices
    codec: Codec
    cached: Callable[[str], bool]
    average: Callable[[str, str], AverageCall | None]
    now: float
    default_limit: int | None = None
    place: Callable[[Request], object] = lambda _: None
    route: PlanRoute | None = None


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
    earlier calls the expectation rests on; `summarised` of the rows to send are too long and become
    shorter first, for `summaries` (of the first round), which `cost` includes; `masked` are
    identifiers that were found, by kind. `routed` counts rows by profile and what decides, of which
    the answers of `checked` are: the strong one may be asked, too, and is in `worst`, but not
    expected. `cheap` and `strong` are what it would cost if one of them was asked for all.
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
    summarised: int = 0
    summaries: Cost = field(default_factory=Cost)
    masked: Bag[str] = field(default_factory=Bag)
    routed: Bag[tuple[str, str]] = field(default_factory=Bag)
    checked: int = 0
    cheap: Cost = field(default_factory=Cost)
    strong: Cost = field(default_factory=Cost)


def plan(batch: Batch, inputs: PlanInputs) -> Plan:
    """Count, without sending anything. Raises `SetupError`, `DiskError` and `InputError`."""
    profile = batch.job.profile
    made = Plan(rows=batch.rows, answered=batch.skipped)
    use_cache = batch.job.cache_mode == "use" and profile.cache.enabled
    leaders = batch.index.first_of_question(batch.rows)
    leader = next(leaders, None)
    averages = _Averages(inputs)
    for request in chain.from_iterable(batch.pages(str)):
        first = request.index == leader
        if first:
            leader = next(leaders, None)
        found = request.masked or Masked()
        made.masked.update(found.counts)
        way = _way(request, inputs, profile)
        made.routed.update(way.counted)
        if use_cache and not found.refused and inputs.cached(way.request.answer_key):
            made.cached += 1
            continue
        try:
            refuse(request)
            inputs.place(request)
            way, counted = _taken(made, way, request, inputs, profile)
        except CallError as error:
            made.over_context += isinstance(error, ContextTooLong)
            made.refused += not isinstance(error, ContextTooLong)
            made.errors.setdefault(error.message, request.index)
            continue
        duplicate = use_cache and not first and not request.sample
        if inputs.route is not None:
            _compare(made, request, inputs, profile, averages, way, duplicate=duplicate)
        average = averages.of(way.profile, way.request.target.model)
        _add(made, way.request, counted, inputs, way.profile, average, duplicate=duplicate)
    known = averages.known
    made.seen = sum(average.calls for average in known)
    made.seconds, made.bound_by = duration(made, profile.limits.of(profile.model), known)
    return made


class _Averages:
    """What earlier calls were like, by profile and model."""

    def __init__(self, inputs: PlanInputs) -> None:
        self._ask, self._found = inputs.average, dict[tuple[str, str], AverageCall | None]()

    def of(self, profile: Profile, model: str) -> AverageCall | None:
        """The mean; None where there were none."""
        key = profile.name, model
        if key not in self._found:
            self._found[key] = self._ask(*key)
        return self._found[key]

    @property
    def known(self) -> list[AverageCall]:
        """All that were asked for and found."""
        return [average for average in self._found.values() if average is not None]


class _Way(Struct, frozen=True):
    """Where a row goes first: the request as it is sent there, and that profile; None of a choice
    where there is no route."""

    request: Request
    profile: Profile
    choice: Choice | None = None

    @property
    def counted(self) -> list[tuple[str, str]]:
        """Profile and what decided, as the plan counts them."""
        return [] if self.choice is None else [(self.choice.to, self.choice.by)]


def _way(request: Request, inputs: PlanInputs, profile: Profile) -> _Way:
    if inputs.route is None:
        return _Way(request, profile)
    choice = inputs.route.router.choose(request)
    other = inputs.route.profiles.get(choice.to)
    if other is None:
        return _Way(request, profile, choice)
    return _Way(retarget(request, other, ""), other, choice)


def _taken(
    made: Plan, way: _Way, request: Request, inputs: PlanInputs, profile: Profile
) -> tuple[_Way, TokenCount]:
    """The way, and the tokens there; the strong profile where the other does not take the row.
    Raises `CallError` where that one does not, either."""
    if way.profile is not profile:
        try:
            speaks = codec(way.profile.adapter, way.profile.api)
            return way, _fitting(made, way.request, inputs, way.profile, speaks)
        except CallError:
            way = _Way(request, profile, way.choice)
    return way, _fitting(made, request, inputs, profile, inputs.codec)


class _Sizes(Struct, frozen=True):
    """Tokens of an answer: at most (None: nothing limits it), and expected."""

    most: int | None
    expected: int


def _sizes(
    request: Request, counted: TokenCount, inputs: PlanInputs, average: AverageCall | None
) -> _Sizes:
    if inputs.default_limit is not None:
        limit = inputs.counter.limit_to_add(request, inputs.default_limit, counted)
        request = request if limit is None else replace(request, max_tokens=limit)
    most = inputs.counter.output_bound(request, counted)
    if average is not None:
        expected = round(average.output)
    else:
        expected = ASSUMED_OUTPUT if most is None else min(ASSUMED_OUTPUT, (most + 1) // 2)
    return _Sizes(most, expected if most is None else min(expected, most))


def _priced(
    request: Request,
    counted: TokenCount,
    inputs: PlanInputs,
    profile: Profile,
    sizes: _Sizes,
    terms: Terms,
) -> tuple[Decimal | None, Decimal | None]:
    """The cost at the worst and as expected."""
    target, price, now = request.target, profile.price, inputs.now
    media = inputs.counter.has_media(request)
    worst = inputs.prices.worst_case(
        target, price, counted.tokens, sizes.most, now, terms, media=media
    )
    usage = Usage(input=counted.tokens, output=sizes.expected)
    return worst, inputs.prices.price(target, price, usage, now, terms)


def _compare(
    made: Plan,
    request: Request,
    inputs: PlanInputs,
    profile: Profile,
    averages: _Averages,
    way: _Way,
    *,
    duplicate: bool,
) -> None:
    """Count what the row would cost at the cheap profile, and at the strong one; and, where its
    answer is checked, what more it may."""
    route, none = inputs.route, Decimal(0)
    assert route is not None
    costs = []
    for one in (route.profiles[route.router.settings.cheap], profile):
        asked = request if one is profile else retarget(request, one, "")
        counted = inputs.counter.count(asked)
        sizes = _sizes(asked, counted, inputs, averages.of(one, asked.target.model))
        costs.append(_priced(asked, counted, inputs, one, sizes, terms_of(asked)))
    (cheap, likely_cheap), (strong, likely_strong) = costs
    made.cheap.add(cheap, none if duplicate else likely_cheap)
    made.strong.add(strong, none if duplicate else likely_strong)
    if way.choice is None or not way.choice.checked or way.profile is profile:
        return
    made.checked += 1
    more = route.samples - 1
    made.cost.add(strong, none)
    made.cost.add(
        None if cheap is None else cheap * more,
        none if duplicate or likely_cheap is None else likely_cheap * more,
    )


def _fitting(
    made: Plan, request: Request, inputs: PlanInputs, profile: Profile, speaks: Codec
) -> TokenCount:
    """The tokens of the request as it would be sent. Raises `ContextTooLong`, and what the codec
    does."""
    counter = inputs.counter
    speaks.encode(request, stream=False)
    counted, window = counter.count(request), counter.window_to_check(request)
    if window is None:
        return counted
    try:
        counter.check_fits(request, counted, window)
    except ContextTooLong:
        other, place = profile.summariser, longest_text(request.messages)
        if other is None or request.raw is not None or place is None:
            raise
        room = max(1, window - (counter.max_output(request) or 0))
        target = target_for(other)
        size = sizes(counted.tokens, room, counter.context_window(target) or WINDOW)
        usage = Usage(counted.tokens + size.chunks * SYSTEM_TOKENS, size.chunks * size.summary)
        most = size.chunks * (other.max_tokens or 2 * size.summary)
        price, now, terms = other.price, inputs.now, terms_of(replace(request, target=target))
        worst = inputs.prices.worst_case(target, price, usage.input, most, now, terms)
        likely = inputs.prices.price(target, price, usage, now, terms)
        made.summarised += 1
        made.summaries.add(worst, likely)
        made.cost.add(worst, likely)
        return replace(counted, tokens=room, exact=False)
    return counted


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
    sizes = _sizes(request, counted, inputs, average)
    for cost, terms in ((made.cost, terms_of(request)), (made.batch, BATCH)):
        worst, likely = _priced(request, counted, inputs, profile, sizes, terms)
        cost.add(worst, Decimal(0) if duplicate else likely)
        if worst is None and cost is made.cost:
            model = request.target.model
            made.unpriced[model] = made.unpriced.get(model, 0) + 1
    if duplicate:
        made.duplicates += 1
        return
    made.to_send += 1
    made.unlimited += unlimited
    made.input_tokens += counted.tokens
    made.exact = made.exact and counted.exact
    made.expected_output_tokens += sizes.expected
    if made.max_output_tokens is not None:
        most = sizes.most
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
