"""A profile's `limits: {tier: NAME}`: the tier's published figures below the profile's own."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from llmctl.config.yaml_nodes import Node, nearest, quoted
from llmctl.providers.tiers import tier_limits, tier_names

_FIGURES = ("rpm", "tpm", "rpd")


def with_tier(limits: Mapping[str, Any], provider: str, node: Node) -> dict[str, Any]:
    """The limits with those of their tier, as limits of models. What the profile says itself wins,
    figure by figure. Raises `ConfigError` for a tier that is none of the provider's."""
    tier = str(limits["tier"])
    rows = [row for row in tier_limits(tier) if row.provider == provider]
    if not rows:
        known = tier_names(provider)
        hint = nearest(tier, known) if known else f"no figures of {provider} are published"
        raise node.error(f"names no tier of {provider}, {quoted(tier)}; {hint}")
    models = {name: dict(said or {}) for name, said in (limits.get("models") or {}).items()}
    own = list(models)
    for row in rows:
        published = {name: getattr(row, name) for name in _FIGURES}
        free = {k: v for k, v in published.items() if v is not None and limits.get(k) is None}
        for name in own:
            if name == row.models or fnmatchcase(name, row.models):
                models[name] = {**free, **{k: v for k, v in models[name].items() if v is not None}}
        if free and row.models not in models:
            models[row.models] = free
    return {**limits, "models": models}
