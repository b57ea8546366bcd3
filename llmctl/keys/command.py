"""A key that another program prints: `key: {command: …}` in a profile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress

from msgspec import Struct

from llmctl.errors import NoKeyError
from llmctl.keys.key import Key, KeySlot, usable
from llmctl.redact import printable, redact, redact_possible_keys

LIMIT = 10.0
"""Seconds: a password manager may have to ask its server, not a person."""

MOST = 64 * 1024
"""Bytes of stdout that are read, and of stderr that are kept."""

_SHOWN = 300
_PARTING = 1.0
"""Seconds that a killed command may take to be gone."""


class CommandSource(Struct, frozen=True):
    """A program that prints the key; it does not see the variables in `hidden`."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    hidden: Collection[str] = ()

    async def find(self, _: KeySlot) -> Key:
        """What the program prints on stdout, without its line end, whatever the slot is.

        No shell is involved, and the program gets no stdin. Raises `NoKeyError`, with the
        program's redacted stderr, when it fails, prints nothing or more than 64 KiB, or takes
        longer than 10 s. It is then killed with all it started.
        """
        named = f"the key's command {self.command[0]}"
        by_hand = "run it by hand to see why"
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={name: self.environ[name] for name in {*self.environ} - {*self.hidden}},
                start_new_session=sys.platform != "win32",
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "the name is not valid"
            raise NoKeyError(f"{named} cannot be started: {why}; check `key.command`") from None
        code: int | None = None
        try:
            async with asyncio.timeout(LIMIT):
                stdout, stderr = await _output(process)
                if len(stdout) > MOST:
                    most = f"{MOST >> 10} KiB; it must print the key alone"
                    raise NoKeyError(f"{named} printed more than {most}")
                code = await process.wait()
        except TimeoutError:
            raise NoKeyError(f"{named} took longer than {LIMIT:g} s; {by_hand}") from None
        finally:
            if code is None:
                await _kill(process)
        value = stdout.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
        if code:
            said = redact(stderr.decode("utf-8", "replace"), value)
            why = printable(" ".join(redact_possible_keys(said).split()))[-_SHOWN:] or by_hand
            status = f"signal {-code}" if code < 0 else f"exit {code}"
            raise NoKeyError(f"{named} failed ({status}): {why}")
        printed = f"what {named} printed"
        return Key(usable(value, printed, "it must print the key alone"), "command")


async def _output(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """The whole of stdout, or a little more than `MOST` bytes of it, and the end of stderr."""
    assert process.stdout
    assert process.stderr
    stderr = asyncio.create_task(_tail(process.stderr))
    try:
        stdout = b""
        while piece := await process.stdout.read(MOST):
            stdout += piece
            if len(stdout) > MOST:
                return stdout, b""
        return stdout, await stderr
    finally:
        stderr.cancel()


async def _tail(stream: asyncio.StreamReader) -> bytes:
    data = b""
    while piece := await stream.read(MOST):
        data = (data + piece)[-MOST:]
    return data


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the command with what it started, and reap it."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # a process that left the group may still hold the pipes
        await asyncio.wait_for(process.wait(), _PARTING)
