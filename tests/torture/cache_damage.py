"""T16: 200 damaged caches under the real command: `python -m tests.torture.cache_damage [N]`.

Each run of `llmctl batch` meets a cache with flipped bits or a missing end. It must answer every
row rightly, exit 0, and leave a sound file; the provider may be asked again, never wrongly.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.conftest import LLMCTL
from tests.simulator.server import Simulator
from tests.stores.damage import damaged_versions

ROWS = 50


def batch(home: Path) -> str:
    """Run it; what it says."""
    (home / "in.out.jsonl").unlink(missing_ok=True)
    done = subprocess.run(
        [LLMCTL, "batch", "in.jsonl", "-q"],
        cwd=home, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "SIM_KEY": "x"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (home / "in.out.jsonl").read_text(encoding="utf-8").splitlines()
    said = {row["id"]: row["text"] for row in map(json.loads, lines)}
    assert said == {f"r{n}": f"echo: say {n}" for n in range(ROWS)}
    return done.stderr


def run(number: int, folder: Path) -> str:
    """One line about `number` damaged files."""
    (folder / ".config/llmctl").mkdir(parents=True)
    rows = [json.dumps({"id": f"r{n}", "prompt": f"say {n}"}) for n in range(ROWS)]
    (folder / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
    cache = folder / ".cache/llmctl/cache.db"
    with Simulator(record_bodies=False) as sim:
        (folder / ".config/llmctl/config.yaml").write_text(
            f"default: sim\nprofiles: {{sim: {{provider: openai, base_url: '{sim.base_url}', "
            "model: m, key: {env: SIM_KEY}}}\n",
            encoding="utf-8",
        )
        batch(folder)
        asides = 0
        for what, broken in damaged_versions(cache.read_bytes(), number):
            shutil.rmtree(cache.parent)
            cache.parent.mkdir(mode=0o700)
            cache.write_bytes(broken)
            told = batch(folder)
            found = list(cache.parent.glob("cache.db.damaged-*Z"))
            assert len(found) == told.count("set aside") <= 1, what
            asides += len(found)
            with closing(sqlite3.connect(cache)) as db:
                if found:
                    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",), what
        return (
            f"cache: {number} damaged files met by a batch: every row answered rightly, "
            f"{asides} set aside; {sim.record.requests - ROWS:,} of {number * ROWS:,} rows asked "
            "again"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 200, Path(name)))
