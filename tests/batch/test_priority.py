"""Priorities of rows: in which order they are sent, and which values are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.batch.input import InputFile
from llmctl.batch.job import Batch, Job, open_batch
from llmctl.batch.output import record
from llmctl.batch.resume import LOT, Lot, RowIndex
from llmctl.batch.rows import RowReader
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.types import CallRecord

Put = Callable[[str, bytes], str]
Ended = Callable[..., CallRecord]


def jsonl(*rows: object) -> bytes:
    """Rows as lines."""
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def sent(batch: Batch) -> list[str]:
    """The ids in the order in which they are sent."""
    return [request.id for page in batch.pages(str, ranked=True) for request in page]


def test_higher_ones_are_sent_first(
    put: Put, ended: Ended, profile: Profile, tmp_path: Path
) -> None:
    """Rows of a higher priority come first, those of the same in input order, answered ones not at
    all; a plan reads them in input order."""
    ranks = {"a": 0, "b": 5, "c": -1, "d": None, "e": 5, "f": 100}
    rows = [{"id": x, "prompt": f"say {x}", "priority": n} for x, n in ranks.items()]
    path, out = put("a.jsonl", jsonl(*rows)), tmp_path / "a.out.jsonl"
    out.write_bytes(record(ended("e", prompt="say e"), "llmctl"))
    with open_batch(Job(path, None, RowReader(), profile)) as batch:
        assert sent(batch) == ["f", "b", "a", "d", "c"]
        assert [r.id for page in batch.pages(str) for r in page] == ["a", "b", "c", "d", "f"]


def test_another_priority_is_not_another_question(
    put: Put, ended: Ended, profile: Profile, tmp_path: Path
) -> None:
    """A row that was answered stays answered when its priority is changed."""
    path = put("a.jsonl", jsonl({"id": "a", "prompt": "p", "priority": 7}))
    (tmp_path / "a.out.jsonl").write_bytes(record(ended("a", prompt="p"), "llmctl"))
    with open_batch(Job(path, None, RowReader(), profile)) as batch:
        assert batch.skipped == 1


def test_samples_keep_their_number(put: Put, profile: Profile) -> None:
    """Which sample of a question a row is goes by its place in the input, whenever it is sent."""
    rows = [{"prompt": "p", "temperature": 1, "priority": n} for n in range(3)]
    path = put("a.jsonl", jsonl(*rows))
    with open_batch(Job(path, None, RowReader(), profile)) as batch:
        found = [(r.id, r.sample) for page in batch.pages(str, ranked=True) for r in page]
        assert found == [("3", 2), ("2", 1), ("1", 0)]
    with open_batch(Job(path, None, RowReader(), profile, dedupe=True)) as batch:
        assert {r.sample for page in batch.pages(str) for r in page} == {0}


def test_a_column_of_a_table(put: Put, profile: Profile) -> None:
    """A column `priority` says it, where a template does not make the rows."""
    path = put("a.csv", b"id,prompt,priority\na,x,\nb,y,2\n")
    with open_batch(Job(path, None, RowReader(), profile)) as batch:
        assert sent(batch) == ["b", "a"]
    reader = RowReader(template=lambda fields: str(fields["prompt"]))
    with open_batch(Job(path, None, reader, profile)) as batch:
        assert sent(batch) == ["a", "b"]


@pytest.mark.parametrize("value", [101, -101, 1.5, "high", True])
def test_other_values_are_refused(put: Put, profile: Profile, value: object) -> None:
    """A priority is a whole number from -100 to 100: the row is named before anything is sent."""
    path = put("a.jsonl", jsonl({"prompt": "p", "priority": value}))
    with (
        pytest.raises(InputError, match="jsonl:1: `priority`: "),
        open_batch(Job(path, None, RowReader(), profile)),
    ):
        pass


@settings(deadline=None)  # it opens a file for each
@given(st.lists(st.integers(-2, 2), max_size=130), st.sets(st.integers(0, 129)))
def test_lots_are_all_rows_in_their_order(ranks: list[int], answered: set[int]) -> None:
    """Lot after lot, every row without an answer is drawn once, the highest priority first, at most
    `LOT` at a time."""
    with RowIndex() as index:
        index.add_rows((n, n, str(n), bytes([n]), rank) for n, rank in enumerate(ranks))
        index.add_answers((str(n), bytes([n]), n) for n in sorted(answered))
        index.index_ranks()
        drawn: list[int] = []
        lot: Lot | None = None
        while (lot := index.next_lot(lot, len(ranks))) is not None:
            rows = index.draw(lot, len(ranks))
            assert 0 < len(rows) <= LOT
            drawn += [number for number, *_ in rows]
        assert index.next_lot(None, len(ranks)) is None
    left = [n for n in range(len(ranks)) if n not in answered]
    assert drawn == sorted(left, key=lambda n: (-ranks[n], n))


def test_a_followed_input_is_only_read_on(put: Put, tmp_path: Path) -> None:
    """Whole lines that are appended are taken; a file that was cut or replaced is refused."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":1}\n{"a"')
    with InputFile.open(str(path), follow=True) as source:
        assert [line for line, _ in source.records()] == [1]
        assert not source.grow()
        since = source.end
        with path.open("ab") as file:
            file.write(b':2}\n\n{"a":3}\n')
        assert source.grow()
        assert list(source.records(since)) == [(2, b'{"a":2}\n'), (4, b'{"a":3}\n')]
        put("b.jsonl", path.read_bytes())
        (tmp_path / "b.jsonl").rename(path)
        with pytest.raises(InputError, match="was changed"):
            source.grow()
    with InputFile.open(str(path), follow=True) as source:
        path.write_bytes(b"")
        with pytest.raises(InputError, match="was changed"):
            source.check()
    for name in ("a.csv", "a.jsonl.gz"):
        with pytest.raises(InputError, match="--follow goes with JSON Lines"):
            InputFile.open(put(name, b""), follow=True)


def test_repeats_of_appended_rows() -> None:
    """Samples of a question are counted on over rows that come later."""
    with RowIndex() as index:
        index.add_rows((n, n, str(n), b"q", 0) for n in range(3))
        assert [index.earlier(n) for n in range(3)] == [0, 1, 2]
        index.append_rows((n, n, str(n), b"q" if n % 2 else b"other", 0) for n in range(3, 7))
        assert [index.earlier(n) for n in range(3, 7)] == [3, 0, 4, 1]
