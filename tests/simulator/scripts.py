"""Which request gets which fault: small scripts, each a callable `Call -> Fault | None`.

Where a fault is expected, None means a healthy answer and another script may stand in its place.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING

from .fault import Fault, Script

if TYPE_CHECKING:
    from .call import Call

Step = Fault | Script | None


def pick(step: Step, call: Call) -> Fault | None:
    """Resolve a step for a call."""
    return step if step is None or isinstance(step, Fault) else step(call)


def fail_first(count: int, fault: Step, *, each: bool = False) -> Script:
    """Give the fault to the first `count` requests; with `each`, of every content key."""
    seen: Counter[str] = Counter()

    def script(call: Call) -> Fault | None:
        key = call.key if each else ""
        if seen[key] >= count:
            return None
        seen[key] += 1
        return pick(fault, call)

    return script


def then(*steps: Step, each: bool = False) -> Script:
    """Give one step a request, in turn, then none; with `each`, for every content key."""
    seen: Counter[str] = Counter()

    def script(call: Call) -> Fault | None:
        key = call.key if each else ""
        at = seen[key]
        if at >= len(steps):
            return None
        seen[key] += 1
        return pick(steps[at], call)

    return script


def sometimes(rate: float, fault: Step, seed: int = 0) -> Script:
    """Give the fault with probability `rate` (0 to 1).

    Drawn from seed, content and attempt: the order in which requests arrive changes nothing.
    """
    return mixture((rate, fault), seed=seed)


def mixture(*parts: tuple[float, Step], seed: int = 0) -> Script:
    """Draw once a request among `(rate, fault)` parts; what is left of 1 is healthy."""

    def script(call: Call) -> Fault | None:
        place = _draw(call, seed)
        for rate, fault in parts:
            if place < rate:
                return pick(fault, call)
            place -= rate
        return None

    return script


def for_prompt(substring: str, fault: Step) -> Script:
    """Give the fault to requests whose text contains `substring`."""
    return lambda call: pick(fault, call) if substring in call.prompt else None


def for_path(suffix: str, fault: Step) -> Script:
    """Give the fault to requests whose path ends in `suffix`."""
    return lambda call: pick(fault, call) if call.path.endswith(suffix) else None


def first_of(*steps: Step) -> Script:
    """Give what the first script that has a fault gives."""

    def script(call: Call) -> Fault | None:
        found = (pick(step, call) for step in steps)
        return next((fault for fault in found if fault is not None), None)

    return script


def _draw(call: Call, seed: int) -> float:
    text = f"{seed} {call.key} {call.attempt}".encode()
    return float(int.from_bytes(blake2b(text, digest_size=7).digest(), "big") / (1 << 56))
