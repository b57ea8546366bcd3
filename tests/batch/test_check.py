"""Validation, and the comparison with an output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.batch.answers import Format, scan
from llmctl.batch.check import compare, validate
from llmctl.batch.index import Index
from llmctl.batch.read import Source
from llmctl.batch.records import record
from llmctl.batch.rows import Reader
from llmctl.batch.template import Template
from llmctl.config.settings import Profile
from llmctl.errors import InputError
from llmctl.storage.lock import LockedFile
from llmctl.types import CallRecord

Put = Callable[[str, bytes], str]
Ended = Callable[..., CallRecord]


def jsonl(*rows: object) -> bytes:
    """Rows as lines."""
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def check(path: str, profile: Profile, reader: Reader | None = None) -> int:
    """How many rows a valid file has."""
    with Source.open(path) as source, validate(source, reader or Reader(), profile) as index:
        return index.size


def complaint(path: str, profile: Profile, reader: Reader | None = None) -> list[str]:
    """What is said about an invalid file, line by line, the file called IN."""
    with pytest.raises(InputError) as caught:
        check(path, profile, reader)
    return caught.value.message.replace(path, "IN").splitlines()


def test_a_valid_file(put: Put, profile: Profile) -> None:
    """A file of all kinds of rows is counted, blank lines and marks aside."""
    body = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    rows = jsonl(
        {"id": "a", "prompt": "x\u2028y"},
        body,
        {"messages": [{"role": "user", "content": "x"}]},
        {"prompt": "x"},
    )
    path = put("a.jsonl", b"\xef\xbb\xbf\r\n" + rows.replace(b"\n", b"\r\n\n").rstrip())
    assert check(path, profile) == 4


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file(put: Put, profile: Profile, content: bytes) -> None:
    """A file without rows is valid, and has none."""
    assert check(put("a.jsonl", content), profile) == 0


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


def test_one_problem(put: Put, profile: Profile) -> None:
    """One problem is one problem, not one problems."""
    assert complaint(put("a.jsonl", b"[]\n"), profile)[0] == "IN: 1 problem, nothing was sent"


def test_the_first_twenty(put: Put, profile: Profile) -> None:
    """Of many problems the first 20 are shown, and the rest is counted."""
    said = complaint(put("a.jsonl", b"{}\n" * 100), profile)
    assert said[0] == "IN: 100 problems, nothing was sent"
    assert [line.split(":")[1] for line in said[1:21]] == [str(n) for n in range(1, 21)]
    assert said[21:] == ["… and 80 more"]


def test_the_first_twenty_duplicates(put: Put, profile: Profile) -> None:
    """Duplicates are found anywhere, and the first 20 of them shown in order of their lines."""
    ids = [f"id {n}" for n in range(3000)]
    rows = [{"id": x, "prompt": "x"} for x in [*ids, *ids[::-1], "id 7"]]
    said = complaint(put("a.jsonl", jsonl(*rows)), profile)
    assert said[0] == "IN: 3001 problems, nothing was sent"
    assert said[1:21] == [
        f'IN:{3001 + n}: the id "id {2999 - n}" is that of line {3000 - n}' for n in range(20)
    ]
    assert said[21] == "… and 2981 more"


def test_ids_in_messages_are_harmless(put: Put, profile: Profile) -> None:
    """An id with control characters or without end is shown short and escaped."""
    name = "\x1b[31m" + "x" * 1000
    [_, said] = complaint(put("a.jsonl", jsonl(*[{"id": name, "prompt": "x"}] * 2)), profile)
    assert said.startswith(r'IN:2: the id "\x1b[31mxxx')
    assert len(said) < 120


def test_csv_problems(put: Put, profile: Profile) -> None:
    """A CSV file's problems carry the line each record begins on."""
    path = put("a.csv", b'id,prompt\n1,"a\nb"\n1,c\n2\n')
    assert complaint(path, profile) == [
        "IN: 2 problems, nothing was sent",
        'IN:4: the id "1" is that of line 2',
        "IN:5: 1 cell; the header names 2 columns",
    ]


