"""Weighted fair turns: start-time fair queueing of those who wait, by user; pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")

_ROUND = 27_720  # of virtual time, for a turn of weight 1: what weights to 12 divide


class _Flow(Struct, Generic[T]):
    """What waits of one user. `start` is the virtual time at which the first of it is due, `order`
    when the user began to wait, which decides between equals, `turn` how long one takes."""

    start: int
    order: int
    turn: int
    items: deque[T]


class FairQueue(Generic[T]):
    """Items that wait, each for one turn: users take turns in proportion to their weights, and the
    items of one user go in the order they came.

    A turn of a user of weight w takes 1/w of virtual time, which stands where the last turn began
    (P. Goyal et al., "Start-time Fair Queueing", SIGCOMM 1996). So nobody's first item waits for
    more than one turn of each other user, however many items those have.
    """

    def __init__(self) -> None:
        self._flows: dict[str, _Flow[T]] = {}
        self._due: dict[str, int] = {}  # virtual time until which users had turns
        self._now = self._order = 0

    def add(self, item: T, user: str, weight: int) -> None:
        """Let the item wait for a turn of its user, whose weight is this one from now on."""
        if (flow := self._flows.get(user)) is None:
            self._order += 1
            flow = _Flow(self._start(user), self._order, _turn(weight), deque[T]())
            self._flows[user] = flow
        flow.turn = _turn(weight)
        flow.items.append(item)

    def next(self) -> T | None:
        """Take out the item whose turn it is; None where nothing waits."""
        if not self._flows:
            self._due.clear()
            return None
        flows = self._flows
        user = next(iter(flows)) if len(flows) == 1 else min(flows, key=self._rank)
        flow = flows[user]
        self._now = flow.start
        flow.start = self._due[user] = flow.start + flow.turn
        item = flow.items.popleft()
        if not flow.items:
            del flows[user]
        return item

    def remove(self, item: T, user: str) -> None:
        """Let the item wait no more, if it does; its user loses no turn by that."""
        flow = self._flows.get(user)
        if flow is not None and item in flow.items:
            flow.items.remove(item)
            if not flow.items:
                del self._flows[user]

    def ahead(self, user: str, weight: int) -> int:
        """How many of the items that wait would go before a new one of the user."""
        own = self._flows.get(user) or _Flow[T](self._start(user), self._order + 1, 0, deque[T]())
        start = own.start + len(own.items) * _turn(weight)
        ahead = len(own.items)
        for other, flow in self._flows.items():
            if other != user:
                # Those that begin before it does, or with it where theirs are the elder.
                due = start - flow.start + (flow.turn if flow.order < own.order else flow.turn - 1)
                ahead += min(len(flow.items), max(0, due // flow.turn))
        return ahead

    def waiting(self) -> dict[str, int]:
        """How many items wait, by user."""
        return {user: len(flow.items) for user, flow in self._flows.items()}

    def _start(self, user: str) -> int:
        return max(self._now, self._due.get(user, 0))

    def _rank(self, user: str) -> tuple[int, int]:
        flow = self._flows[user]
        return flow.start, flow.order


def _turn(weight: int) -> int:
    return max(1, _ROUND // weight)
