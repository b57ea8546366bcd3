"""How `cost prices` travels: the data in use, fetched anew if asked for → stdout."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import Any

from llmctl.cli.context import Context
from llmctl.cli.cost import PricesOptions
from llmctl.cli.render import write_stdout
from llmctl.config.paths import find_folders
from llmctl.pricing import PriceCatalogue, catalogue
from llmctl.reports.periods import iso


def run_prices(options: PricesOptions, context: Context) -> int:
    """Print which prices are in use. Raises what `price_list.update` does."""
    state = find_folders(context.environ, context.cwd()).state
    used = catalogue(state, context.warn)
    if options.update:
        from llmctl.storage.price_list import default_source, update

        source = context.environ.get("LLMCTL_PRICES_URL") or default_source()
        before = used.models
        used = asyncio.run(update(state, source, used, context.clock))
        context.say(f"prices updated: {used.models:,} models, {used.models - before:+,}")
    if context.json:
        import orjson

        write_stdout(orjson.dumps(_as_json(used, context)).decode() + "\n")
        return 0
    said = _as_json(used, context)
    lines = [
        f"source    {used.origin.source}",
        f"models    {used.models:,} of {said['providers']:,} providers",
        f"newest    a price that holds from {said['newest_price']} on",
    ]
    if said["fetched"] is None:
        lines.append("fetched   never; `llmctl cost prices --update` fetches the present ones")
    else:
        lines.append(f"fetched   {said['fetched']}, {_age(said['age_s'])} ago")
    write_stdout("\n".join(lines) + "\n")
    return 0


def _as_json(used: PriceCatalogue, context: Context) -> dict[str, Any]:
    fetched = used.origin.fetched
    return {
        "source": used.origin.source,
        "library": used.origin.library,
        "fetched": None if fetched is None else iso(round(fetched) * 1000, UTC),
        "age_s": None if fetched is None else max(0, round(context.clock.wall() - fetched)),
        "newest_price": used.newest.isoformat(),
        "providers": len(used.data.providers),
        "models": used.models,
    }


def _age(seconds: int) -> str:
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 2 * 86400 else f"{seconds // 86400} days"
