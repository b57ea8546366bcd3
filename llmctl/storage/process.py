"""Which process is which, beyond its number: numbers are used again."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Self

from msgspec import Struct

_PROC = Path("/proc")


class Process(Struct, frozen=True):
    """A process of this machine. `birth` is when it started, in the system's own words;
    `world` names the boot and the process namespace in which `pid` means something."""

    pid: int
    birth: str
    world: str

    @classmethod
    def current(cls) -> Self:
        """The process that asks."""
        pid = os.getpid()
        return cls(pid, birth(pid) or "", world())

    def is_dead(self) -> bool | None:
        """True when it has ended, False while it runs; None when this process cannot see it
        (it ran in another container)."""
        boot, _, namespace = self.world.partition(" ")
        own_boot, _, own_namespace = world().partition(" ")
        if boot != own_boot:
            return True
        if namespace != own_namespace:
            return None
        return birth(self.pid) != self.birth


@functools.cache
def world() -> str:
    """The boot and the process namespace, as far as the system names them."""
    return f"{_text('sys/kernel/random/boot_id')} {_link('self/ns/pid')}"


def birth(pid: int) -> str | None:
    """When the process started; None when there is none, or only its remains (a zombie)."""
    if not (_PROC / "self" / "stat").exists():
        return _birth_from_ps(pid)
    try:
        # "pid (name) state …": the name may hold spaces and parentheses itself.
        state, *rest = (_PROC / str(pid) / "stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError:
        return None
    # The start time is field 22 (proc_pid_stat(5)), in clock ticks since the boot.
    return None if state in "ZX" else rest[18]


def _birth_from_ps(pid: int) -> str | None:
    """The same where there is no /proc (macOS), to the second."""
    done = subprocess.run(  # noqa: S603 - a number is the only argument
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)],  # noqa: S607 - POSIX leaves its place open
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
        text=True,
    )
    state, _, start = done.stdout.strip().partition(" ")
    return None if not start or state.startswith("Z") else start.strip()


def _text(name: str) -> str:
    try:
        return (_PROC / name).read_text().strip()
    except OSError:
        return ""


def _link(name: str) -> str:
    try:
        return str((_PROC / name).readlink())
    except OSError:
        return ""
