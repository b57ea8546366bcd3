"""T24: streams that are closed, full, or left by their reader.

`ask`, and `batch` into a file and onto stdout, with each of `<&-`, `>&-`, `2>&-`, `> /dev/full`,
`2> /dev/full`, `| head -1`: the exit code says whether the answers arrived, 74 where they would go
nowhere comes before anything is sent, no command ends in a traceback, and what was paid for is in
the ledger and the cache: the batch that follows bills no row twice but those in flight at a full
disk.
"""

from __future__ import annotations

import shlex
import subprocess

from tests.conftest import LLMCTL
from tests.torture.judge import Arena, Size, arena

CLOSED = {"<&-": 0, ">&-": 74, "2>&-": 0, ">/dev/full": 74, "2>/dev/full": 0, "| head -1": 141}
"""What a shell does to the streams, and the exit code of a command whose stdout is its result."""

UNSENT = {"ask": {">&-"}, "rows": {">&-", "2>&-"}}
"""Those in which nothing may be sent; rows that fail go to stderr."""

OTHERS = (
    "--help", "--version", "cache stats", "cost prices", "cost report", "history list", "keys list",
    "local status", "profiles list", "profiles show",
)  # fmt: skip


def run(size: Size) -> str:
    """All of them; one line."""
    rows = size.of(100, 5_000)
    for words, code in CLOSED.items():
        with arena(rows) as world:
            found = _shell(world, f"{LLMCTL} ask hello", words)
            # One answer fits the pipe: its reader was there as it was written.
            assert found == (0 if code == 141 else code), ("ask", words, found)
            _sent(world, 0 if words in UNSENT["ask"] else 1)
            sent = world.sim.record.requests
            found = _shell(world, f"{LLMCTL} batch {world.input} -o -", words)
            expected = 74 if words in UNSENT["rows"] else code
            assert found == expected, ("batch -o -", words, found)
            if words in UNSENT["rows"]:
                _sent(world, sent)
            found = _shell(world, shlex.join(world.batch), words)
            assert found == 0, ("batch", words, found)
            verdict = world.judge()
            assert verdict.answered == rows
            in_flight = world.concurrency if words == ">/dev/full" else 0  # as it was met
            assert verdict.rebilled <= in_flight, (words, verdict)
            # tests/cli/test_streams.py has every command at a full disk and without a reader.
            held = words in {">/dev/full", "| head -1"}
            for command in OTHERS if size.full else () if held else OTHERS[::3]:
                found = _shell(world, f"{LLMCTL} {command}", words)
                assert found in {0, code}, (command, words, found)
    return (
        f"T24 closed streams: {len(CLOSED)} ways on ask, on batch and on others: exit codes as "
        f"documented, no traceback, then {rows:,} rows are answered, none is lost"
    )


def _shell(world: Arena, command: str, words: str) -> int:
    """Run the command by way of bash; its own exit code."""
    said = world.folder / "stderr"
    line = command if "2>" in words else f"{command} 2>{said}"
    done = subprocess.run(
        ["bash", "-c", f"{line} {words}; exit ${{PIPESTATUS[0]}}"], env=world.environ,
        cwd=world.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    text = done.stderr.decode() + (said.read_text() if said.exists() else "")
    for word in ("Traceback", "a mistake in", "Exception ignored"):
        assert word not in text, (command, words, text)
    return done.returncode


def _sent(world: Arena, count: int) -> None:
    assert world.sim.record.requests == count, (world.sim.record.requests, count)
