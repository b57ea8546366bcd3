"""`llmctl models`: the models that the provider offers a key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llmctl.cli.context import Context, select_profile, surroundings
from llmctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from llmctl.types import ModelInfo


def models(context: Context) -> int:
    """List the models that the provider offers this key.

    The provider is asked, free of charge. A column stays empty where it does not say: CONTEXT is
    the model's window and OUTPUT its longest answer, in tokens; SINCE is when it was made.

    \b
    Examples:
      llmctl models -p openai
      llmctl models --json | jq -r '.[].id'
    """
    import asyncio

    from llmctl.providers.models_api import list_models
    from llmctl.wiring import open_endpoint

    selection = select_profile(context)
    profile = selection.profile

    async def ask() -> list[ModelInfo]:
        async with open_endpoint(profile, surroundings(selection, context)) as endpoint:
            return await list_models(endpoint)

    found = asyncio.run(ask())
    if context.json:
        fields = ("id", "name", "context", "max_output", "created")
        rows = ((m.id, m.name, m.context, m.output, _day(m.created) or None) for m in found)
        print_json([dict(zip(fields, row, strict=True)) for row in rows], compact=True)
        return 0
    columns = {
        "MODEL": [model.id for model in found],
        "CONTEXT": [f"{model.context:,}" if model.context else "" for model in found],
        "OUTPUT": [f"{model.output:,}" if model.output else "" for model in found],
        "SINCE": [_day(model.created) for model in found],
        "NAME": [model.name or "" for model in found],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    if found:
        print_table(
            list(kept), list(zip(*kept.values(), strict=True)), ("CONTEXT", "OUTPUT"), ("MODEL",)
        )
    else:
        context.info(f"the profile {profile.name} offers no models")
    return 0


def _day(created: float | None) -> str:
    """ISO date of a Unix time; empty for none, and for one no calendar has."""
    try:
        return "" if created is None else datetime.fromtimestamp(created, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
