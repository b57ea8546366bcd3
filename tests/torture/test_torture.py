"""The runs about signals, clocks, damage and hostile answers in their small sizes."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.config.paths import find_folders
from llmctl.errors import ConfigError
from tests.torture import (
    cache_damage,
    cachekeys,
    cancelled,
    clocks,
    folders,
    ledger_damage,
    signals,
)
from tests.torture.judge import Size, UnableError

SMALL = Size()


def alone(name: str) -> str:
    """The line of a run in a process of its own: a program's peak memory is, to the system, at
    least that of the process that started it."""
    command = [sys.executable, "-m", f"tests.torture.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_signals() -> None:
    """Told once, what is in flight drains; told twice, the program is out; nothing is lost."""
    assert "SIGINT and SIGTERM" in signals.run(SMALL)


def test_a_clock_that_jumps() -> None:
    """A clock set ahead and back moves no deadline; a day's budget is a day in UTC."""
    assert "all answered" in clocks.run(SMALL)


def test_damaged_caches() -> None:
    """Bits flipped or an end missing: set aside, and every row answered."""
    assert "every row answered rightly" in cache_damage.run(SMALL)


def test_damaged_ledgers() -> None:
    """Bits flipped or an end missing: no paid call, with a way out that works, or no harm."""
    assert "before the first paid call" in ledger_damage.run(SMALL)


def test_folders_that_cannot_be_written() -> None:
    """One sentence, exit 74, and nothing sent; a cache alone is a warning."""
    try:
        assert "exit 74" in folders.run(SMALL)
    except UnableError as reason:
        pytest.skip(str(reason))


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither HOME nor the system knows a home, the error names what to set, exit 2."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    with pytest.raises(ConfigError, match="set HOME") as caught:
        find_folders({"PATH": os.defpath}, Path("/"))
    assert caught.value.exit_code == 2


def test_cancelled_calls() -> None:
    """Hundreds of calls cancelled at random leave no slot, connection, hold or claim behind."""
    assert "0 slots" in cancelled.run(SMALL)


def test_bombs_and_mad_waits() -> None:
    """A gigabyte in a compressed answer ends at 64 MiB, a mad wait at 120 s."""
    assert "64 MiB" in alone("hostile")


def test_memory() -> None:
    """It does not grow with the rows."""
    assert "fresh" in alone("memory")


def test_what_is_a_miss() -> None:
    """Whatever is changed, the question is asked anew; no answer but a whole one is kept."""
    assert "each a miss" in cachekeys.run(SMALL)
