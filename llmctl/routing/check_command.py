"""A check that is a program of the user's: an answer on stdin, and its exit code is the verdict."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence

from llmctl.errors import SetupError
from llmctl.shutdown import kill_group

LIMIT = 10.0  # seconds that the program may take
_AT_ONCE = max(2, os.cpu_count() or 1)  # programs that run at a time
_ENVIRON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")  # no keys


class CheckCommand:
    """The program; it sees no variable that may hold a key. Raises `SetupError` where there is no
    such program."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self._command = tuple(command)
        self._environ = {name: environ[name] for name in _ENVIRON if name in environ}
        self._turn = asyncio.Semaphore(_AT_ONCE)
        if shutil.which(command[0], path=environ.get("PATH")) is None:
            raise SetupError(
                f"there is no program {command[0]}, which checks answers: install it, or correct "
                "the `command` of the check"
            )

    async def passes(self, text: str) -> bool:
        """Whether it ends with 0 in time. It is killed with all it started otherwise."""
        async with self._turn:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=self._environ,
                    start_new_session=True,
                )
            except (OSError, ValueError):
                return False
            try:
                async with asyncio.timeout(LIMIT):
                    await process.communicate(text.encode("utf-8", "replace"))
            except TimeoutError:
                return False
            finally:
                if process.returncode is None:
                    kill_group(process)
                    await process.wait()
            return process.returncode == 0
