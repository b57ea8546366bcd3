"""The judge sees what it is there for: whatever is tampered with, it says so."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storage.damage import sql
from tests.torture.judge import Arena, arena

ROWS = 6


@pytest.fixture(scope="module")
def world() -> Iterator[Arena]:
    """An arena whose batch has ended well."""
    with arena(ROWS) as made:
        assert made.run().returncode == 0
        yield made


@pytest.fixture
def whole(world: Arena) -> Iterator[Arena]:
    """The same; afterwards its files are as they were."""
    paths = (world.output, world.state / "ledger.db", world.cache / "cache.db")
    before = {path: path.read_bytes() for path in paths}
    yield world
    for path, data in before.items():
        path.write_bytes(data)
    world.errors.unlink(missing_ok=True)


def test_what_is_well(world: Arena) -> None:
    """A batch that ended well is billed and settled row by row."""
    verdict = world.judge()
    assert (verdict.answered, verdict.billed, verdict.settled) == (ROWS, ROWS, ROWS)
    assert (verdict.failed, verdict.rebilled, verdict.doubtful) == (0, 0, 0)


def _edit(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Arena], None]:
    def tamper(world: Arena) -> None:
        lines = world.output.read_bytes().splitlines(keepends=True)
        world.output.write_bytes(b"".join(change(lines)))

    return tamper


def _sql(statement: str) -> Callable[[Arena], None]:
    def tamper(world: Arena) -> None:
        sql(world.state / "ledger.db", statement)
        sql(world.state / "ledger.db", "PRAGMA wal_checkpoint(TRUNCATE)")

    return tamper


def _zeros(path: Callable[[Arena], Path]) -> Callable[[Arena], None]:
    def tamper(world: Arena) -> None:
        data = bytearray(path(world).read_bytes())
        data[4096 : 4096 + 2048] = bytes(2048)
        path(world).write_bytes(data)

    return tamper


_ONE = "(SELECT call_id FROM calls LIMIT 1)"
CASES: dict[str, tuple[Callable[[Arena], object], str | None]] = {
    "lost": (_edit(lambda lines: lines[1:]), "1 rows lost"),
    "twice": (_edit(lambda lines: [*lines, lines[0]]), "1 keys twice"),
    "both files": (lambda world: shutil.copy(world.output, world.errors), "6 keys twice"),
    "half a line": (_edit(lambda lines: [*lines[:-1], lines[-1][:-9]]), "half a line"),
    "garbage": (_edit(lambda lines: [*lines, b"{]\n"]), "does not parse"),
    "a stranger": (_edit(lambda lines: [*lines, b'{"id": "x"}\n']), "nobody asked for"),
    "another's answer": (
        _edit(lambda lines: [line.replace(b"say 1", b"say 2") for line in lines]),
        "not 'echo: say 1'",
    ),
    "not settled": (_sql(f"DELETE FROM calls WHERE call_id = {_ONE}"), "not seen"),
    "never billed": (
        _sql(f"UPDATE calls SET provider_request_id = 'x' WHERE call_id = {_ONE}"),
        "never billed",
    ),
    "settled twice": (
        _sql("UPDATE calls SET provider_request_id = (SELECT min(provider_request_id) FROM calls)"),
        "settled twice",
    ),
    "other tokens": (_sql("UPDATE calls SET input_tokens = 4"), "req_"),
    "other costs": (_sql("UPDATE calls SET cost_pico = cost_pico - 1"), "req_"),
    "too little in doubt": (
        _sql(f"UPDATE calls SET status = 'unknown', cost_pico = 1 WHERE call_id = {_ONE}"),
        "picodollars not seen",
    ),
    "an unsound ledger": (_zeros(lambda world: world.state / "ledger.db"), None),
    "an unsound cache": (_zeros(lambda world: world.cache / "cache.db"), None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_not(whole: Arena, name: str) -> None:
    """Rows lost, doubled or mixed up, and books that do not agree, are found."""
    tamper, told = CASES[name]
    tamper(whole)
    with pytest.raises((AssertionError, sqlite3.DatabaseError), match=told):
        whole.judge()
