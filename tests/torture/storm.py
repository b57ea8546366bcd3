"""T4: a provider in trouble.

Of all requests 30% are refused with 429 and a wait, 5% lose their connection, 5% are answered in
broken JSON, 1% a byte every five seconds. All rows are answered all the same, with at most 1.8
requests a row, and no attempt goes on beyond its deadline.
"""

from __future__ import annotations

import time

from tests.simulator.errors import rate_limited
from tests.simulator.faults import Disconnect, Dribble, Malformed
from tests.simulator.scripts import mixture
from tests.torture.judge import Size, arena, overdue

TOTAL = 2.0
"""Seconds that an attempt may take; what dribbles would take minutes."""

SHARES = ((0.30, rate_limited(0.02, form="ms")), (0.05, Disconnect()), (0.05, Malformed()))
DRIBBLING = 0.01

_KNOBS = f"""
timeout: {{connect: 5, first_byte: {TOTAL}, total: {TOTAL}}}
retry: {{attempts: 12, max_wait: 0.2, ambiguous_attempts: 8}}
breaker: {{failures: 1000, error_rate: 1.0}}
"""


def run(size: Size) -> str:
    """10,000 rows at 50 at a time; one line."""
    rows = size.of(300, 10_000)
    with arena(rows, concurrency=50, knobs=_KNOBS) as world:
        world.sim.fault = mixture(*SHARES, (DRIBBLING, Dribble(interval=5.0)), seed=size.seed)
        started = time.monotonic()
        done = world.run()
        took = time.monotonic() - started
        assert done.returncode == 0, (done.returncode, done.stderr)
        verdict = world.judge()
        assert verdict.answered == rows
        each = verdict.requests / rows
        if rows >= 1_000:  # of fewer, chance may make a few too many
            assert each <= 1.8, each
        seen = world.sim.record.faults
        assert len(seen) == 4, f"not every fault was met: {seen}"
        late = overdue(world, TOTAL)
        assert late <= 1.0, f"{late:.2f} s beyond the deadline"
        return (
            f"T4 storm: {rows:,} rows answered, {each:.2f} requests a row, at most {late:.2f} s "
            f"beyond a deadline of {TOTAL:g} s, {verdict}; {took:.0f} s"
        )
