"""How fast `llmctl serve` is, a line a figure: `python -m tests.bench.serve`.

With a token, a dollar cap and the ledger on, every prompt another one: what one connection waits
beyond the upstream alone, requests a second at 32 connections, the processor's time of each, and
memory, of one worker and of two. Where a machine has other work the processor's time tells most.
In turns with LiteLLM's proxy and Portkey's gateway, which count nothing. All of them ask one
upstream without latency; `load.py` asks them, by itself many times faster than any.

Options: `--rounds N` (3), `--seconds N` a figure (5), `--python PATH`, an interpreter that has
litellm[proxy], and `--portkey PATH`, the `build/start-server.js` of npm's `@portkey-ai/gateway`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from tests.bench.command import LLMCTL, new_home
from tests.bench.loopback import served

_CONNECTIONS = 32
_START = 120.0  # seconds that LiteLLM may take to start
_LITELLM = """
model_list:
  - model_name: gpt-5-mini
    litellm_params: {{model: openai/gpt-5-mini, api_base: "{url}", api_key: x}}
general_settings: {{master_key: sk-bench}}
"""
_LOOPBACK = """
const net = require("node:net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  const then = rest.find((one) => typeof one === "function");
  return listen.call(this, Number(port), "127.0.0.1", then);
};
"""
"""Portkey would listen on all interfaces."""


@dataclass
class Server:
    """One of those that are compared: where it answers, what it wants to hear, its process."""

    name: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    process: psutil.Process | None = None
    waits: list[tuple[float, float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    def load(self, connections: int, seconds: float) -> dict[str, float]:
        """What `load.py` measured."""
        headers = json.dumps({"authorization": "Bearer x", **self.headers})
        place = f"{self.url}/chat/completions"
        command = [sys.executable, "-m", "tests.bench.load", place, str(connections), str(seconds)]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [*command, headers], cwd=root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr}")
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def measure(self, seconds: float) -> None:
        """One round."""
        one = self.load(1, seconds)
        self.waits.append((one["p50"], one["p99"]))
        before = self.processor
        many = self.load(_CONNECTIONS, seconds)
        self.rates.append(many["rate"])
        self.costs.append((self.processor - before) / many["all"])

    @property
    def rate(self) -> float:
        """Requests a second."""
        return median(self.rates)

    @property
    def _every(self) -> list[psutil.Process]:
        own = self.process
        return [] if own is None else [own, *own.children(recursive=True)]

    @property
    def memory(self) -> float:
        """MiB of all its processes."""
        return float(sum(one.memory_info().rss for one in self._every) / (1 << 20))

    @property
    def processor(self) -> float:
        """Processor seconds of all its processes so far."""
        return float(sum(sum(one.cpu_times()[:2]) for one in self._every))


@contextmanager
def running(command: Sequence[str], environ: dict[str, str], log: Path) -> Iterator[psutil.Process]:
    """A server, which is ended at the end."""
    with log.open("w") as said:
        process = subprocess.Popen(
            command, env=environ, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int, log: Path) -> None:
    """Return when it is answered there."""
    end = time.monotonic() + _START
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers: {log.read_text(errors='replace')[-500:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def ours(folder: Path, upstream: str, workers: int) -> Iterator[Server]:
    """`llmctl serve` with everything on."""
    folder.mkdir()
    environ = new_home(folder, upstream)
    with (folder / "home/.config/llmctl/config.yaml").open("a") as config:
        config.write("serve: {models: {gpt-5-mini: bench}}\n")
    create = [str(LLMCTL), "tokens", "create", "bench", "--budget", "1000000/month"]
    secret = subprocess.check_output(create, env=environ, text=True).strip()
    port, log = free_port(), folder / "log"
    command = [str(LLMCTL), "serve", "--port", str(port), "--workers", str(workers)]
    with running(command, environ, log) as process:
        wait_for(port, log)
        name = f"llmctl serve, {workers} worker{'s' * (workers > 1)}"
        headers = {"authorization": f"Bearer {secret}"}
        yield Server(name, f"http://127.0.0.1:{port}/v1", headers, process)


@contextmanager
def litellm(folder: Path, upstream: str, python: str) -> Iterator[Server]:
    """LiteLLM's proxy with its one key, without its database."""
    folder.mkdir()
    (folder / "config.yaml").write_text(_LITELLM.format(url=upstream), encoding="utf-8")
    port, log = free_port(), folder / "log"
    script = str(Path(python).with_name("litellm"))
    command = [script, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with running([*command, "--telemetry", "False"], environ, log) as process:
        wait_for(port, log)
        headers = {"authorization": "Bearer sk-bench"}
        yield Server("LiteLLM's proxy", f"http://127.0.0.1:{port}/v1", headers, process)


@contextmanager
def portkey(folder: Path, upstream: str, script: Path) -> Iterator[Server]:
    """Portkey's gateway, on loopback alone."""
    folder.mkdir()
    fence, port, log = folder / "loopback.cjs", free_port(), folder / "log"
    fence.write_text(_LOOPBACK, encoding="utf-8")
    command = ["node", "--require", str(fence), str(script), f"--port={port}", "--headless"]
    with running(command, dict(os.environ), log) as process:
        wait_for(port, log)
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream}
        yield Server("Portkey's gateway", f"http://127.0.0.1:{port}/v1", headers, process)


def opened(
    folder: Path, upstream: str, options: argparse.Namespace, stack: ExitStack
) -> list[Server]:
    """All that are compared; what is missing is left out, with a word."""
    found = [
        stack.enter_context(ours(folder / f"llmctl{workers}", upstream, workers))
        for workers in (1, 2)
    ]
    if Path(options.python).with_name("litellm").exists():
        found.append(stack.enter_context(litellm(folder / "litellm", upstream, options.python)))
    else:
        print("serve: LiteLLM's proxy left out: no litellm beside the interpreter (see --python)")
    if options.portkey is not None:
        script = options.portkey.resolve()
        found.append(stack.enter_context(portkey(folder / "portkey", upstream, script)))
    else:
        print("serve: Portkey's gateway left out (see --portkey)")
    return found


def main() -> None:
    """All figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--python", default=sys.executable, metavar="PATH")
    parser.add_argument("--portkey", type=Path, metavar="PATH")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name,
        ExitStack() as stack,
    ):
        url = stack.enter_context(served("tests.bench.loopback"))
        alone = Server("the upstream alone", url)
        servers = opened(Path(name), url, options, stack)
        for _ in range(options.rounds):
            for server in (alone, *servers):
                server.measure(options.seconds)
        base, ours_alone = median(p50 for p50, _ in alone.waits), servers[0].rate
        print(f"serve: the upstream alone: {base:.2f} ms, {alone.rate:,.0f} requests/s")
        for server in servers:
            p50, p99 = (median(each) - base for each in zip(*server.waits, strict=True))
            print(
                f"serve: {server.name}: {p50:.2f} ms more (99th percentile {p99:.2f}), "
                f"{server.rate:,.0f} requests/s at {_CONNECTIONS} connections "
                f"({server.rate / ours_alone:.2f}x), {median(server.costs) * 1e6:,.0f} µs of "
                f"processor each, {server.memory:.0f} MiB"
            )


if __name__ == "__main__":
    main()
