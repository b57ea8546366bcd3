"""T7, T8, T9: a batch against its budget: `python -m tests.torture.budget [--full]`.

A cap of $1.00 and 200 rows in flight, in one process and in two: as long as the provider keeps to
`max_tokens` not a picodollar too much is billed. A provider that bills 17% more than it may is
stopped. What cannot be held to a budget is refused, once, and not sent.
"""

from __future__ import annotations

import heapq
import json
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from random import Random

from tests.conftest import LLMCTL
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator
from tests.torture.judge import READ, WROTE, Arena, Size, arena, main

CAP = Decimal(1)
C = 200
MOST = 3990
"""Tokens of an answer: $0.008 at the most."""

_KNOBS = f"params: {{max_tokens: {MOST}}}"


def run(size: Size) -> str:
    """All of them, in one line."""
    rows = size.of(400, 4_000)
    one, calls = _one_process(rows, size)
    two = _two_processes(rows, size)
    over = _too_much(rows)
    denied = _refused(size.of(100, 2_000))
    control = check_then_act(size.seed)
    return (
        f"T7 budget of $1.00, C={C}: ${one} billed ({calls:,} calls), by two processes ${two}, "
        f"overshoot $0 (check-then-act: ${control:.2f}); T8 billed 17% more: overshoot ${over}, "
        f"reported; T9 {denied:,} of unknown price or too dear, each denied once, unsent"
    )


def check_then_act(seed: int) -> Decimal:
    """What is spent when each of 200 looks at what is spent before it calls, and adds its own
    afterwards: the usual way, for comparison."""
    random, spent, cost = Random(seed), Decimal(0), Decimal(MOST * WROTE).scaleb(-6)
    ends = [random.uniform(1, 2) for _ in range(C)]
    heapq.heapify(ends)
    while ends:
        now = heapq.heappop(ends)
        spent += cost
        if spent < CAP:
            heapq.heappush(ends, now + random.uniform(1, 2))
    return spent


def _honest(seed: int) -> Callable[[Call], Reply]:
    """A model that uses between a tenth and all of what it may."""

    def reply(call: Call) -> Reply:
        text = call.ask.last if call.ask else ""
        output = Random(f"{seed} {text}").randint(MOST // 10, MOST)
        return Reply(f"echo: {text}", usage=Usage(5, output))

    return reply


def billed(sim: Simulator) -> Decimal:
    """What the provider has billed, in US dollars."""
    bill = sim.billed
    return Decimal(bill.input_tokens * READ + bill.output_tokens * WROTE).scaleb(-6)


def ledger(world: Arena, asked: str) -> list[tuple[object, ...]]:
    """What the ledger says."""
    with closing(sqlite3.connect(world.state / "ledger.db")) as db:
        return db.execute(asked).fetchall()


def _spent(world: Arena) -> Decimal:
    ((pico,),) = ledger(
        world, "SELECT sum(coalesce(cost_pico, 0) + coalesce(uncertain_pico, 0)) FROM calls"
    )
    return Decimal(str(pico)).scaleb(-12)


def _one_process(rows: int, size: Size) -> tuple[Decimal, int]:
    """`--budget 1`: the cap is nearly used up, and never exceeded."""
    with arena(rows, concurrency=C, knobs=_KNOBS, latency=0.01) as world:
        world.sim.reply = _honest(size.seed)
        done = world.run([*world.batch, "--budget", str(CAP)])
        assert done.returncode == 3, done.stderr
        verdict = world.judge()
        spent = billed(world.sim)
        assert spent == _spent(world)
        # Not one more call would have fitted.
        assert CAP - Decimal(MOST * WROTE + 50).scaleb(-6) < spent <= CAP, spent
        assert verdict.doubtful == verdict.rebilled == 0
        errors = world.errors.read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["error"]["type"] for line in errors} == {"budget"}
        return spent, verdict.billed


