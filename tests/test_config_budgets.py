"""`budgets:` in configuration files: what they say, and who may say it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmctl.config import trust
from llmctl.config.settings import Budget, parse_share
from llmctl.errors import ConfigError
from tests.configuring import World

OWN = "budgets:\n  - {name: team, limit_usd: 100, period: month}\n"


def test_a_budget_is_read_exactly(world: World) -> None:
    """Amounts and shares are decimal; tags to match are marked as such."""
    world.user(
        """
budgets:
  - name: labels, nightly
    limit_usd: 2_000.10
    period: week
    warn_at: [80%, 0.5]
    match: {profile: fast, model: m, provider: openai, user: ann, tags: {team: "=x", n: 1}}
  - {name: all, limit_usd: 0, period: day, warn_at: 0.9}
"""
    )
    first, second = world.load().budgets
    assert first == Budget(
        "labels, nightly",
        Decimal("2000.10"),
        "week",
        (Decimal("0.5"), Decimal("0.8")),
        {"profile": "fast", "model": "m", "provider": "openai", "user": "ann",
         "tag:team": "=x", "tag:n": "1"},
    )  # fmt: skip
    assert second == Budget("all", Decimal(0), "day", (Decimal("0.9"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budgets: 3", "budgets must be a mapping"),
        ("budgets: [{limit_usd: 1, period: day}]", "needs name"),
        ("budgets: [{name: a, limit: 1, period: day}]", 'did you mean "limit_usd"'),
        ("budgets: [{name: a, limit_usd: -1, period: day}]", "amount in USD"),
        ("budgets: [{name: a, limit_usd: '1', period: day}]", "amount in USD"),
        ("budgets: [{name: a, limit_usd: 1, period: year}]", "day or week or month"),
        ("budgets: [{name: a, limit_usd: 1, period: day, warn_at: 1.1}]", "share of the limit"),
        ("budgets: [{name: a, limit_usd: 1, period: day, match: {team: x}}]", 'the name "team"'),
        (OWN + "  - {name: team, limit_usd: 2, period: day}", "name of another budget"),
    ],
)
def test_what_is_no_budget_is_named(world: World, text: str, message: str) -> None:
    """With file and line."""
    world.user(text)
    with pytest.raises(ConfigError, match=message) as caught:
        world.load()
    assert "config.yaml:" in str(caught.value)


def test_a_project_may_lower_and_add(world: World) -> None:
    """A lower limit of the same budget holds instead; another budget holds too."""
    world.user(OWN)
    world.project(
        "budgets:\n  - {name: team, limit_usd: 50, period: month}\n"
        "  - {name: here, limit_usd: 999, period: day}\n"
    )
    found = {budget.name: budget.limit for budget in world.load().budgets}
    assert found == {"team": 50, "here": 999}


@pytest.mark.parametrize(
    "budget",
    [
        "{name: team, limit_usd: 100.01, period: month}",
        "{name: team, limit_usd: 99, period: day}",
        "{name: team, limit_usd: 99, period: month, match: {profile: none}}",
    ],
)
def test_a_project_loosens_no_budget_untrusted(world: World, budget: str) -> None:
    """A higher limit, another period or fewer calls need the user's trust."""
    world.user(OWN)
    path = world.project(f"budgets:\n  - {budget}\n")
    with pytest.raises(ConfigError, match="needs your trust"):
        world.load()
    trust.record(world.load(config=world.own).folders, path, path.read_bytes())
    assert len(world.load().budgets) == 1
    assert world.load().budgets[0].limit != 100


def test_shares() -> None:
    """As a number or in per cent, above nothing and up to all."""
    for text, share in (("80%", "0.8"), (".5", "0.5"), ("100%", "1"), ("1.0", "1")):
        assert parse_share(text) == Decimal(share)
    assert not any(map(parse_share, ("0", "0%", "101%", "1.1", "", "x")))
