"""Streams of every command: a reader that goes, a full disk, control characters, slow stdin."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from llmctl.cli.app import program
from tests.cli.terminal import on_a_terminal
from tests.cli.test_terminal import obeyed
from tests.conftest import KEY, LLMCTL, Run, configure, ledger
from tests.simulator.server import Simulator

NASTY = "a\x1b]0;owned\x07\x1b[2J\x9b2J\u202eb"
WORDS = {
    "ask": ["hi"],
    "batch": ["in.jsonl", "-o", "-"],
    "cache prune": ["--all"],
    "history search": ["hi"],
    "serve": ["--host", "0.0.0.0"],  # it refuses, and ends
}
"""Arguments of commands that do nothing without, or do not end; others get `x` for each that they
require."""


SILENT = {
    "alerts test", "audit export", "audit prune", "compare", "cost check", "cost prune",
    "cost reconcile", "cost release", "history remove", "keys remove", "keys rotate", "keys set",
    "limits pull", "pii scan", "profiles init", "profiles trust", "prompt lint", "queue list",
    "queue remove", "queue run", "route eval", "route train", "serve", "tokens list",
    "tokens revoke", "tokens rotate",
}  # fmt: skip
"""Commands that print nothing on stdout where they are run like that."""

PRINTED = [
    ("ask", ""), ("batch", ""), ("profiles list", ""), ("cost report", "--json"), ("queue run", ""),
    ("ask", "--help"), ("cost report", "--help"),
]  # fmt: skip
"""One for each way in which something is printed, and one that prints nothing. Commands, and
commands of a group, have their help from one place."""


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    for name, below in getattr(command, "commands", {}).items():
        yield from _leaves(below, (*path, name))
    if not hasattr(command, "commands"):
        wanted = [p for p in command.params if p.param_type_name == "argument" and p.required]
        yield " ".join(path), WORDS.get(" ".join(path), ["x"] * len(wanted))


COMMANDS = dict(_leaves(typer.main.get_command(program())))


def _run(
    name: str, env: Mapping[str, str], cwd: Path, stdout: int | None = None, more: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with nothing on stdin; stdout is caught unless it is given."""
    (cwd / "in.jsonl").write_text('{"prompt": "x"}\n')
    for made in Path(env["HOME"], ".local/state/llmctl").glob("tokens.db*"):
        made.unlink()  # a name is given once
    return subprocess.run(
        [LLMCTL, *name.split(), *COMMANDS[name], *more.split()], env=env, cwd=cwd, timeout=60,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE, check=False,
    )  # fmt: skip


def _is_clean(said: bytes) -> bool:
    return not any(word in said for word in (b"Traceback", b"a mistake in", b"Exception ignored"))


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in whose name, answers, files and ledger are control characters."""
    home = tmp_path_factory.mktemp("nasty") / NASTY
    home.mkdir()
    with Simulator(reply=lambda _: NASTY) as sim:
        configure(home, sim.base_url, "{env: SIM_KEY}")
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "SIM_KEY": KEY}
        assert _run("ask", env, home, more=f"--tag {NASTY}=x").returncode == 0
        yield home


@pytest.fixture
def used(nasty: Path, tmp_path: Path, environ: dict[str, str]) -> dict[str, str]:
    """The environment with that home as it was."""
    home = tmp_path / NASTY
    shutil.copytree(nasty, home)
    return {**environ, "HOME": str(home), "SIM_KEY": KEY}


@pytest.mark.parametrize(
    ("name", "more"),
    [*((name, "") for name in COMMANDS if name not in SILENT), *PRINTED[-2:]],
)
def test_a_full_disk_behind_stdout_is_74(used: dict[str, str], name: str, more: str) -> None:
    """Case 63: for whatever a command prints, help too."""
    with Path("/dev/full").open("wb") as full:
        done = _run(name, used, Path(used["HOME"]), full.fileno(), more)
    assert _is_clean(done.stderr), done.stderr
    assert done.returncode == 74
    assert re.search(b"error: .*stdout", done.stderr)


@pytest.mark.parametrize(("name", "more"), PRINTED)
def test_a_reader_who_has_gone_is_silence(used: dict[str, str], name: str, more: str) -> None:
    """Case 63: it is no error, and changes nothing where nothing is printed."""
    reads, writes = os.pipe()
    os.close(reads)
    done = _run(name, used, Path(used["HOME"]), writes, more)
    os.close(writes)
    assert _is_clean(done.stderr), done.stderr
    assert done.returncode in {0, 141}
    assert b"error" not in done.stderr


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, "") for name in COMMANDS),
        *((name, "--json") for name in ("ask", "batch", "history show", "profiles show")),
        *((name, NASTY) for name in ("ask", "cost report")),
    ],
)
def test_control_characters_reach_no_terminal(used: dict[str, str], name: str, more: str) -> None:
    """Case 68: not from names of folders, from answers or from arguments (which are refused in one
    place); not as JSON either, which is printed in one place."""
    home = Path(used["HOME"])
    (home / "in.jsonl").write_text('{"prompt": "x\\u009b2J\u202e"}\n')
    words = (*name.split(), *COMMANDS[name], *([more] if more else []))
    _, shown, _ = on_a_terminal(used, home, *words, typed=b"\n", after=b"")
    assert shown
    assert _is_clean(shown), shown
    assert obeyed(shown) == []


@pytest.mark.parametrize("arguments", [("ask", "hi"), ("batch", "in.jsonl", "-o", "-")])
def test_a_closed_stdout_is_said_before_anything_is_sent(
    configured: dict[str, str], tmp_path: Path, sim: Simulator, arguments: tuple[str, ...]
) -> None:
    """Case 63's neighbour: `>&-`, where the answer would go nowhere; stderr may be closed, too."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    for closed in (">&-", ">&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'"$0" "$@" {closed}', LLMCTL, *arguments], env=configured, cwd=tmp_path,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 74
        assert (b"stdout is closed" in done.stderr) == ("2>" not in closed)
    assert sim.calls == []


