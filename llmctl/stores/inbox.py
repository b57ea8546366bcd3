"""What many tasks hand to one thread."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Things in the order they came. The thread is woken only when it sleeps, and only once for
    all that the tasks of a loop hand over in one turn: waking costs more than most of what is
    handed over, and what comes together is dealt with together.

    There is no lock: whoever holds one while waiting for Python's own keeps the other side
    waiting for both. What appends and takes are the deque's own single steps; the thread says
    that it sleeps and then looks once more, so nothing is left lying.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: deque[T] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = True
        self._ringing = False
        self._closed = False

    def add(self, item: T) -> None:
        """Hand it over now. Raises `RuntimeError` after `close`."""
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        self._items.append(item)
        if self._asleep:
            self._wake()

    def add_soon(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Hand it over in the next turn of `loop`, in which the caller runs. Raises
        `RuntimeError` after `close`."""
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        self._items.append(item)
        if self._asleep and not self._ringing:
            self._ringing = True
            loop.call_soon(self._ring)

    def close(self) -> None:
        """Nothing more comes; the thread still gets what is there."""
        self._closed = True
        self._wake()

    def take(self, most: int) -> list[T]:
        """Up to `most` things, once there are any; nothing when there will be none. For the one
        thread."""
        items = self._items
        while not items:
            if self._closed:
                # It may have been closed right after something came.
                return [items.popleft() for _ in range(min(most, len(items)))]
            self._asleep = True
            if items or self._closed:
                self._asleep = False
                continue
            self._bell.get()
        return [items.popleft() for _ in range(min(most, len(items)))]

    def _ring(self) -> None:
        self._ringing = False
        if self._asleep:
            self._wake()

    def _wake(self) -> None:
        # Twice is no harm: the thread then looks, and sleeps again.
        self._asleep = False
        self._bell.put(None)
