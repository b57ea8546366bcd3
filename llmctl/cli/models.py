"""`llmctl models`: the models that the provider offers a key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llmctl.cli.context import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    from llmctl.cli.context import select_profile, surroundings
    from llmctl.cli.output import print_json
    from llmctl.providers.models_api import list_models
    from llmctl.wiring import open_endpoint

    selection = select_profile(context)
    profile = selection.profile

    async def ask() -> list[ModelInfo]:
        async with open_endpoint(profile, surroundings(selection, context)) as endpoint:
            return await list_models(endpoint)

    found = asyncio.run(ask())
    try:
        if context.json:
            fields = ("id", "name", "context", "max_output", "created")
            rows = (
                (one.id, one.name, one.context, one.output, _day(one.created) or None)
                for one in found
            )
            print_json([dict(zip(fields, row, strict=True)) for row in rows], compact=True)
        elif found:
            _print_table(found)
    except BrokenPipeError:
        return 1
    if not found:
        context.info(f"the profile {profile.name} offers no models")
    return 0


def _print_table(models: Sequence[ModelInfo]) -> None:
    """Print the models, one a line; a column that is empty for all of them is left out."""
    from llmctl.cli.output import print_table

    columns = {
        "MODEL": [one.id for one in models],
        "CONTEXT": [f"{one.context:,}" if one.context else "" for one in models],
        "OUTPUT": [f"{one.output:,}" if one.output else "" for one in models],
        "SINCE": [_day(one.created) for one in models],
        "NAME": [one.name or "" for one in models],
    }
    kept = {head: cells for head, cells in columns.items() if any(cells)}
    print_table(list(kept), list(zip(*kept.values(), strict=True)), right=("CONTEXT", "OUTPUT"))


def _day(created: float | None) -> str:
    """ISO date of a Unix time; empty for none, and for one no calendar has."""
    try:
        return "" if created is None else datetime.fromtimestamp(created, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