def _two_processes(rows: int, size: Size) -> Decimal:
    """Two batches of 100 rows in flight each, on one budget of the day."""
    with arena(rows, concurrency=C // 2, knobs=_KNOBS, latency=0.01) as world:
        world.sim.reply = _honest(size.seed)
        _budget_of_the_day(world)
        half = rows // 2
        lines = world.input.read_bytes().splitlines(keepends=True)
        both = []
        for name, own in (("a", lines[:half]), ("b", lines[half:])):
            path = world.folder / f"{name}.jsonl"
            path.write_bytes(b"".join(own))
            output = world.folder / f"{name}.out.jsonl"
            both.append(world.start([str(LLMCTL), "batch", str(path), "-o", str(output), "-q"]))
        for process in both:
            _, err = process.communicate(timeout=600)
            assert process.returncode == 3, err.decode()
        world.settle_down()
        spent = billed(world.sim)
        assert spent == _spent(world)
        assert CAP - Decimal(MOST * WROTE + 50).scaleb(-6) < spent <= CAP, spent
        return spent


def _budget_of_the_day(world: Arena) -> None:
    path = world.home / ".config/llmctl/config.yaml"
    text = path.read_text(encoding="utf-8")
    budget = f"budgets:\n  - {{name: day, limit_usd: {CAP}, period: day}}\n"
    path.write_text(text + budget, encoding="utf-8")


def _too_much(rows: int) -> Decimal:
    """Every answer is billed at 117% of what it may be: the overshoot, which the summary names."""
    with arena(rows, concurrency=C, knobs=_KNOBS, latency=0.01) as world:
        world.sim.reply = lambda call: Reply(
            f"echo: {call.ask.last if call.ask else ''}", usage=Usage(5, MOST * 117 // 100)
        )
        done = world.run([*world.batch[:-1], "--budget", str(CAP)])
        assert done.returncode == 3, done.stderr
        world.judge()
        over = billed(world.sim) - CAP
        # What is in flight is held, and so at most the cap.
        assert over <= CAP * 17 / 100, over
        assert re.search(r"billed \$[0-9.]+ more than the worst case of \d+ calls", done.stderr)
        found = re.search(r"of \$1\.00 spent, \$([0-9.]+) above it", done.stderr)
        assert found, done.stderr
        assert Decimal(found[1]) == over
        return over


def _refused(rows: int) -> int:
    """Rows of an unknown price, then rows of which every second one is too dear."""
    with arena(rows, concurrency=C, knobs=_KNOBS) as world:
        path = world.home / ".config/llmctl/config.yaml"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "price:" not in line), encoding="utf-8")
        _denied(world, rows)
    with arena(rows, concurrency=C, knobs=_KNOBS) as world:
        asked = [json.loads(line) for line in world.input.read_text(encoding="utf-8").splitlines()]
        for number, row in enumerate(asked):
            row["max_tokens"] = 10**6 if number % 2 else 1
        world.input.write_text("".join(f"{json.dumps(row)}\n" for row in asked), encoding="utf-8")
        world.sim.reply = lambda call: Reply(
            f"echo: {call.ask.last if call.ask else ''}", usage=Usage(5, 1)
        )
        _denied(world, rows // 2)
        assert world.judge().answered == rows - rows // 2
    return rows + rows // 2


def _denied(world: Arena, number: int) -> None:
    """So many rows were denied, once each, and none of them was sent."""
    done = world.run([*world.batch, "--budget", str(CAP)])
    assert done.returncode == 3, done.stderr
    rows = len(world.prompts)
    errors = [json.loads(line) for line in world.errors.read_text(encoding="utf-8").splitlines()]
    assert [row["error"]["type"] for row in errors] == ["budget"] * number
    assert len({row["id"] for row in errors}) == number
    denials = "SELECT count(*), count(DISTINCT call_id), sum(attempts) FROM calls "
    assert ledger(world, f"{denials} WHERE error_type = 'budget'") == [(number, number, 0)]
    assert world.sim.record.requests == rows - number


if __name__ == "__main__":
    sys.exit(main("budget", run))
