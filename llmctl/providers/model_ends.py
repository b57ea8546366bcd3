"""Days on which providers shut models down, as they announced them: a table with sources. Pure."""

from __future__ import annotations

from datetime import date

from msgspec import Struct

from llmctl.providers.regional_addresses import is_home


class ModelEnd(Struct, frozen=True):
    """A model that ends: the `day` from which it answers nobody, what its provider recommends
    instead (empty: not found), the page, and the day on which that was read."""

    provider: str
    model: str
    day: str
    instead: str
    source: str
    read: str = "2026-11-30"

    def sentence(self, profile: str, today: date) -> str:
        """A warning for the user of a profile."""
        over = date.fromisoformat(self.day) <= today
        says = "was shut down on" if over else "will be shut down on"
        next_one = f", and recommends {self.instead}" if self.instead else ""
        return (
            f"{self.model} {says} {self.day}, {self.provider} says{next_one}: choose another "
            f"`model:` for the profile {profile} ({self.source})"
        )


_OPENAI = "https://developers.openai.com/api/docs/deprecations"
_CLAUDE = "https://docs.anthropic.com/zh-CN/docs/about-claude/model-deprecations"

_FIVE = ("2026-12-11", "gpt-6.1-sol", _OPENAI)
_FIVE_MINI = ("2026-12-11", "gpt-6.1-terra", _OPENAI)

ENDS = (
    *(ModelEnd("openai", name, *_FIVE) for name in ("gpt-5", "gpt-5-2025-08-07")),
    *(ModelEnd("openai", name, *_FIVE_MINI) for name in ("gpt-5-mini", "gpt-5-mini-2025-08-07")),
    *(
        ModelEnd("openai", name, "2026-12-11", "", _OPENAI)
        for name in ("gpt-5-nano", "gpt-5-nano-2025-08-07")
    ),
    ModelEnd("anthropic", "claude-3-opus-20240229", "2026-01-05", "", _CLAUDE),
    ModelEnd("anthropic", "claude-3-sonnet-20240229", "2025-07-21", "", _CLAUDE),
    ModelEnd("anthropic", "claude-2.1", "2025-07-21", "", _CLAUDE),
    ModelEnd("anthropic", "claude-2.0", "2025-07-21", "", _CLAUDE),
)  # fmt: skip
"""What was found on the providers' own pages; that a model is not here says nothing."""

_BY_NAME = {(row.provider, row.model): row for row in ENDS}


def model_end(provider: str, base_url: str, model: str) -> ModelEnd | None:
    """The end of a model at its provider's own addresses; None where none is known of."""
    if not is_home(provider, base_url):
        return None
    return _BY_NAME.get((provider, model.removeprefix("models/")))
