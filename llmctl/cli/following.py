"""Which words may follow on a command line, by the names and options in `cli/words.py`."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.cli.words import WORDS


class UnclearError(Exception):
    """The line is not one of the plain ones: several options in one word, `=`, `--`, or what is
    no command or option."""


class Row:
    """One line of `WORDS`: a word that may follow. A plain class, because `typing` takes
    longer to import than all the rest here."""

    __slots__ = ("again", "choices", "help", "takes", "words")

    def __init__(self, line: str) -> None:
        _, names, takes, again, choices, self.help = line.split("|")
        self.words = names.split()
        """A command's name, or all names of an option."""
        self.takes = int(takes) if takes else None
        """How many values the option takes; None for a command."""
        self.again = bool(again)
        """Whether the option may be given more than once."""
        self.choices = choices.split()
        """The values it may have, where there are few."""


def follow(before: Sequence[str], begun: str) -> list[tuple[str, str]]:
    """What may follow after `before`, the program's own name aside, and begins with `begun`, each
    with what is said of it; nothing where it would be a file or any text. Raises `UnclearError`."""
    if any("=" in word for word in (*before, begun)):
        raise UnclearError
    rows, rest = _command(before)
    commands = [row for row in rows if row.takes is None]
    if commands and rest:
        raise UnclearError
    given, unfinished = _options(rows, rest)
    dashed = begun.startswith("-")
    if unfinished is not None:
        if dashed:
            raise UnclearError
        return [(value, "") for value in unfinished.choices if value.startswith(begun)]
    if not dashed:
        return [(row.words[0], row.help) for row in commands if row.words[0].startswith(begun)]
    left = [row for row in rows if row.takes is not None and (row.again or row not in given)]
    return [(word, r.help) for r in left for word in r.words if word.startswith(begun)]


def _command(words: Sequence[str]) -> tuple[list[Row], list[str]]:
    """What may stand behind the command that the words name, and the words that do."""
    path, rows, rest = "", _rows(""), list(words)
    while rest and any(row.takes is None and rest[0] in row.words for row in rows):
        path = f"{path} {rest.pop(0)}".lstrip()
        rows = _rows(path)
    return rows, rest


def _options(rows: Sequence[Row], words: Sequence[str]) -> tuple[list[Row], Row | None]:
    """The options among the words, and that whose value is to follow. Raises `UnclearError`."""
    given: list[Row] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            continue  # an argument
        option = next((row for row in rows if word in row.words), None)
        if option is None or option.takes is None:
            raise UnclearError
        values, rest = rest[: option.takes], rest[option.takes :]
        if any(value.startswith("-") for value in values):
            raise UnclearError
        if len(values) < option.takes:
            return given, option
        given.append(option)
    return given, None


def _rows(path: str) -> list[Row]:
    start = f"{path}|"
    return [Row(line) for line in WORDS.splitlines() if line.startswith(start)]