def test_template_problems(put: Put, profile: Profile) -> None:
    """A record that the template cannot use is reported with its line and the missing name."""
    path = put("a.jsonl", jsonl({"name": "x"}, {"nam": "x"}))
    assert complaint(path, profile, Reader(template=Template("{{ name }}")))[1:] == [
        "IN:2: --template: 'name' is undefined; the row has: nam"
    ]


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30))
def test_duplicates_are_what_a_set_says(ids: list[str]) -> None:
    """The index finds the duplicates that a dictionary would find."""
    with Index() as index:
        for n, name in enumerate(ids):
            index.add(name, b"x" * 32, n)
        found = index.duplicates()
    firsts = [(n, ids.index(name)) for n, name in enumerate(ids)]
    expected = [pair for pair in firsts if pair[0] != pair[1]]
    assert (found.count, found.sorted()) == (len(expected), expected[:20])


IDS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([b"1", b"2"])), max_size=40)


@given(st.dictionaries(st.integers(0, 40), st.sampled_from([b"1", b"2"])), IDS)
def test_the_join_is_what_a_dictionary_says(
    rows: dict[int, bytes], answers: list[tuple[int, bytes]]
) -> None:
    """Answered, changed and unknown are what comparing with plain dictionaries gives."""
    with Index() as asked, Index() as answered:
        for n, (name, question) in enumerate(rows.items()):
            asked.add(str(name), question * 32, n)
        for n, (name, question) in enumerate(answers):
            answered.add(str(name), question * 32, n)
        joined = asked.join(answered)
    known = {name for name, _ in answers}
    same = {n for n, pair in enumerate(rows.items()) if pair in answers}
    changed = [n for n, name in enumerate(rows) if name in known and n not in same]
    assert {n for n in range(len(rows) + 9) if n in joined.answered} == same
    assert len(joined.answered) == len(same)
    assert [n for n, _ in joined.changed.sorted()] == changed[:20]
    assert joined.changed.count == len(changed)
    assert joined.strangers == sum(name not in rows for name, _ in answers)


def test_more_rows_than_fit_in_memory() -> None:
    """Rows that went to the temporary file are found like those that did not."""
    with Index() as rows, Index() as answers:
        for n in range(50_000):
            rows.add(f"row {n}", n.to_bytes(32, "little"), n)
            if n % 3:
                answers.add(f"row {n}", n.to_bytes(32, "little"), 100 * n)
        joined = rows.join(answers)
        assert rows.duplicates().count == 0
        assert all((n in joined.answered) == bool(n % 3) for n in range(50_000))
        assert sorted(start for _, start in rows.places(answers, 10**7)) == [
            100 * n for n in range(50_000) if n % 3
        ]


@pytest.mark.parametrize("format", ["llmctl", "openai"])
def test_resume(put: Put, ended: Ended, profile: Profile, tmp_path: Path, format: Format) -> None:
    """Rows with an answer to the same question are known, whatever the format of the output."""
    path = put("a.jsonl", jsonl(*[{"id": x, "prompt": f"say {x}"} for x in "abcd"]))
    out = tmp_path / "out.jsonl"
    out.write_bytes(
        b"".join(record(ended(x, prompt=f"say {x}", body=b"{}"), format) for x in "cxa")
    )
    reader = Reader()
    with (
        Source.open(path) as source,
        validate(source, reader, replace(profile, tags={"t": "1"})) as rows,
        LockedFile.open(out) as output,
        scan(output, format).index as answers,
    ):
        joined = compare(source, reader, rows, answers, out)
    assert [n in joined.answered for n in range(4)] == [True, False, True, False]
    assert joined.strangers == 1


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
    reader = Reader()
    with (
        Source.open(path) as source,
        validate(source, reader, replace(profile, **change)) as rows,
        LockedFile.open(out) as output,
        scan(output, "llmctl").index as answers,
        pytest.raises(InputError, match="--restart") as caught,
    ):
        compare(source, reader, rows, answers, out)
    head, line = caught.value.message.splitlines()
    assert head.startswith(f"1 row has an answer in {out}, but to another question")
    assert line == f'{path}:2: the question of id "a" has changed'
    assert caught.value.exit_code == 2
