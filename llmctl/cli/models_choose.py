"""`llmctl models --for …`: the models of profiles that have a key, ranked by price."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llmctl import pricing
from llmctl.batch.output import dollars
from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import money, print_json, print_lines, print_table
from llmctl.config.regions import inference_area, lies_in
from llmctl.config.settings import Profile, Settings
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import UsageError
from llmctl.keys.keyring_store import stored_slots
from llmctl.providers.data_statements import NOT_STATED, statement
from llmctl.providers.model_abilities import (
    ABILITIES,
    MODELS,
    Ability,
    abilities_of,
    needs_of,
)
from llmctl.providers.model_ends import model_end
from llmctl.providers.regional_addresses import ADDRESSES, is_home, regional_address
from llmctl.providers.registry import LOCAL, PRESETS
from llmctl.request import target_for
from llmctl.tokens import Counter
from llmctl.types import origin_of


class Wanted(Struct, frozen=True):
    """What a model must have: abilities, a window in tokens, at most so many US dollars for a
    million tokens of input, and a region."""

    abilities: frozenset[Ability] = frozenset()
    window: int = 0
    price: Decimal | None = None
    region: str | None = None


class Candidate(Struct, frozen=True):
    """A model of a profile, and why it is left out (empty: it is not). Prices are US dollars for a
    million tokens; what nobody says is None."""

    profile: str
    model: str
    price: tuple[Decimal, Decimal] | None
    window: int | None
    abilities: frozenset[Ability] | None
    region: str
    ends: str | None
    source: str | None
    lacks: str = ""


def wanted(task: str | None, need: list[str], price: str | None, region: str | None) -> Wanted:
    """What the options ask for. Raises `UsageError`."""
    abilities, window = frozenset[Ability](), 0
    if task is not None:
        found = needs_of(task)
        if found is None:
            raise UsageError(
                f"--for {quoted(task)} has no word that stands for a need (such as document, "
                "image, video, audio, extraction, agent, code): say the needs with --need"
            )
        abilities, window = found
    for word in (word for each in need for word in each.split(",")):
        known = next((ability for ability in ABILITIES if ability == word.strip()), None)
        if known is None:
            raise UsageError(f"--need {quoted(word)} is no ability; {nearest(word, ABILITIES)}")
        abilities |= {known}
    most = None
    if price is not None:
        match = re.fullmatch(r"\$?([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:/M)?", price.strip())
        if match is None:
            raise UsageError(
                f"--max-price {quoted(price)} is no price: write dollars for a million tokens of "
                "input, such as 1/M"
            )
        most = Decimal(match[1])
    return Wanted(abilities, window, most, region and region.lower())


def choose(context: Context, want: Wanted) -> int:
    """Print the ranking; 1 when no model has what is wanted."""
    settings = load_settings(context)
    keyed = [
        profile for profile in settings.profiles.values() if _has_key(profile, settings, context)
    ]
    prices = pricing.Prices(partial(pricing.load, settings.folders.state, context.warn))
    judged = [each for profile in keyed for each in _candidates(profile, prices, want, context)]
    fit = sorted((each for each in judged if not each.lacks), key=_rank)
    others = [each for each in judged if each.lacks]
    if context.json:
        print_json(
            {
                "needs": sorted(want.abilities),
                "window": want.window or None,
                "models": [_as_json(each) for each in fit],
                "left_out": [_as_json(each) for each in others],
            }
        )
        return 0 if fit else 1
    terms = [*sorted(want.abilities), *([f"a window of {want.window:,}"] if want.window else [])]
    print_lines(f"needs: {', '.join(terms) or 'none'}")
    if fit:
        rows = [
            (each.model, each.profile, money(each.price[0]) if each.price else "",
             money(each.price[1]) if each.price else "", f"{each.window:,}" if each.window else "",
             each.region, each.ends or "", " ".join(sorted(each.abilities or ())))
            for each in fit
        ]  # fmt: skip
        heads = ["MODEL", "PROFILE", "$/M IN", "$/M OUT", "CONTEXT", "REGION", "ENDS", "ABILITIES"]
        print_table(heads, rows, ("$/M IN", "$/M OUT", "CONTEXT"), ("MODEL",))
    for each in others:
        context.info(f"left out: {each.model} of {each.profile}: {each.lacks}")
    if not keyed:
        context.info("no profile has a key: set one (llmctl keys set openai)")
    return 0 if fit else 1


def _rank(each: Candidate) -> tuple[Any, ...]:
    """By the price of input, then of output; what has none comes last."""
    return (each.price is None, *(each.price or ()), each.model, each.profile)


def _has_key(profile: Profile, settings: Settings, context: Context) -> bool:
    """Whether something proves who asks, as far as it can be told without asking anybody. The
    local model counts where it was chosen."""
    if profile.provider == LOCAL:
        return settings.used == profile.name
    key = profile.key
    if profile.auth is not None or (key is not None and (key.secret or key.command)):
        return True
    if key is None:  # a server of one's own, which wants none
        return True
    if key.env and context.environ.get(key.env, "").strip():
        return True
    place = (key.keyring or profile.name, origin_of(profile.url))
    return place in stored_slots(settings.folders.state)


def _candidates(
    profile: Profile, prices: pricing.Prices, want: Wanted, context: Context
) -> Iterator[Candidate]:
    """The profile's model, and at its provider's own addresses those that something is known of."""
    home = is_home(profile.provider, profile.base_url)
    known = [row.model for row in MODELS if home and row.provider == profile.provider]
    clouds = bool(PRESETS[profile.provider].cloud)
    counter, now = Counter(prices.window), context.clock.wall()
    for model in dict.fromkeys([profile.model, *known]):
        target = target_for(profile, model)
        said = abilities_of(profile.provider, model) if home or clouds else None
        end = model_end(profile.provider, profile.base_url, model)
        found = Candidate(
            profile.name,
            model,
            prices.per_million(target, profile.price, now),
            counter.context_window(target),
            None if said is None else said.abilities,
            _region(profile, model),
            None if end is None else end.day,
            None if said is None else said.source,
        )
        yield replace(found, lacks=_lack(found, want, profile))


def _region(profile: Profile, model: str) -> str:
    """Where the model answers: as its name says at Bedrock, else as the profile says, or the
    provider of its address."""
    if profile.adapter == "bedrock" and (area := inference_area(model)):
        return area
    if profile.region:
        return profile.region
    if regional := regional_address(profile.provider, profile.base_url):
        return regional.region
    said = statement(profile.provider, profile.base_url)
    return said.region if said else NOT_STATED


def _lack(found: Candidate, want: Wanted, profile: Profile) -> str:
    """Why it is left out; empty where it has all that is wanted."""
    if want.abilities and found.abilities is None:
        return "what it can do is not known here"
    if missing := want.abilities - (found.abilities or frozenset()):
        return f"it is not said to have {', '.join(sorted(missing))}"
    if want.window and (found.window or 0) < want.window:
        return f"its window is {f'{found.window:,}' if found.window else 'not known'}"
    if want.price is not None and (found.price is None or found.price[0] > want.price):
        return f"its price is {money(found.price[0]) if found.price else 'not known'}"
    if want.region is None or profile.provider == LOCAL or lies_in(found.region, want.region):
        return ""
    better = "`region:` in the profile says better"
    for row in ADDRESSES:
        near = lies_in(row.region, want.region) or lies_in(want.region, row.region)
        if row.provider == profile.provider and near:
            better = f"`base_url: {row.base_url}` is in {row.region} ({row.source})"
    return f"its region is {found.region}: {better}"


def _as_json(each: Candidate) -> Mapping[str, Any]:
    price = each.price and dict(zip(("input", "output"), map(dollars, each.price), strict=True))
    able = None if each.abilities is None else sorted(each.abilities)
    return {
        "model": each.model, "profile": each.profile, "price": price, "context": each.window,
        "abilities": able, "source": each.source, "region": each.region, "ends": each.ends,
        **({"why": each.lacks} if each.lacks else {}),
    }  # fmt: skip
