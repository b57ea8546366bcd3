"""`llmctl limits`: the provider's own rate limits, into the profile."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group

app = command_group("limits", "Take the provider's own rate limits into a profile.")


@app.callback()
def group() -> None:
    """Take the provider's own rate limits into a profile."""


@command(app, "pull", "profile", "config", "json")
def pull(
    context: Context,
    yes: Annotated[bool, Option("--yes", help="Write without asking.")] = False,
) -> int:
    """Ask for the limits of the profile's model, and write them down.

    Shown as a difference of the configuration file first, and written after a yes, or with --yes;
    without a terminal and --yes it is only shown. Comments and layout stay. What is written: rpm,
    tpm and rpd of the profile's model, and those of the models below `limits: models:`. Of
    Anthropic tpm is the limit of input tokens, the one that is met first.

    OpenAI's project is asked (the header openai-project of the profile, or $OPENAI_PROJECT_ID),
    or Anthropic's organization, by the admin key (admin_key: in the profile, else
    $OPENAI_ADMIN_KEY, $ANTHROPIC_ADMIN_KEY at their own address).

    \b
    --json: {"profile", "file", "limits": {rpm, tpm, rpd, models}, "diff",
    "written"}; diff is empty where the file says so already.

    \b
    Examples:
      llmctl limits pull -p anthropic
      llmctl limits pull -p openai --yes
    """
    from llmctl.cli.limits_pull import run

    return run(context, yes=yes)
