"""Which request gets which fault: small scripts, each a callable `Call -> Fault | None`.

Where a fault is expected, None means a healthy answer and another script may stand in its place.
"""

from __future__ import annotations

from hashlib import blake2b

from .call import Call
from .fault import Fault, Script

Step = Fault | Script | None


def pick(step: Step, call: Call) -> Fault | None:
    """Resolve a step for a call."""
    return step if step is None or isinstance(step, Fault) else step(call)


def fail_first(count: int, fault: Step) -> Script:
    """Give the fault to the first `count` requests."""
    given = iter(range(count))
    return lambda call: None if next(given, None) is None else pick(fault, call)


def mixture(*parts: tuple[float, Step], seed: int = 0) -> Script:
    """Draw once a request among `(rate, fault)` parts; what is left of 1 is healthy.

    Drawn from seed, content and attempt: the order in which requests arrive changes nothing.
    """

    def script(call: Call) -> Fault | None:
        text = f"{seed} {call.key} {call.attempt}".encode()
        place = int.from_bytes(blake2b(text, digest_size=7).digest(), "big") / (1 << 56)
        for rate, fault in parts:
            if place < rate:
                return pick(fault, call)
            place -= rate
        return None

    return script


def for_prompt(substring: str, fault: Step) -> Script:
    """Give the fault to requests whose text contains `substring`."""
    return lambda call: pick(fault, call) if substring in call.prompt else None


def first_of(*steps: Step) -> Script:
    """Give what the first script that has a fault gives."""

    def script(call: Call) -> Fault | None:
        found = (pick(step, call) for step in steps)
        return next((fault for fault in found if fault is not None), None)

    return script
