"""Tiers of providers: where the figures are from, and what becomes of them in a profile."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from llmctl.config.load import load
from llmctl.config.settings import Limits
from llmctl.errors import ConfigError
from llmctl.providers.registry import PRESETS
from llmctl.providers.tiers import TIERS, TierLimit, day_zone, tier_names


def limits_of(tmp_path: Path, said: str, provider: str = "openai") -> Limits:
    """The limits of a profile that says this of them."""
    path = tmp_path / "config.yaml"
    path.write_text(f"profiles: {{p: {{provider: {provider}, model: m, limits: {said}}}}}")
    found = load(environ={"HOME": str(tmp_path)}, cwd=tmp_path, config=path)
    return found.profiles["p"].limits


@pytest.mark.parametrize("row", TIERS, ids=lambda row: f"{row.tier} {row.models}")
def test_every_figure_has_a_source_and_a_date(row: TierLimit) -> None:
    """A row names a page, a day in the past, a provider there is, and a figure at least."""
    assert row.source.startswith("https://")
    assert date.fromisoformat(row.date) <= date(2026, 11, 30)
    assert row.provider in PRESETS
    assert row.rpm or row.tpm or row.rpd


def test_a_tier_gives_each_model_its_limits(tmp_path: Path) -> None:
    """Models have their own figures, others none."""
    limits = limits_of(tmp_path, "{tier: openai-1}")
    assert (limits.of("gpt-4o").rpm, limits.of("gpt-4o").tpm) == (500, 30_000)
    assert limits.of("gpt-4o-mini").rpd == 10_000
    assert limits.of("another").rpm is None


def test_a_profiles_own_figures_win(tmp_path: Path) -> None:
    """Figure by figure: of the profile, and of one of its models."""
    limits = limits_of(tmp_path, "{tier: openai-1, rpm: 7, models: {gpt-4o: {tpm: 9}}}")
    assert (limits.of("gpt-4o").rpm, limits.of("gpt-4o").tpm) == (7, 9)
    assert (limits.of("gpt-4o-mini").rpm, limits.of("gpt-4o-mini").tpm) == (7, 200_000)


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_a_tier_that_is_none_is_named_with_its_line(tmp_path: Path, provider: str) -> None:
    """Another provider's tier is refused, too."""
    with pytest.raises(ConfigError, match=r"config.yaml:1: .*names no tier of"):
        limits_of(tmp_path, "{tier: cohere-trial}", provider)


def test_tiers_of_one_provider() -> None:
    """Names begin with the provider's."""
    assert tier_names("cohere") == ["cohere-trial", "cohere-production"]


def test_googles_day_ends_at_pacific_midnight() -> None:
    """That of the others at UTC's."""
    assert (day_zone("gemini"), day_zone("openrouter")) == ("America/Los_Angeles", "UTC")


def test_every_provider_has_a_tier() -> None:
    """All seven of those that are asked directly."""
    seven = ("openai", "anthropic", "gemini", "cohere", "mistral", "openrouter", "groq")
    assert [name for name in seven if not tier_names(name)] == []
