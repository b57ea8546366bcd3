"""T11: two processes at once.

With the same questions, one cache and one ledger they are billed once for each. With one output
between them the second leaves with 75 and sends nothing.
"""

from __future__ import annotations

import time

from tests.torture.judge import Arena, Size, arena


def run(size: Size) -> str:
    """10,000 questions, 50 at a time in each; one line."""
    rows = size.of(400, 10_000)
    with arena(rows, concurrency=size.of(20, 50), latency=0.002) as world:
        took = _one_cache(world)
    with arena(100, concurrency=4) as world:
        _one_output(world)
    return (
        f"T11 two processes: {rows:,} questions asked by both were billed once each, in "
        f"{took:.1f} s; the second on one output left with 75 and sent nothing"
    )


def _one_cache(world: Arena) -> float:
    """Two outputs, held at the first answers so that both processes are at it together.

    The second begins beyond what the first has claimed by then, so that it has questions of its
    own to ask; once released the first catches up with it, and so they meet over and over.
    """
    started = time.monotonic()
    world.sim.hold()
    lines = world.input.read_bytes().splitlines(keepends=True)
    outputs = [world.folder / "first.jsonl", world.folder / "second.jsonl"]
    both = []
    for number, output in enumerate(outputs):
        world.output = output
        at = 10 * number * world.concurrency
        world.input = world.folder / f"in{number}.jsonl"
        world.input.write_bytes(b"".join(lines[at:] + lines[:at]))
        both.append(world.start(world.batch))
        world.sim.wait_for_calls((number + 1) * world.concurrency, timeout=60)
    world.sim.release()
    for process in both:
        _, problem = process.communicate(timeout=600)
        assert process.returncode == 0, problem.decode()
    for output in outputs:
        world.output = output
        verdict = world.judge()
        assert verdict.answered == len(world.prompts)
    assert verdict.requests == verdict.billed == verdict.settled == len(world.prompts)
    assert verdict.rebilled == 0
    assert verdict.doubtful == 0
    return time.monotonic() - started


def _one_output(world: Arena) -> None:
    world.sim.hold()
    first = world.start(world.batch)
    world.sim.wait_for_calls(world.concurrency, timeout=60)
    second = world.run(timeout=60)
    assert second.returncode == 75, (second.returncode, second.stderr)
    assert world.sim.record.requests == world.concurrency
    assert not second.stdout
    world.sim.release()
    _, problem = first.communicate(timeout=60)
    assert first.returncode == 0, problem.decode()
    verdict = world.judge()
    assert (verdict.answered, verdict.rebilled) == (len(world.prompts), 0)
