"""What many tasks hand to one thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Things in the order they came. The thread is woken only when it sleeps, and only once for
    all that the tasks of a loop hand over in one turn: waking costs more than most of what is
    handed over, and what comes together is dealt with together."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._items: list[T] = []
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = True
        self._ringing = False
        self._closed = False

    def add(self, item: T) -> None:
        """Hand it over now. Raises `RuntimeError` after `close`."""
        with self._lock:
            self._append(item)
            self._wake()

    def add_soon(self, item: T, loop: asyncio.AbstractEventLoop) -> None:
        """Hand it over in the next turn of `loop`, in which the caller runs. Raises
        `RuntimeError` after `close`."""
        with self._lock:
            self._append(item)
            if self._asleep and not self._ringing:
                self._ringing = True
                loop.call_soon(self._ring)

    def close(self) -> None:
        """Nothing more comes; the thread still gets what is there."""
        with self._lock:
            self._closed = True
            self._wake()

    def take(self, most: int) -> list[T]:
        """Up to `most` things, once there are any; nothing when there will be none. For the one
        thread."""
        while True:
            with self._lock:
                if self._items:
                    taken = self._items[:most]
                    del self._items[:most]
                    return taken
                if self._closed:
                    return []
                self._asleep = True
            self._bell.get()

    def _append(self, item: T) -> None:
        if self._closed:
            raise RuntimeError(f"{self._name} is closed")
        self._items.append(item)

    def _ring(self) -> None:
        with self._lock:
            self._ringing = False
            self._wake()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.put(None)
