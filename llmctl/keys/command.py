"""A key that another program prints: `key: {command: …}` in a profile."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress

from msgspec import Struct

from llmctl.errors import NoKeyError
from llmctl.keys.key import Key, KeySlot, usable
from llmctl.redact import printable, redact, redact_possible_keys
from llmctl.shutdown import kill_group

LIMIT = 10.0  # seconds: a password manager may have to ask its server, not a person

_ALONE = "it must print the key alone"
_MOST = 64 * 1024  # bytes of stdout, and of stderr
_SHOWN = 300  # characters of stderr
_PARTING = 1.0  # seconds that a killed command may take to be gone


class CommandSource(Struct, frozen=True):
    """A program that prints the key; it does not see the variables in `hidden`."""

    command: tuple[str, ...]
    environ: Mapping[str, str]
    hidden: Collection[str] = ()

    async def find(self, _: KeySlot, *, reserve: bool = False) -> Key:  # noqa: ARG002
        """What the program prints on stdout, whatever the slot is; see `output_of`."""
        seen = {name: self.environ[name] for name in {*self.environ} - {*self.hidden}}
        named = f"the key's command {self.command[0]}"
        value = await output_of(self.command, seen, named, "check `key.command`")
        return Key(usable(value, f"what {named} printed", _ALONE), "command")


async def output_of(
    command: tuple[str, ...],
    environ: Mapping[str, str],
    named: str,
    check: str,
    *,
    stdin: bytes | None = None,
    mend: str = _ALONE,
) -> str:
    """What a program prints on stdout, without its line end. Messages call it `named`, and where it
    cannot be started tell people to `check` something, where it prints too much to `mend` that.

    No shell is involved, and the program gets no stdin but what is given here. Raises `NoKeyError`,
    with the program's redacted stderr, when it fails, prints more than 64 KiB, or takes longer than
    10 s. It is then killed with all it started.
    """
    by_hand = "run it by hand to see why"
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise NoKeyError(f"{named} cannot be started: {why}; {check}") from None
    assert process.stdout
    assert process.stderr
    code: int | None = None
    try:
        async with asyncio.timeout(LIMIT):
            streams = (process.stdout, process.stderr)
            reading = asyncio.gather(*(_read(process, each) for each in streams))
            (printed, said), _ = await asyncio.gather(reading, _write(process, stdin))
            code = await process.wait()
    except TimeoutError:
        raise NoKeyError(f"{named} took longer than {LIMIT:g} s; {by_hand}") from None
    finally:
        if code is None:
            kill_group(process)
            with suppress(TimeoutError):  # what left the group may still hold the pipes
                await asyncio.wait_for(process.communicate(), _PARTING)
    if max(len(printed), len(said)) > _MOST:
        raise NoKeyError(f"{named} printed more than {_MOST >> 10} KiB; {mend}")
    value = printed.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    if code:
        words = redact_possible_keys(redact(said.decode("utf-8", "replace"), value)).split()
        why = printable(" ".join(words))[-_SHOWN:] or by_hand
        status = f"signal {-code}" if code < 0 else f"exit {code}"
        raise NoKeyError(f"{named} failed ({status}): {why}")
    return value


async def _read(process: asyncio.subprocess.Process, stream: asyncio.StreamReader) -> bytes:
    """All of a stream; the process is killed as soon as that is too much."""
    data = b""
    while piece := await stream.read(_MOST):
        data += piece
        if len(data) > _MOST:
            kill_group(process)
    return data


async def _write(process: asyncio.subprocess.Process, data: bytes | None) -> None:
    """Give the program its stdin, as much of it as it wants."""
    if process.stdin is not None:
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(data or b"")
            await process.stdin.drain()
        process.stdin.close()
