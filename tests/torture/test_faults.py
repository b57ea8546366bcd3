"""The runs about processes, disks and providers that fail, in their small sizes."""

from __future__ import annotations

from tests.torture import disk, kill, refused, storm, two
from tests.torture.judge import Size

SMALL = Size()


def test_kill_9() -> None:
    """Killed at random moments, nothing is lost, and no more than was in flight is paid twice."""
    assert "0 lost" in kill.run(SMALL)


def test_a_disk_that_refuses() -> None:
    """A full or failing disk stops the run with 74; the same command completes it."""
    assert "exit 74" in disk.run(SMALL)


def test_a_storm() -> None:
    """Refusals, broken connections, garbage and dribble: every row is answered."""
    assert "rows answered" in storm.run(SMALL)


def test_a_refused_account() -> None:
    """After the first refusal no more arrives than was in flight."""
    assert "every row has its record" in refused.run(SMALL)


def test_two_processes() -> None:
    """One cache and ledger: each question is billed once. One output: the second leaves."""
    assert "billed once each" in two.run(SMALL)
