"""Addresses of providers that answer in one region: a table with sources. Pure."""

from __future__ import annotations

from msgspec import Struct

from llmctl.providers.registry import PRESETS
from llmctl.types import origin_of


class RegionalAddress(Struct, frozen=True):
    """An address of a provider, the region in which prompts and answers are processed there, the
    page that says so, and the day on which that was read. Most accounts must be let in first."""

    provider: str
    base_url: str
    region: str
    source: str
    read: str = "2026-11-30"


_OPENAI = "https://developers.openai.com/api/docs/guides/data-residency"
_MISTRAL = "https://docs.mistral.ai/inference/regional-inference"
_OPENROUTER = "https://openrouter.ai/docs/guides/features/in-region-routing"

ADDRESSES = (
    RegionalAddress("openai", "https://eu.api.openai.com/v1", "europe", _OPENAI),
    RegionalAddress("openai", "https://us.api.openai.com/v1", "us", _OPENAI),
    RegionalAddress("mistral", "https://api.eu.mistral.ai/v1", "eu", _MISTRAL),
    RegionalAddress("mistral", "https://api.us.mistral.ai/v1", "us", _MISTRAL),
    RegionalAddress("openrouter", "https://eu.openrouter.ai/api/v1", "europe", _OPENROUTER),
    RegionalAddress("openrouter", "https://us.openrouter.ai/api/v1", "us", _OPENROUTER),
)
"""`europe` is wider than the European Union: OpenAI's is the EEA and Switzerland, OpenRouter's
those and the United Kingdom (openrouter.ai/business/eu)."""


def regional_address(provider: str, base_url: str) -> RegionalAddress | None:
    """The row of a provider's address; None where it is no regional one."""
    origin = origin_of(base_url)
    return next(
        (
            row
            for row in ADDRESSES
            if row.provider == provider and origin_of(row.base_url) == origin
        ),
        None,
    )


def is_home(provider: str, base_url: str) -> bool:
    """Whether the provider itself answers at this address, anywhere or in a region."""
    home = PRESETS[provider].base_url
    at_home = bool(home) and origin_of(base_url) == origin_of(home)
    return at_home or regional_address(provider, base_url) is not None
