"""A key from another program: no shell, ten seconds, stdout only, and nothing said too much."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from llmctl.errors import NoKeyError
from llmctl.keys import command as commands
from llmctl.keys.command import key_from as key_of

ENVIRON = {"PATH": os.environ["PATH"]}


def key_from(
    command: tuple[str, ...], environ: Mapping[str, str], secrets: Collection[str] = ()
) -> str:
    """The key of a command, in a loop of its own."""
    return asyncio.run(key_of(command, environ, secrets))


def python(code: str) -> tuple[str, ...]:
    """A command that runs this code."""
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("printed", "key"),
    [("sk-1\n", "sk-1"), ("sk-1\r\n", "sk-1"), ("sk-1", "sk-1"), ("sk-1\n\n", "sk-1\n")],
)
def test_stdout_without_its_line_end(printed: str, key: str) -> None:
    """One trailing newline is cut, nothing else; stderr is not the key."""
    code = f"import sys; sys.stderr.write('noise'); sys.stdout.write({printed!r})"
    assert key_from(python(code), ENVIRON) == key


def test_no_shell(tmp_path: Path) -> None:
    """Nothing in the command is expanded or run by a shell."""
    words = ("printf", "%s", f"$HOME `id`; touch {tmp_path}/made | cat")
    assert key_from(words, ENVIRON) == words[2]
    assert not (tmp_path / "made").exists()


def test_ten_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command that takes longer than 10 s is ended with all it started."""
    assert commands.LIMIT == 10.0
    monkeypatch.setattr(commands, "LIMIT", 0.5)
    pid = tmp_path / "pid"
    code = (
        "import subprocess, sys, pathlib; child = subprocess.Popen(['sleep', '600']); "
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid)); child.wait()"
    )
    with pytest.raises(NoKeyError, match=r"took longer than 0\.5 s") as caught:
        key_from(python(code), ENVIRON)
    assert caught.value.exit_code == 4
    until = time.monotonic() + 10
    while _runs(int(pid.read_text())) and time.monotonic() < until:
        os.sched_yield()
    assert not _runs(int(pid.read_text()))


def _runs(pid: int) -> bool:
    """Whether the process is alive, not merely waiting to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_failure_is_redacted() -> None:
    """A command that fails is exit 4, with what it said on stderr but nothing like a key."""
    code = (
        "import sys; print('sk-half-Printed1'); sys.exit('no item for sk-test-canary-4711 or "
        "sk-half-Printed1\\x1b[31m in the vault')"
    )
    with pytest.raises(NoKeyError) as caught:
        key_from(python(code), ENVIRON)
    said = caught.value.message
    assert said.endswith("failed (exit 1): no item for [key] or [key] in the vault")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("/nowhere/op", "read"), "cannot be started: No such file"),
        (("true",), "printed nothing"),
        (("sh", "-c", "kill -9 $$"), "signal 9"),
        (("a\0b",), "the name is not valid"),
    ],
)
def test_other_failures(words: tuple[str, ...], message: str) -> None:
    """What cannot be run or gives nothing is a sentence and exit 4."""
    with pytest.raises(NoKeyError, match=message):
        key_from(words, ENVIRON)


def test_other_keys_stay_here() -> None:
    """The command sees the environment without the variables that hold other keys."""
    environ = {**ENVIRON, "OPENAI_API_KEY": "sk-other", "OP_SESSION": "needed"}
    code = "import os; print(os.environ.get('OPENAI_API_KEY'), os.environ['OP_SESSION'])"
    assert key_from(python(code), environ, ("OPENAI_API_KEY",)) == "None needed"


@pytest.mark.parametrize("size", [64 * 1024 + 1, None])
def test_output_is_bounded(size: int | None) -> None:
    """A command that prints more than 64 KiB, or without end, is refused and ended at once."""
    words = ("head", "-c", str(size), "/dev/zero") if size else ("cat", "/dev/zero")
    began = time.monotonic()
    with pytest.raises(NoKeyError, match="printed more than 64 KiB; it must print the key alone"):
        key_from(words, ENVIRON)
    assert time.monotonic() - began < commands.LIMIT / 2


def test_stderr_is_bounded() -> None:
    """Of much stderr the end is shown, and it keeps the key from nobody."""
    code = "import sys; sys.stderr.write('x ' * 999_999 + 'the end'); print('sk-1')"
    assert key_from(python(code), ENVIRON) == "sk-1"
    with pytest.raises(NoKeyError, match=r"x x the end$") as caught:
        key_from(python(code + "; sys.exit(1)"), ENVIRON)
    assert len(caught.value.message) < 500


def test_cancelled(tmp_path: Path) -> None:
    """A lookup that is cancelled ends its command."""
    pid = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); "

    async def run() -> None:
        looking = asyncio.create_task(key_of(python(code + "time.sleep(600)"), ENVIRON))
        while not (pid.exists() and pid.read_text()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking

    asyncio.run(run())
    assert not _runs(int(pid.read_text()))
