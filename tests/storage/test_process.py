"""A process is more than its number."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
from msgspec.structs import replace

from llmctl.storage import process
from llmctl.storage.process import Process


def test_the_process_that_asks_is_alive() -> None:
    """It knows its own number, and asking again gives the same process."""
    me = Process.current()
    assert me.pid == os.getpid()
    assert not me.is_dead(out_of_sight=True)
    assert Process.current() == me


def test_a_number_used_again_is_another_process() -> None:
    """The same number with another birth belongs to a dead process."""
    assert replace(Process.current(), birth="1").is_dead(out_of_sight=False)


@pytest.mark.parametrize("part", [0, 1])
def test_a_process_of_another_container_or_host_is_out_of_sight(part: int) -> None:
    """In another namespace or boot nothing can be said about a number (case 53)."""
    me = Process.current()
    world = me.world.split(" ")
    world[part] = "another"
    elsewhere = replace(me, world=" ".join(world))
    assert [elsewhere.is_dead(out_of_sight=said) for said in (True, False)] == [True, False]


def test_a_zombie_is_dead() -> None:
    """A process that has ended counts as dead although its parent has not taken note."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        born = process.start_time(child.pid)
        assert born is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.start_time(child.pid) is None


def test_a_clock_that_was_set_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start and boot both move with the system's clock; what counts is the time between them."""
    me = Process.current()
    boot = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 86400)
    monkeypatch.setattr("psutil._psplatform.boot_time", lambda: boot + 86400)
    assert not me.is_dead(out_of_sight=True)
