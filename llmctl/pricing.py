"""Prices: usage to US dollars, in Decimal, offline. A price that is not known is None, never 0.

The rates come from genai-prices, through its public interface: the list that the library
brings along, or a newer one that `storage.price_list` fetched and stored.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from llmctl.types import Price, Request, Target, Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, Provider

HOW_TO_SET = "`{as: openai/gpt-4o}` where it is a known model at another address, else its amounts"
"""What stands behind `price:` in a profile, for messages about a price that is not known."""
FILE = "prices.json"  # in the state folder: a line about the data, then the data as it came
_MILLION = Decimal(1_000_000)
_ZERO = Decimal(0)
_NAMED_BY_THE_USER = frozenset({"azure"})  # a deployment may be called anything
# Providers without which data cannot be that of the whole list: those of the presets.
_WANTED = frozenset({"openai", "anthropic", "google", "cohere", "mistral", "openrouter", "groq"})
_KEPT = 0.9  # the share of the models priced now that newer data must still have
_GATEWAYS = {
    **dict.fromkeys(
        ("gateway.ai.cloudflare.com", "ai-gateway.vercel.sh", "models.github.ai", "api.portkey.ai"),
        "",
    ),
    "oai.helicone.ai": "openai",
    "anthropic.helicone.ai": "anthropic",
}
"""Hosts that pass calls on at the vendor's price, and the vendor; empty: the address
(Cloudflare's) or the model's prefix names it (developers.cloudflare.com/ai-gateway,
vercel.com/docs/ai-gateway, docs.helicone.ai, docs.github.com/billing, portkey.ai/docs; November
2026)."""
_VENDORS = {
    "openai": "openai", "anthropic": "anthropic", "google": "google", "google-ai-studio": "google",
    "mistral": "mistral", "mistralai": "mistral", "mistral-ai": "mistral", "cohere": "cohere",
    "groq": "groq", "xai": "x-ai", "grok": "x-ai",
}  # fmt: skip
"""Gateways' names of them, and the list's. Of others a gateway may have several hosts."""
_WINDOWS = (
    ("cohere", "command-a", 256_000),
    ("cohere", "command-r", 128_000),
    ("cohere", "", 256_000),
    ("mistral", "", 262_144),
    ("groq", "groq/compound", 131_072),
    ("groq", "", 131_072),
)
"""Provider, how a model's name begins, tokens: where the list has no window, the largest one that
the provider publishes for such models, so that none is refused that fits; without a name only of
models in the list (docs.cohere.com/docs/models, docs.mistral.ai/getting-started/models,
console.groq.com/docs/models; November 2026)."""
BEDROCK_GEOGRAPHY = re.compile(r"^(?:global|us-gov|us|eu|apac|jp|au|ca|in)\.")
"""How the id of an inference profile begins, before that of its model
(docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html)."""
_VERTEX_REGION = re.compile(r"https://(?:.+-aiplatform|aiplatform\.\w+\.rep)\.googleapis\.com[:/]")
_CLAUDE_SINCE_4_5 = re.compile(r"claude-(?:[a-z]+-4-[5-9]|[a-z]+-[5-9])\b")
_IN_A_REGION = Decimal("1.1")
"""How much more Claude costs on Vertex AI in a region or in one of several, whose prices the list
does not have (docs.claude.com/en/docs/build-with-claude/claude-on-vertex-ai, "Global vs regional
endpoints")."""
_USUAL = frozenset({"auto", "default", "standard", "standard_only", "on_demand", "unspecified"})
_CHEAPER = (("service_tier", "flex"),)  # than the usual, at every provider that has it

Terms = tuple[tuple[str, str], ...]
"""What besides the model decides about the price: how a call is processed."""

BATCH: Terms = (("processing", "batch"),)
"""The provider's own batch interface."""


def terms_of(request: Request) -> Terms:
    """What the request's parameters say of its processing: a tier or speed other than usual."""
    said = request.options if request.raw is None else request.raw.body
    if not said:
        return ()
    tier = said.get("service_tier") or said.get("serviceTier")  # the latter: Gemini's
    found = (("service_tier", tier), ("speed", said.get("speed")))
    return tuple((k, v.lower()) for k, v in found if isinstance(v, str) and v.lower() not in _USUAL)


class Rates(Struct, frozen=True):
    """Dollars a token; None: not priced. Cached, written and reasoning tokens cost their own rate
    instead of that of the input or output they are part of, sound and images what they cost more
    (`media`: by the field of `Usage`, the dollars of each beside those of a token of text, or of a
    search or a second of sound; None: not priced). `call` is for the call itself."""

    input: Decimal | None
    output: Decimal | None
    cached: Decimal
    written: Decimal
    written_1h: Decimal
    reasoning: Decimal
    call: Decimal = _ZERO
    media: tuple[tuple[str, Decimal | None], ...] = ()

    def cost(self, usage: Usage) -> Decimal | None:
        """A provider's figures that contradict themselves are read as the larger."""
        read = max(usage.input - usage.free_input, usage.cached_input + usage.cache_write)
        wrote = max(usage.output - usage.free_output, usage.reasoning)
        if (read and self.input is None) or (wrote and self.output is None):
            return None
        write_1h = min(usage.cache_write_1h, usage.cache_write)
        cost = (
            self.call
            + (self.input or _ZERO) * (read - usage.cached_input - usage.cache_write)
            + (self.output or _ZERO) * (wrote - usage.reasoning)
            + self.cached * usage.cached_input
            + self.written * (usage.cache_write - write_1h)
            + self.written_1h * write_1h
            + self.reasoning * usage.reasoning
        )
        for name, each in self.media:
            if count := getattr(usage, name):
                if each is None:
                    return None
                cost += each * count
        return cost

    def times(self, factor: Decimal) -> Rates:
        """These rates of tokens, so many times as high."""
        return replace(
            self,
            input=None if self.input is None else self.input * factor,
            output=None if self.output is None else self.output * factor,
            cached=self.cached * factor,
            written=self.written * factor,
            written_1h=self.written_1h * factor,
            reasoning=self.reasoning * factor,
        )

    def worst_case(self, read: int, wrote: int, *, media: bool = False) -> Decimal | None:
        """The most that so many tokens can cost, however they are cached or thought; `media`: some
        may be sound or images."""
        if (read and self.input is None) or (wrote and self.output is None):
            return None
        dearest = max(self.input or _ZERO, self.cached, self.written, self.written_1h)
        write = max(self.output or _ZERO, self.reasoning)
        for name, each in self.media if media else ():
            if name.endswith("_input"):
                dearest = max(dearest, (self.input or _ZERO) + (each or _ZERO))
            elif name.endswith("_output"):
                write = max(write, (self.output or _ZERO) + (each or _ZERO))
        return self.call + dearest * read + write * wrote


class Prices:
    """The published prices; `load` gives them when the first one is asked for.

    A profile's own price wins; else that of the provider whose address the target has. A server
    elsewhere has no known price, nor has an Azure deployment. Times are seconds since the epoch.
    """

    def __init__(self, load: Callable[[], DataSnapshot] | None = None) -> None:
        self._data = cache(load or bundled)  # the bundled ones take 0.2 s to import
        self._model = lru_cache(maxsize=1024)(self._find)
        # Rates hold for a minute at least: looking them up takes longer than all else of a price.
        self._listed = lru_cache(maxsize=1024)(self._find_prices)
        self._tier = lru_cache(maxsize=1024)(self._find_rates)

    def price(
        self, target: Target, own: Price | None, usage: Usage, at: float, terms: Terms = ()
    ) -> Decimal | None:
        """What the usage costs; its input includes cached and cache-written tokens."""
        rates = self._rates(target, own, usage.input, at, terms)
        return None if rates is None else rates.cost(usage)

    def worst_case(
        self,
        target: Target,
        own: Price | None,
        input_tokens: int,
        max_output: int | None,
        at: float,
        terms: Terms = (),
        *,
        media: bool = False,
    ) -> Decimal | None:
        """The most a call can cost, writing to the provider's cache included; None when the
        price is unknown or nothing limits the output. `media`: it holds or asks for sound or
        images."""
        rates = self._rates(target, own, input_tokens, at, terms)
        if rates is None or max_output is None:
            return None
        return rates.worst_case(input_tokens, max_output, media=media)

    def per_million(
        self, target: Target, own: Price | None, at: float
    ) -> tuple[Decimal, Decimal] | None:
        """US dollars for a million tokens of input and for one of output, of calls in the lowest
        tier; None when the price is unknown."""
        rates = self._rates(target, own, 0, at, ())
        if rates is None or rates.input is None:
            return None
        return rates.input * _MILLION, (rates.output or _ZERO) * _MILLION

    def window(self, base_url: str, model: str) -> int | None:
        """The context window published for a model at that address, in tokens."""
        if (found := self._model(base_url.lower(), model)) is None:
            return None
        provider, name, info = found
        if info is not None and info.context_window is not None:
            return info.context_window
        sizes = (
            size
            for at, start, size in _WINDOWS
            if at == provider.id and name.startswith(start) and (start or info is not None)
        )
        return next(sizes, None)

    def _rates(
        self, target: Target, own: Price | None, input_tokens: int, at: float, terms: Terms
    ) -> Rates | None:
        if own is not None and own.like is None:
            # What a batch costs at a negotiated price nobody has said.
            return None if terms == BATCH else _own_rates(own)
        base_url, name = target.known_as
        if name.endswith(":free") and urlsplit(base_url).hostname == "openrouter.ai":
            return _FREE
        place = base_url.lower(), name, int(at) // 60, terms
        if (listed := self._listed(*place)) is None:
            return None
        return self._tier(*place, max([0, *(one for one in listed[2] if one < input_tokens)]))

    def _find_rates(
        self, base_url: str, name: str, minute: int, terms: Terms, tier: int
    ) -> Rates | None:
        """The rates of calls with more than `tier` tokens of input."""
        found = self._listed(base_url, name, minute, terms)
        if found is None:
            return None
        rates = _rates_of(found[0], tier + 1, found[1])
        regional = _VERTEX_REGION.match(base_url) and _CLAUDE_SINCE_4_5.match(name.lower())
        return rates.times(_IN_A_REGION) if regional else rates

    def _find_prices(
        self, base_url: str, name: str, minute: int, terms: Terms
    ) -> tuple[ModelPrice, Decimal | None, tuple[int, ...]] | None:
        """A model's prices in a minute since the epoch, what sound costs beside text where it has
        no price, and the tokens of input at which tiers of its prices start."""
        found = self._model(base_url, name)
        if found is None or (model := found[2]) is None:
            return None
        moment, said = datetime.fromtimestamp(minute * 60, UTC), dict(terms)
        # Another provider's model has that one's prices, but not its batches and tiers.
        own_model = bool(said) and any(model is each for each in found[0].models)
        varied = any(
            each.when.items() <= said.items()
            and (each.constraint is None or each.constraint.active(moment))
            for each in (own_model and model.price_variants) or ()
        )
        if not varied and terms not in ((), _CHEAPER):  # a batch, or a tier that costs more
            return None
        prices = model.get_prices(moment, said if varied else None)
        tiers = (tier for value in vars(prices).values() for tier in getattr(value, "tiers", ()))
        # What a model of sound asks for sound is never the price of its text.
        sound = None if re.search("audio|realtime", model.id) else _ZERO
        return prices, sound, tuple(tier.start for tier in tiers)

    def _find(self, base_url: str, model: str) -> tuple[Provider, str, ModelInfo | None] | None:
        """Who answers, what it calls the model, and what is known of that."""
        vendor, name = _behind(base_url, model.lower().removeprefix("models/"))  # Gemini lists them
        data = self._data()
        try:
            provider = data.find_provider(None, vendor, None if vendor else base_url)
        except LookupError:
            return None
        if provider.id in _NAMED_BY_THE_USER:
            return None
        names = _on_bedrock(name) if provider.id == "aws" else (name,)
        models = (provider.find_model(each, all_providers=data.providers) for each in names)
        return provider, name, next((each for each in models if each is not None), None)


def _behind(base_url: str, model: str) -> tuple[str | None, str]:
    """Of a gateway's address the vendor behind it, and the model's name there; None where it is no
    gateway, or who is behind it is not known."""
    parts = urlsplit(base_url)
    if (vendor := _GATEWAYS.get(parts.hostname or "")) is None or vendor:
        return vendor, model
    path = parts.path.split("/")[4:5]  # /v1/ACCOUNT/GATEWAY/VENDOR: Cloudflare's
    if path and path[0] not in ("", "compat"):
        return _VENDORS.get(path[0]), model
    prefix, _, name = model.partition("/")
    open_weights = name.startswith("gpt-oss")  # hosted by others, at their prices
    return None if open_weights else _VENDORS.get(prefix.removeprefix("@")), name


def _on_bedrock(model: str) -> tuple[str, ...]:
    """The names that the list may know a model of Bedrock by. In any one geography it costs what it
    costs in one region, globally it has a price of its own; an ARN is no name, whatever stands in
    it (that of a custom model names the one that it was made of)."""
    if model.startswith("arn:"):
        return ()
    return (model,) if model.startswith("global.") else (model, BEDROCK_GEOGRAPHY.sub("", model))


def bundled() -> DataSnapshot:
    """The prices that come with genai-prices."""
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@lru_cache(maxsize=64)
def _own_rates(own: Price) -> Rates:
    read, wrote = own.input / _MILLION, own.output / _MILLION
    cached = read if own.cached_input is None else own.cached_input / _MILLION
    write = read if own.cache_write is None else own.cache_write / _MILLION
    return Rates(read, wrote, cached, write, write, wrote)


def _rates_of(prices: ModelPrice, input_tokens: int, sound: Decimal | None) -> Rates:
    """The rates of a call with so much input: a tier holds for all tokens of a call with more
    than its start. What has no price of its own costs what it is a kind of."""

    def rate(name: str, otherwise: Decimal | None = None) -> Decimal | None:
        value = getattr(prices, name, None)
        for tier in getattr(value, "tiers", ()):
            if input_tokens <= tier.start:
                break
            value = tier.price
        value = getattr(value, "base", value)
        return otherwise if value is None else value / _MILLION

    read, wrote = rate("input_mtok"), rate("output_mtok")
    written = rate("cache_write_mtok", read)

    def beside(
        name: str, text: Decimal | None, otherwise: Decimal | None = _ZERO
    ) -> Decimal | None:
        own = rate(name)
        return otherwise if own is None else own - (text or _ZERO)

    def each(name: str, of: int) -> Decimal | None:
        own = rate(name)
        return None if own is None else own * _MILLION / of

    media = (
        ("audio_input", beside("input_audio_mtok", read, sound)),
        ("image_input", beside("input_image_mtok", read)),
        ("audio_output", beside("output_audio_mtok", wrote, sound)),
        ("image_output", beside("output_image_mtok", wrote)),
        ("searches", each("web_searches_kcount", 1000)),
        ("file_searches", each("storage_searches_kcount", 1000)),
        ("audio_seconds", each("input_audio_hours", 3600) or each("audio_hours", 3600)),
    )
    return Rates(
        read,
        wrote,
        rate("cache_read_mtok", read) or _ZERO,
        written or _ZERO,
        rate("cache_write_1h_mtok", written) or _ZERO,
        rate("output_reasoning_mtok", wrote) or _ZERO,
        (rate("requests_kcount") or _ZERO) * 1000,
        media,
    )


_FREE = Rates(_ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO)


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
    origin: Origin = Origin("", "")

    @property
    def newest(self) -> date:
        """The latest day on which one of the prices begins to hold: how new the data is."""
        dated = (
            each
            for provider in self.data.providers
            for model in provider.models
            for listed in (model.prices, model.price_variants)
            for each in (listed if isinstance(listed, list) else ())
        )
        return max((getattr(d.constraint, "start_date", date.min) for d in dated), default=date.min)

    @property
    def models(self) -> int:
        """How many models are priced."""
        return sum(len(provider.models) for provider in self.data.providers)


def load(state: Path, warn: Callable[[str], None]) -> DataSnapshot:
    """The data that `catalogue` chooses."""
    return catalogue(state, warn).data if (state / FILE).exists() else bundled()


def catalogue(state: Path, warn: Callable[[str], None]) -> PriceCatalogue:
    """The newer of the stored data and the library's; where neither is, the stored one with the
    library it was fetched for. A stored file that is damaged is named to `warn`."""
    own = library_catalogue()
    try:
        stored = read_stored(state)
    except (UnfitError, OSError) as error:
        warn(
            f"the prices in {state / FILE} cannot be used ({error}); those of genai-prices "
            f"{own.origin.library} are; `llmctl cost prices --update` fetches them again"
        )
        return own
    if stored is None:
        return own
    same = stored.origin.library == own.origin.library
    return stored if (stored.newest, same) >= (own.newest, True) else own


def library_catalogue() -> PriceCatalogue:
    """The data that comes with genai-prices."""
    from importlib.metadata import version  # slow to load, and most commands price nothing

    release = version("genai-prices")
    return PriceCatalogue(bundled(), Origin(f"genai-prices {release}", release))


class _Head(Origin, frozen=True, kw_only=True):
    """The first line of a stored file: SHA-256 of the rest in hex."""

    sha256: str


def read_stored(state: Path) -> PriceCatalogue | None:
    """The stored data; None when there is none. Raises `UnfitError` and `OSError`."""
    try:
        head, _, payload = (state / FILE).read_bytes().partition(b"\n")
        origin = msgspec.json.decode(head, type=_Head)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        raise UnfitError("the file is damaged") from None
    if origin.sha256 != hashlib.sha256(payload).hexdigest():
        raise UnfitError("the file is damaged")
    return PriceCatalogue(parse(payload), origin)


def encode_stored(payload: bytes, origin: Origin) -> bytes:
    """The content of a file of such data."""
    digest = hashlib.sha256(payload).hexdigest()
    head = _Head(origin.source, origin.library, origin.fetched, sha256=digest)
    return msgspec.json.encode(head) + b"\n" + payload


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
    new, old = (PriceCatalogue(each).newest for each in (data, used))
    if new < old:
        raise UnfitError(
            f"it is older than the data in use: its latest price is of {new}, here of {old}"
        )
    for provider, model in ((p, m) for p in data.providers for m in p.models):
        listed = model.prices
        for prices in [d.prices for d in listed] if isinstance(listed, list) else [listed]:
            values = [v for v in vars(prices).values() if v is not None]
            plain = [getattr(value, "base", value) for value in values]
            plain += [tier.price for value in values for tier in getattr(value, "tiers", ())]
            if not all(amount.is_finite() and amount >= 0 for amount in plain):
                raise UnfitError(f"the price of {provider.id}/{model.id} makes no sense")
