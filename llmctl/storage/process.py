"""Process identity beyond the process id, which systems use again."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import Self

import psutil
from msgspec import Struct

_PROC = Path("/proc")

SILENCE = 60.0
"""Seconds without a sign of life after which a process in another container counts as dead."""


class Process(Struct, frozen=True):
    """A process of this machine: its id, when it started, and the boot and process namespace in
    which the id means something (`world`). What works for it elsewhere is a `part` of it, named
    after a slash in `birth`, which lives no longer than it does."""

    pid: int
    birth: str
    world: str

    @classmethod
    def current(cls) -> Self:
        """The process that asks."""
        return cls(os.getpid(), start_time(os.getpid()) or "", world())

    def part(self, name: str) -> Process:
        """What works for the process elsewhere, under this name."""
        return Process(self.pid, f"{self.birth}/{name}", self.world)

    def is_dead(self, *, out_of_sight: bool) -> bool:
        """True when the process has ended; `out_of_sight` where it cannot be seen: in another
        container, on another host, or before the machine was started again."""
        boot, _, namespace = self.world.partition(" ")
        own_boot, _, own_namespace = world().partition(" ")
        if namespace != own_namespace or (sys.platform == "linux" and boot != own_boot):
            return out_of_sight
        return start_time(self.pid) != self.birth.partition("/")[0]


@functools.cache
def world() -> str:
    """The boot id and the process namespace (Linux only), separated by a space."""
    with contextlib.suppress(OSError):
        return f"{boot_id()} {(_PROC / 'self/ns/pid').readlink()}"
    return f"{boot_id()} "


@functools.cache
def boot_id() -> str:
    """An id of the machine's current boot: the kernel's own, elsewhere the boot time in seconds."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def start_time(pid: int) -> str | None:
    """When the process started, in hundredths of a second since the boot; None when there is no
    such process, or only its remains (a zombie)."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both come from the system clock: their difference does not change when that is set.
        return str(round((process.create_time() - psutil.boot_time()) * 100))
    except psutil.Error:
        return None


_OTHER_FILES = 64  # descriptors for what is open beside connections: databases, names looked up


def possible_calls(wanted: int, each: int) -> int:
    """How many of the `wanted` calls at a time the system lets this process open connections for,
    where a call may go to `each` profiles; at least one."""
    free = _free_descriptors(wanted * each + _OTHER_FILES) - _OTHER_FILES
    return max(1, min(wanted, free // each))


def _free_descriptors(wanted: int) -> int:
    """How many files and connections this process can still open. The soft limit is raised as far
    as `wanted` more need and the hard one allows."""
    if sys.platform == "win32":
        return wanted
    import resource

    used = psutil.Process().num_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < used + wanted:
        most = used + wanted if hard == resource.RLIM_INFINITY else min(hard, used + wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else soft - used
