"""`llmctl models`: what the provider offers this key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from llmctl.cli.context import Context, finish
from llmctl.cli.options import (
    ConfigOption,
    JsonOption,
    ProfileOption,
    QuietOption,
    VerboseOption,
)
from llmctl.types import ModelInfo


def command(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List the models that the provider offers this key.

    The provider is asked, free of charge. A column stays empty where it does not say: CONTEXT is
    the model's window and OUTPUT its longest answer, in tokens; SINCE is when it was made.

    \b
    Examples:
      llmctl models -p openai
      llmctl models --json | jq -r '.[].id'
    """
    context = Context(profile, None, config, json, quiet, verbose)
    finish(lambda: run(context), context)


def run(context: Context) -> int:
    """Ask, print, and return the exit code. Raises `NoKeyError` and `CallError`."""
    from llmctl.cli.chosen import choose
    from llmctl.cli.render import write_stdout
    from llmctl.config.overrides import Overrides
    from llmctl.providers.models_api import list_models
    from llmctl.wiring import open_endpoint

    chosen = choose(context, Overrides(profile=context.profile))

    async def ask() -> list[ModelInfo]:
        async with open_endpoint(
            chosen.profile,
            chosen.folders,
            context.environ,
            context.clock,
            say=context.say,
            warn=context.warn,
        ) as endpoint:
            return await list_models(endpoint)

    models = asyncio.run(ask())
    if context.json:
        import orjson

        text = orjson.dumps([_as_json(model) for model in models]).decode() + "\n"
    else:
        text = table(models)
    try:
        write_stdout(text)
    except BrokenPipeError:
        return 1
    if not models:
        context.say(f"the profile {chosen.profile.name} offers no models")
    return 0


def table(models: list[ModelInfo]) -> str:
    """The models, one a line under a head; nothing for none."""
    from llmctl.cli.render import safe

    if not models:
        return ""
    rows = [("MODEL", "CONTEXT", "OUTPUT", "SINCE", "NAME")]
    rows += [
        (
            " ".join(safe(model.id).split()),
            f"{model.context:,}" if model.context else "",
            f"{model.output:,}" if model.output else "",
            _day(model.created),
            " ".join(safe(model.name or "").split()),
        )
        for model in models
    ]
    # A column that says nothing at all is left out.
    kept = [n for n in range(5) if n == 0 or any(row[n] for row in rows[1:])]
    widths = {n: max(len(row[n]) for row in rows) for n in kept}
    return "".join(
        "  ".join(
            row[n].rjust(widths[n]) if n in (1, 2) else row[n].ljust(widths[n]) for n in kept
        ).rstrip()
        + "\n"
        for row in rows
    )


def _day(created: float | None) -> str:
    if created is None:
        return ""
    try:
        return datetime.fromtimestamp(created, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def _as_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "name": model.name,
        "context": model.context,
        "max_output": model.output,
        "created": _day(model.created) or None,
    }
