"""`llmctl batch --warm`: which shared prefixes pay, and what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from llmctl.batch.job import Batch
from llmctl.batch.output import dollars
from llmctl.batch.prefixes import scan_prefixes
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context, Selection
from llmctl.cli.output import money, plural
from llmctl.errors import UsageError
from llmctl.guards.prefix_cache import PrefixCache
from llmctl.observers.run_stats import Tally
from llmctl.pricing import Prices, terms_of
from llmctl.prompts.prefix import Verdict, Warmups, warmups
from llmctl.runner import Runner
from llmctl.storage.answer_cache import CachePeek
from llmctl.storage.cipher import StoreCipher
from llmctl.tokens import Counter
from llmctl.types import Request, Usage

_SHOWN = 3
"""Prefixes that are told of, those that save most first."""


def check_options(options: BatchOptions) -> None:
    """Raises `UsageError` for options that do not go together."""
    if options.warm and options.engine == "provider":
        raise UsageError(
            "--warm sends one row before the others, and a batch of the provider goes as a whole "
            "and shares no cache within: leave one of --warm and --engine provider out"
        )


def plan_warmups(
    batch: Batch, selection: Selection, context: Context, counter: Counter, prices: Prices
) -> Warmups:
    """What the rows that are left to send have in common, and whether it pays. Reads the input
    once. Raises `InputError`."""
    profile, now = batch.job.profile, context.clock.wall()
    cipher = StoreCipher(context.environ, on=selection.settings.encrypt).writing
    file = selection.settings.folders.cache / "cache.db"

    def price(request: Request, usage: Usage) -> Decimal | None:
        return prices.price(request.target, profile.price, usage, now, terms_of(request))

    with CachePeek(file, profile.cache.ttl, now, cipher) as cache:
        scan = scan_prefixes(batch, cache.has)
    # Without the margin of an estimate: below its minimum a provider keeps nothing.
    return warmups(scan.prefixes(lambda request: counter.usage(request, "").input), price)


async def open_prefix_cache(
    batch: Batch, live: Runner, selection: Selection, context: Context
) -> PrefixCache:
    """The guard for the run, and a note of what it will do."""
    prices = live.costs.prices
    found = await asyncio.to_thread(plan_warmups, batch, selection, context, live.counter, prices)
    for line in plan_lines(found):
        context.info(line)
    return PrefixCache(found, live.clock, live.stop)


def plan_lines(found: Warmups | None) -> Iterator[str]:
    """What `--warm` does, for a person; nothing without it."""
    if found is None:
        return
    pays = sorted((v for v in found.verdicts if not v.why_not), key=lambda v: v.saves, reverse=True)
    for verdict in pays[:_SHOWN]:
        prefix = verdict.prefix
        yield (
            f"warm: {plural(prefix.rows, 'row')} begin with the same {prefix.tokens:,} tokens: one "
            f"goes first; {money(verdict.kept)} instead of {money(verdict.now)} for them"
        )
    if len(pays) > _SHOWN:
        yield f"warm: {plural(len(pays) - _SHOWN, 'further start')} alike"
    if not pays:
        longest = max(found.verdicts, key=lambda v: v.prefix.tokens, default=None)
        why = (
            longest.why_not if longest else "no two rows to send have the same first 256 characters"
        )
        yield f"warm: nothing to do: {why}"


def plan_json(found: Warmups | None) -> dict[str, Any]:
    """What is known of each prefix, for a script; amounts are exact, None is unknown."""
    return {} if found is None else {"warm": [_verdict_json(each) for each in found.verdicts]}


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    caching = verdict.caching
    return {
        "rows": verdict.prefix.rows,
        "tokens": verdict.prefix.tokens,
        "minimum": None if caching is None else caching.minimum,
        "source": None if caching is None else caching.source,
        "uncached_usd": dollars(verdict.now),
        "cached_usd": dollars(verdict.kept),
        "warm": not verdict.why_not,
        "why_not": verdict.why_not or None,
    }


def outcome(tally: Tally) -> str:
    """What the provider's prompt cache came to in the run."""
    read, wrote = tally.cache_read_tokens, tally.cache_write_tokens
    said = f"provider's prompt cache: {read:,} tokens read, {wrote:,} written"
    if tally.provider_unsaved:
        return f"{said}; what that saved is not known"
    saved = tally.provider_saved
    return f"{said}, {money(abs(saved))} {'more' if saved < 0 else 'less'} than without"
