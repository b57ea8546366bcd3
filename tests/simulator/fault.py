"""The seam for faults: each fault overrides the one step of answering that it spoils."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .call import Call
from .http1 import Answer, Delivery
from .reply import Reply
from .wires.wire import Wire


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An answer that goes out whole, `delay` seconds later than the simulator's own latency.

    `billed` says whether the answer it spoils is on the provider's invoice all the same. A fault
    that answers `instead` of the model (an error status, a redirect) is never billed.
    """

    delay: float = 0.0
    billed: bool = True

    @property
    def name(self) -> str:
        """How records call it."""
        return type(self).__name__

    def instead(self, call: Call, wire: Wire) -> Answer | None:  # noqa: ARG002  (for subclasses)
        """Answer without asking the model, or None."""
        return None

    def reply(self, reply: Reply) -> Reply:
        """Change what the model says."""
        return reply

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (for subclasses)
        """Change the response's status, headers or payload."""
        return answer

    def deliver(self, delivery: Delivery) -> Delivery:
        """Change which bytes go out, how fast, and how it ends."""
        return delivery


Script = Callable[[Call], Fault | None]
