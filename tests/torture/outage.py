"""T5: a provider answers 500 to everything for five minutes.

The clock is the test's own, so it takes a second. The guards that meet it are the program's:
fifty workers, retry, breaker, limiter. It must be left alone, no row may fail, and all go on
within one look of its return.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from llmctl.config.settings import BreakerPolicy, Limits, RetryPolicy
from llmctl.engines.local import LocalEngine
from llmctl.errors import ServerFailed
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.rate_limit import ProviderLimits, rate_limit
from llmctl.guards.retry import Retry
from llmctl.protocols import Emit
from llmctl.shutdown import Stop
from llmctl.types import Answer, CallRecord, Request
from tests.support import FakeClock, request, response
from tests.torture.judge import Size

CONCURRENCY = 50
OUTAGE = 300.0
MOST_A_MINUTE = 20 + CONCURRENCY + 10


class Provider:
    """Answers after 50 ms: 500 while it is down."""

    def __init__(self, clock: FakeClock, begin: float) -> None:
        self.clock, self.begin, self.end = clock, begin, begin + OUTAGE
        self.asked: list[float] = []
        self.answered: list[float] = []

    async def __call__(self, _: Request, __: Emit | None) -> Answer:
        """One attempt."""
        self.asked.append(self.clock.now)
        await self.clock.sleep(0.05)
        if self.begin <= self.clock.now < self.end:
            raise ServerFailed("boom", http_status=500)
        self.answered.append(self.clock.now)
        return response()


def run(size: Size) -> str:
    """10,000 rows, down from the start and from half a second on; one line."""
    rows = size.of(1_000, 10_000)
    most, late = map(max, zip(outage(rows, 0.0), outage(rows, 0.5), strict=True))
    assert most <= MOST_A_MINUTE, f"{most} requests a minute"
    assert late <= BreakerPolicy().open_for + 1, f"resumed {late:.1f} s after the end"
    return (
        f"T5 outage of 300 s, {rows:,} rows, C={CONCURRENCY}: 0 rows failed, at most {most:.0f} "
        f"requests a minute (allowed {MOST_A_MINUTE}), resumed {late:.1f} s after the end"
    )


def outage(rows: int, begin: float) -> tuple[float, float]:
    """An outage `begin` seconds after the start: the most requests in one of its minutes, and the
    seconds from its end to the first answer."""
    clock = FakeClock()
    provider = Provider(clock, clock.now + begin)
    health = ProviderHealth(BreakerPolicy(), clock, "test", patient=True)
    limits = ProviderLimits(Limits(concurrency=CONCURRENCY), clock)
    breaker = circuit_breaker(rate_limit(provider, limits, lambda _: 0), health)

    async def questions() -> AsyncIterator[Request]:
        for number in range(rows):
            yield request(f"row {number}")

    async def sink(_: CallRecord) -> None:
        """Nobody's: the provider counts."""

    async def afford_all(_: Request, __: int) -> bool:
        return True

    handler = Retry(breaker, RetryPolicy(), 1440.0, clock, lambda _: None, afford_all, patient=True)
    clock.run(LocalEngine(CONCURRENCY, Stop(), clock).run(questions(), handler, sink))
    assert len(provider.answered) == rows, f"{rows - len(provider.answered)} rows failed"
    down = [at for at in provider.asked if provider.begin <= at < provider.end]
    most = max(sum(start <= at < start + 60 for at in down) for start in down)
    return most, min(at for at in provider.answered if at >= provider.end) - provider.end
