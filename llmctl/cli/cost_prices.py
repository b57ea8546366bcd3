"""Use case `cost prices`: which published prices are in use, fetched anew when asked for."""

from __future__ import annotations

import asyncio
from datetime import UTC

from llmctl.cli.context import Context
from llmctl.cli.output import age, print_json, print_lines
from llmctl.pricing import catalogue
from llmctl.reports.periods import iso
from llmctl.storage import price_list


def run_prices(context: Context, *, update: bool) -> int:
    """Print which prices are in use. Raises what `price_list.update` does."""
    state = context.folders.state
    used = catalogue(state, context.warn)
    if update:
        source = context.environ.get("LLMCTL_PRICES_URL") or price_list.default_source()
        before = used.models
        used = asyncio.run(price_list.update(state, source, used, context.clock))
        context.info(f"prices updated: {used.models:,} models, {used.models - before:+,}")
    at, now = used.origin.fetched, context.clock.wall()
    fetched = None if at is None else iso(round(at) * 1000, UTC)
    providers = len(used.data.providers)
    if context.json:
        facts = {
            "source": used.origin.source,
            "library": used.origin.library,
            "fetched": fetched,
            "age_s": None if at is None else max(0, round(now - at)),
            "newest_price": used.newest.isoformat(),
            "providers": providers,
            "models": used.models,
        }
        print_json(facts, compact=True)
        return 0
    never = "never; `llmctl cost prices --update` fetches the present ones"
    print_lines(
        f"source    {used.origin.source}",
        f"models    {used.models:,} of {providers:,} providers",
        f"newest    a price that holds from {used.newest.isoformat()} on",
        f"fetched   {never if at is None else f'{fetched}, {age(now - at)} ago'}",
    )
    return 0
