"""The program as a whole: help, version, completion, and what they leave alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmctl
from llmctl.cli.program import COMMANDS as COMMANDS_BY_NAME
from llmctl.cli.program import program
from llmctl.errors import EXIT_CODES
from tests.conftest import Run

COMMANDS = [
    (),
    ("ask",),
    ("batch",),
    ("keys",),
    ("keys", "set"),
    ("keys", "rotate"),
    ("cost",),
    ("cost", "report"),
    ("cost", "check"),
    ("cache",),
    ("cache", "prune"),
    ("profiles",),
    ("profiles", "init"),
    ("models",),
    ("local",),
    ("local", "install"),
]
HEAVY = {
    "keyring",
    "sqlite3",
    "tiktoken",
    "genai_prices",
    "rich",
    "xllamacpp",
    "tenacity",
    "httpx2",
    "aiohttp",
    "uvloop",
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_everywhere(run: Run, command: tuple[str, ...]) -> None:
    """`-h` and `--help` say the same, with every command, on stdout, and end with 0."""
    short, long = run(*command, "-h"), run(*command, "--help")
    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert short.stdout.startswith("Usage: llmctl")


def test_help_prints_the_exit_codes(run: Run) -> None:
    """The table of exit codes stands in `--help`."""
    said = run("--help").stdout
    for code, meaning in EXIT_CODES:
        assert f"{code:<10}{meaning}" in said


@pytest.mark.parametrize("flags", [("--version",), ("--version", "ask")])
def test_version(run: Run, flags: tuple[str, ...]) -> None:
    """`--version` names the version and ends."""
    assert run(*flags).stdout == f"llmctl {llmctl.__version__}\n"


def test_help_and_version_leave_no_trace(run: Run, home: Path) -> None:
    """Asking for help or the version creates no file."""
    for arguments in (("--help",), ("ask", "--help"), ("--version",)):
        run(*arguments)
    assert list(home.iterdir()) == []


def test_help_loads_nothing_heavy(environ: dict[str, str], tmp_path: Path) -> None:
    """Building every command's help imports no HTTP client, keyring, database or vocabulary."""
    code = (
        "import sys\nfrom llmctl.cli.program import COMMANDS, program\n"
        "for name in COMMANDS: program((name,))\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", COMMANDS_BY_NAME)
def test_summaries_are_those_of_the_commands(name: str) -> None:
    """What stands in for a command that is not loaded says what the command itself says."""
    there, alone = program().commands[name], program((name,)).commands[name]
    assert there.get_short_help_str(200) == alone.get_short_help_str(200)
    assert len(alone.params) + len(getattr(alone, "commands", ())) > len(there.params)


def test_ask_loads_nothing_that_most_answers_do_without(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Dates in headers, the data's release, time zones and what prints a record wait for use."""
    rare = {"email", "importlib.metadata", "zoneinfo", "tenacity", "llmctl.batch.records"}
    code = f"import sys, llmctl.cli.ask, llmctl.cli.answer\nprint({rare!r} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{code}"],
        env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "set()\n"


def test_a_start_looks_for_no_garbage(environ: dict[str, str], tmp_path: Path) -> None:
    """Until a command runs no time goes into looking for cycles, and none at its end: it would
    be a fifth of an answer's."""
    code = (
        "import gc, sys\nseen = []\ngc.collect()\n"
        "gc.callbacks.append(lambda phase, about: seen.append(phase))\n"
        "sys.argv = ['llmctl', 'ask', '--help']\nfrom llmctl.cli.app import main\ntry: main()\n"
        "finally: print(len(seen), gc.get_freeze_count() > 1000, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == "0 True\n"


def test_completion_offers_the_commands(run: Run, environ: dict[str, str]) -> None:
    """The shell's completion asks the program itself, which names its commands."""
    env = {
        **environ,
        "_LLMCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "llmctl pro",
        "COMP_CWORD": "1",
    }
    assert "profiles" in run(env=env).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("btach",), "batch"), (("ask", "--modle", "x", "y"), "--model"), (("batch",), "INPUT")],
)
def test_a_typo_is_exit_2_with_a_hint(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """A wrong word ends with 2 and names what may have been meant."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
