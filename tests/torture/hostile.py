"""T19: a provider that means harm.

Ten kilobytes that unpack to a gigabyte end at 64 MiB, and take no more memory than that. A wait
of a thousand million seconds, of minus one, of NaN or of a date in the past lasts 120 s at most.
Of a batch whose replies come from a table of hostile ones every row has its record, and the reports
can be made afterwards.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from typing import Any

from tests.conftest import LLMCTL
from tests.simulator.call import Call
from tests.simulator.errors import rate_limited
from tests.simulator.fault import Fault
from tests.simulator.faults import Body, GzipBomb
from tests.simulator.scripts import fail_first
from tests.support import FakeClock
from tests.torture.inside import inside
from tests.torture.judge import Arena, Size, arena, sound

LONGEST = 120.0
LARGEST = 64
"""MiB of an answer that are unpacked at most."""

_KIB = 1024
_ROOM = 64
"""MiB that the program may take beside the pieces of the answer."""

WAITS: tuple[Fault, ...] = (
    *map(rate_limited, ("1e9", "-1", "NaN", "inf", "Someday, 99 Foo 2026")),
    rate_limited(1e9, form="ms"),
    rate_limited(-86_400, form="date"),
    rate_limited(10 * 365 * 86_400, form="date"),
)


def _answer(more: str, usage: str = "{}", model: str = "m") -> Body:
    text = f'"model":"{model}","choices":[{{"message":{{"content":"hi"}},"finish_reason":"stop"}}]'
    return Body(body=f'{{{text},"usage":{usage}{more}}}'.encode())


REPLIES: tuple[Fault, ...] = (
    rate_limited("Mon, 01 Jan 99999999999999999999 00:00:00 GMT"),
    rate_limited("9" * 10_000),
    _answer("", f'{{"prompt_tokens":{2**63},"completion_tokens":{2**64 - 1}}}'),
    _answer("", '{"prompt_tokens":1e300,"completion_tokens":-5}'),
    _answer("", f'{{"prompt_tokens":{2**40},"completion_tokens":{2**40}}}'),
    _answer("", '{"prompt_tokens":1,"completion_tokens":1,"cost":1e30}'),
    _answer("", '{"prompt_tokens":1,"completion_tokens":1,"cost":1000000}'),
    _answer("", '{"prompt_tokens":1,"completion_tokens":1,"cost":"1e-999999"}'),
    _answer("", model="m" * 20_000),
    _answer(',"x":' + "[" * 1000 + "]" * 1000),
    _answer(',"x":' + "[" * 100_000),
    Body(body=b'{"error":{"message":' + b"[" * 300 + b"]" * 300 + b"}}", status=400),
    Body(body=b'{"error":{"message":"' + b"usage limit " * 100_000 + b'"}}', status=400),
    Body(body=b'{"error":{"message":"' + b"usage limit " * 100_000 + b'"}}'),
    Body(body=b'{"choices":[{"message":{"content":"\\ud800"}}]}'),
    Body(body=b"[" * 1_000_000),
    Body(body=b"NaN"),
    Body(body=b"\xff\xfe\0"),
    Body(body=b"", status=599),
)
"""Replies that try to end more than their own row."""


def run(size: Size) -> str:
    """All three; one line."""
    bombs = [
        bomb(layers, *flags)
        for layers in ((1, 2) if size.full else (1,))
        for flags in ((), ("--stream",))
    ]
    longest = max(waited(fault) for fault in WAITS)
    rows = mixed(size.of(3 * len(REPLIES), 400))
    return (
        f"T19 hostile: a GiB in a compressed answer ends at {LARGEST} MiB "
        f"(at most {max(peak for peak, _ in bombs):.0f} MiB more memory than for a short answer, "
        f"{max(took for _, took in bombs):.1f} s); of {len(WAITS)} mad waits the longest took "
        f"{longest:.0f} s on the mock clock; {rows}"
    )


def bomb(layers: Any, *flags: str) -> tuple[float, float]:
    """One bomb; by how many MiB the command was larger than for a short answer, and seconds."""
    with arena(1) as world:
        command = [str(LLMCTL), "ask", "x", *flags]
        code, _, usual = _peak(world, command)
        assert code == 0
        world.sim.fault = GzipBomb(layers=layers)
        started = time.monotonic()
        code, told, most = _peak(world, [*command, "--no-cache"])
        took = time.monotonic() - started
        assert code in {1, 5}, (code, told)
        assert "Traceback" not in told
        if layers == 1 and not flags:  # of a stream, the first endless line is the end
            assert f"larger than {LARGEST} MiB" in told, told
        assert most - usual < LARGEST + _ROOM, f"{most - usual:.0f} MiB"
        return most - usual, took


def mixed(rows: int) -> str:
    """A batch of which every second reply is hostile; what became of it."""
    knobs = "retry: {attempts: 1, max_wait: 1}\nbreaker: {failures: 1000, error_rate: 1}"
    with arena(rows, knobs=knobs) as world:
        replies = itertools.cycle(REPLIES)
        chosen: dict[str, Fault] = {}

        def script(call: Call) -> Fault | None:
            if call.index % 2:
                return None
            if call.key not in chosen:
                chosen[call.key] = next(replies)
            return chosen[call.key]

        world.sim.fault = script
        done = world.run()
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(chosen) >= len(REPLIES), "some were not met"
        world.settle_down()
        lines = [
            json.loads(line)
            for path in (world.output, world.errors)
            for line in path.read_bytes().splitlines()
        ]
        assert {line["id"] for line in lines} == {*world.prompts}, "rows lost"
        assert len(lines) == rows
        sound(world.state / "ledger.db")
        for words in (["cost", "report"], ["cost", "check", "--budget", "5"], ["cache", "stats"]):
            told = world.run([str(LLMCTL), *words])
            assert told.returncode in {0, 3}, (words, told.stderr)
            assert "Traceback" not in told.stderr
        failed = sum("error" in line for line in lines)
        return f"{rows} rows of hostile replies: {failed} failed, none lost"


def waited(fault: Fault) -> float:
    """Seconds of the mock clock until a call that is refused once so is answered."""
    with arena(0, knobs="cache: {enabled: false}") as world:
        world.sim.fault = fail_first(1, fault)
        clock = FakeClock(time.time())

        async def call() -> float:
            async with inside(world, clock) as ask:
                started = clock.monotonic()
                await ask("x")
                return clock.monotonic() - started

        took = clock.run(call())
        assert world.sim.record.requests == 2
        assert took <= LONGEST + 1, f"{took:.0f} s"
        return took


def _peak(world: Arena, command: list[str]) -> tuple[int, str, float]:
    """The command's exit code, what it said, and the most memory it took, in MiB."""
    log = world.folder / "stderr"
    with log.open("wb") as stderr:
        process = world.start(command, stdout=stderr, stderr=stderr)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    size = usage.ru_maxrss / _KIB if sys.platform == "linux" else usage.ru_maxrss / _KIB**2
    return process.returncode, log.read_text(errors="replace"), size
