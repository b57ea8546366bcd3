"""T14: SIGINT and SIGTERM.

Told once, a batch sends nothing new, lets what is in flight finish (30 s at the most) and leaves
with 130 or 143. Told again a second later it is out within a second. The same command goes on
where it stopped. A stream keeps what was printed, and its row in the ledger.
"""

from __future__ import annotations

import signal
import subprocess
import time

from tests.conftest import LLMCTL
from tests.simulator.faults import Hang
from tests.torture.judge import Arena, Size, arena

DRAIN = 30.0
CODES = ((signal.SIGINT, 130), (signal.SIGTERM, 143))


def run(size: Size) -> str:
    """Both signals, in every way; one line."""
    rows, concurrency = size.of(80, 10_000), size.of(16, 50)
    out = 0.0
    for number, code in CODES:
        # In the small size each is made with one of the signals: they differ by the exit code.
        if size.full or number == signal.SIGINT:
            drained(number, code, rows, concurrency)
        if size.full or number == signal.SIGTERM:
            out = max(out, told_twice(number, code, rows, concurrency))
        asked(number, code)
    paced()
    waited = f"{overdue(concurrency):.1f} s" if size.full else "not measured in the small size"
    return (
        f"T14 signals: SIGINT and SIGTERM drain {concurrency} calls and send none more; told "
        f"twice, out in {out:.2f} s; what waits for a permit is not sent; a provider "
        f"that never answers is waited for: {waited}; the rerun answers all; a stream keeps its "
        "text and its row"
    )


def drained(number: int, code: int, rows: int, concurrency: int) -> None:
    """Told once, while calls are held at the provider; then they are answered."""
    with arena(rows, concurrency=concurrency) as world:
        process = _held(world)
        _tell(process, number)
        world.sim.release()
        _ended(process, code)
        assert world.sim.record.requests == concurrency
        verdict = world.judge(ended=False)
        assert verdict.answered == verdict.settled == concurrency
        assert (verdict.failed, verdict.doubtful) == (0, 0)
        _resumed(world)
        assert world.sim.billed.repeated == 0


def told_twice(number: int, code: int, rows: int, concurrency: int) -> float:
    """Told twice, a second apart, while calls are billed but not answered; how many seconds it
    then took."""
    with arena(rows, concurrency=concurrency) as world:
        process = _held(world, billed=True)
        _tell(process, number)
        time.sleep(1.0)
        assert process.poll() is None, "it did not wait for what was in flight"
        process.send_signal(number)
        took = _ended(process, code)
        assert took < 1.0, took
        assert world.sim.record.requests == concurrency
        world.sim.release()
        verdict = world.judge(ended=False)
        assert (verdict.settled, verdict.doubtful) == (0, concurrency)
        _resumed(world)
        assert world.sim.billed.repeated == concurrency
        return took


def paced() -> None:
    """Told while most rows wait for a permit to be sent: they are not sent any more, and nobody
    waits for them."""
    with arena(100, concurrency=20, knobs="limits: {concurrency: 20, rpm: 60}") as world:
        process = world.start([word for word in world.batch if word != "-q"])
        world.sim.wait_for_calls(1, timeout=60)
        _tell(process, signal.SIGINT)
        before = world.sim.record.requests
        took = _ended(process, 130)
        after = world.sim.record.requests - before
        assert after <= 1, f"{after} requests were sent after the signal"
        assert took < 5, f"{took:.1f} s to wait for rows that were never sent"
        assert world.judge(ended=False).rebilled == 0


def overdue(concurrency: int) -> float:
    """Told once, with a provider that never answers; how many seconds it then took."""
    with arena(concurrency * 2, concurrency=concurrency) as world:
        process = _held(world)
        _tell(process, signal.SIGTERM)
        took = _ended(process, 143)
        assert DRAIN - 1 < took < DRAIN + 2, took
        world.sim.release()
        # Those who left are no longer in flight, and billed all the same.
        world.sim.wait_until(lambda: world.sim.billed.requests == concurrency, 30)
        world.judge(ended=False)
        _resumed(world)
        return took


def asked(number: int, code: int) -> None:
    """A stream that hangs after its first words."""
    with arena(1) as world:
        world.sim.fault = Hang(pieces=3, billed=True)
        command = [str(LLMCTL), "ask", "one two three four five", "--stream"]
        process = world.start(command, bufsize=0)
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(number)
        rest, problem = process.communicate(timeout=10)
        assert process.returncode == code, (process.returncode, problem)
        assert b"Traceback" not in problem
        assert (first + rest).decode().startswith("echo: one"), first + rest
        world.settle_down()
        verdict = world.judge(ended=False)
        assert (verdict.billed, verdict.settled, verdict.doubtful) == (1, 0, 1)


def _held(world: Arena, *, billed: bool = False) -> subprocess.Popen[bytes]:
    """A batch whose every seat has a call that the provider keeps waiting."""
    world.sim.hold("billed" if billed else "received")
    process = world.start([word for word in world.batch if word != "-q"])
    world.sim.wait_until(lambda: world.sim.record.requests >= world.concurrency, 60)
    if billed:
        world.sim.wait_until(lambda: world.sim.billed.requests >= world.concurrency, 60)
    return process


def _tell(process: subprocess.Popen[bytes], number: int) -> None:
    """Send the signal, and return when the program says that it has heard it."""
    process.send_signal(number)
    assert process.stderr is not None
    while b"stopping" not in (line := process.stderr.readline()):
        assert line, "it ended without a word"


def _ended(process: subprocess.Popen[bytes], code: int) -> float:
    """Wait for its end, which is as it should be; how many seconds that took."""
    told = time.monotonic()
    _, problem = process.communicate(timeout=DRAIN + 10)
    assert process.returncode == code, (process.returncode, problem)
    assert b"Traceback" not in problem
    return time.monotonic() - told


def _resumed(world: Arena) -> None:
    world.sim.fault = None
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert world.judge().answered == len(world.prompts)
