"""`budgets:` of a configuration: reading them, and what a project may do to the user's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from llmctl.config import values as v
from llmctl.config.drafts import BudgetDraft
from llmctl.config.settings import PERIODS, Budget
from llmctl.config.tree import Node, nearest, quoted
from llmctl.errors import ConfigError

_KEYS = ("name", "limit_usd", "period", "warn_at", "match")
_MATCH = ("profile", "provider", "model", "user", "tags")
_DOLLARS = re.compile(r"[0-9]{1,12}(_[0-9]{3})*(\.[0-9]{0,12})?")
_SHARE = re.compile(r"(0?\.[0-9]{1,6}|1(\.0+)?)|([0-9]{1,2}(\.[0-9]{1,4})?|100)%")


def read(node: Node) -> tuple[BudgetDraft, ...]:
    """The budgets of one file. Raises `ConfigError`."""
    if node.null:
        return ()
    if not isinstance(node.value, tuple):
        raise node.error("must be a list: - {name: team, limit_usd: 100, period: month}")
    found: list[BudgetDraft] = []
    for item in node.value:
        draft = _budget(item)
        for earlier in found:
            if earlier.budget.name == draft.budget.name:
                raise item.error(f"has the name of another budget, {quoted(draft.budget.name)}")
        found.append(draft)
    return tuple(found)


def raised(project: Iterable[BudgetDraft], user: Iterable[BudgetDraft]) -> tuple[Node, ...]:
    """The project's budgets that would loosen one of the user's: they need the user's trust.

    A lower limit under the same name, and budgets of other names, only bind further.
    """
    mine = {draft.budget.name: draft.budget for draft in user}
    return tuple(
        draft.mark
        for draft in project
        if (own := mine.get(draft.budget.name)) is not None and _looser(draft.budget, own)
    )


def merged(files: Iterable[Iterable[BudgetDraft]]) -> tuple[Budget, ...]:
    """All budgets, by name; of the same name the later file's."""
    found = {draft.budget.name: draft.budget for file in files for draft in file}
    return tuple(found.values())


def _looser(new: Budget, old: Budget) -> bool:
    return new.limit > old.limit or new.period != old.period or dict(new.match) != dict(old.match)


def _budget(node: Node) -> BudgetDraft:
    entries = node.mapping()
    for name, child in entries.items():
        if name not in _KEYS:
            raise child.error(f"is no key of a budget; {nearest(name, _KEYS)}")
    for name in ("name", "limit_usd", "period"):
        if name not in entries:
            raise node.error(f"needs {name}: {{name: team, limit_usd: 100, period: month}}")
    budget = Budget(
        name=v.text(entries["name"]),
        limit=_dollars(entries["limit_usd"]),
        period=v.one_of(*PERIODS)(entries["period"]),
        warn_at=_shares(entries["warn_at"]) if "warn_at" in entries else (),
        match=_match(entries["match"]) if "match" in entries else {},
    )
    return BudgetDraft(budget, entries["limit_usd"])


def _dollars(node: Node) -> Decimal:
    written = node.value if node.plain and isinstance(node.value, str) else ""
    if not _DOLLARS.fullmatch(written):
        raise node.error(f"must be an amount in USD such as 25 or 2_000.50, not {node.shown()}")
    return Decimal(written.replace("_", ""))


def _shares(node: Node) -> tuple[Decimal, ...]:
    if node.null:
        return ()
    items = node.value if isinstance(node.value, tuple) else (node,)
    return tuple(sorted(_share(item) for item in items))


def _share(node: Node) -> Decimal:
    written = node.value if isinstance(node.value, str) else ""
    share = share_of(written)
    if share is None:
        raise node.error(f"must be a share of the limit such as 0.8 or 80%, not {node.shown()}")
    return share


def share_of(written: str) -> Decimal | None:
    """`0.8` or `80%` as a number above 0 and up to 1; None for anything else."""
    if not _SHARE.fullmatch(written):
        return None
    per_cent = written.endswith("%")
    share = Decimal(written.rstrip("%")) / (100 if per_cent else 1)
    return share or None


def _match(node: Node) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, child in node.mapping().items():
        if name not in _MATCH:
            raise ConfigError(
                f"{child.where}: a budget matches by {', '.join(_MATCH)}, not by {quoted(name)}"
            )
        if name == "tags":
            found |= {f"tag:{key}": v.label(value) for key, value in child.mapping().items()}
        else:
            found[name] = v.text(child)
    return found
