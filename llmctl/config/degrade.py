"""What is done while a provider is down: `degrade:` in a profile, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmctl.config.settings import DegradeStep
from llmctl.config.yaml_nodes import Node


def degrade_step(steps: Sequence[DegradeStep], kind: str) -> Any:
    """What the steps say of one kind, `stale` or `static`; None: there is no such step."""
    return next((said for one in steps if (said := getattr(one, kind)) is not None), None)


def check_degrade(
    said: Sequence[dict[str, Any]], node: Node, ttl: float | None, *, cached: bool
) -> None:
    """Raises `ConfigError` for steps that nothing would come of. `ttl`: seconds for which the
    profile's answers are used again, None for ever; `cached`: they are kept at all."""
    order = DegradeStep.__struct_fields__
    kinds = [next(iter(one)) for one in said]
    if kinds != sorted(set(kinds), key=order.index):
        raise node.error(f"must name each of {' and '.join(order)} once at most, in this order")
    if "stale" not in kinds:
        return
    if not cached:
        raise node.error("has stale, and the profile keeps no answers (cache: {enabled: false})")
    if ttl is not None and said[0]["stale"] <= ttl:
        raise node.error(
            "has a stale that is not longer than cache.ttl, so no answer would ever be stale"
        )
