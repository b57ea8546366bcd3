"""T17: folders that cannot be written, no home: `python -m tests.torture.folders`.

Where the answers, the ledger or the home should be and cannot, `batch` and `ask` say so before the
first paid call; a cache that cannot be written is a warning. For root the rights of folders mean
nothing until it gives up those to override them, which the command then does for itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

from tests.conftest import LLMCTL
from tests.torture.judge import Arena, Size, UnableError, arena, main

_PR_CAPBSET_DROP = 24  # prctl(2)
_OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: capability.h


def state(world: Arena) -> dict[str, str]:
    """The state folder exists and is read-only."""
    world.state.mkdir(parents=True)
    world.state.chmod(0o500)
    return world.environ


def state_parent(world: Arena) -> dict[str, str]:
    """The state folder is missing, and cannot be made."""
    shut = world.folder / "shut"
    shut.mkdir()
    shut.chmod(0o500)
    world.state = shut / "state"
    return world.environ


def no_home(world: Arena) -> dict[str, str]:
    """There is no HOME, nor a home that may be written."""
    environ = {name: value for name, value in world.environ.items() if name != "HOME"}
    for name in ("LLMCTL_STATE_DIR", "LLMCTL_CACHE_DIR"):
        environ.pop(name)
    shut = world.folder / "nobody"
    shut.mkdir()
    shut.chmod(0o500)
    config = world.home / ".config/llmctl"
    return {**environ, "HOME": str(shut / "home"), "LLMCTL_CONFIG_DIR": str(config)}


def output(world: Arena) -> dict[str, str]:
    """The folder of the output is read-only."""
    shut = world.folder / "answers"
    shut.mkdir()
    shut.chmod(0o500)
    world.output = shut / "out.jsonl"
    return world.environ


def is_a_file(world: Arena) -> dict[str, str]:
    """The state folder is a file."""
    world.state.parent.mkdir(parents=True)
    world.state.write_text("not a folder")
    return world.environ


REFUSED: tuple[Callable[[Arena], dict[str, str]], ...] = (
    state,
    state_parent,
    no_home,
    output,
    is_a_file,
)


def run(size: Size) -> str:  # noqa: ARG001  (one size)
    """All of them; one line."""
    for case in REFUSED:
        refused(case)
    cache()
    return (
        f"T17 folders: {len(REFUSED)} that cannot be written, each with one sentence and exit 74 "
        "before the first paid call of batch and ask; a read-only cache is a warning"
    )


def refused(case: Callable[[Arena], dict[str, str]]) -> None:
    """Neither command sends anything; both say what is wrong and leave with 74."""
    with arena(5) as world:
        environ = case(world)
        commands = [world.batch]
        if case is not output:
            commands.append([str(LLMCTL), "ask", "x"])
        for command in commands:
            done = world.run(command, env=environ, preexec_fn=powerless(), timeout=30)
            assert done.returncode == 74, (case.__name__, command, done.returncode, done.stderr)
            assert done.stdout == ""
            assert done.stderr.startswith("error: "), done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert world.sim.record.requests == 0
        assert not world.answered()


def cache() -> None:
    """A cache folder that is read-only: a warning, and every row answered."""
    with arena(5) as world:
        world.cache.mkdir(parents=True)
        world.cache.chmod(0o500)
        done = world.run(preexec_fn=powerless(), timeout=30)
        assert done.returncode == 0, done.stderr
        assert "answers are not cached on disk in this run" in done.stderr
        assert world.judge().answered == 5
        assert list(world.cache.iterdir()) == []


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


if __name__ == "__main__":
    sys.exit(main("folders", run))
