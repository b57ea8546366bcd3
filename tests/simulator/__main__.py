"""Run the simulator as its own process: prints its base URL, ends when stdin closes.

On leaving it prints its counters as one JSON line; `GET /simulator/stats` gives them meanwhile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from .reply import Reply, Usage
from .server import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable


def main(arguments: list[str] | None = None) -> int:
    """Serve until stdin ends; 0."""
    options = _parser().parse_args(arguments)
    knobs: dict[str, Any] = {}
    if options.script:
        knobs["fault"] = _named(options.script)
    if options.reply:
        text = options.reply
        knobs["reply"] = lambda _call: text
    if options.usage:
        usage = Usage(*options.usage)
        text = options.reply or "ok"
        knobs["reply"] = lambda _call: Reply(text, usage=usage)
    simulator = Simulator(
        port=options.port,
        latency=options.latency_ms / 1000,
        stream_interval=options.stream_interval_ms / 1000,
        rpm=options.rpm,
        tpm=options.tpm,
        keys=options.key,
        record_bodies=False,
        **knobs,
    )
    with simulator:
        print(simulator.base_url, flush=True)
        while os.read(sys.stdin.fileno(), 65536):
            pass
        print(json.dumps(simulator.record.snapshot()), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0 for a free one")
    add("--latency-ms", type=float, default=0.0, help="milliseconds before each answer")
    add("--stream-interval-ms", type=float, default=0.0, help="milliseconds between SSE events")
    add("--rpm", type=int, help="requests a minute before 429")
    add("--tpm", type=int, help="tokens a minute before 429")
    add("--key", action="append", help="accepted API key (repeatable); any without it")
    add("--reply", help="what the model always says; the echo of the prompt without it")
    add("--usage", type=int, nargs=2, metavar=("IN", "OUT"), help="tokens billed for each answer")
    add("--script", metavar="MODULE:NAME", help="a fault, or a script from call to fault")
    return parser


def _named(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
