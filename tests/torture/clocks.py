"""T15: the machine's clock is set while a batch runs.

Jumps of a day, ahead and back, ten times a second, and a summer's end: no row is lost, no deadline
moves, and a day of a budget is a day in UTC wherever the machine stands.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from llmctl.cli.app import main as program
from llmctl.clock import SystemClock
from tests.simulator.errors import rate_limited
from tests.simulator.faults import Hang
from tests.simulator.scripts import mixture
from tests.torture.judge import Arena, Size, arena, overdue

DAY = 86400
TOTAL = 1.0
"""Seconds that an attempt may take; what hangs would never end."""

_KNOBS = f"""
timeout: {{connect: 5, first_byte: {TOTAL}, total: {TOTAL}}}
retry: {{attempts: 8, max_wait: 0.1, ambiguous_attempts: 6}}
limits: {{concurrency: 16, rpm: 60000}}
breaker: {{failures: 1000, error_rate: 1.0}}
"""
_BEAT = 0.1
"""Seconds between two jumps of the clock."""

_ZONES = ("America/Los_Angeles", "Europe/Berlin", "Pacific/Kiritimati", "UTC")


def run(size: Size) -> str:
    """Both; one line."""
    rows = size.of(150, 5_000)
    late, took = swinging(rows, size.seed, size.of(60, 600))
    zones = _ZONES if size.full else _ZONES[:1]
    for zone in zones:
        windows(zone)
    return (
        f"T15 clocks: {rows:,} rows with the clock jumping by a day ten times a second: all "
        f"answered, at most {late:.2f} s beyond a deadline of {TOTAL:g} s ({took:.0f} s in all); "
        f"a day's budget begins at midnight UTC in {len(zones)} zones, on the day summer ends too"
    )


def swinging(rows: int, seed: int, patience: float) -> tuple[float, float]:
    """A batch with faults that only a deadline ends; the most seconds beyond it, and in all."""
    with arena(rows, knobs=_KNOBS, concurrency=16) as world:
        hanging, slow = (0.02, Hang()), (0.1, rate_limited(0.02, form="ms"))
        world.sim.fault = mixture(hanging, slow, seed=seed)
        started = time.monotonic()
        done = world.run(skewed(world, f"swing:{DAY}"), env=_environ(world), timeout=patience)
        took = time.monotonic() - started
        assert done.returncode == 0, (done.returncode, done.stderr)
        verdict = world.judge()
        assert verdict.answered == rows
        assert world.sim.record.faults["Hang"], "nothing hung"
        late = overdue(world, TOTAL)
        assert late <= 1.0, late
        return late, took


def windows(zone: str) -> None:
    """What is spent in the last minute of a UTC day counts for that day alone."""
    midnight = int(datetime(2026, 10, 26, tzinfo=UTC).timestamp())
    with arena(3, concurrency=3) as world:
        world.sim.reply = lambda _: "word " * 1000
        environ = _environ(world) | {"TZ": zone}
        done = world.run(skewed(world, f"at:{midnight - 60}"), env=environ)
        assert done.returncode == 0, done.stderr
        for moment, spent in ((midnight - 30, True), (midnight + 5, False)):
            said = world.run(
                skewed(world, f"at:{moment}", "cost", "check", "--json", "--period", "day",
                       "--budget", "0.000001"),
                env=environ,
            )  # fmt: skip
            assert said.returncode == (3 if spent else 0), (zone, moment - midnight, said.stdout)
            assert json.loads(said.stdout)["budgets"][0], said.stdout


def skewed(world: Arena, when: str, *command: str) -> list[str]:
    """The command (the batch) on a machine with that clock: `at:EPOCH` is the time when it starts,
    `swing:SECONDS` jumps ahead and back by so much. Only `time.time` is changed: what depends on
    `time.monotonic` must not notice."""
    words = list(command) or world.batch[1:]
    return [sys.executable, "-m", "tests.torture.clocks", when, *words]


def _environ(world: Arena) -> dict[str, str]:
    return {**world.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def _skew(kind: str, number: float) -> None:
    real, start = time.time, time.monotonic()

    def at() -> float:
        return number + time.monotonic() - start

    def swing() -> float:
        turn = int((time.monotonic() - start) / _BEAT) % 4
        return real() + (0.0, number, 0.0, -number)[turn]

    time.time = {"at": at, "swing": swing}[kind]
    SystemClock.wall = staticmethod(time.time)  # which it has taken already


if __name__ == "__main__":
    _kind, _, _number = sys.argv[1].partition(":")
    sys.argv[:2] = ["llmctl"]
    _skew(_kind, float(_number))
    program()
