"""T3: the disk refuses.

A full tmpfs, a limit on the size of files, and EIO or ENOSPC at one random write or sync, each
under the output, the ledger and the cache. Without a disk for the output or the ledger nothing
more is sent, the exit code is 74, and the same command completes the rows once the disk is well;
without one for the cache the run goes on. Mounting takes root, injecting takes strace; where they
are missing the line says so.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.torture.judge import Arena, Size, UnableError, arena

_MIB = 1 << 20
_CALLS = "write,pwrite64,fdatasync,fsync"
_INJECTED = re.compile(rb"(\d+\.\d+) .*\(INJECTED\)")


def run(size: Size) -> str:
    """All of them; one line."""
    dice = Random(size.seed)
    told = []
    for part in (_limits, _mounts, _injections):
        try:
            told.append(part(size, dice))
        except UnableError as reason:
            told.append(f"{part.__name__.strip('_')} skipped ({reason})")
    return "T3 the disk refuses: " + "; ".join(told)


def full(rows: int, which: str, taken: int = 0) -> int:
    """A batch with 1 MiB of disk, of which `taken` bytes are in use, for `which` (`output`,
    `state` or `cache`); how many answers were billed again.

    Raises `UnableError` where nothing can be mounted.
    """
    with arena(rows, concurrency=16) as world, _tmpfs(world.folder / "small", _MIB) as small:
        if which == "output":
            world.output = small / "out.jsonl"
        else:
            setattr(world, which, small)
        (small / "ballast").write_bytes(bytes(taken))
        done = world.run()
        if which == "cache":
            return _unmoved(world, done)
        again = _refused(world, done, rerun=False)
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True, capture_output=True)
        return again + _completed(world)


def injected(rows: int, which: str, dice: Random) -> tuple[int, int]:
    """A batch in which one random write or sync of `which` fails; how many requests came after
    that, and how many answers were billed again. Raises `UnableError` without strace."""
    if shutil.which("strace") is None:
        raise UnableError("no strace")
    with arena(rows, concurrency=16, latency=0.001) as world:
        # Made before, so that it is a write of a row that fails, not one of making the file.
        assert world.run([*world.batch, "--limit", "1"]).returncode == 0
        paths = {
            "output": [world.output],
            "state": [world.state / "ledger.db", world.state / "ledger.db-wal"],
            "cache": [world.cache / "cache.db", world.cache / "cache.db-wal"],
        }[which]
        syscalls = {"output": ("write", "fdatasync"), "state": ("pwrite64", "fdatasync")}
        syscall = dice.choice(syscalls.get(which, ("pwrite64",)))
        error = dice.choice(("EIO", "ENOSPC") if syscall != "fdatasync" else ("EIO",))
        log = world.folder / "strace"
        done = world.run(
            [
                *("strace", "-f", "-qq", "-ttt", "-o", str(log)),
                *(word for path in paths for word in ("-P", str(path))),
                *("-e", f"trace={_CALLS}", "-e", "signal=none"),
                *("-e", f"inject={syscall}:error={error}:when={dice.randint(4, 12)}"),
                *world.batch,
            ]
        )
        found = _INJECTED.findall(log.read_bytes())
        if not found and b"ptrace" in done.stderr.encode():
            raise UnableError("strace may not trace here")
        assert len(found) == 1, (syscall, len(found), done.returncode, done.stderr)
        if which == "cache":
            return 0, _unmoved(world, done)
        # The log tells the time of day, the provider the time since the start.
        moment = float(found[0]) - time.time() + time.monotonic()
        after = sum(call.received > moment for call in world.sim.calls)
        assert after <= world.concurrency, f"{after} requests after {syscall} gave {error}"
        return after, _refused(world, done)


def _limits(size: Size, dice: Random) -> str:
    again, number = [], size.of(1, 10)
    for _ in range(number):
        limit = dice.randint(40, size.of(100, 300)) << 10
        with arena(size.of(500, 4_000), concurrency=16) as world:
            done = world.run(
                preexec_fn=lambda most=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (most,) * 2)
            )
            again.append(_refused(world, done))
    return f"{number} limits on file size, exit 74 each, at most {max(again)} billed again"


def _mounts(size: Size, dice: Random) -> str:  # noqa: ARG001  (as the others)
    rows, taken = size.of(600, 10_000), size.of(_MIB * 3 // 4, 0)
    again = {which: full(rows, which, taken) for which in ("output", "state", "cache")}
    return (
        f"a full tmpfs for the output ({again['output']} again), the ledger ({again['state']}), "
        "the cache (the run went on)"
    )


def _injections(size: Size, dice: Random) -> str:
    ends = {
        which: [injected(size.of(300, 1_000), which, dice) for _ in range(size.of(1, 10))]
        for which in ("output", "state", "cache")
    }
    fatal = ends["output"] + ends["state"]
    return (
        f"{len(fatal)} failed writes and syncs of output and ledger, at most "
        f"{max(after for after, _ in fatal)} requests after one, {max(n for _, n in fatal)} again; "
        f"{len(ends['cache'])} of the cache, the run went on"
    )


def _refused(world: Arena, done: subprocess.CompletedProcess[str], *, rerun: bool = True) -> int:
    """What must hold of a run that the disk ended; with `rerun`, and of the next one."""
    assert done.returncode == 74, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr
    world.settle_down()
    # Not all was sent: it stopped, instead of only complaining at the end.
    assert world.sim.record.requests < len(world.prompts)
    assert len(world.missing()) <= world.concurrency, len(world.missing())
    return _completed(world) if rerun else 0


def _completed(world: Arena) -> int:
    done = world.run()
    assert done.returncode == 0, done.stderr
    verdict = world.judge()
    assert verdict.answered == len(world.prompts)
    assert verdict.rebilled <= world.concurrency
    return verdict.rebilled


def _unmoved(world: Arena, done: subprocess.CompletedProcess[str]) -> int:
    """What must hold of a run whose cache alone has no disk."""
    assert done.returncode == 0, done.stderr
    assert "answers are no longer cached" in done.stderr, done.stderr
    verdict = world.judge()
    assert verdict.answered == len(world.prompts)
    assert verdict.rebilled == 0
    return 0


@contextmanager
def _tmpfs(where: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise UnableError("mounting takes root on Linux")
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        raise UnableError(mounted.stderr.strip())
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True, capture_output=True)
