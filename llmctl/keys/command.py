"""A key that another program prints: `key: {command: …}` in a profile."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress

from llmctl.errors import NoKeyError
from llmctl.redact import printable, redact, redact_possible_keys

LIMIT = 10.0
"""Seconds: a password manager may have to ask its server, not a person."""

MOST = 64 * 1024
"""Bytes of stdout that are read, and of stderr that are kept."""

_SHOWN = 300
_PARTING = 1.0
"""Seconds that a killed command may take to be gone."""


async def key_from(
    command: tuple[str, ...], environ: Mapping[str, str], secrets: Collection[str] = ()
) -> str:
    """The key that a program prints on stdout, without its line end.

    No shell is involved. The program gets no stdin, and the environment without the variables in
    `secrets`, which hold other keys. Raises `NoKeyError`, with the program's redacted stderr,
    when it fails, prints nothing or more than 64 KiB, or takes longer than 10 s. It is then
    killed with all it started.
    """
    program = command[0]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in environ.items() if name not in secrets},
            start_new_session=sys.platform != "win32",
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "the name is not valid"
        raise NoKeyError(
            f"the key's command {program} cannot be started: {why}; check `key.command`"
        ) from None
    assert process.stdout
    assert process.stderr
    stderr = asyncio.create_task(_tail(process.stderr))
    done = False
    try:
        async with asyncio.timeout(LIMIT):
            stdout = await _head(process.stdout, program)
            said = await stderr
            code = await process.wait()
        done = True
    except TimeoutError:
        raise NoKeyError(
            f"the key's command {program} took longer than {LIMIT:g} s and was ended; "
            "run it by hand to see what it waits for"
        ) from None
    finally:
        stderr.cancel()
        if not done:
            await _kill(process)
    text = stdout.decode("utf-8", "replace")
    value = text.removesuffix("\n").removesuffix("\r")
    if code:
        status = f"signal {-code}" if code < 0 else f"exit {code}"
        why = _last_words(said, value) or "run it by hand to see why"
        joint = ":" if said.strip() else ";"
        raise NoKeyError(f"the key's command {program} failed ({status}){joint} {why}")
    if not value:
        raise NoKeyError(f"the key's command {program} printed nothing; run it by hand to see why")
    return value


async def _head(stream: asyncio.StreamReader, program: str) -> bytes:
    """The whole stream. Raises `NoKeyError` when that is more than a key can be."""
    data = b""
    while piece := await stream.read(MOST):
        data += piece
        if len(data) > MOST:
            raise NoKeyError(
                f"the key's command {program} printed more than {MOST >> 10} KiB; "
                "it must print the key alone"
            )
    return data


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The end of what the stream brings, at most `MOST` bytes."""
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


def _last_words(stderr: bytes, value: str) -> str:
    """The end of the stderr on one line, without anything that could be a key."""
    text = redact(stderr.decode("utf-8", "replace"), value)
    return printable(" ".join(redact_possible_keys(text).split()))[-_SHOWN:]
