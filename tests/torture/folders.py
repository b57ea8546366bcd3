"""T17: folders that cannot be written, no home.

Where the answers, the ledger or the home should be and cannot, `batch` and `ask` say so before the
first paid call; a cache that cannot be written is a warning. For root the rights of folders mean
nothing until it gives up those to override them, which the command then does for itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import LLMCTL
from tests.torture.judge import Arena, Size, UnableError, arena

_PR_CAPBSET_DROP = 24  # prctl(2)
_OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capability.h


def _shut(folder: Path) -> Path:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    return folder


def _state_is_read_only(world: Arena) -> dict[str, str]:
    _shut(world.state)
    return world.environ


def _state_cannot_be_made(world: Arena) -> dict[str, str]:
    world.state = _shut(world.folder / "shut") / "state"
    return world.environ


def _no_home(world: Arena) -> dict[str, str]:
    environ = world.environ
    for name in ("LLMCTL_STATE_DIR", "LLMCTL_CACHE_DIR"):
        del environ[name]
    config = world.home / ".config/llmctl"
    home = _shut(world.folder / "nobody") / "home"
    return {**environ, "HOME": str(home), "LLMCTL_CONFIG_DIR": str(config)}


def _output_is_read_only(world: Arena) -> dict[str, str]:
    world.output = _shut(world.folder / "answers") / "out.jsonl"
    return world.environ


REFUSED = (_state_is_read_only, _state_cannot_be_made, _no_home, _output_is_read_only)


def run(size: Size) -> str:  # noqa: ARG001  (one size)
    """All of them; one line."""
    for case in REFUSED:
        refused(case)
    with arena(5) as world:
        _shut(world.cache)
        done = world.run(preexec_fn=powerless(), timeout=30)
        assert done.returncode == 0, done.stderr
        assert "answers are not cached on disk in this run" in done.stderr
        assert world.judge().answered == 5
        assert list(world.cache.iterdir()) == []
    return (
        f"T17 folders: {len(REFUSED)} that cannot be written, each with one sentence and exit 74 "
        "before the first paid call of batch and ask; a read-only cache is a warning"
    )


def refused(case: Callable[[Arena], dict[str, str]]) -> None:
    """Neither command sends anything; both say what is wrong and leave with 74."""
    with arena(5) as world:
        environ = case(world)
        commands = [world.batch]
        if case is not _output_is_read_only:
            commands.append([str(LLMCTL), "ask", "x"])
        for command in commands:
            done = world.run(command, env=environ, preexec_fn=powerless(), timeout=30)
            assert done.returncode == 74, (case.__name__, command, done.returncode, done.stderr)
            assert done.stdout == ""
            assert done.stderr.startswith("error: "), done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert world.sim.record.requests == 0
        assert not world.answered()


def powerless() -> Callable[[], None]:
    """What a child calls before it becomes the command: root without power over folders.

    Raises `UnableError` where root cannot give that up.
    """
    if os.geteuid() != 0:
        return lambda: None
    if sys.platform != "linux":
        raise UnableError("root may write everywhere here")
    libc = ctypes.CDLL(None, use_errno=True)

    def drop() -> None:
        for capability in _OVERRIDES:
            if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")

    return drop
