"""T16: damaged caches under the real command: `python -m tests.torture.cache_damage [--full]`.

Every batch meets a cache with flipped bits or a missing end. It must answer every row rightly, exit
0, and leave a sound file; the provider may be asked again, never wrongly.
"""

from __future__ import annotations

import shutil
import sys

from tests.storage.damage import damaged_versions
from tests.torture.judge import Arena, Size, arena, main, sound

ROWS = 50


def run(size: Size) -> str:
    """200 damaged caches; one line."""
    number = size.of(8, 200)
    with arena(ROWS) as world:
        _batch(world)
        whole = (world.cache / "cache.db").read_bytes()
        asides = 0
        for what, broken in damaged_versions(whole, number):
            shutil.rmtree(world.cache)
            world.cache.mkdir(mode=0o700)
            (world.cache / "cache.db").write_bytes(broken)
            told = _batch(world)
            found = list(world.cache.glob("cache.db.damaged-*Z"))
            assert len(found) == told.count("set aside") <= 1, what
            assert "not cached" not in told, (what, told)
            asides += len(found)
            if found:
                sound(world.cache / "cache.db")
        again = world.sim.record.requests - ROWS
        # A cut file has lost something; a set-aside one everything.
        assert 0 < asides < number, asides
        assert 0 < again < number * ROWS, again
        return (
            f"T16 cache: {number} damaged files met by a batch: every row answered rightly, "
            f"{asides} set aside; {again:,} of {number * ROWS:,} rows asked again"
        )


def _batch(world: Arena) -> str:
    """Run it from the start; what it says."""
    world.output.unlink(missing_ok=True)
    done = world.run(timeout=60)
    assert done.returncode == 0, done.stderr
    said = {record["id"]: record["text"] for record in world.answered()}
    assert said == {name: f"echo: {text}" for name, text in world.prompts.items()}
    return done.stderr


if __name__ == "__main__":
    sys.exit(main("cache_damage", run))
