"""Token counts and dollars out of OpenAI-shaped `usage` objects; pure, and never raising.

Input includes cached tokens and output reasoning ones in these: the program's own convention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from llmctl.types import Usage


def whole(value: object) -> int:
    """The count, or 0 for anything that is none."""
    if type(value) is int:  # what nearly all are, for a fifth of the time
        return max(value, 0)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return max(0, int(value))
    return 0


def mapping(value: object) -> Mapping[str, Any]:
    """The object, or an empty one for anything else."""
    if type(value) is dict:  # what JSON's objects are; the abstract class is slow to ask
        return value
    return value if isinstance(value, Mapping) else {}


def openai_usage(value: object) -> Usage | None:
    """Of chat completions (`prompt_tokens`…) and responses (`input_tokens`…); None for none."""
    found = mapping(value)
    if not found:
        return None
    took = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    gave = found.get("completion_tokens_details") or found.get("output_tokens_details")
    read = whole(found.get("prompt_tokens", found.get("input_tokens")))
    wrote = whole(found.get("completion_tokens", found.get("output_tokens")))
    # Mistral says it in a field of its own (docs.mistral.ai/api, UsageInfo).
    cached = found.get("num_cached_tokens")
    if not took and not gave and not cached:
        return Usage(read, wrote)  # of most servers there is no more to look for
    took, gave = mapping(took), mapping(gave)
    return Usage(
        input=read,
        output=wrote,
        cached_input=whole(took.get("cached_tokens") or cached),
        cache_write=whole(took.get("cache_write_tokens")),
        reasoning=whole(gave.get("reasoning_tokens")),
    )


def dollars(value: object) -> Decimal | None:
    """An amount in dollars, with the digits it was written in; None for anything else."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None
