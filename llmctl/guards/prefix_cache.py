"""Warm prompt caches: of rows that begin alike one goes first, the others when it has an answer.

Sent together, each of them would write what they share, at a quarter more, and none would read it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from llmctl.clock import Clock
from llmctl.prompts.prefix import Warmups, marked
from llmctl.protocols import Emit, Handler
from llmctl.shutdown import Stop
from llmctl.types import Answer, Request

TRIES = 3
"""Rows without an answer that go first, one after the other; then all go."""


class PrefixCache:
    """The guard of one run: what begins with none of its prefixes passes as it is."""

    def __init__(self, warmups: Warmups, clock: Clock, stop: Stop) -> None:
        self.warmups = warmups
        self._clock, self._stop = clock, stop
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def around(self, inner: Handler) -> Handler:
        """The guard; inside the cache of answers, for a kept answer warms nothing. Raises as
        `Stop.check` for a row that waited for the first one when the run was stopped."""

        async def handle(request: Request, emit: Emit | None) -> Answer:
            warmup = self.warmups.of(request)
            if warmup is None:
                return await inner(request, emit)
            asked = marked(request, warmup.prefix, warmup.caching)
            if warmup.cold(self._clock.monotonic()) and warmup.tries < TRIES:
                async with self._turns[id(warmup)]:
                    self._stop.check()
                    if warmup.cold(self._clock.monotonic()) and warmup.tries < TRIES:
                        warmup.tries += 1
                        answer = await inner(asked, emit)
                        warmup.at, warmup.tries = self._clock.monotonic(), 0
                        return answer
            answer = await inner(asked, emit)
            warmup.at = self._clock.monotonic()
            return answer

        return handle
