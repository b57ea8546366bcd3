"""T5: a provider answers 500 to everything for five minutes: `python -m tests.torture.outage`.

The clock is the test's own, so it takes a second. The guards that meet it are the program's:
fifty workers, retry, breaker, limiter. It must be left alone, no row may fail, and all go on
within one look of its return.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from llmctl.config.settings import BreakerPolicy, Limits, RetryPolicy
from llmctl.engines.local import LocalEngine
from llmctl.errors import CallError, ServerFailed
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.rate_limit import ProviderLimits, rate_limit
from llmctl.guards.retry import Retry
from llmctl.protocols import Emit
from llmctl.shutdown import Stop
from llmctl.types import Answer, CallRecord, Request
from tests.support import FakeClock, request, response

CONCURRENCY = 50
OUTAGE = 300.0
MOST_A_MINUTE = 20 + CONCURRENCY + 10


@dataclass(frozen=True)
class Seen:
    """What happened: failed rows, the most requests in a minute of the outage, seconds from the
    provider's return to the first answer, and what was sent in all."""

    failed: int
    a_minute: int
    back_after: float
    requests: int


class Provider:
    """Answers after 50 ms: 500 while it is down."""

    def __init__(self, clock: FakeClock, begin: float) -> None:
        self.clock, self.begin = clock, begin
        self.asked: list[float] = []
        self.answered: list[float] = []

    async def __call__(self, _: Request, __: Emit | None) -> Answer:
        """One attempt."""
        self.asked.append(self.clock.now)
        await self.clock.sleep(0.05)
        if self.begin <= self.clock.now < self.begin + OUTAGE:
            raise ServerFailed("boom", http_status=500)
        self.answered.append(self.clock.now)
        return response()


class Counted:
    """Counts rows that end without an answer."""

    def __init__(self, inner: Retry) -> None:
        self.inner, self.failed, self.ok = inner, 0, 0

    async def __call__(self, asked: Request, emit: Emit | None) -> Answer:
        """The inner answer."""
        try:
            found = await self.inner(asked, emit)
        except CallError:
            self.failed += 1
            raise
        self.ok += 1
        return found


async def questions(rows: int) -> AsyncIterator[Request]:
    """So many rows."""
    for number in range(rows):
        yield request(f"row {number}")


async def nothing(_: CallRecord) -> None:
    """A sink: rows are counted elsewhere."""


async def afford_all(_: Request, __: int) -> bool:
    """There is money for every attempt."""
    return True


def run(rows: int, begin: float) -> Seen:
    """`rows` rows through the guards; the outage begins `begin` seconds after the start."""
    clock = FakeClock()

    async def work() -> Seen:
        provider = Provider(clock, clock.now + begin)
        health = ProviderHealth(BreakerPolicy(), clock, "test", patient=True)
        limits = ProviderLimits(Limits(concurrency=CONCURRENCY), clock)
        breaker = circuit_breaker(rate_limit(provider, limits, lambda _: 0), health)
        retry = Retry(
            breaker, RetryPolicy(), 1440.0, clock, lambda _: None, afford_all, patient=True
        )
        counted = Counted(retry)
        engine = LocalEngine(CONCURRENCY, Stop(), clock)
        await engine.run(questions(rows), counted, nothing)
        end = provider.begin + OUTAGE
        down = sorted(at for at in provider.asked if provider.begin <= at < end)
        most = max(sum(start <= at < start + 60 for at in down) for start in down)
        assert counted.ok + counted.failed == rows
        return Seen(
            counted.failed,
            most,
            min(at for at in provider.answered if at >= end) - end,
            len(provider.asked),
        )

    return clock.run(work())


def main(arguments: Sequence[str]) -> int:
    """Run it, and print the line; 1 when it is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.outage")
    parser.add_argument("--full", action="store_true", help="10,000 rows instead of 1,000")
    rows = 10_000 if parser.parse_args(arguments).full else 1_000
    seen = [run(rows, begin) for begin in (0.0, 0.5)]
    failed, most = sum(one.failed for one in seen), max(one.a_minute for one in seen)
    late = max(one.back_after for one in seen)
    print(
        f"T5 outage of 300 s, {rows:,} rows, C={CONCURRENCY}: {failed} rows failed, at most {most} "
        f"requests a minute (allowed {MOST_A_MINUTE}), resumed {late:.1f} s after the end"
    )
    return int(failed > 0 or most > MOST_A_MINUTE or late > BreakerPolicy().open_for + 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
