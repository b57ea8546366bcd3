"""Faults of an SSE stream; a plain answer stays whole (`Split` sends it in HTTP chunks)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from .fault import Fault
from .http1 import Answer, Delivery
from .reply import Problem
from .wires.wire import Wire


@dataclass(frozen=True, kw_only=True)
class CutStream(Fault):
    """The connection ends after `pieces` SSE events (the first is the role)."""

    pieces: int = 2
    reset: bool = False

    def deliver(self, delivery: Delivery) -> Delivery:
        """Send the beginning and end, without the last HTTP chunk."""
        kept = delivery.segments[: self.pieces + 1]
        return replace(delivery, segments=kept, end="reset" if self.reset else "cut")


@dataclass(frozen=True, kw_only=True)
class NoEnd(Fault):
    """The stream ends properly in HTTP but without its last `missing` events (`[DONE]`)."""

    missing: int = 1

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Leave the last events out."""
        if not answer.chunked:
            return answer
        return replace(answer, pieces=answer.pieces[: -self.missing])


@dataclass(frozen=True, kw_only=True)
class StreamError(Fault):
    """After `pieces` events the provider reports an error inside its 200, and ends."""

    pieces: int = 2
    problem: Problem = field(default_factory=lambda: Problem("The server had an error"))

    def answer(self, answer: Answer, wire: Wire) -> Answer:
        """Put the error event in place of the rest."""
        if not answer.chunked:
            return answer
        kept = answer.pieces[: self.pieces]
        return replace(answer, pieces=(*kept, wire.error_event(self.problem)))


@dataclass(frozen=True, kw_only=True)
class Split(Fault):
    """The payload cut at arbitrary bytes, inside events and inside UTF-8.

    Pieces are 1 to `largest` bytes, drawn from `seed`, each one HTTP chunk.
    """

    largest: int = 1
    seed: int = 0

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Cut the payload anew."""
        random = Random(self.seed)
        payload = b"".join(answer.pieces)
        pieces, at = [], 0
        while at < len(payload):
            size = random.randint(1, self.largest)
            pieces.append(payload[at : at + size])
            at += size
        return replace(answer, pieces=tuple(pieces), chunked=True)


@dataclass(frozen=True, kw_only=True)
class Unheard(Fault):
    """Events of a kind that no client knows yet, between all the others."""

    def answer(self, answer: Answer, wire: Wire) -> Answer:
        """Put one before every event but the first."""
        if not answer.chunked:
            return answer
        first, *rest = answer.pieces
        new = wire.unknown_event()
        return replace(answer, pieces=(first, *(new + piece for piece in rest)))
