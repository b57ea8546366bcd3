"""What one source says, checked but not complete, and how two sources become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from llmctl.config.settings import Budget
from llmctl.config.tree import Node


class Draft(Struct, frozen=True):
    """What one source says of one profile: checked values by key (sections are dicts), where
    each stood, and where the profile itself did."""

    values: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, Node] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def over(self, under: Draft) -> Draft:
        """Both, key by key; this one wins. Sections are merged one level deep."""
        merged = dict(under.values)
        for name, value in self.values.items():
            below = merged.get(name)
            # a key comes from one place: naming another one does not add to the first
            both = isinstance(value, dict) and isinstance(below, dict) and name != "key"
            merged[name] = {**below, **value} if both else value  # type: ignore[dict-item]
        return Draft(merged, {**under.marks, **self.marks}, under.sources + self.sources)


class BudgetDraft(Struct, frozen=True):
    """A budget, and where its limit stood."""

    budget: Budget
    mark: Node


class FileDraft(Struct, frozen=True):
    """What one file says: the default's node, the drafts of profiles by name, its budgets, what
    a project may say only once its file is trusted, and the cache's size in bytes."""

    default: Node | None = None
    profiles: Mapping[str, Draft] = field(default_factory=dict)
    sensitive: tuple[Node, ...] = ()
    budgets: tuple[BudgetDraft, ...] = ()
    cache_size: int | None = None
