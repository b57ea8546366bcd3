"""Which price data is in use: that of the library, or newer data that was fetched; and whether
fetched data is fit to be used. Nothing here touches the network."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llmctl.pricing import bundled, can_be_priced

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo

FILE = "prices.json"
"""In the state folder: a line about the data, then the data as it came."""

_WANTED = frozenset({"openai", "anthropic", "google", "cohere", "mistral", "openrouter", "groq"})
"""Providers without which data cannot be that of the whole list: those of the presets."""

_KEPT = 0.9
"""The share of the models priced now that newer data must still have. The list drops a model
now and then, never many at once."""


class UnfitError(ValueError):
    """Price data that must not be used: why, as the end of a sentence."""


class Origin(Struct, frozen=True):
    """Where data came from: `fetched` in seconds since the epoch (None: with the library),
    `source` an address or the library, `library` the version of genai-prices that read it."""

    source: str
    library: str
    fetched: float | None = None


class Known(Struct, frozen=True):
    """Price data with its origin. `newest` is the latest day on which one of its prices begins
    to hold: the data's own word for how new it is."""

    data: DataSnapshot
    origin: Origin
    newest: date

    @property
    def models(self) -> int:
        """How many models are priced."""
        return sum(len(provider.models) for provider in self.data.providers)


def load(state: Path, warn: Callable[[str], None]) -> DataSnapshot:
    """The data to use, as `choose` does, without what is said about it. A stored file that is
    damaged is named to `warn` once and passed over."""
    if not (state / FILE).exists():
        return bundled()
    return choose(state, warn).data


def choose(state: Path, warn: Callable[[str], None]) -> Known:
    """The newer of the stored data and the library's.

    Where neither is newer by its own dates the stored one is used with the library it was
    fetched for; a later library brings its own.
    """
    own = library_data()
    try:
        stored = read(state)
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


def library_data() -> Known:
    """The data that comes with genai-prices."""
    from importlib.metadata import version  # slow to load, and most commands price nothing

    data = bundled()
    release = version("genai-prices")
    return Known(data, Origin(f"genai-prices {release}", release), newest(data))


def read(state: Path) -> Known | None:
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
    data = parse(payload)
    return Known(data, origin, newest(data))


def stored(payload: bytes, origin: Origin) -> bytes:
    """The content of a file of such data."""
    head = {
        "source": origin.source,
        "library": origin.library,
        "fetched": origin.fetched,
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    return json.dumps(head).encode() + b"\n" + payload


def parse(payload: bytes) -> DataSnapshot:
    """Data in the format of genai-prices' published `data.json`. Raises `UnfitError`."""
    from genai_prices.data_snapshot import DataSnapshot

    # The library's own reader of this format; its public way to it would fetch the data itself.
    from genai_prices.types import _providers_from_raw

    try:
        raw = json.loads(payload, parse_float=Decimal)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise UnfitError(f"it is not JSON: {error}") from error
    if not isinstance(raw, list):
        raise UnfitError("it is no list of providers")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that a later library would know
            providers = _providers_from_raw(raw)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        first = " ".join(str(error).split())[:120]
        raise UnfitError(f"it is not in the format of this genai-prices: {first}") from error
    return DataSnapshot(providers=providers, from_auto_update=True)


def hold_to(data: DataSnapshot, used: DataSnapshot) -> None:
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
                if not can_be_priced(model):
                    raise UnfitError(f"the price of {provider.id}/{model.id} makes no sense")


def newest(data: DataSnapshot) -> date:
    """The latest day on which one of the prices begins to hold."""
    days = (day for p in data.providers for model in p.models for day in _starts(model))
    return max(days, default=date.min)


def _starts(model: ModelInfo) -> Iterator[date]:
    dated: list[Any] = model.prices if isinstance(model.prices, list) else []
    for each in (*dated, *(model.price_variants or ())):
        start = getattr(each.constraint, "start_date", None)
        if isinstance(start, date):
            yield start
