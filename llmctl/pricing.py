"""Prices: usage to US dollars, in Decimal, offline. A price that is not known is None, never 0.

The rates come from genai-prices, through its public interface: the list that the library
brings along, or a newer one that `storage.price_list` fetched and stored.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llmctl.types import Price, Request, Target, Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

FILE = "prices.json"
"""In the state folder: a line about the data, then the data as it came."""

_MILLION = Decimal(1_000_000)
_ZERO = Decimal(0)

_PROBE = 16
"""Tokens that the rates of a price are probed with; no published tier is narrower."""

_NAMED_BY_THE_USER = frozenset({"azure"})
"""Providers whose model names say nothing: a deployment may be called anything."""

_WANTED = frozenset({"openai", "anthropic", "google", "cohere", "mistral", "openrouter", "groq"})
"""Providers without which data cannot be that of the whole list: those of the presets."""

_KEPT = 0.9
"""The share of the models priced now that newer data must still have. The list drops a model
now and then, never many at once."""

Terms = tuple[tuple[str, str], ...]
"""What besides the model decides about the price: how a call is processed."""

BATCH: Terms = (("processing", "batch"),)
"""The provider's own batch interface."""

_USUAL = frozenset({"auto", "default", "standard", "standard_only"})


def terms_of(request: Request) -> Terms:
    """What the request's parameters say of its processing: a tier or speed other than usual."""
    said = request.options if request.raw is None else request.raw.body
    found = ((name, said.get(name)) for name in ("service_tier", "speed"))
    return tuple((k, v) for k, v in found if isinstance(v, str) and v not in _USUAL)


class Rates(Struct, frozen=True):
    """Dollars a token. `cached`, `write` and `reasoning` come on top of the input or output
    token they are (a discount is negative), `hour` on top of a `write` that is kept for an hour;
    `call` is for the call itself. None: not priced."""

    input: Decimal | None
    output: Decimal | None
    cached: Decimal = _ZERO
    write: Decimal = _ZERO
    reasoning: Decimal = _ZERO
    call: Decimal = _ZERO
    hour: Decimal = _ZERO

    def cost(self, usage: Usage) -> Decimal | None:
        """A provider's figures that contradict themselves are read as the larger."""
        read = max(usage.input, usage.cached_input + usage.cache_write)
        wrote = max(usage.output, usage.reasoning)
        base = self._base(read, wrote)
        if base is None:
            return None
        return (
            base
            + self.cached * usage.cached_input
            + self.write * usage.cache_write
            + self.hour * usage.cache_write_1h
            + self.reasoning * usage.reasoning
        )

    def worst_case(self, read: int, wrote: int) -> Decimal | None:
        """The most that so many tokens can cost, however they are cached or thought."""
        base = self._base(read, wrote)
        if base is None:
            return None
        dearer = max(_ZERO, self.cached, self.write, self.write + self.hour)
        return base + dearer * read + max(_ZERO, self.reasoning) * wrote

    def _base(self, read: int, wrote: int) -> Decimal | None:
        if (read and self.input is None) or (wrote and self.output is None):
            return None
        return self.call + (self.input or _ZERO) * read + (self.output or _ZERO) * wrote


class Prices:
    """The published prices; `load` gives them when the first one is asked for."""

    def __init__(self, load: Callable[[], DataSnapshot] | None = None) -> None:
        self._load = load or bundled
        self._data: DataSnapshot | None = None
        self._model = lru_cache(maxsize=1024)(self._find)

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
        return None if rates is None else rates.worst_case(input_tokens, max_output)

    def window(self, base_url: str, model: str) -> int | None:
        """The context window published for a model at that address, in tokens."""
        found = self._model(base_url.lower(), model)
        return None if found is None else found.window

    def _rates(
        self,
        target: Target,
        own: Price | None,
        input_tokens: int,
        at: datetime | float,
        terms: Terms,
    ) -> Rates | None:
        if own is not None:
            # What a batch costs at a negotiated price nobody has said.
            return None if terms == BATCH else _own_rates(own)
        model = self._model(target.base_url.lower(), target.model)
        if model is None:
            return None
        moment = at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)
        return model.rates(input_tokens, moment, terms)

    def _find(self, base_url: str, model: str) -> PricedModel | None:
        if self._data is None:
            self._data = self._load()  # the bundled ones take 0.2 s to import
        try:
            provider, info = self._data.find_provider_model(model, None, None, base_url)
        except LookupError:
            return None
        if provider.id in _NAMED_BY_THE_USER:
            return None
        # Another provider's model has that one's prices, but not its batches and tiers.
        return PricedModel(info, varied=any(info is each for each in provider.models))


