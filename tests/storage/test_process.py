"""A process is more than its number."""

from __future__ import annotations

import os
import subprocess
import sys

from msgspec.structs import replace

from llmctl.storage import process
from llmctl.storage.process import Process


def test_the_process_that_asks_is_alive() -> None:
    """It knows its own number, and asking again gives the same process."""
    me = Process.current()
    assert me.pid == os.getpid()
    assert me.is_dead() is False
    assert Process.current() == me


def test_a_number_used_again_is_another_process() -> None:
    """The same number with another birth, or of another boot, belongs to a dead process."""
    me = Process.current()
    assert replace(me, birth="1").is_dead() is True
    assert replace(me, world="another-boot pid:[1]").is_dead() is True


def test_a_process_of_another_container_is_out_of_sight() -> None:
    """In the same boot but another namespace nothing can be said about a number."""
    me = Process.current()
    boot = me.world.partition(" ")[0]
    assert replace(me, world=f"{boot} pid:[1]").is_dead() is None


def test_a_zombie_is_dead() -> None:
    """A process that has ended counts as dead although its parent has not taken note."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        born = process.birth(child.pid)
        assert born is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.birth(child.pid) is None


def test_where_there_is_no_proc_ps_knows() -> None:
    """`ps` tells one start from another, and a missing process from a living one."""
    born = process._birth_from_ps(os.getpid())
    assert born
    assert process._birth_from_ps(os.getpid()) == born
    assert process._birth_from_ps(2**22 + 1) is None
