"""T6: the account is refused in the middle of a batch.

After the first 401, 402 or used-up quota at most as many requests arrive as were in flight. Every
row has its record, and once the account is well the same command answers the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulator.call import Call
from tests.simulator.errors import out_of_quota, payment_required, unauthorized
from tests.simulator.fault import Fault
from tests.torture.judge import Size, arena


@dataclass
class From:
    """A script: the fault for every request from the number `first` on, while it is `on`."""

    first: int
    fault: Fault
    on: bool = True
    seen: list[int] = field(default_factory=list)

    def __call__(self, call: Call) -> Fault | None:
        """What becomes of a call."""
        if not self.on or call.index < self.first:
            return None
        self.seen.append(call.index)
        return self.fault


CASES: tuple[tuple[str, Fault, int], ...] = (
    ("401", unauthorized(), 4),
    ("402", payment_required(), 5),
    ("quota", out_of_quota(), 5),
)
"""What is said, and the exit code it leads to."""


def run(size: Size) -> str:
    """All three at 50 at a time; one line."""
    rows, concurrency = size.of(240, 10_000), size.of(20, 50)
    told = [f"{name} {refused(fault, code, rows, concurrency)}" for name, fault, code in CASES]
    return (
        f"T6 refused in mid-batch, {concurrency} at a time: requests after the first refusal: "
        f"{', '.join(told)}; every row has its record, the rerun answers all {rows:,}"
    )


def refused(fault: Fault, code: int, rows: int, concurrency: int) -> int:
    """One batch and its rerun; how many requests came after the first that was refused."""
    with arena(rows, concurrency=concurrency, latency=0.005) as world:
        script = world.sim.fault = From(rows // 3, fault)
        done = world.run()
        assert done.returncode == code, (done.returncode, done.stderr)
        verdict = world.judge()
        assert verdict.failed, "nothing failed"
        assert verdict.rebilled == 0
        after = len(script.seen) - 1
        assert 0 <= after <= concurrency, after
        script.on = False
        before = world.sim.record.requests
        done = world.run()
        assert done.returncode == 0, done.stderr
        assert world.judge().answered == rows
        assert world.sim.record.requests - before == verdict.failed
        assert world.sim.billed.repeated == 0
        return after
