"""Usage → US dollars, in Decimal. A price that is not known is None, never 0."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import force_setattr

from llmctl.types import Answer, Price, Request, Target, Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

_MILLION = Decimal(1_000_000)
_ZERO = Decimal(0)

_ROOM = 16
"""Tokens that the rates of a price are probed with; no published tier is narrower."""

_REMEMBERED = 1024
"""Models whose prices are kept at hand."""

_NAMED_BY_THE_USER = frozenset({"azure"})
"""Providers whose model names say nothing: a deployment may be called anything."""


class _Rates(Struct, frozen=True):
    """Dollars a token. `cached`, `write` and `reasoning` come on top of the input or output
    token they are (a discount is negative), `hour` on top of a `write` that is kept for an hour;
    `call` is for the call itself. None: not priced. `most_read` and `most_wrote` come of the
    others."""

    input: Decimal | None
    output: Decimal | None
    cached: Decimal = _ZERO
    write: Decimal = _ZERO
    reasoning: Decimal = _ZERO
    call: Decimal = _ZERO
    hour: Decimal = _ZERO
    most_read: Decimal = _ZERO
    most_wrote: Decimal = _ZERO

    def __post_init__(self) -> None:
        """What an input and an output token can cost at most: asked for in every call."""
        dearer = max(_ZERO, self.cached, self.write, self.write + self.hour)
        force_setattr(self, "most_read", (self.input or _ZERO) + dearer)
        dearer = max(_ZERO, self.reasoning)
        force_setattr(self, "most_wrote", (self.output or _ZERO) + dearer)

    def cost(self, usage: Usage) -> Decimal | None:
        """A provider's figures that contradict themselves are read as the larger."""
        cost = self.call
        read = max(usage.input, usage.cached_input + usage.cache_write)
        wrote = max(usage.output, usage.reasoning)
        if read:
            if self.input is None:
                return None
            cost += self.input * read
            if usage.cached_input:
                cost += self.cached * usage.cached_input
            if usage.cache_write or usage.cache_write_1h:
                cost += self.write * usage.cache_write + self.hour * usage.cache_write_1h
        if wrote:
            if self.output is None:
                return None
            cost += self.output * wrote
            if usage.reasoning:
                cost += self.reasoning * usage.reasoning
        return cost

    def dearest(self, read: int, wrote: int) -> Decimal | None:
        """The most that so many tokens can cost, however they are cached or thought."""
        if (read and self.input is None) or (wrote and self.output is None):
            return None
        return self.call + self.most_read * read + self.most_wrote * wrote


Terms = tuple[tuple[str, str], ...]
"""What besides the model decides about the price: how a call is processed."""

BATCH: Terms = (("processing", "batch"),)
"""The provider's own batch interface."""

_TERMS = ("service_tier", "speed")
_USUAL = frozenset({"auto", "default", "standard", "standard_only"})


def terms_of(request: Request) -> Terms:
    """What the request's parameters say of its processing: a tier or speed other than usual."""
    said = request.options if request.raw is None else request.raw.body
    if not said or ("service_tier" not in said and "speed" not in said):
        return ()
    found = ((name, said.get(name)) for name in _TERMS)
    return tuple((k, v) for k, v in found if isinstance(v, str) and v not in _USUAL)


class Prices:
    """The published prices; `load` gives them when the first one is asked for."""

    def __init__(self, load: Callable[[], DataSnapshot] | None = None) -> None:
        self._load = load or bundled
        self._data: DataSnapshot | None = None
        self._models: dict[tuple[str, str], _Model | None] = {}
        self._own: tuple[Price, _Rates] | None = None

    @property
    def data(self) -> DataSnapshot:
        """All of them. The bundled ones take 0.2 s to import."""
        if self._data is None:
            self._data = self._load()
        return self._data

    def price(
        self,
        target: Target,
        own: Price | None,
        usage: Usage,
        at: datetime | float,
        terms: Terms = (),
    ) -> Decimal | None:
        """What the usage costs at the time `at` (seconds since the epoch, or a datetime).

        The profile's own price wins; else the published one of the provider whose address the
        target has. A server elsewhere that serves a model of the same name has no known price,
        nor has an Azure deployment. `usage.input` includes cached and cache-written tokens.
        """
        rates = self._rates(target, own, usage.input, at, terms)
        return None if rates is None else rates.cost(usage)

    def worst_case(
        self,
        target: Target,
        own: Price | None,
        input_tokens: int,
        max_output: int | None,
        at: datetime | float,
        terms: Terms = (),
    ) -> Decimal | None:
        """The most a call can cost, writing to the provider's cache included; None when the
        price is unknown or nothing limits the output."""
        if max_output is None:
            return None
        rates = self._rates(target, own, input_tokens, at, terms)
        return None if rates is None else rates.dearest(input_tokens, max_output)

    def cost_of(
        self, response: Answer, own: Price | None, at: datetime | float, terms: Terms = ()
    ) -> Decimal | None:
        """What the provider charged: its own figure, else the price of the usage. For an answer
        out of our cache it is what the answer cost when it was made."""
        if response.reported_cost is not None:
            return response.reported_cost
        return self.price(response.target, own, response.usage, at, terms)

    def window(self, base_url: str, model: str) -> int | None:
        """The context window published for a model at that address, in tokens."""
        found = self._published(base_url, model)
        return None if found is None else found.window

    def _rates(
        self,
        target: Target,
        own: Price | None,
        input_tokens: int,
        at: datetime | float,
        terms: Terms,
    ) -> _Rates | None:
        if own is not None:
            # What a batch or another tier costs at a negotiated price nobody has said.
            if terms == BATCH:
                return None
            # One profile's price many times over: it is the same object, and hashing it would
            # take as long as the rest.
            if self._own is None or self._own[0] is not own:
                self._own = own, _from_profile(own)
            return self._own[1]
        model = self._published(target.base_url, target.model)
        return None if model is None else model.rates(input_tokens, at, terms)

    def _published(self, base_url: str, model: str) -> _Model | None:
        key = (base_url.lower(), model)
        if key not in self._models:
            if len(self._models) >= _REMEMBERED:
                self._models.clear()
            self._models[key] = self._find(*key)
        return self._models[key]

    def _find(self, base_url: str, model: str) -> _Model | None:
        try:
            provider, info = self.data.find_provider_model(model, None, None, base_url)
        except LookupError:
            return None
        if provider.id in _NAMED_BY_THE_USER:
            return None
        # Another provider's model has that one's prices, but not its batches and tiers.
        return _Model(info, varied=any(info is each for each in provider.models))


