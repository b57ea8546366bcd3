"""What OpenTelemetry costs a batch, in one line: `python -m tests.bench.telemetry`.

The installed command with everything on, 50 at a time against a server without latency, in turns
without telemetry, with spans and metrics, and with what was said in the spans. The goal: with spans
and metrics at least 0.9x the rows a second.

Options: `--rows N` (20,000 a turn), `--rounds N` (5).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from tests.bench.command import batch, new_home, write_rows
from tests.bench.loopback import served

_TASKS = 50
_SETTINGS = {
    "off": "",
    "on": "telemetry: {{otlp: '{url}'}}\n",
    "with content": "telemetry: {{otlp: '{url}', content: true}}\n",
}


def main() -> None:
    """The figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.telemetry", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in _SETTINGS}
    processor: dict[str, list[float]] = {name: [] for name in _SETTINGS}
    peaks: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name,
        served("tests.bench.loopback") as url,
        served("tests.bench.loopback") as collector,  # it takes anything that is posted
    ):
        folder = Path(name)
        write_rows(folder / "in.jsonl", options.rows)
        for _ in range(options.rounds):
            for kind, text in _SETTINGS.items():
                (folder / "in.out.jsonl").unlink(missing_ok=True)
                said = text.format(url=collector.removesuffix("/v1"))
                run = batch(folder, new_home(folder, url, said), _TASKS)
                rates[kind].append(run.rate)
                processor[kind].append(run.processor / options.rows * 1e6)
                peaks[kind] = run.peak_mib
    off = median(rates["off"])
    print(
        f"telemetry: {_TASKS} at a time, no latency: off {off:,.0f} rows/s",
        *(
            f"{kind} {median(found):,.0f}, {median(found) / off:.2f}x"
            for kind, found in rates.items()
            if kind != "off"
        ),
        f"processor {', '.join(f'{kind} {min(v):.0f} µs' for kind, v in processor.items())} a row",
        f"memory {', '.join(f'{kind} {peak:.0f} MiB' for kind, peak in peaks.items())}",
        sep="; ",
    )


if __name__ == "__main__":
    main()
