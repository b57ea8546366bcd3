"""A Ray cluster of two nodes on loopback, in a process of its own: `python -m
tests.cluster.two_nodes`.

It prints its address, then does what lines of stdin say, answers each with a line, and ends with
stdin: `add` a node, `kill` the newest one at once, as a machine that loses its power, `governor`:
kill every governor, `actors`: how many of llmctl's there are. Ray is not for the process of the
tests: it warns, and leaves threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_STORE = 80 << 20  # bytes, the least that Ray takes is 75 MiB
_ACTORS = ("ray::Governor", "ray::Worker")


class TwoNodes:
    """The cluster as tests use it; see the module."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._line()
        self.logs = Path(self._line())

    def ask(self, what: str) -> int:
        """Have it done; gives the number that is answered."""
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster does not start, or has ended"
        return line


@contextmanager
def two_nodes(environ: Mapping[str, str], folder: Path) -> Iterator[TwoNodes]:
    """Two nodes whose programs have this environment; logs and sockets are below the folder, whose
    path must be short."""
    said = {
        **environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_TMPDIR": str(folder),
    }
    said.pop("PYTHONWARNINGS", None)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.two_nodes"],
        cwd=Path(__file__).parents[2],
        env=said,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield TwoNodes(process)
        finally:
            process.communicate("", timeout=60)


def _serve() -> None:
    from ray.cluster_utils import Cluster

    options = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": _STORE}
    head = {**options, "include_dashboard": False, "include_log_monitor": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**options)]
    print(cluster.address, flush=True)
    print(cluster.head_node.get_logs_dir_path(), flush=True)
    for line in sys.stdin:
        done = 0
        match line.strip():
            case "add":
                nodes.append(cluster.add_node(**options))
            case "kill":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            case "governor":
                for process in _actors("ray::Governor"):
                    process.kill()
                    done += 1
            case "actors":
                done = sum(1 for _ in _actors(*_ACTORS))
        print(done, flush=True)
    cluster.shutdown()


def _actors(*names: str) -> Iterator[psutil.Process]:
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if process.cmdline() and process.cmdline()[0].startswith(names):
                yield process
        except psutil.Error:
            continue


if __name__ == "__main__":
    _serve()
