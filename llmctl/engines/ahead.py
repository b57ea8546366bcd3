"""What goes on ahead of those who need it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Ahead:
    """One piece of work at a time that nobody waits for at once. What it raises is kept, and raised
    to who `check`s; `close` raises it where nobody has."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._heard = False

    @property
    def busy(self) -> bool:
        """Whether something goes on."""
        return self._task is not None

    @property
    def failed(self) -> bool:
        """Whether something was raised."""
        return self._failure is not None

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin, unless something goes on."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._do(work))

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whoever checks raises it
            self._failure = error
        finally:
            self._task = None

    async def wait(self) -> None:
        """Return when nothing goes on."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def check(self) -> None:
        """Raises what the work did."""
        if self._failure is not None:
            self._heard = True
            raise self._failure

    async def close(self) -> None:
        """Return when nothing goes on. Raises what the work did, if nobody has heard of it."""
        await self.wait()
        if not self._heard:
            self.check()