def bundled() -> DataSnapshot:
    """The prices that come with genai-prices."""
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@lru_cache(maxsize=64)
def _from_profile(own: Price) -> _Rates:
    read, wrote = own.input / _MILLION, own.output / _MILLION
    cached = read if own.cached_input is None else own.cached_input / _MILLION
    write = read if own.cache_write is None else own.cache_write / _MILLION
    return _Rates(read, wrote, cached=cached - read, write=write - read)


class _Model:
    """A published model: its prices, made into rates once for each of its dates and tiers."""

    def __init__(self, info: ModelInfo, *, varied: bool) -> None:
        self._info = info
        self._variants = (info.price_variants or []) if varied else []
        self._tables: dict[tuple[int, ...], tuple[list[int], list[_Rates]]] = {}
        self._one = info.prices if not isinstance(info.prices, list) else None
        self.window = info.context_window

    def rates(self, input_tokens: int, at: datetime | float, terms: Terms) -> _Rates | None:
        """The rates of a call of that size at that time; None for a batch where no batch rate
        is published (a tier without rates of its own costs what all calls do)."""
        moment = at
        if (self._one is None or terms) and not isinstance(at, datetime):
            moment = datetime.fromtimestamp(at, UTC)
        assert self._one is not None or isinstance(moment, datetime)
        prices = self._one or self._info.get_prices(moment)  # type: ignore[arg-type]
        key: tuple[int, ...] = (id(prices),)  # the prices live as long as `_info`
        if terms:
            assert isinstance(moment, datetime)
            active = self._active(moment, dict(terms))
            if not active and terms == BATCH:
                return None
            key = (id(prices), *active)
        table = self._tables.get(key)
        if table is None:
            if len(key) > 1:
                assert isinstance(moment, datetime)
                prices = self._info.get_prices(moment, dict(terms))
            table = self._tables[key] = _table(prices)
        starts, rates = table
        return rates[bisect_left(starts, input_tokens)]

    def _active(self, at: datetime, terms: Mapping[str, str]) -> tuple[int, ...]:
        return tuple(
            number
            for number, variant in enumerate(self._variants)
            if (variant.constraint is None or variant.constraint.active(at))
            and all(terms.get(key) == value for key, value in variant.when.items())
        )


def can_be_priced(model: ModelInfo) -> bool:
    """Whether rates can be made of all prices of a model."""
    dated = (
        [model.prices] if not isinstance(model.prices, list) else [d.prices for d in model.prices]
    )
    try:
        return all(_makes_sense(_table(prices)) for prices in dated)
    except (ValueError, ArithmeticError, TypeError, AttributeError):
        return False


def _makes_sense(table: tuple[list[int], list[_Rates]]) -> bool:
    amounts = [amount for rates in table[1] for amount in (rates.input, rates.output, rates.call)]
    return all(amount is None or (amount.is_finite() and amount >= 0) for amount in amounts)


def _table(prices: ModelPrice) -> tuple[list[int], list[_Rates]]:
    """The tiers' starts, and the rates below, between and above them (a tier holds for all
    tokens of a call with more input than its start)."""
    from genai_prices.types import TieredPrices

    tiered = [value for value in vars(prices).values() if isinstance(value, TieredPrices)]
    starts = sorted({tier.start for value in tiered for tier in value.tiers})
    return starts, [_probe(prices, low) for low in (0, *starts)]


def _probe(prices: ModelPrice, above: int) -> _Rates:
    """The rates of calls with slightly more than `above` tokens of input.

    Between two tiers a price is linear in each count, so the differences that one more token
    makes in the library's own result are its rates, exactly.
    """
    from genai_prices.types import Usage as Used

    read = above + _ROOM

    def total(**counts: int) -> Decimal:
        used = Used(**{"input_tokens": read, **counts})
        return prices.calc_price(used)["total_price"]

    base = total()
    each_read = base - total(input_tokens=read - 1)
    output = total(output_tokens=1)
    written = total(cache_write_tokens=1)
    reasoned = total(output_tokens=1, output_reasoning_tokens=1)
    return _Rates(
        input=each_read if prices.input_mtok is not None else None,
        output=output - base if prices.output_mtok is not None else None,
        cached=total(cache_read_tokens=1) - base,
        write=written - base,
        hour=total(cache_write_tokens=1, cache_write_1h_tokens=1) - written,
        reasoning=reasoned - output,
        call=base - each_read * read,
    )