def test_notes_that_cannot_be_written_change_nothing(
    configured: dict[str, str], tmp_path: Path
) -> None:
    """`ask -u 2> /dev/full` answers and exits 0."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [LLMCTL, "ask", "hi", "-u"], env=configured, cwd=tmp_path, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=full, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"echo: hi")


@pytest.mark.parametrize(
    ("arguments", "waits"),
    [
        (("ask", "hi"), b"reading the prompt from stdin"),
        (("batch", "-", "-o", "-"), b"reading the rows from stdin"),
        (("ask", "hi", "--no-stdin"), None),
    ],
)
def test_an_open_pipe_as_stdin_is_named(
    configured: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], waits: bytes | None
) -> None:
    """Case 40: after a second stderr says what is waited for; `--no-stdin` waits for nothing."""
    with subprocess.Popen(
        [LLMCTL, *arguments], env=configured, cwd=tmp_path, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if waits is None:
            assert process.wait(timeout=30) == 0
            return
        assert waits in process.stderr.readline()
        process.stdin.write(b'{"prompt": "x"}\n')
        process.stdin.close()
        assert b"x" in process.stdout.read()
        assert process.wait(timeout=30) == 0


def test_a_reader_who_goes_leaves_no_call_in_doubt(
    configured: dict[str, str], home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 63: `batch -o - | head -1` sends nothing more, lets what is in flight end, and is no
    success."""
    (tmp_path / "in.jsonl").write_text("".join(f'{{"prompt": "p{n}"}}\n' for n in range(400)))
    done = subprocess.run(
        ["bash", "-c", '"$0" batch in.jsonl -o - --concurrency 4 | head -1; exit ${PIPESTATUS[0]}',
         LLMCTL],
        env=configured, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 141
    assert _is_clean(done.stderr)
    assert len(sim.calls) < 400
    assert {row["uncertain"] for row in ledger(home)} == {0}


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", b"caf\xe9"), ("ask", "x", "--tag", b"a=\xe9"), ("cost", "release", b"\xe9"),
        ("batch", "."), ("batch", ""), ("batch", "in.jsonl", "-o", ""),
        ("ask", "x", "-a", "."), ("ask", "x", "--schema", "."),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_get_a_sentence(
    configured: dict[str, str], tmp_path: Path, arguments: tuple[str | bytes, ...]
) -> None:
    """Case 39: text that is not UTF-8, folders and nothing where a file is wanted: exit 2."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    done = subprocess.run(
        [LLMCTL, *arguments], env=configured, cwd=tmp_path, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")
    assert _is_clean(done.stderr)


def test_the_usage_line_is_dim_and_stands_alone(
    configured: dict[str, str], tmp_path: Path, run: Run
) -> None:
    """Case 44: also where the answer went through a pipe to the same terminal; into a file the
    answer ends with a line feed, into a pipe it does not."""
    code, shown, piped = on_a_terminal(configured, tmp_path, "ask", "q", streams=["stderr"])
    assert (code, piped) == (0, b"echo: q")
    assert shown.startswith(b"\n\x1b[2msim/gpt-5-mini")
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(
            [LLMCTL, "ask", "q"], env=configured, stdin=subprocess.DEVNULL, stdout=out, check=True
        )
    assert (tmp_path / "out").read_bytes() == b"echo: q\n"
    assert run("ask", "q", env=configured).stdout == "echo: q"
