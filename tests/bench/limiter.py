"""What a limit lets through on the wire, a line a figure: `python -m tests.bench.limiter`.

`llmctl batch` at `--rpm N` (30,000 by default) against a server that notes when each request
arrived: how much of the limit a minute in the middle uses, and the most in any 60 seconds. Then the
same by two processes that share the limit. Options: `--rpm N`, `--seconds N` (75), `--processes N`
(1 and 2 by default).
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import threading
from pathlib import Path

from tests.bench.command import LLMCTL, new_home, write_rows
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator


def busiest(at: list[float], seconds: float = 60.0) -> int:
    """The most arrivals in any half-open span of so many seconds; `at` is sorted."""
    first = most = 0
    for last, moment in enumerate(at):
        while moment - at[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def measure(folder: Path, rpm: int, seconds: float, processes: int) -> str:
    """Run it; the line that says what was seen."""
    arrivals: list[float] = []

    def note(call: Call) -> Reply:
        arrivals.append(call.received)
        return Reply("ok", usage=Usage(20, 1))

    with Simulator(reply=note, record_bodies=False) as server:
        environ = new_home(folder, server.base_url)
        rows = int(rpm / 60 * (seconds + 30) / processes)
        running = []
        for number in range(processes):
            source = folder / f"in{processes}.{number}.jsonl"
            write_rows(source, rows)
            command = [str(LLMCTL), "batch", str(source), "-q", "--no-cache"]
            options = ["--concurrency", "100", "--rpm", str(rpm)]
            running.append(subprocess.Popen([*command, *options], env=environ))
        server.wait_for_calls(1, 60)
        threading.Event().wait(seconds)
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)
    at = sorted(arrivals)
    begin = at[0] + (seconds - 60) / 2
    minute = sum(begin <= moment < begin + 60 for moment in at)
    most = busiest(at)
    who = "one process" if processes == 1 else f"{processes} processes together"
    return (
        f"limiter: {rpm:,} a minute, {who}: {minute:,} in a minute ({minute / rpm:.1%}), at most "
        f"{most:,} in any 60 s ({most / rpm:.1%})"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.limiter")
    parser.add_argument("--rpm", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=75.0)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for processes in options.processes:
            print(measure(Path(folder), options.rpm, options.seconds, processes), flush=True)


if __name__ == "__main__":
    main()