def bundled() -> DataSnapshot:
    """The prices that come with genai-prices."""
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@lru_cache(maxsize=64)
def _own_rates(own: Price) -> Rates:
    read, wrote = own.input / _MILLION, own.output / _MILLION
    cached = read if own.cached_input is None else own.cached_input / _MILLION
    write = read if own.cache_write is None else own.cache_write / _MILLION
    return Rates(read, wrote, cached=cached - read, write=write - read)


class PricedModel:
    """A published model: its prices, made into rates once for each of its dates and tiers."""

    def __init__(self, info: ModelInfo, *, varied: bool) -> None:
        self._info = info
        self._variants = (info.price_variants or []) if varied else []
        self._tables: dict[tuple[int, ...], tuple[list[int], list[Rates]]] = {}
        self.window = info.context_window

    def rates(self, input_tokens: int, at: datetime, terms: Terms) -> Rates | None:
        """The rates of a call of that size at that time; None for a batch where no batch rate
        is published (a tier without rates of its own costs what all calls do)."""
        context = dict(terms)
        active = self._active(at, context)
        if terms == BATCH and not active:
            return None
        key = (id(self._info.get_prices(at)), *active)  # the prices live as long as `_info`
        if key not in self._tables:
            self._tables[key] = _table(self._info.get_prices(at, context if active else None))
        starts, rates = self._tables[key]
        return rates[bisect_left(starts, input_tokens)]

    def _active(self, at: datetime, terms: Mapping[str, str]) -> tuple[int, ...]:
        """The numbers of the variants that hold for these terms at that time."""
        if not terms:
            return ()
        return tuple(
            number
            for number, variant in enumerate(self._variants)
            if (variant.constraint is None or variant.constraint.active(at))
            and all(terms.get(key) == value for key, value in variant.when.items())
        )


def _table(prices: ModelPrice) -> tuple[list[int], list[Rates]]:
    """The tiers' starts, and the rates below, between and above them (a tier holds for all
    tokens of a call with more input than its start)."""
    from genai_prices.types import TieredPrices

    tiered = [value for value in vars(prices).values() if isinstance(value, TieredPrices)]
    starts = sorted({tier.start for value in tiered for tier in value.tiers})
    return starts, [_probe(prices, low) for low in (0, *starts)]


def _probe(prices: ModelPrice, above: int) -> Rates:
    """The rates of calls with slightly more than `above` tokens of input.

    Between two tiers a price is linear in each count, so the differences that one more token
    makes in the library's own result are its rates, exactly; asking the library for every call
    would take 50 µs each time.
    """
    from genai_prices.types import Usage as Used

    read = above + _PROBE

    def total(**counts: int) -> Decimal:
        used = Used(**{"input_tokens": read, **counts})
        return prices.calc_price(used)["total_price"]

    base = total()
    each_read = base - total(input_tokens=read - 1)
    output = total(output_tokens=1)
    written = total(cache_write_tokens=1)
    reasoned = total(output_tokens=1, output_reasoning_tokens=1)
    return Rates(
        input=each_read if prices.input_mtok is not None else None,
        output=output - base if prices.output_mtok is not None else None,
        cached=total(cache_read_tokens=1) - base,
        write=written - base,
        hour=total(cache_write_tokens=1, cache_write_1h_tokens=1) - written,
        reasoning=reasoned - output,
        call=base - each_read * read,
    )


# Which data is in use, and whether fetched data is fit to be used.


class UnfitError(ValueError):
    """Price data that must not be used: why, as the end of a sentence."""


class Origin(Struct, frozen=True):
    """Where data came from: `fetched` in seconds since the epoch (None: with the library),
    `source` an address or the library, `library` the version of genai-prices that read it."""

    source: str
    library: str
    fetched: float | None = None


class PriceCatalogue(Struct, frozen=True):
    """Price data with its origin."""

    data: DataSnapshot
    origin: Origin

    @property
    def newest(self) -> date:
        """The latest day on which one of the prices begins to hold: the data's own word for how
        new it is."""
        return newest(self.data)

    @property
    def models(self) -> int:
        """How many models are priced."""
        return sum(len(provider.models) for provider in self.data.providers)


def load(state: Path, warn: Callable[[str], None]) -> DataSnapshot:
    """The data to use, as `catalogue` chooses it, without what is said about it. A stored file
    that is damaged is named to `warn` once and passed over."""
    return catalogue(state, warn).data if (state / FILE).exists() else bundled()


def catalogue(state: Path, warn: Callable[[str], None]) -> PriceCatalogue:
    """The newer of the stored data and the library's.

    Where neither is newer by its own dates the stored one is used with the library it was
    fetched for; a later library brings its own.
    """
    own = library_catalogue()
    try:
        stored = read_stored(state)
    except (UnfitError, OSError) as error:
        warn(
            f"the prices in {state / FILE} cannot be used ({error}); those of genai-prices "
            f"{own.origin.library} are; `llmctl cost prices --update` fetches them again"
        )
        return own
    if stored is None or stored.newest < own.newest:
        return own
    if stored.newest == own.newest and stored.origin.library != own.origin.library:
        return own
    return stored


