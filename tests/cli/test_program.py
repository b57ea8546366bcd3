"""The program as a whole: help, version, completion, and what they leave alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer._completion_classes import BashComplete

import llmctl
from llmctl.cli.commands import COMMANDS as COMMANDS_BY_NAME
from llmctl.cli.completing import completed
from llmctl.cli.program import program, words_of
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
    "httptools",
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
        "import sys\nfrom llmctl.cli.commands import COMMANDS\n"
        "from llmctl.cli.program import program\n"
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llmctl pro", ["profiles"]),
        ("llmctl keys ro", ["rotate"]),
        ("llmctl ask --mo", ["--model"]),
        ("llmctl batch --format op", ["openai"]),
    ],
)
def test_completion_is_light(
    line: str, expected: list[str], environ: dict[str, str], tmp_path: Path
) -> None:
    """A shell's completion gets its words without configuration, event loop or pydantic."""
    code = (
        "import sys\nsys.argv = ['llmctl']\nfrom llmctl.cli.app import main\ntry: main()\n"
        "finally: print(sorted({'pydantic', 'asyncio', 'llmctl.config'} & set(sys.modules)))"
    )
    env = {
        **environ,
        "_LLMCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == [*expected, "[]"]


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


def by_typer(asked: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What typer says may follow."""
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    whole = program(words_of([], asked))
    said = BashComplete(whole, {}, "llmctl", "_LLMCTL_COMPLETE").complete()
    return said.split("\n") if said else []


def a_line(line: str) -> dict[str, str]:
    """What bash says of it, the cursor being at its end."""
    at = str(line.count(" "))
    return {"_LLMCTL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": at}


def all_commands() -> list[list[str]]:
    """The words before which a command's own may come, as typer knows them."""
    found: list[list[str]] = [[]]
    for name in COMMANDS_BY_NAME:
        command = program((name,)).commands[name]
        found += [[name], *([name, below] for below in getattr(command, "commands", ()))]
    return found


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
@pytest.mark.parametrize("begun", ["", "-", "--", "--m", "--quiet", "-p", "c", "l", "re", "x"])
def test_words_are_completed_as_typer_would(
    command: list[str], begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and options of every command; bash sorts them. Where this fails because an option has
    come or gone, `WORDS` of `llmctl/cli/completing.py` is what has to follow."""
    asked = a_line(" ".join(["llmctl", *command, begun]))
    assert sorted(completed(asked)) == sorted(by_typer(asked, monkeypatch))


@pytest.mark.parametrize(
    "line",
    [
        "llmctl 'c",
        'llmctl "ba',
        "llmctl c\\",
        "llmctl ask --model x --s",
        "llmctl batch --format op",
        "llmctl batch in.jsonl --o",
        "llmctl pros",
        "llmctl keys x --p",
    ],
)
def test_typer_is_asked_for_all_other_words(line: str) -> None:
    """Quotes, values, what stands behind an option or an argument; and all of other shells."""
    assert completed(a_line(line)) == []
    assert completed({**a_line("llmctl c"), "_LLMCTL_COMPLETE": "complete_zsh"}) == []
    assert completed({"_LLMCTL_COMPLETE": "complete_bash"}) == []


@pytest.mark.parametrize(
    ("line", "said"), [("llmctl c", "cost\ncache"), ("llmctl ask --mo", "--model")]
)
def test_typer_is_not_needed_for_names_and_options(
    line: str, said: str, environ: dict[str, str], tmp_path: Path
) -> None:
    """Importing it takes four times as long as Python's own start."""
    code = (
        "import sys\nsys.argv = ['llmctl']\nfrom llmctl.cli.app import main\nmain()\n"
        "print('typer' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environ, **a_line(line)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == f"{said}\nFalse\n"


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
