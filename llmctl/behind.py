"""What calls leave to be written, and do not wait for one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Ended = Callable[[BaseException | None], None]
"""Hears how a write has ended: None when it is made."""


class Write(Generic[T]):
    """A write under way, as a future is, but who hears of its end does so at once and not in a
    turn of the event loop of its own: thousands end in a second that nobody waits for. It ends
    in the event loop in which it was begun."""

    __slots__ = ("_done", "_error", "_heard", "_value")

    def __init__(self) -> None:
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._heard: Ended | None = None

    def done(self) -> bool:
        """Whether it has ended."""
        return self._done

    def set_result(self, value: T) -> None:
        """It is made, and came to this."""
        self._value = value
        self.end(None)

    def set_exception(self, error: BaseException) -> None:
        """It cannot be made."""
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """It is made, and came to nothing but that; or it cannot be."""
        self._done, self._error = True, error
        heard, self._heard = self._heard, None  # it may refer to this, and must not keep it alive
        if heard is not None:
            heard(error)

    def result(self) -> T:
        """What it came to. Raises what kept it from being made."""
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def then(self, heard: Ended) -> None:
        """Let `heard` know how it ends, after those who asked before."""
        if self._done:
            heard(self._error)
            return
        before = self._heard
        if before is None:
            self._heard = heard
            return

        def both(error: BaseException | None) -> None:
            try:
                before(error)
            finally:
                heard(error)

        self._heard = both

    def __await__(self) -> Generator[None, None, T]:
        """Wait for its end."""
        if not self._done:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.then(lambda _: None if woken.done() else woken.set_result(None))
            yield from woken
        return self.result()


class Behind:
    """Writes under way. Whoever ends a run waits for them with `done`; who goes on with it looks
    with `check` whether they can still be made. Both raise the first error that was not dealt
    with. `hurry`: where writes may lie that nobody waits for, to be told that somebody does."""

    def __init__(self, *hurry: Callable[[], None]) -> None:
        self._hurry = hurry
        self._number = 0
        self._none = asyncio.Event()
        self._failure: BaseException | None = None

    def add(self, write: Write[T], ended: Ended) -> None:
        """One more write; `ended` hears how it went, and raises what it cannot deal with."""
        self._number += 1

        def heard(error: BaseException | None) -> None:
            try:
                ended(error)
            except Exception as failure:  # noqa: BLE001 - it belongs to who checks
                self._failure = self._failure or failure
            self._number -= 1
            if not self._number:
                self._none.set()

        write.then(heard)

    def check(self) -> None:
        """Raises what kept a write from being made."""
        if self._failure is not None:
            raise self._failure

    async def done(self) -> None:
        """Return when all writes have ended. Raises as `check`."""
        while self._number:
            self._none.clear()
            for hurry in self._hurry:
                hurry()
            await self._none.wait()
        self.check()
