"""Rate limits that providers publish for their usage tiers: a table with sources and dates. Pure.

What was not found on a public page is left out, never guessed. OpenAI's and Anthropic's figures of
an account are better asked for (`llmctl limits pull`); Google shows its own in AI Studio.
"""

from __future__ import annotations

from msgspec import Struct


class TierLimit(Struct, frozen=True):
    """What a tier allows the models that match `models` (a pattern as of a shell), all together:
    requests and tokens a minute, requests a day. `source` is the page
    that was read, `date` the day that it names, else the one on which it was read."""

    tier: str
    models: str
    source: str
    date: str
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None

    @property
    def provider(self) -> str:
        """The preset whose tier it is."""
        return self.tier.partition("-")[0]


_GPT_5 = ("https://simonwillison.net/b/9012", "2025-09-12")
_GPT_4O = ("https://community.openai.com/t/1028595", "2026-11-30")
_CLAUDE = ("https://www.developersdigest.tech/rate-limits/anthropic", "2026-10-17")
_GEMINI = ("https://discuss.ai.google.dev/t/104465", "2026-11-30")
_COHERE = ("https://docs.cohere.com/docs/rate-limits", "2026-11-30")
_MISTRAL = ("https://help.mistral.ai/en/articles/225174", "2026-11-30")
_FREE = ("https://openrouter.ai/docs/guides/routing/model-variants/free", "2026-11-30")
_GROQ = ("https://github.com/xyzs996/free-llm-api/discussions/3", "2026-07-25")

TIERS = (
    TierLimit("openai-1", "gpt-5", *_GPT_5, tpm=500_000),
    TierLimit("openai-1", "gpt-5-mini", *_GPT_5, tpm=500_000),
    TierLimit("openai-1", "gpt-4o", *_GPT_4O, rpm=500, tpm=30_000),
    TierLimit("openai-1", "gpt-4o-mini", *_GPT_4O, rpm=500, tpm=200_000, rpd=10_000),
    TierLimit("openai-2", "gpt-5", *_GPT_5, tpm=1_000_000),
    TierLimit("openai-2", "gpt-5-mini", *_GPT_5, tpm=2_000_000),
    TierLimit("openai-3", "gpt-5", *_GPT_5, tpm=2_000_000),
    TierLimit("openai-3", "gpt-5-mini", *_GPT_5, tpm=4_000_000),
    TierLimit("openai-4", "gpt-5", *_GPT_5, tpm=4_000_000),
    TierLimit("openai-4", "gpt-5-mini", *_GPT_5, tpm=10_000_000),
    TierLimit("openai-5", "gpt-5", *_GPT_5, tpm=40_000_000),
    TierLimit("openai-5", "gpt-5-mini", *_GPT_5, tpm=180_000_000),
    TierLimit("anthropic-start", "claude-fable-5*", *_CLAUDE, rpm=1_000, tpm=500_000),
    TierLimit("anthropic-scale", "claude-fable-5*", *_CLAUDE, rpm=4_000, tpm=4_000_000),
    TierLimit("gemini-free", "gemini-2.5-flash", *_GEMINI, rpm=10, tpm=250_000, rpd=250),
    TierLimit("gemini-1", "gemini-2.5-flash", *_GEMINI, rpm=1_000, tpm=1_000_000, rpd=10_000),
    TierLimit("gemini-2", "gemini-2.5-flash", *_GEMINI, rpm=2_000, tpm=3_000_000, rpd=100_000),
    TierLimit("gemini-3", "gemini-2.5-flash", *_GEMINI, rpm=10_000, tpm=8_000_000),
    TierLimit("cohere-trial", "command-a-0*", *_COHERE, rpm=20),
    TierLimit("cohere-trial", "command-a-vision*", *_COHERE, rpm=20),
    TierLimit("cohere-trial", "command-a-reasoning*", *_COHERE, rpm=20),
    TierLimit("cohere-trial", "command-a-translate*", *_COHERE, rpm=20),
    TierLimit("cohere-trial", "command-r7b*", *_COHERE, rpm=20),
    TierLimit("cohere-trial", "command-r-plus*", *_COHERE, rpm=20),
    TierLimit("cohere-trial", "command-r*", *_COHERE, rpm=20),
    TierLimit("cohere-production", "command-a-0*", *_COHERE, rpm=500),
    TierLimit("cohere-production", "command-r7b*", *_COHERE, rpm=500),
    TierLimit("cohere-production", "command-r-plus*", *_COHERE, rpm=500),
    TierLimit("cohere-production", "command-r*", *_COHERE, rpm=500),
    TierLimit("mistral-free", "*", *_MISTRAL, rpm=60, tpm=500_000),
    TierLimit("openrouter-free", "*:free", *_FREE, rpm=20, rpd=50),
    TierLimit("openrouter-credits", "*:free", *_FREE, rpm=20, rpd=1_000),
    TierLimit("groq-free", "openai/gpt-oss-120b", *_GROQ, rpm=30, rpd=1_000),
    TierLimit("groq-free", "openai/gpt-oss-20b", *_GROQ, rpm=30, rpd=1_000),
    TierLimit("groq-free", "groq/compound", *_GROQ, rpm=30, rpd=250),
    TierLimit("groq-free", "llama-3.3-70b-versatile", *_GROQ, rpm=30, tpm=12_000, rpd=1_000),
    TierLimit("groq-free", "llama-3.1-8b-instant", *_GROQ, rpm=30, rpd=14_400),
)
"""Those of OpenAI, Anthropic and Groq are quoted by others: of gpt-5 from what OpenAI announced, of
gpt-4o from the page of an account, of Claude and Groq from their documentation. Gemini's are what
Google's staff answered in its forum, for one model. Mistral's free tier
has one request a second. OpenRouter's are of free models, all together. Anthropic's `tpm` is of
input."""

_DAYS = {"gemini": "America/Los_Angeles"}
"""Where a provider's day of requests ends at another midnight than UTC's
(ai.google.dev/gemini-api/docs/rate-limits: "midnight Pacific time"; OpenRouter's is UTC's)."""


def tier_names(provider: str = "") -> list[str]:
    """The tiers there are, of one provider or of all."""
    names = dict.fromkeys(row.tier for row in TIERS)
    return [name for name in names if not provider or name.startswith(f"{provider}-")]


def tier_limits(tier: str) -> list[TierLimit]:
    """The rows of a tier; none for a name that is no tier."""
    return [row for row in TIERS if row.tier == tier]


def day_zone(provider: str) -> str:
    """The time zone whose midnight ends the provider's day of requests."""
    return _DAYS.get(provider, "UTC")
