"""What is done while a provider is down: `degrade:` in a profile, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmctl.config.settings import DegradeStep, DegradeSteps
from llmctl.config.yaml_nodes import Node

_QUEUE = "queue"


def degrade_step(steps: DegradeSteps, kind: str) -> Any:
    """What the steps say of one kind, `stale` or `static`; None: there is no such step."""
    given = (step for step in steps if isinstance(step, DegradeStep))
    return next((said for one in given if (said := getattr(one, kind)) is not None), None)


def keeps_for_later(steps: DegradeSteps) -> bool:
    """Whether calls are queued."""
    return _QUEUE in steps


def without_queue(steps: DegradeSteps) -> DegradeSteps:
    """The other steps, where there is no place for a later answer."""
    return tuple(step for step in steps if step != _QUEUE)


def check_degrade(
    said: Sequence[dict[str, Any] | str], node: Node, ttl: float | None, *, cached: bool
) -> None:
    """Raises `ConfigError` for steps that nothing would come of. `ttl`: seconds for which the
    profile's answers are used again, None for ever; `cached`: they are kept at all."""
    order = (*DegradeStep.__struct_fields__, _QUEUE)
    kinds = [one if isinstance(one, str) else next(iter(one)) for one in said]
    if kinds != sorted(set(kinds), key=order.index):
        names = f"{', '.join(order[:-1])} and {order[-1]}"
        raise node.error(f"must name each of {names} once at most, in this order")
    stale = dict(zip(kinds, said, strict=True)).get("stale")
    if not isinstance(stale, dict):
        return
    if not cached:
        raise node.error("has stale, and the profile keeps no answers (cache: {enabled: false})")
    if ttl is not None and stale["stale"] <= ttl:
        raise node.error(
            "has a stale that is not longer than cache.ttl, so no answer would ever be stale"
        )
