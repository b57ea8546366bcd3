"""Rows on one and on two Ray nodes, a line a figure: `python -m tests.bench.nodes`.

`llmctl batch --engine ray` against a provider that takes 50 ms: rows a second and processor time
per row with one node and with two, each with so few calls in flight that the provider, not this
machine, is the limit. Or, with `--rpm N`, what a limit of N a minute lets through over both nodes.
Options: `--rows N` (3,000), `--concurrency N` (4 on each node), `--rpm N`, `--seconds N` (75).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.bench.command import LLMCTL, Run, batch, new_home, write_rows
from tests.bench.limiter import busiest
from tests.bench.loopback import served
from tests.cluster.two_nodes import TwoNodes, two_nodes
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator

_LATENCY = 50  # milliseconds


_ROLES = {"ray::Governor": "governor", "ray::Worker": "nodes"}


@contextmanager
def _metered() -> Iterator[dict[tuple[str, int], float]]:
    """Seconds of processor time of each actor, by role and process: looked at all the time, for
    they end with the run."""
    used, over = dict[tuple[str, int], float](), threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for each in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, IndexError):
                    words = each.cmdline()[0]
                    role = next((r for title, r in _ROLES.items() if words.startswith(title)), None)
                    if role is not None:
                        times = each.cpu_times()
                        used[role, each.pid] = times.user + times.system

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield used
    finally:
        over.set()
        thread.join()


def _run(
    folder: Path, environ: dict[str, str], cluster: TwoNodes, nodes: int, concurrency: int
) -> tuple[Run, dict[str, float]]:
    """The batch, and seconds of processor time by role."""
    (folder / "in.out.jsonl").unlink(missing_ok=True)
    words = "--engine", "ray", "--address", cluster.address, "--nodes", str(nodes)
    with _metered() as used:
        run = batch(folder, environ, concurrency, "--no-cache", *words)
    roles = {"driver": run.processor, **dict.fromkeys(_ROLES.values(), 0.0)}
    for (role, _), seconds in used.items():
        roles[role] += seconds
    return run, roles


def throughput(folder: Path, cluster: TwoNodes, nodes: int, rows: int, concurrency: int) -> float:
    """Rows a second on so many nodes; prints its line. What a run of a single row takes, most of
    it the start of Ray's processes, is no row's."""
    with served("tests.bench.loopback", str(_LATENCY)) as url:
        environ = new_home(folder, url)
        write_rows(folder / "in.jsonl", 1)
        first, start = _run(folder, environ, cluster, nodes, concurrency)
        write_rows(folder / "in.jsonl", rows)
        run, used = _run(folder, environ, cluster, nodes, concurrency)
    rate: float = rows / (run.summary["elapsed_s"] - first.summary["elapsed_s"])
    each = ", ".join(f"{r} {(used[r] - start[r]) / rows * 1000:.2f}" for r in used)
    print(
        f"nodes: {nodes}: {rate:,.0f} rows/s after a start of {first.summary['elapsed_s']:.1f} s; "
        f"${run.summary['cost_usd'] / rows:.7f} a row; ms of processor a row: {each}",
        flush=True,
    )
    return rate


def limited(folder: Path, cluster: TwoNodes, rpm: int, seconds: float) -> str:
    """What a limit lets through over two nodes; the line that says it."""
    arrivals: list[float] = []

    def note(call: Call) -> Reply:
        arrivals.append(call.received)
        return Reply("ok", usage=Usage(20, 1))

    with Simulator(reply=note, record_bodies=False) as server:
        environ = new_home(folder, server.base_url)
        source = folder / "limited.jsonl"
        write_rows(source, int(rpm / 60 * (seconds + 30)))
        words = ["--engine", "ray", "--address", cluster.address, "--concurrency", "50"]
        command = [str(LLMCTL), "batch", str(source), "-q", "--no-cache", "--rpm", str(rpm)]
        with subprocess.Popen([*command, *words], env=environ) as process:
            server.wait_for_calls(1, 120)
            threading.Event().wait(seconds)
            process.terminate()
    at = sorted(arrivals)
    begin = at[0] + (seconds - 60) / 2
    minute, most = sum(begin <= moment < begin + 60 for moment in at), busiest(at)
    return (
        f"nodes: {rpm:,} a minute over two nodes: {minute:,} in a minute ({minute / rpm:.1%}), at "
        f"most {most:,} in any 60 s ({most / rpm:.1%})"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.nodes")
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--rpm", type=int)
    parser.add_argument("--seconds", type=float, default=75.0)
    options = parser.parse_args()
    environ = {"PATH": os.environ["PATH"], "BENCH_KEY": "x"}
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        two_nodes({**environ, "HOME": folder}, Path(folder)) as cluster,
    ):
        if options.rpm:
            print(limited(Path(folder), cluster, options.rpm, options.seconds), flush=True)
            return
        one, two = (
            throughput(Path(folder), cluster, nodes, options.rows, options.concurrency)
            for nodes in (1, 2)
        )
        print(f"nodes: two nodes answer {two / one:.2f} times as many rows as one")


if __name__ == "__main__":
    main()
