"""The README keeps its word: its commands run, its excerpts are what the program prints."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmctl.errors import EXIT_CODES
from tests.conftest import LLMCTL, Run

pytest_plugins = ["tests.local_model"]

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Step:
    """One command of a console block, and what it is said to print."""

    command: str
    output: str


def blocks(language: str) -> list[tuple[str, str]]:
    """The README's fenced blocks of a language, each with the comment that stands before it."""
    found = re.findall(rf"(?:<!-- ([^\n]*) -->\n)?```{language}\n(.*?)```", README, re.DOTALL)
    return [(note, text) for note, text in found]


def steps(text: str) -> list[Step]:
    """A console block taken apart at its prompts."""
    made = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        made.append(Step(command, output.strip()))
    return made


LOOSE = {"the model's own words", "figures of the day"}
"""Blocks of which only the commands are held to, because what they print changes."""

TOUR = [(note, step) for note, text in blocks("console") for step in steps(text)]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, model_data: Path
) -> tuple[Path, dict[str, str]]:
    """A copy of what the tour uses, and an environment in which the local model is installed."""
    folder = tmp_path_factory.mktemp("tour")
    for name in ("samples", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.out.*"))
    home = folder / "home"
    home.mkdir()
    env = {
        "PATH": f"{LLMCTL.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LLMCTL_DATA_DIR": str(model_data),
        "LANG": "C.UTF-8",
    }
    return folder, env


def test_the_tour_is_there() -> None:
    """The README shows ask, batch, resume and piping."""
    commands = " ".join(step.command for _, step in TOUR)
    for word in ("llmctl ask", "llmctl batch", "| llmctl", "profiles"):
        assert word in commands


def test_the_tour_runs(place: tuple[Path, dict[str, str]]) -> None:
    """Every command of the tour succeeds, in order, and prints what the README shows.

    Figures may differ, and so may the model's words where the block says that they are such.
    """
    folder, env = place
    for note, step in TOUR:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", step.command], cwd=folder, env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=280, check=False,
        )  # fmt: skip
        said = done.stdout.decode()
        assert done.returncode == 0, f"{step.command}\n{said}"
        if note in LOOSE:
            assert said.strip()
            continue
        shown = plain(step.output)
        for line in shown:
            assert line in plain(said), f"{step.command}\nshown: {line}\nsaid: {said}"


def plain(text: str) -> list[str]:
    """The lines of a text with every figure made `0` and columns closed up."""
    return [" ".join(NUMBER.sub("0", line).split()) for line in text.strip().splitlines()]


def test_help_excerpts(run: Run) -> None:
    """Every line of a help excerpt stands in what `--help` prints, whatever its columns."""
    excerpts = [(note, text) for note, text in blocks("text") if note.startswith("help: ")]
    assert excerpts
    for note, text in excerpts:
        said = run(*shlex.split(note.removeprefix("help: "))).stdout.splitlines()
        lines = [" ".join(line.split()) for line in said]
        for line in text.rstrip().splitlines():
            assert " ".join(line.split()) in lines, f"{note}: {line}"


def test_exit_codes() -> None:
    """The table of exit codes is the program's own."""
    for code, meaning in EXIT_CODES:
        assert f"| {code} | {meaning} |" in README


def test_configuration_by_example(run: Run, tmp_path: Path) -> None:
    """The configurations that the README shows load, and give the profiles they name."""
    for _, text in blocks("yaml"):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        done = run("profiles", "list", "--config", str(path))
        assert done.returncode == 0, done.stderr
        for name in re.findall(r"^  (\w+):$", text, flags=re.MULTILINE):
            assert re.search(rf"^\W*{name} ", done.stdout, flags=re.MULTILINE), name


def test_both_commands_are_there() -> None:
    """The README opens with the two commands, the second of which CI runs."""
    marked = [note for note, _ in blocks("sh")[:2]]
    assert marked == ["command: run", "command: test"]
    assert "command: test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
