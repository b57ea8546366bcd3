"""Which calls count towards a cap, and whether a hold fits under it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Protocol

from llmctl.protocols import BudgetDenied, BudgetUsage, BudgetWindow
from llmctl.storage.rows import from_pico, to_pico

LATEST = "-latest"
"""What stands behind a model's name where the newest of its versions is asked for."""

_VERSION = re.compile(r"(-latest|-[0-9]{3,}(-.*)?)?", re.DOTALL)
"""What providers put behind a model's name to name a version of it: `-2026-05-01`, `-20250929`,
`-0613`, `-002`. Two digits are another model's name (`-5-mini`)."""


class Kind(Protocol):
    """What tells calls apart in sums; `tags` is a JSON object."""

    @property
    def profile(self) -> str:
        """The profile's name."""
        ...

    @property
    def provider(self) -> str:
        """The provider's name."""
        ...

    @property
    def model(self) -> str:
        """The model that answers, or was asked."""
        ...

    @property
    def user(self) -> str:
        """Who ran the program."""
        ...

    @property
    def tags(self) -> str:
        """The call's tags."""
        ...


class Countable(Kind, Protocol):
    """A single call."""

    @property
    def run_id(self) -> str:
        """The run's id."""
        ...


def same_model(wanted: str, model: str) -> bool:
    """Whether `model` is the wanted one, or a dated version of it: a provider that is asked for
    `gpt-5-mini` says that `gpt-5-mini-2026-05-01` has answered."""
    stem = wanted.removesuffix(LATEST)
    return model.startswith(stem) and _VERSION.fullmatch(model, len(stem)) is not None


def counts(match: Mapping[str, str], call: Countable) -> bool:
    """Whether a call has all that a cap matches by."""
    return all(_has(call, name, wanted) for name, wanted in match.items())


def tags_of(match: Mapping[str, str]) -> dict[str, str]:
    """The tags that a cap matches by."""
    return {k.removeprefix("tag:"): v for k, v in match.items() if k.startswith("tag:")}


def standing(spent_pico: int, held_pico: int) -> BudgetUsage:
    """The same in dollars."""
    spent, held = from_pico(spent_pico), from_pico(held_pico)
    assert spent is not None
    assert held is not None
    return BudgetUsage(spent, held)


def refusal(
    cap: BudgetWindow, spent_pico: int, held_pico: int, amount_pico: int
) -> BudgetDenied | None:
    """Why `amount_pico` more does not fit under the cap; None when it does."""
    limit = to_pico(cap.limit) or 0
    if spent_pico + held_pico + amount_pico <= limit:
        return None
    return BudgetDenied(cap, standing(spent_pico, held_pico), spent_pico + amount_pico > limit)


def gravest(refusals: Iterable[BudgetDenied | None]) -> BudgetDenied | None:
    """Of several answers one for which waiting does not help, if there is such a one."""
    found = [each for each in refusals if each is not None]
    return next((each for each in found if each.never), found[0] if found else None)


def newly_reached(cap: BudgetWindow, spent_pico: int, told: Decimal) -> Decimal | None:
    """The highest share to warn at that `spent_pico` has reached; None when nobody needs to be
    told, because that or a higher share than `told` was not reached before."""
    spent = from_pico(spent_pico) or Decimal(0)
    reached = [share for share in cap.warn_at if spent >= share * cap.limit]
    return reached[-1] if reached and reached[-1] > told else None


def _has(call: Countable, name: str, wanted: str) -> bool:
    if name == "model":
        return same_model(wanted, call.model)
    if name.startswith("tag:"):
        tags: dict[str, str] = json.loads(call.tags) if call.tags else {}
        return tags.get(name.removeprefix("tag:")) == wanted
    value: str = getattr(call, "run_id" if name == "run" else name)
    return value == wanted
