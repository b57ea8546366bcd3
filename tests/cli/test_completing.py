"""What shells are told of the words that may follow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer._completion_classes import (
    BashComplete,
    FishComplete,
    PowerShellComplete,
    ZshComplete,
)

from llmctl.cli.completing import completed
from llmctl.cli.program import program, words_of
from tests.cli import words
from tests.conftest import Run

KINDS: dict[str, Any] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
    "powershell": PowerShellComplete,
    "pwsh": PowerShellComplete,
}


def asked(shell: str, line: str, action: str = "get-args") -> dict[str, str]:
    """What typer's script for the shell hands over, the cursor being at the line's end."""
    return {
        "_LLMCTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": line.rpartition(" ")[2],
        "_TYPER_COMPLETE_FISH_ACTION": action,
    }


def by_typer(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """What typer prints, and its exit code. It breaks long descriptions at the terminal's width."""
    monkeypatch.setenv("COLUMNS", "10000")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    kind = KINDS[environ["_LLMCTL_COMPLETE"].removeprefix("complete_")]
    try:
        return kind(program(words_of([], environ)), {}, "llmctl", "_LLMCTL_COMPLETE").complete(), 0
    except SystemExit as end:
        return "", int(end.code or 0)


def entries(said: tuple[str, int]) -> tuple[list[str], int]:
    """In no order: shells sort what they get."""
    text = said[0].removeprefix("_arguments '*: :((").removesuffix("))'")
    return sorted(" ".join(entry.split()) for entry in text.split("\n")), said[1]


def loaded(among: set[str], environ: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The program's answer; on stderr which of these modules it has imported."""
    code = (
        "import sys\nsys.argv = ['llmctl']\nfrom llmctl.cli.app import main\ntry: main()\n"
        f"finally: print(sorted({among!r} & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\nsys.path[:] = {sys.path!r}\n{code}"],
        env=environ, cwd=cwd, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


def test_the_words_are_those_of_the_commands() -> None:
    """An option that comes, goes or is called something else is completed so. Where this fails,
    `python -m tests.cli.words` writes the file anew."""
    assert words.FILE.read_text(encoding="utf-8") == words.text()


@pytest.mark.parametrize("shell", KINDS)
@pytest.mark.parametrize("command", [path for path, _ in words.commands()])
def test_words_are_completed_as_typer_would(
    command: str, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and options of every command, in the form the shell wants them in, and with the same
    exit code where fish asks whether there are any."""
    for begun in ("", "-", "--m", "--quiet", "c", "l", "x", "./x"):
        for action in ("get-args", "is-args") if shell == "fish" else ("",):
            environ = asked(shell, " ".join(["llmctl", *command.split(), begun]), action)
            said = completed(environ)
            assert said is not None
            assert entries(said) == entries(by_typer(environ, monkeypatch))


@pytest.mark.parametrize("shell", KINDS)
@pytest.mark.parametrize(
    "line",
    [
        "llmctl ask --model x --s",
        "llmctl ask --model x --m",
        "llmctl ask --tag x --t",
        "llmctl ask -o a b --o",
        "llmctl ask -o a ",
        "llmctl ask --no-stream --s",
        "llmctl ask -v -v --v",
        "llmctl ask 12 --mo",
        "llmctl ask --profile ",
        "llmctl batch --format op",
        "llmctl batch --format ",
        "llmctl batch in.jsonl --o",
        "llmctl batch in.jsonl ",
        "llmctl batch in.jsonl out.jsonl --out",
        "llmctl cost report --by day --by model --format ",
        "llmctl pros",
        "llmctl ",
        "llmctl",
    ],
)
def test_what_stands_on_the_line_counts(
    line: str, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of an option, what stands behind options and arguments, and no option twice that may
    be given once."""
    environ = asked(shell, line)
    said = completed(environ)
    assert said is not None
    assert entries(said) == entries(by_typer(environ, monkeypatch))


@pytest.mark.parametrize(
    "line",
    [
        "llmctl 'c",
        'llmctl "ba',
        "llmctl c\\",
        "llmctl ask --model=x --s",
        "llmctl batch --format=op",
        "llmctl batch -qv --o",
        "llmctl batch -- --o",
        "llmctl batch --model --o",
        "llmctl keys x --p",
        "llmctl --version a",
    ],
)
def test_typer_is_asked_for_all_other_lines(line: str) -> None:
    """Quotes, `=`, several options in one word, and what is no command or option."""
    for shell in KINDS:
        assert completed(asked(shell, line)) is None
    assert completed({**asked("bash", "llmctl c"), "_LLMCTL_COMPLETE": "source_bash"}) is None
    assert completed({"_LLMCTL_COMPLETE": "complete_bash"}) is None


@pytest.mark.parametrize(
    ("shell", "line", "said"),
    [
        ("bash", "llmctl c", "cost\ncache\n"),
        ("bash", "llmctl batch in.jsonl --format op", "openai\n"),
        ("zsh", "llmctl keys ro", '_arguments \'*: :(("rotate":"Replace a stored key'),
        ("zsh", "llmctl batch ", "_files\n"),
        ("fish", "llmctl ask --mo", "--model\tModel, instead of the profile's.\n"),
        ("pwsh", "llmctl ask --mo", "--model:::Model, instead of the profile's.\n"),
    ],
)
def test_typer_is_not_needed_for_most(
    shell: str, line: str, said: str, environ: dict[str, str], tmp_path: Path
) -> None:
    """Importing it takes four times as long as Python's own start."""
    done = loaded(
        {"typer", "rich", "pathlib", "typing"}, {**environ, **asked(shell, line)}, tmp_path
    )
    assert done.stdout.startswith(said)
    assert done.stderr == "[]\n"


def test_what_typer_is_asked_for_is_light(environ: dict[str, str], tmp_path: Path) -> None:
    """It answers without configuration, event loop or pydantic."""
    heavy = {"pydantic", "asyncio", "llmctl.config"}
    done = loaded(heavy, {**environ, **asked("bash", "llmctl ask -qv --mo")}, tmp_path)
    assert (done.stdout, done.stderr) == ("--model\n", "[]\n")


def test_the_installed_command_completes(run: Run, environ: dict[str, str]) -> None:
    """Fish hears by the exit code whether there is anything but files."""
    assert run(env={**environ, **asked("bash", "llmctl pro")}).stdout == "profiles\n"
    for line, code in (("llmctl ask --mo", 0), ("llmctl batch in", 1)):
        done = run(env={**environ, **asked("fish", line, "is-args")})
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