def library_catalogue() -> PriceCatalogue:
    """The data that comes with genai-prices."""
    from importlib.metadata import version  # slow to load, and most commands price nothing

    release = version("genai-prices")
    return PriceCatalogue(bundled(), Origin(f"genai-prices {release}", release))


def read_stored(state: Path) -> PriceCatalogue | None:
    """The stored data; None when there is none. Raises `UnfitError` and `OSError`."""
    try:
        raw = (state / FILE).read_bytes()
    except FileNotFoundError:
        return None
    head, _, payload = raw.partition(b"\n")
    try:
        said = json.loads(head)
        origin = Origin(str(said["source"]), str(said["library"]), float(said["fetched"]))
        whole = said["sha256"] == hashlib.sha256(payload).hexdigest()
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UnfitError("the file is damaged")
    return PriceCatalogue(parse(payload), origin)


def encode_stored(payload: bytes, origin: Origin) -> bytes:
    """The content of a file of such data."""
    head = {
        "source": origin.source,
        "library": origin.library,
        "fetched": origin.fetched,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    return json.dumps(head).encode() + b"\n" + payload


def parse(payload: bytes) -> DataSnapshot:
    """Data in the format of genai-prices' published `data.json`, which is that of its types.
    Raises `UnfitError`."""
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import Provider
    from pydantic import ConfigDict, TypeAdapter

    try:
        raw = json.loads(payload, parse_float=Decimal)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise UnfitError(f"it is not JSON: {error}") from error
    if not isinstance(raw, list):
        raise UnfitError("it is no list of providers")
    listed = TypeAdapter(list[Provider], config=ConfigDict(arbitrary_types_allowed=True))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that a later library would know
            providers = listed.validate_python(_with_model_prices(raw))
    except (ValueError, TypeError, RecursionError) as error:
        first = " ".join(str(error).split())[:120]
        raise UnfitError(f"it is not in the format of this genai-prices: {first}") from error
    return DataSnapshot(providers=providers, from_auto_update=True)


def _with_model_prices(raw: Any) -> Any:
    """The decoded JSON; each object under `prices` has become a `ModelPrice`, which the library's
    types hold there and pydantic cannot make of a mapping by itself."""
    from genai_prices.types import ModelPrice, TieredPrices
    from pydantic import TypeAdapter

    amounts = TypeAdapter(dict[str, Decimal | TieredPrices | None])

    def converted(value: Any) -> Any:
        if isinstance(value, list):
            return [converted(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            key: ModelPrice(**amounts.validate_python(item))
            if key == "prices" and isinstance(item, dict)
            else converted(item)
            for key, item in value.items()
        }

    return converted(raw)


def check_fit(data: DataSnapshot, used: DataSnapshot) -> None:
    """Raises `UnfitError` for data that is not fit to take the place of `used`."""
    missing = _WANTED - {provider.id for provider in data.providers}
    if missing:
        raise UnfitError(f"it has no prices of {', '.join(sorted(missing))}")
    there, here = ({(p.id, m.id) for p in d.providers for m in p.models} for d in (data, used))
    if len(there & here) < _KEPT * len(here):
        raise UnfitError(f"it has only {len(there & here):,} of the {len(here):,} models known now")
    if newest(data) < newest(used):
        raise UnfitError(
            f"it is older than the data in use: its latest price is of {newest(data)}, "
            f"here of {newest(used)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for provider in data.providers:
            for model in provider.models:
                if not _makes_sense(model):
                    raise UnfitError(f"the price of {provider.id}/{model.id} makes no sense")


def _makes_sense(model: ModelInfo) -> bool:
    """Whether rates, none of them negative, can be made of all prices of a model."""
    listed = model.prices
    dated = [each.prices for each in listed] if isinstance(listed, list) else [listed]
    try:
        rates = [rates for prices in dated for rates in _table(prices)[1]]
    except (ValueError, ArithmeticError, TypeError, AttributeError):
        return False
    amounts = [amount for each in rates for amount in (each.input, each.output, each.call)]
    return all(amount is None or (amount.is_finite() and amount >= 0) for amount in amounts)


def newest(data: DataSnapshot) -> date:
    """The latest day on which one of the prices begins to hold."""
    found = date.min
    for model in (model for provider in data.providers for model in provider.models):
        dated = model.prices if isinstance(model.prices, list) else []
        for each in (*dated, *(model.price_variants or ())):
            start = getattr(each.constraint, "start_date", date.min)
            found = max(found, start)
    return found
