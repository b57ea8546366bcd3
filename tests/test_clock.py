"""The clock of those who wait for others."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

from llmctl.clock import AwakeClock, SystemClock


def test_a_clock_that_stands_still_while_the_event_loop_does() -> None:
    """Case 74: a stall is not counted, asked during its own turn of the loop as after it; nor is
    it twice, nor a busy moment."""

    async def run() -> list[float]:
        clock = SystemClock()
        with closing(AwakeClock(clock)) as awake:
            begun = clock.monotonic() - awake.monotonic()
            found = []
            for seconds in (0.2, 1.0, 0.2, 1.0):
                time.sleep(seconds)  # noqa: ASYNC251 - the stall
                found.append(awake.lost())
                await asyncio.sleep(0.25)
                assert awake.lost() == found[-1]
            assert abs(clock.monotonic() - awake.monotonic() - begun - found[-1]) < 0.01
            return found

    one, two, three, four = asyncio.run(run())
    assert one == 0
    assert 0.85 < two == three < 1.5
    assert 1.7 < four < 3
