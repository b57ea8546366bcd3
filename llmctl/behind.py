"""What calls leave to be written, and do not wait for one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

Ended = Callable[[BaseException | None], None]
"""Deals with how a write has ended, or raises what nobody can deal with."""


class Behind:
    """Writes under way. Whoever ends a run waits for them with `done`; who goes on with it looks
    with `check` whether they can still be made. Both raise the first error that was not dealt
    with."""

    def __init__(self) -> None:
        self._number = 0
        self._none = asyncio.Event()
        self._failure: BaseException | None = None

    def add(self, write: asyncio.Future[Any], ended: Ended) -> None:
        """One more write; `ended` hears how it went, in the event loop."""
        self._number += 1

        def heard(write: asyncio.Future[Any]) -> None:
            try:
                ended(write.exception())
            except Exception as error:  # noqa: BLE001 - it belongs to who checks
                self._failure = self._failure or error
            self._number -= 1
            if not self._number:
                self._none.set()

        write.add_done_callback(heard)

    def check(self) -> None:
        """Raises what kept a write from being made."""
        if self._failure is not None:
            raise self._failure

    async def done(self) -> None:
        """Return when all writes have ended. Raises as `check`."""
        while self._number:
            self._none.clear()
            await self._none.wait()
        self.check()
