"""T7, T8, T9: a batch against its budget.

A cap of $1.00 and 200 rows in flight, in one process and in two: as long as the provider keeps to
`max_tokens` not a picodollar too much is billed. A provider that bills 17% more than it may is
stopped. What cannot be held to a budget is refused, once, and not sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from random import Random

from tests.conftest import LLMCTL
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.storage.damage import sql
from tests.torture.judge import READ, WROTE, Arena, Size, arena

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
    return (
        f"T7 budget of $1.00, C={C}: ${one} billed ({calls:,} calls), by two processes ${two}, "
        f"overshoot $0; T8 billed 17% more: overshoot ${over}, reported; "
        f"T9 {denied:,} of unknown price or too dear, each denied once, unsent"
    )


def _using(tokens: Callable[[str], int]) -> Callable[[Call], Reply]:
    """A model whose answer to a text is billed at so many tokens."""

    def reply(call: Call) -> Reply:
        text = call.ask.last if call.ask else ""
        return Reply(f"echo: {text}", usage=Usage(5, tokens(text)))

    return reply


def _honest(seed: int) -> Callable[[Call], Reply]:
    """A model that uses between a tenth and all of what it may."""
    return _using(lambda text: Random(f"{seed} {text}").randint(MOST // 10, MOST))


def _spent(world: Arena) -> Decimal:
    """US dollars that the provider has billed, which are those of the ledger, and which leave no
    room for one call more."""
    bill = world.sim.billed
    spent = Decimal(bill.input_tokens * READ + bill.output_tokens * WROTE).scaleb(-6)
    charged = "SELECT sum(coalesce(cost_pico, 0) + coalesce(uncertain_pico, 0)) FROM calls"
    assert sql(world.state / "ledger.db", charged) == [(int(spent.scaleb(12)),)]
    assert CAP - Decimal(MOST * WROTE + 50).scaleb(-6) < spent, spent
    return spent


def _one_process(rows: int, size: Size) -> tuple[Decimal, int]:
    """`--budget 1`: the cap is nearly used up, and never exceeded."""
    with arena(rows, concurrency=C, knobs=_KNOBS, latency=0.01) as world:
        world.sim.reply = _honest(size.seed)
        done = world.run([*world.batch, "--budget", str(CAP)])
        assert done.returncode == 3, done.stderr
        verdict = world.judge()
        spent = _spent(world)
        assert spent <= CAP, spent
        assert verdict.doubtful == verdict.rebilled == 0
        errors = world.errors.read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["error"]["type"] for line in errors} == {"budget"}
        return spent, verdict.billed


def _two_processes(rows: int, size: Size) -> Decimal:
    """Two batches of 100 rows in flight each, on one budget of the day."""
    with arena(rows, concurrency=C // 2, knobs=_KNOBS, latency=0.01) as world:
        world.sim.reply = _honest(size.seed)
        with (world.home / ".config/llmctl/config.yaml").open("a", encoding="utf-8") as config:
            config.write(f"budgets:\n  - {{name: day, limit_usd: {CAP}, period: day}}\n")
        half = rows // 2
        lines = world.input.read_bytes().splitlines(keepends=True)
        both = []
        for name, own in (("a", lines[:half]), ("b", lines[half:])):
            path = world.folder / f"{name}.jsonl"
            path.write_bytes(b"".join(own))
            output = world.folder / f"{name}.out.jsonl"
            both.append(world.start([str(LLMCTL), "batch", str(path), "-o", str(output), "-q"]))
        said = [process.communicate(timeout=600)[1].decode() for process in both]
        # One that starts late may find nothing left of what the other's rows took, all of them.
        assert sorted(process.returncode for process in both) in ([3, 3], [0, 3]), said
        world.settle_down()
        spent = _spent(world)
        assert spent <= CAP, spent
        return spent


def _too_much(rows: int) -> Decimal:
    """Every answer is billed at 117% of what it may be: the overshoot, which the summary names."""
    with arena(rows, concurrency=C, knobs=_KNOBS, latency=0.01) as world:
        world.sim.reply = _using(lambda _: MOST * 117 // 100)
        done = world.run([*world.batch[:-1], "--budget", str(CAP)])
        assert done.returncode == 3, done.stderr
        world.judge()
        over = _spent(world) - CAP
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
        world.sim.reply = _using(lambda _: 1)
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
    denied = sql(world.state / "ledger.db", f"{denials} WHERE error_type = 'budget'")
    assert denied == [(number, number, 0)]
    assert world.sim.record.requests == rows - number
