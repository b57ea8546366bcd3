"""Everything that must be right before anything is sent: the input, and the output it continues."""

from __future__ import annotations

from pathlib import Path

from llmctl.batch.index import SHOWN, Found, Index, Joined
from llmctl.batch.questions import RowError
from llmctl.batch.read import Source
from llmctl.batch.rows import Reader
from llmctl.config.settings import Profile
from llmctl.errors import InputError


def validate(source: Source, reader: Reader, profile: Profile) -> Index:
    """Read the whole input once; gives its rows' ids and fingerprints (`size` of them).

    Raises `InputError` that lists the first 20 problems, with line numbers, and their count.
    """
    index = Index()
    try:
        problems, count = _collect(source, reader, profile, index)
        repeated = index.duplicates()
        count += repeated.count
        problems += _duplicates(source, reader, repeated)
    except BaseException:
        index.close()
        raise
    if problems:
        index.close()
        raise InputError(listing(source.name, problems, count))
    return index


def _duplicates(source: Source, reader: Reader, found: Found) -> list[tuple[int, str]]:
    where = locate(source, reader, {row for pair in found.sorted() for row in pair})
    return [
        (where[row][0], f'the id "{where[row][1]}" is that of line {where[first][0]}')
        for row, first in found.sorted()
    ]


def _collect(
    source: Source, reader: Reader, profile: Profile, index: Index
) -> tuple[list[tuple[int, str]], int]:
    """Fill the index; the first problems of single rows, and how many there are."""
    problems: list[tuple[int, str]] = []
    count = 0
    identify, add = reader.identify, index.add
    for row, record in enumerate(source.records()):
        try:
            name, fingerprint = identify(record, profile)
        except RowError as error:
            count += 1
            if count <= SHOWN:
                problems.append((record[0], str(error)))
        else:
            add(name, fingerprint, row)
    return problems, count


def compare(source: Source, reader: Reader, rows: Index, answers: Index, output: Path) -> Joined:
    """Which rows of a valid input have their answer in the output.

    Raises `InputError` that names the rows whose question is not the one that was answered.
    """
    joined = rows.join(answers)
    changed = joined.changed
    if changed.count:
        where = locate(source, reader, {row for row, _ in changed.sorted()})
        problems = [
            (line, f'the question of id "{name}" has changed') for line, name in where.values()
        ]
        what = "row has" if changed.count == 1 else "rows have"
        head = (
            f"{changed.count} {what} an answer in {output}, but to another question (prompt, "
            "model, parameters or provider were different): nothing was sent; --restart throws "
            "all answers there away, -o FILE keeps them and starts another file"
        )
        raise InputError(listing(source.name, problems, changed.count, head))
    return joined


def locate(source: Source, reader: Reader, wanted: set[int]) -> dict[int, tuple[int, str]]:
    """The line and id (as a message shows it) of some rows of a source that was read before."""
    where: dict[int, tuple[int, str]] = {}
    if not wanted:
        return where
    for row, record in enumerate(source.records()):
        if row in wanted:
            where[row] = record[0], _short(reader.id_of(record))
            if len(where) == len(wanted):
                break
    return where


def listing(name: str, problems: list[tuple[int, str]], count: int, head: str | None = None) -> str:
    """A message of a summary, the first problems as `NAME:LINE: …`, and how many more there are."""
    what = "problem" if count == 1 else "problems"
    text = [head or f"{name}: {count} {what}, nothing was sent"]
    shown = sorted(problems)[:SHOWN]
    text += [f"{name}:{line}: {problem}" for line, problem in shown]
    if count > len(shown):
        text.append(f"… and {count - len(shown)} more")
    return "\n".join(text)


def _short(id: str) -> str:
    """The id as a message can show it."""
    plain = id if id.isprintable() else ascii(id)[1:-1]
    return plain if len(plain) <= 60 else plain[:59] + "…"
