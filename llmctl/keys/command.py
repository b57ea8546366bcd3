"""A key that another program gives: `key: {command: …}`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping

from llmctl.errors import NoKeyError
from llmctl.redact import redact, suspicious

LIMIT = 10.0
"""Seconds: a password manager may have to ask its server, not a person."""

_MOST = 64 * 1024
_SHOWN = 300


def key_from(
    command: tuple[str, ...], environ: Mapping[str, str], secrets: Collection[str] = ()
) -> str:
    """What the program prints on stdout, without its line end. No shell reads the command.

    The program gets nothing on stdin and the environment without the variables in `secrets`:
    they hold other keys. Raises `NoKeyError` with its stderr, redacted, when it fails, says
    nothing, or takes longer than 10 s; it is then ended with all it started.
    """
    program = command[0]
    env = {name: value for name, value in environ.items() if name not in secrets}
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, as it is written
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=sys.platform != "win32",
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "the name is not valid"
        raise NoKeyError(
            f"the key's command {program} cannot be started: {why}; check `key.command`"
        ) from None
    with process:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            _end(process)
            raise NoKeyError(
                f"the key's command {program} took longer than {LIMIT:g} s and was ended; "
                "run it by hand to see what it waits for"
            ) from None
    text = out[:_MOST].decode("utf-8", "replace")
    value = text.removesuffix("\n").removesuffix("\r")
    if process.returncode:
        said = _said(err, value)
        raise NoKeyError(
            f"the key's command {program} failed ({_status(process.returncode)})"
            + (f": {said}" if said else "; run it by hand to see why")
        )
    if not value:
        raise NoKeyError(f"the key's command {program} printed nothing; run it by hand to see why")
    return value


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and what it started; what still holds its pipes is not waited for."""
    try:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _said(err: bytes, value: str) -> str:
    """The end of its stderr on one line, without what could be a key: which one it may have
    repeated, a program that failed has not told."""
    text = redact(err[-_MOST:].decode("utf-8", "replace"), value)
    words = " ".join(suspicious(text).split())
    return "".join(c for c in words if c.isprintable())[-_SHOWN:]
