"""Across processes, too, an answer is paid for once: who gets it claims it first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.protocols import CacheStore
from llmctl.types import Answer

_FIRST, _LONGEST, _GROWTH = 0.01, 0.2, 1.5
"""Seconds between two looks for an answer that another process is getting: the first pause, the
longest, and by what each is longer than the one before."""

_BEAT = 10.0
"""Seconds between two signs of life; `stores/leases.py` says what silence means."""


class Claims:
    """The claims of this process in `store`.

    `patience`: seconds to wait for another process. Then the question is asked all the same:
    being billed twice is better than never going on.
    """

    def __init__(
        self, store: CacheStore, clock: Clock, patience: float, waiting: Clock | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._waiting = waiting or clock
        self._patience = patience
        self._held: set[str] = set()
        self._ahead: set[str] = set()
        self._beating: asyncio.Task[None] | None = None

    async def begin(self, key: str, look: Callable[[], Answer | None]) -> Answer | None:
        """The answer that `look` finds once another process has got it; None when it is the
        caller's turn to get it, who then says `end`. Raises what the store does."""
        if key in self._ahead:
            self._ahead.discard(key)
            self._hold(key)
            return None
        try:
            return await self._turn(key, look)
        except BaseException:
            self._store.release(key)  # a claim goes through even when nobody waits for it
            raise

    def end(self, key: str, *, kept: bool) -> None:
        """The caller is done; when it `kept` the answer, that has ended the claim already, if
        there was one."""
        if key in self._held:
            self._held.discard(key)
            if not kept:
                self._store.release(key)

    async def _turn(self, key: str, look: Callable[[], Answer | None]) -> Answer | None:
        end, pause = self._clock.monotonic() + self._patience, _FIRST
        while not await self._store.claim(key):
            if self._clock.monotonic() >= end:
                return None
            await self._waiting.sleep(pause)
            pause = min(pause * _GROWTH, _LONGEST)
            found = look()
            if found is not None:
                return replace(found, cache="shared")
        # Whoever had it until a moment ago may have kept the answer.
        found = look()
        if found is not None:
            self._store.release(key)
            return found if pause == _FIRST else replace(found, cache="shared")
        self._hold(key)
        return None

    async def ahead(self, keys: Sequence[str]) -> None:
        """Claim what will be asked next, in one go. What is kept meanwhile, or another process
        is at, is left to `begin`. Raises what the store does."""
        self._ahead |= await self._store.claim_all(keys)

    def has(self, key: str) -> bool:
        """Whether the key was claimed ahead: then no answer to it was kept."""
        return key in self._ahead

    def give_back(self) -> None:
        """What was claimed ahead is not asked after all."""
        for key in self._ahead:
            self._store.release(key)
        self._ahead.clear()

    def _hold(self, key: str) -> None:
        self._held.add(key)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        try:
            while self._held or self._ahead:
                await self._clock.sleep(_BEAT)
                if self._held or self._ahead:
                    self._store.beat()
        finally:
            self._beating = None
