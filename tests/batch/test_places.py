"""Names of the files a batch writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmctl.batch.places import check_output, default_output, errors_path
from llmctl.errors import InputError


@pytest.mark.parametrize(
    ("input", "output"),
    [
        ("data.jsonl", "data.out.jsonl"),
        ("data.jsonl.gz", "data.out.jsonl"),
        ("in/rows.csv", "in/rows.out.jsonl"),
        ("/x/ROWS.CSV", "/x/ROWS.out.jsonl"),
        ("a.b.jsonl", "a.b.out.jsonl"),
        (".jsonl", ".jsonl.out.jsonl"),
        ("-", "-"),
    ],
)
def test_default_output(input: str, output: str) -> None:
    """The answers go beside the input, under its name; those of stdin to stdout."""
    assert default_output(input) == output


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("x.jsonl", "x.errors.jsonl"),
        ("a.out.jsonl", "a.out.errors.jsonl"),
        ("answers", "answers.errors.jsonl"),
        ("x.json", "x.json.errors.jsonl"),
    ],
)
def test_errors_path(output: str, errors: str) -> None:
    """The errors stand beside the answers."""
    assert errors_path(Path("d", output)) == Path("d", errors)


def test_good_outputs(tmp_path: Path) -> None:
    """A new file, an old one, and one behind a link are fine; `-` is no file."""
    old = tmp_path / "old.jsonl"
    old.write_bytes(b"")
    link = tmp_path / "link.jsonl"
    link.symlink_to(old)
    assert check_output("in.jsonl", str(tmp_path / "new.jsonl")) == tmp_path / "new.jsonl"
    assert check_output("in.jsonl", str(old)) == old
    assert check_output("in.jsonl", str(link)) == old
    assert check_output("-", "-") is None
    assert check_output("in.jsonl", "-") is None


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("in.jsonl", "would overwrite its input"),
        ("./link.jsonl", "would overwrite its input"),
        ("hard.jsonl", "would overwrite its input"),
        (".", "is a folder"),
        ("x.jsonl.gz", "plain .jsonl"),
        ("no/x.jsonl", "create it first"),
        ("pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("nul\0", "cannot write to"),
    ],
)
def test_bad_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, says: str
) -> None:
    """An output that cannot serve, or is the input under any name, is refused in one sentence."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_bytes(b"")
    Path("link.jsonl").symlink_to("in.jsonl")
    Path("hard.jsonl").hardlink_to("in.jsonl")
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=says) as caught:
        check_output("in.jsonl", output)
    assert "\n" not in caught.value.message


def test_errors_are_not_written_over_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors of an earlier run may be the input: its output must have another name then."""
    monkeypatch.chdir(tmp_path)
    Path("x.errors.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"as x\.errors\.jsonl: name another"):
        check_output("x.errors.jsonl", "x.jsonl")
