"""T23: files that are changed by others while a batch is at them.

INPUT is cut, rewritten, put in another order, replaced, added to, or edited with its size and time
kept; OUTPUT, its errors or the ledger is removed or replaced. The batch leaves with 2 or 74 and a
sentence, never with 0 where rows have no record; with the file put back the same command answers
all, and nothing is billed twice but what was in flight when OUTPUT or the ledger was lost.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.torture.judge import Arena, Size, arena

Lines = list[bytes]


def _in_place(
    change: Callable[[Lines], Lines], *, keep_time: bool = False
) -> Callable[[Path], None]:
    """Write the changed lines over the old ones."""

    def do(path: Path) -> None:
        before = path.stat()
        lines = change(path.read_bytes().splitlines(keepends=True))
        with path.open("r+b") as file:
            file.write(b"".join(lines))
            file.truncate()
        if keep_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return do


def _replaced(path: Path) -> None:
    """Put another file in its place, as an editor does."""
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes() + b'{"id": "new", "prompt": "new"}\n')
    other.replace(path)


def _edited(at: int) -> Callable[[Lines], Lines]:
    return lambda lines: [
        line.replace(b"say", b"SAY") if number == at % len(lines) else line
        for number, line in enumerate(lines)
    ]


def inputs(draw: random.Random) -> dict[str, Callable[[Path], None]]:
    """What may be done to INPUT."""
    return {
        "cut": _in_place(lambda lines: lines[: len(lines) // 2]),
        "rewritten": _in_place(lambda lines: [line.replace(b"say", b"SAY") for line in lines]),
        "in another order": _in_place(lambda lines: lines[::-1]),
        "the same, with its time kept": _in_place(lambda lines: lines[::-1], keep_time=True),
        "a row edited": _in_place(_edited(draw.randrange(10**6)), keep_time=True),
        "the first row edited": _in_place(_edited(0), keep_time=True),
        "added to": _in_place(lambda lines: [*lines, b'{"id": "new", "prompt": "new"}\n']),
        "replaced": _replaced,
    }


def run(size: Size) -> str:
    """All of them, at a random moment each; one line."""
    rows, draw = size.of(150, 5_000), random.Random(size.seed)
    changes = inputs(draw)
    for number, (name, change) in enumerate(changes.items()):
        with arena(rows) as world:
            whole = world.input.read_bytes()
            said = _changed(world, draw, partial(change, world.input))
            assert said[0] == 2, (name, *said)
            assert "was changed while it was being read" in said[1], (name, *said)
            assert not {"say", "new"} & {row["id"] for row in world.answered()}
            assert not any(c.ask and c.ask.last.startswith(("SAY", "new")) for c in world.sim.calls)
            world.input.write_bytes(whole)
            assert world.judge(ended=False).rebilled == 0, name
            if size.full or number % 4 == 0:  # it is put back as it was, whatever was done to it
                _again(world)
    victims = 0
    for what in ("output", "ledger"):
        for replaced in (False, True):
            with arena(rows) as world:
                path = world.output if what == "output" else world.state / "ledger.db"
                aside = path.with_name("moved")

                def move(path: Path = path, aside: Path = aside, *, new: bool = replaced) -> None:
                    path.rename(aside)
                    if new:
                        path.write_bytes(b"")

                said = _changed(world, draw, move)
                assert said[0] == 74, (what, *said)
                assert "was removed or replaced" in said[1], said
                assert not replaced or path.read_bytes() == b"", "what was put there is left alone"
                aside.replace(path)
                _again(world, world.concurrency)
                victims += 1
    return (
        f"T23 inputs: INPUT changed in {len(changes)} ways in mid-run: exit 2; OUTPUT and ledger "
        f"removed or replaced ({victims}): 74; with the file put back {rows:,} rows are answered, "
        "billed once each but for what was in flight at a 74"
    )


def _changed(world: Arena, draw: random.Random, change: Callable[[], None]) -> tuple[int, str]:
    """A batch, with that done while calls are held at a random moment; its exit code and words."""
    process = world.start(world.batch)
    moment = draw.randrange(1, len(world.prompts) - 2 * world.concurrency)
    world.sim.wait_for_calls(moment, timeout=60)
    world.sim.hold()
    change()
    world.sim.release()
    _, said = process.communicate(timeout=120)
    return process.returncode, said.decode()


def _again(world: Arena, rebilled: int = 0) -> None:
    """The same command, with at most so many bills beyond the first for one row."""
    done = world.run()
    assert done.returncode == 0, done.stderr
    verdict = world.judge()
    assert verdict.answered == len(world.prompts)
    assert verdict.rebilled <= rebilled, verdict
