"""`llmctl models`: the models that the provider offers a key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from typer import Option, Typer

from llmctl.cli.context import Context, select_profile, surroundings
from llmctl.cli.options import command
from llmctl.cli.output import money, print_json, print_table

if TYPE_CHECKING:
    from llmctl.config.settings import Profile
    from llmctl.types import ModelInfo


app = Typer()


@command(app, "models", "profile", "config", "json")
def models(
    context: Context,
    task: Annotated[
        str | None, Option("--for", metavar="TASK", help="Rank models for a task.")
    ] = None,
    need: Annotated[
        list[str] | None,
        Option("--need", metavar="ABILITY", help="vision, pdf, audio, video, tools, …"),
    ] = None,
    max_price: Annotated[
        str | None, Option("--max-price", metavar="1/M", help="Dollars for a million in.")
    ] = None,
    region: Annotated[
        str | None, Option("--region", metavar="eu", help="Where it is processed.")
    ] = None,
) -> int:
    """List the models that a key may use, or rank them for a task.

    The provider is asked, free of charge; prices, and windows that it does not say, are those
    published, or the profile's. CONTEXT is the model's window and OUTPUT its longest answer, in
    tokens; $/M IN and $/M OUT are US dollars for a million tokens; SINCE is when it was made, ENDS
    when it is shut down, as far as that was announced. A column stays empty where nobody says.

    With --for, --need, --max-price or --region nobody is asked: the models of all profiles that
    have a key, and those known at their providers, are ranked by the price of input, and why
    others are left out is said. --for takes needs from words: documents need pdf and a window of
    128,000, images vision, video, audio, extraction schema, agents tools, code reasoning. --need
    may be given several times, or as a list with commas. Exit 1: no model has what is wanted.

    --json: a list of {id, name, context, max_output, created, price: {input, output}, ends}; null
    is unknown. Ranked: {needs, window, models, left_out}.

    \b
    Examples:
      llmctl models -p openai
      llmctl models --for "document analysis" --max-price 1/M
      llmctl models --json | jq -r '.[].id'
    """
    import asyncio
    from functools import partial

    from llmctl import pricing
    from llmctl.batch.output import dollars
    from llmctl.providers.model_ends import model_end
    from llmctl.providers.models_api import ask_first, list_models
    from llmctl.request import target_for
    from llmctl.tokens import Counter
    from llmctl.wiring import open_endpoint

    if any(value is not None for value in (task, max_price, region)) or need:
        from llmctl.cli.models_choose import choose, wanted

        return choose(context, wanted(task, need or [], max_price, region))
    selection = select_profile(context)
    profile = selection.profile

    async def ask(server: Profile) -> list[ModelInfo]:
        async with open_endpoint(server, surroundings(selection, context)) as endpoint:
            return await list_models(endpoint)

    found = asyncio.run(ask_first(profile, ask))
    prices = pricing.Prices(partial(pricing.load, selection.settings.folders.state, context.warn))
    counter, now = Counter(prices.window), context.clock.wall()
    targets = [target_for(profile, model.id) for model in found]
    windows = [
        model.context or counter.context_window(target)
        for model, target in zip(found, targets, strict=True)
    ]
    costs = [prices.per_million(target, profile.price, now) for target in targets]
    known = [model_end(profile.provider, profile.base_url, model.id) for model in found]
    ends = [end and end.day for end in known]
    if context.json:
        fields = ("id", "name", "context", "max_output", "created", "price", "ends")
        rows = (
            (m.id, m.name, window, m.output, _day(m.created) or None,
             cost and dict(zip(("input", "output"), map(dollars, cost), strict=True)), end)
            for m, window, cost, end in zip(found, windows, costs, ends, strict=True)
        )  # fmt: skip
        print_json([dict(zip(fields, row, strict=True)) for row in rows], compact=True)
        return 0
    columns = {
        "MODEL": [model.id for model in found],
        "CONTEXT": [f"{window:,}" if window else "" for window in windows],
        "OUTPUT": [f"{model.output:,}" if model.output else "" for model in found],
        "$/M IN": [money(cost[0]) if cost else "" for cost in costs],
        "$/M OUT": [money(cost[1]) if cost else "" for cost in costs],
        "SINCE": [_day(model.created) for model in found],
        "ENDS": [end or "" for end in ends],
        "NAME": [model.name or "" for model in found],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    if found:
        right = ("CONTEXT", "OUTPUT", "$/M IN", "$/M OUT")
        print_table(list(kept), list(zip(*kept.values(), strict=True)), right, ("MODEL",))
    else:
        context.info(f"the profile {profile.name} offers no models")
    return 0


def _day(created: float | None) -> str:
    """ISO date of a Unix time; empty for none, and for one no calendar has."""
    try:
        return "" if created is None else datetime.fromtimestamp(created, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
