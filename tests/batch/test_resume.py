"""Resuming a batch: validation, duplicates, the comparison with an output, `--ordered`."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.batch.input import InputFile
from llmctl.batch.job import Batch, Job, finish, open_batch
from llmctl.batch.output import Format, record
from llmctl.batch.resume import RowIndex, index_rows
from llmctl.batch.rows import RowReader
from llmctl.config.settings import Profile
from llmctl.errors import DiskError, InputError
from llmctl.types import CallRecord

Put = Callable[[str, bytes], str]
Ended = Callable[..., CallRecord]


def jsonl(*rows: object) -> bytes:
    """Rows as lines."""
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def check(path: str, profile: Profile) -> int:
    """How many rows a valid file has."""
    with InputFile.open(path) as source, index_rows(source, RowReader(), profile) as index:
        return index.size


def complaint(path: str, profile: Profile) -> list[str]:
    """What is said about an invalid file, line by line, the file called IN."""
    with pytest.raises(InputError) as caught:
        check(path, profile)
    return caught.value.message.replace(path, "IN").splitlines()


def test_a_valid_file(put: Put, profile: Profile) -> None:
    """A file of all kinds of rows is counted, blank lines and marks aside; it may have none."""
    body = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    rows = jsonl(
        {"id": "a", "prompt": "x\u2028y"},
        body,
        {"messages": [{"role": "user", "content": "x"}]},
        {"prompt": "x"},
    )
    path = put("a.jsonl", b"\xef\xbb\xbf\r\n" + rows.replace(b"\n", b"\r\n\n").rstrip())
    assert check(path, profile) == 4
    for empty in (b"", b"\n \r\n", b"\xef\xbb\xbf"):
        assert check(put("a.jsonl", empty), profile) == 0


def test_all_problems_at_once(put: Put, profile: Profile) -> None:
    """Every kind of problem is listed by line, duplicates with both lines, before the count."""
    path = put(
        "a.jsonl",
        jsonl({"id": "a", "prompt": "1"})
        + b"{\n\n"
        + jsonl({"id": "a", "prompt": "2"})
        + b'{"id": "\xff"}\n'
        + jsonl({"prompt": "x"}, {"id": 6, "prompt": "x"}, {"id": "b"}),
    )
    assert complaint(path, profile) == [
        "IN: 5 problems, nothing was sent",
        "IN:2: not valid JSON: unexpected end of data (column 3)",
        'IN:4: the id "a" is that of line 1',
        "IN:5: not valid UTF-8 (byte 9): convert the file to UTF-8",
        'IN:7: the id "6" is that of line 6',
        (
            "IN:8: no prompt: a row needs `prompt`, `messages` or an OpenAI `body` "
            "(or use --template); the row has: id"
        ),
    ]


def test_the_first_twenty(put: Put, profile: Profile) -> None:
    """Of many problems the first 20 in order of their lines are shown, and the rest is counted;
    duplicates are found anywhere."""
    ids = [f"id {n}" for n in range(3000)]
    rows = [{"id": x, "prompt": "x"} for x in [*ids, *ids[::-1], "id 7"]]
    said = complaint(put("a.jsonl", jsonl(*rows) + b"{}\n" * 99), profile)
    assert said[0] == "IN: 3,100 problems, nothing was sent"
    assert said[1:21] == [
        f'IN:{3001 + n}: the id "id {2999 - n}" is that of line {3000 - n}' for n in range(20)
    ]
    assert said[21:] == ["… and 3,080 more"]


def test_ids_in_messages_are_harmless(put: Put, profile: Profile) -> None:
    """An id with control characters or without end is shown short and escaped."""
    name = "\x1b[31m" + "x" * 1000
    [_, said] = complaint(put("a.jsonl", jsonl(*[{"id": name, "prompt": "x"}] * 2)), profile)
    assert said.startswith(r'IN:2: the id "\x1b[31mxxx')
    assert len(said) < 120


IDS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("12")), max_size=30)


@settings(deadline=None)  # it opens a file for each
@given(IDS, IDS, st.integers(0, 40))
def test_the_index_is_what_dictionaries_say(
    rows: list[tuple[str, str]], answers: list[tuple[str, str]], limit: int
) -> None:
    """Duplicates, answered, changed, unmatched, repeated questions and the order of the answers
    are those that plain loops find."""
    firsts: dict[str, int] = {}
    for n, (name, _) in enumerate(rows):
        firsts.setdefault(name, n)
    with RowIndex() as index:
        index.add_rows((n, n, name, what.encode(), 0) for n, (name, what) in enumerate(rows))
        repeated = [(n, x, firsts[x]) for n, (x, _) in enumerate(rows) if firsts[x] != n]
        assert index.duplicates() == (len(repeated), repeated[:20])
    rows = [rows[n] for n in firsts.values()]
    known = {name for name, _ in answers}
    with RowIndex() as index:
        index.add_rows((n, n, name, what.encode(), 0) for n, (name, what) in enumerate(rows))
        index.add_answers(
            (name, b"old", n) for n, (name, _) in enumerate(rows)
        )  # an earlier reading
        index.add_answers((name, what.encode(), n) for n, (name, what) in enumerate(answers))
        same = [n for n, row in enumerate(rows) if row in answers]
        changed = [(n, x) for n, (x, what) in enumerate(rows) if x in known and n not in same]
        assert index.answered(limit) == sum(n < limit for n in same)
        assert index.changed() == (len(changed), changed)
        assert index.unmatched == sum(name not in firsts for name, _ in answers)
        todo = [n for n in range(len(rows)) if n not in same and n < limit]
        assert list(index.unanswered(limit)) == [(n, rows[n][0], rows[n][1].encode()) for n in todo]
        asked = {rows[n][1]: n for n in reversed(todo)}
        assert list(index.first_of_question(limit)) == sorted(asked.values())
        place = {name: n for n, (name, _) in enumerate(rows)}
        wanted = sorted(range(len(answers)), key=lambda n: (place.get(answers[n][0], 99), n))
        assert list(index.answers_in_order()) == wanted


def test_a_temporary_file_that_cannot_grow() -> None:
    """A full disk under the temporary file is exit 74, with what to do."""
    with RowIndex() as index:
        index._db.execute("PRAGMA max_page_count = 50")  # a disk of 50 pages
        with pytest.raises(DiskError, match="the disk is full") as caught:
            index.add_rows((n, n, "x" * 100, b"", 0) for n in range(9999))
    assert caught.value.exit_code == 74


def todo(batch: Batch) -> list[str]:
    """The ids that are to be sent."""
    return [request.id for page in batch.pages(str) for request in page]


@pytest.mark.parametrize("format", ["llmctl", "openai"])
def test_resume(put: Put, ended: Ended, profile: Profile, tmp_path: Path, format: Format) -> None:
    """Rows with an answer to the same question are known, whatever the format of the output."""
    path = put("a.jsonl", jsonl(*[{"id": x, "prompt": f"say {x}"} for x in "abcd"]))
    out = tmp_path / "out.jsonl"
    out.write_bytes(
        b"".join(record(ended(x, prompt=f"say {x}", body=b"{}"), format) for x in "cxa")
    )
    with open_batch(Job(path, str(out), RowReader(), profile, format)) as batch:
        assert todo(batch) == ["b", "d"]
        assert (batch.rows, batch.skipped, batch.unmatched, batch.torn) == (4, 2, 1, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-5"},
        {"max_tokens": 65},
        {"temperature": 0.1},
        {"params": {}},
        {"base_url": "https://example.com/v1"},
        {"adapter": "other"},
    ],
)
def test_a_changed_question(
    put: Put, ended: Ended, profile: Profile, tmp_path: Path, change: dict[str, object]
) -> None:
    """A known id whose question is another now is an error that names row and way out."""
    path = put("a.jsonl", jsonl({"id": "z", "prompt": "z"}, {"id": "a", "prompt": "Hi"}))
    out = tmp_path / "out.jsonl"
    out.write_bytes(record(ended("a"), "llmctl"))
    with (
        pytest.raises(InputError, match="--restart") as caught,
        open_batch(Job(path, str(out), RowReader(), replace(profile, **change))),
    ):
        pass
    head, line = caught.value.message.splitlines()
    assert head.startswith(
        f"{path}: 1 problem, nothing was sent: {out} has an answer to another question"
    )
    assert line == f'{path}:2: the question of id "a" has changed'
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("format", ["llmctl", "openai"])
def test_input_order(
    put: Put, ended: Ended, profile: Profile, tmp_path: Path, format: Format
) -> None:
    """Lines come out unchanged in input order, those of no row last and in their old order."""
    ids = [f"id {n}" for n in range(3000)]
    path = put("a.jsonl", b"".join(orjson.dumps({"id": x, "prompt": x}) + b"\n" for x in ids))
    answered = [name for n, name in enumerate(ids) if n % 5]
    strangers = ["old z", "old a", "old m"]
    order = answered + strangers
    random.Random(1).shuffle(order)
    lines = {x: record(ended(x, prompt=x, body=b'{"x":1}'), format) for x in order}
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(lines[x] for x in order))
    out.chmod(0o640)
    job = Job(path, str(out), RowReader(), profile, format, ordered=True)
    with open_batch(job) as batch:
        finish(batch)
    wanted = answered + [x for x in order if x in strangers]
    assert out.read_bytes() == b"".join(lines[x] for x in wanted)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]
