"""Figures beside their healthy targets, in words for a person and as JSON."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from llmctl.batch.output import dollars
from llmctl.cli.output import money
from llmctl.reports.targets import Figure

_SIGNS = {"below": "<", "above": ">"}
_SHORT = {
    "latency_p95_ms": "p95",
    "error_rate": "errors",
    "cache_hit_rate": "cache hits",
    "rate_limit_hit_rate": "rate-limit hits",
}


def figure_json(figure: Figure) -> dict[str, Any]:
    """Value, target and whether it is met; null is unknown, or none."""
    value: Any = figure.value
    if isinstance(value, Decimal):
        value = dollars(value)
    elif isinstance(value, float):
        value = round(value, 6)
    target = figure.target
    return {
        "value": value,
        "target": None if target is None else {target.side: target.limit},
        "met": figure.met,
    }


def value_words(figure: Figure) -> str:
    """The value as a person reads it; a dash for none."""
    value = figure.value
    if figure.unit == "usd":
        return money(None if value is None else Decimal(value))
    if value is None:
        return "-"
    if figure.unit == "ms":
        return f"{value / 1000:.2f} s"
    if figure.unit == "change":
        return f"{value:+.0%}"
    # A rate just above its target must not look like it.
    return f"{value:,}" if figure.unit == "count" else f"{value:.2%}"


def target_words(figure: Figure) -> str:
    """The target as a person reads it: `< 3 s`; empty for none."""
    target = figure.target
    if target is None:
        return ""
    limit = f"{target.limit / 1000:g} s" if figure.unit == "ms" else f"{target.limit * 100:g}%"
    return f"{_SIGNS[target.side]} {limit}"


def targets_line(figures: list[Figure]) -> str:
    """The figures that have a target on one line, those that miss it in capitals."""
    parts = []
    for one in figures:
        missed = "" if one.met else ": MISSED"
        parts.append(f"{_SHORT[one.name]} {value_words(one)} ({target_words(one)}{missed})")
    return f"Healthy targets: {', '.join(parts)}."
