"""A key from another program: no shell, ten seconds, stdout only, and nothing said too much."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from llmctl import redact
from llmctl.errors import NoKeyError
from llmctl.keys import command as commands
from llmctl.keys.command import CommandSource
from llmctl.keys.key import KeySlot

ENVIRON = {"PATH": os.environ["PATH"]}


def key_from(
    command: tuple[str, ...], environ: Mapping[str, str] = ENVIRON, hidden: Collection[str] = ()
) -> str:
    """The key of a command, in a loop of its own."""
    slot = KeySlot("any", "https://any:443")
    return asyncio.run(CommandSource(command, environ, hidden).find(slot)).value


def python(code: str) -> tuple[str, ...]:
    """A command that runs this code."""
    return (sys.executable, "-c", code)


def runs(pid: Path) -> bool:
    """Whether the process of this file is alive, not merely waiting to be buried."""
    try:
        state = Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("printed", ["sk-1\n", "sk-1\r\n", "sk-1"])
def test_stdout_without_its_line_end(printed: str) -> None:
    """One trailing newline is cut; what is on stderr is not the key."""
    code = f"import sys; sys.stderr.write('x ' * 9_999); sys.stdout.write({printed!r})"
    assert key_from(python(code)) == "sk-1"


def test_no_shell(tmp_path: Path) -> None:
    """Nothing in the command is expanded or run by a shell."""
    words = ("printf", "%s", f"$HOME `id`; touch {tmp_path}/made | cat")
    assert key_from(words) == words[2]
    assert not (tmp_path / "made").exists()


def test_ten_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command that takes longer than 10 s is ended with all it started."""
    assert commands.LIMIT == 10.0
    monkeypatch.setattr(commands, "LIMIT", 0.5)
    pid = tmp_path / "pid"
    with pytest.raises(NoKeyError, match=r"took longer than 0\.5 s") as caught:
        key_from(("sh", "-c", f"sleep 600 & printf $! > {pid}; wait"))
    assert caught.value.exit_code == 4
    until = time.monotonic() + 10
    while runs(pid) and time.monotonic() < until:
        os.sched_yield()
    assert not runs(pid)


def test_failure_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails is exit 4, with the end of what it said on stderr but nothing like a
    key."""
    # Keys of other tests in this process, one of which ends as this one does, are not known here.
    monkeypatch.setattr(redact, "_KNOWN", set())
    code = (
        "import sys; print('sk-half-Printed1'); sys.exit('x ' * 9_999 + 'no item for "
        "sk-test-canary-4711 or sk-half-Printed1\\x1b[31m in the vault')"
    )
    with pytest.raises(NoKeyError, match=r"failed \(exit 1\): ") as caught:
        key_from(python(code))
    assert caught.value.message.endswith("x no item for [key] or [key] in the vault")
    assert len(caught.value.message) < 500
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("/nowhere/op", "read"), "cannot be started: No such file"),
        (("true",), "printed is empty; it must print the key alone"),
        (("printf", "two\nlines\n"), "line break"),
        (("sh", "-c", "kill -9 $$"), "signal 9"),
        (("a\0b",), "cannot be started"),
        (("cat", "/dev/zero"), "printed more than 64 KiB; it must print the key alone"),
    ],
)
def test_other_failures(words: tuple[str, ...], message: str) -> None:
    """What cannot be run, or prints nothing, no key, or without end (case 70), is a sentence, at
    once."""
    began = time.monotonic()
    with pytest.raises(NoKeyError, match=message):
        key_from(words)
    assert time.monotonic() - began < commands.LIMIT / 2


def test_other_keys_stay_here() -> None:
    """The command sees the environment without the variables that hold other keys."""
    environ = {**ENVIRON, "OPENAI_API_KEY": "sk-other", "OP_SESSION": "needed"}
    words = ("sh", "-c", "echo ${OPENAI_API_KEY-unset} $OP_SESSION")
    assert key_from(words, environ, ("OPENAI_API_KEY",)) == "unset needed"
