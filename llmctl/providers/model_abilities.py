"""What models can do, by public pages, and the needs that words of a task stand for. Pure."""

from __future__ import annotations

import re
from typing import Literal, get_args

from msgspec import Struct

from llmctl.pricing import BEDROCK_GEOGRAPHY

Ability = Literal["vision", "pdf", "audio", "video", "tools", "schema", "reasoning"]
ABILITIES: tuple[Ability, ...] = get_args(Ability)


class ModelAbilities(Struct, frozen=True):
    """A model's abilities, the page that says so, and the day on which it was read."""

    provider: str
    model: str
    abilities: frozenset[Ability]
    source: str
    read: str = "2026-11-30"


def _row(provider: str, model: str, source: str, *abilities: Ability) -> ModelAbilities:
    found = set(abilities)
    if "vision" in found and provider in _PDF:
        found.add("pdf")
    return ModelAbilities(provider, model, frozenset(found), source)


_PDF = frozenset({"openai", "anthropic", "gemini"})
"""Providers whose models that see read PDF files, too, as our codecs send them."""

MODELS = (
    _row("openai", "gpt-6.1-sol", "https://vercel.com/ai-gateway/models/gpt-6.1-sol",
         "vision", "tools", "schema", "reasoning"),
    _row("openai", "gpt-6.1-terra", "https://docs.oxen.ai/inference-api/reference/models/gpt-6-1-terra",
         "vision", "tools", "schema", "reasoning"),
    _row("anthropic", "claude-sonnet-5-5", "https://runware.ai/docs/models/anthropic-claude-sonnet-5-5",
         "vision", "tools", "reasoning"),
    _row("anthropic", "claude-sonnet-5", "https://runware.ai/docs/models/anthropic-claude-sonnet-5",
         "vision", "tools", "reasoning"),
    _row("gemini", "gemini-3.8-flash", "https://docs.oxen.ai/inference-api/reference/models/gemini-3-8-flash",
         "vision", "audio", "video", "tools", "schema", "reasoning"),
    _row("gemini", "gemini-3.7-flash", "https://ai.google.dev/gemini-api/docs/models/gemini-3.7-flash",
         "vision", "audio", "video", "tools", "schema", "reasoning"),
    _row("cohere", "command-a-03-2025", "https://vercel.com/ai-gateway/models/command-a", "tools"),
    _row("cohere", "command-a-reasoning-08-2025", "https://docs.cohere.com/docs/command-a-reasoning",
         "tools", "reasoning"),
    _row("cohere", "command-a-vision-07-2025",
         "https://docs.oracle.com/en-us/iaas/Content/generative-ai/cohere-command-a-vision-07-2025.htm",
         "vision"),
    _row("mistral", "mistral-medium-latest", "https://vercel.com/ai-gateway/models/mistral-medium-3.5",
         "vision", "tools", "schema", "reasoning"),
)  # fmt: skip
"""What was found; what is not here is not known, which is not to say that a model cannot do it."""

_CLOUDS = {"vertex": "gemini", "vertex-claude": "anthropic"}
"""Presets of clouds, and whose models they serve by the same names."""

LONG = 128_000
"""Tokens of window that a task with long texts needs."""

_TASKS: tuple[tuple[str, tuple[Ability, ...], int], ...] = (
    ("documents?|pdfs?|contracts?|invoices?|papers?", ("pdf",), LONG),
    ("long|books?", (), LONG),
    ("images?|photos?|pictures?|screenshots?|vision", ("vision",), 0),
    ("videos?|films?", ("video",), 0),
    ("audio|speech|transcri(be|ption)|calls?", ("audio",), 0),
    ("extract(ion|ing)?|structured|json|forms?", ("schema",), 0),
    ("agents?|agentic|tools?", ("tools",), 0),
    ("cod(e|ing)|math|reasoning|planning", ("reasoning",), 0),
)
"""Words of a task, the abilities, and the window in tokens that it needs."""


def needs_of(task: str) -> tuple[frozenset[Ability], int] | None:
    """The abilities and the window that a task needs by its words; None where no word is known."""
    words = re.findall(r"\w+", task.lower())
    found = [row for row in _TASKS if any(re.fullmatch(row[0], word) for word in words)]
    if not found:
        return None
    return frozenset(need for row in found for need in row[1]), max(row[2] for row in found)


def abilities_of(provider: str, model: str) -> ModelAbilities | None:
    """What is known of a model, also where a cloud serves it; None where nothing is."""
    own = provider, model
    if provider in _CLOUDS:
        own = _CLOUDS[provider], model
    elif provider == "bedrock":
        maker, _, name = BEDROCK_GEOGRAPHY.sub("", model).partition(".")
        own = maker, name
    return next((row for row in MODELS if (row.provider, row.model) == own), None)
