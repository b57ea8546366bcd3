"""Usage → US dollars, in Decimal. A price that is not known is None, never 0."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from llmctl.types import Price, Response, Target, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

_MILLION = Decimal(1_000_000)
_ZERO = Decimal(0)

_ROOM = 16
"""Tokens that the rates of a price are probed with; no published tier is narrower."""

_NAMED_BY_THE_USER = frozenset({"azure"})
"""Providers whose model names say nothing: a deployment may be called anything."""


@dataclass(frozen=True, slots=True)
class _Rates:
    """Dollars a token. `cached`, `write` and `reasoning` come on top of the input or output
    token they are (a discount is negative); `call` is for the call itself. None: not priced."""

    input: Decimal | None
    output: Decimal | None
    cached: Decimal = _ZERO
    write: Decimal = _ZERO
    reasoning: Decimal = _ZERO
    call: Decimal = _ZERO

    def cost(self, usage: Usage) -> Decimal | None:
        """A provider's figures that contradict themselves are read as the larger."""
        cost = self.call
        read = max(usage.input, usage.cached_input + usage.cache_write)
        wrote = max(usage.output, usage.reasoning)
        if read:
            if self.input is None:
                return None
            cost += self.input * read + self.cached * usage.cached_input
            cost += self.write * usage.cache_write
        if wrote:
            if self.output is None:
                return None
            cost += self.output * wrote + self.reasoning * usage.reasoning
        return cost

    def dearest(self, read: int, wrote: int) -> Decimal | None:
        """The most that so many tokens can cost, however they are cached or thought."""
        if (read and self.input is None) or (wrote and self.output is None):
            return None
        each_read = (self.input or _ZERO) + max(_ZERO, self.cached, self.write)
        each_wrote = (self.output or _ZERO) + max(_ZERO, self.reasoning)
        return self.call + each_read * read + each_wrote * wrote


def price(
    target: Target, profile_price: Price | None, usage: Usage, at: datetime | float
) -> Decimal | None:
    """What the usage costs at the time `at` (seconds since the epoch, or a datetime).

    The profile's own price wins; else the published one of the provider whose address the
    target has. A server elsewhere that serves a model of the same name has no known price, nor
    has an Azure deployment. `usage.input` includes cached and cache-written tokens.
    """
    rates = _rates(target, profile_price, usage.input, at)
    return None if rates is None else rates.cost(usage)


def worst_case(
    target: Target,
    profile_price: Price | None,
    input_tokens: int,
    max_output: int | None,
    at: datetime | float,
) -> Decimal | None:
    """The most a call can cost, writing to the provider's cache included; None when the price
    is unknown or nothing limits the output."""
    if max_output is None:
        return None
    rates = _rates(target, profile_price, input_tokens, at)
    return None if rates is None else rates.dearest(input_tokens, max_output)


def cost_of(
    response: Response, profile_price: Price | None, at: datetime | float
) -> Decimal | None:
    """What the provider charged: its own figure, else the price of the usage. For an answer out
    of our cache it is what the answer cost when it was made."""
    if response.reported_cost is not None:
        return response.reported_cost
    return price(response.target, profile_price, response.usage, at)


def _rates(
    target: Target, profile_price: Price | None, input_tokens: int, at: datetime | float
) -> _Rates | None:
    if profile_price is not None:
        return _from_profile(profile_price)
    model = _published(target.base_url, target.model)
    return None if model is None else model.rates(input_tokens, at)


@lru_cache(maxsize=64)
def _from_profile(own: Price) -> _Rates:
    read, wrote = own.input / _MILLION, own.output / _MILLION
    cached = read if own.cached_input is None else own.cached_input / _MILLION
    write = read if own.cache_write is None else own.cache_write / _MILLION
    return _Rates(read, wrote, cached=cached - read, write=write - read)


@lru_cache(maxsize=1024)
def _published(base_url: str, model: str) -> _Model | None:
    """The model's published prices; the data comes with genai-prices (0.2 s to import)."""
    from genai_prices.data_snapshot import get_snapshot

    try:
        provider, info = get_snapshot().find_provider_model(model, None, None, base_url.lower())
    except LookupError:
        return None
    return None if provider.id in _NAMED_BY_THE_USER else _Model(info)


class _Model:
    """A published model: its prices, made into rates once for each of its dates and tiers."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._tables: dict[int, tuple[list[int], list[_Rates]]] = {}
        self._one = info.prices if not isinstance(info.prices, list) else None

    def rates(self, input_tokens: int, at: datetime | float) -> _Rates:
        """The rates of a call of that size at that time."""
        prices = self._one or self._info.get_prices(
            at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
        )
        table = self._tables.get(id(prices))  # the prices live as long as `_info`
        if table is None:
            table = self._tables[id(prices)] = _table(prices)
        starts, rates = table
        return rates[bisect_left(starts, input_tokens)]


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
    reasoned = total(output_tokens=1, output_reasoning_tokens=1)
    return _Rates(
        input=each_read if prices.input_mtok is not None else None,
        output=output - base if prices.output_mtok is not None else None,
        cached=total(cache_read_tokens=1) - base,
        write=total(cache_write_tokens=1) - base,
        reasoning=reasoned - output,
        call=base - each_read * read,
    )
