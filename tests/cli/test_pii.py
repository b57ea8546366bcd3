"""`llmctl pii scan`, run as a process."""

from __future__ import annotations

import io
import json
import random
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmctl.cli.pii_scan import BLOCK, text_places
from llmctl.privacy.findings import IDENTIFIERS
from tests.cli.terminal import on_a_terminal
from tests.conftest import LLMCTL, Run
from tests.privacy.generator import token

ROOT = Path(__file__).parents[2]
KEY = f"sk-ant-api03-{token(random.Random(1), 60)}"
TEXT = f"Dear Ann,\r\nwrite to ann@example.com or call\n(212) 555-0143.\nkey: {KEY}\n"


@pytest.fixture
def scan(run: Run, environ: dict[str, str], tmp_path: Path) -> Run:
    """Run `llmctl pii scan` in a folder of its own, without any configuration."""
    return partial(run, "pii", "scan", env=environ, cwd=tmp_path)


def listed(done: subprocess.CompletedProcess[str]) -> list[tuple[str, int, int, str]]:
    """File, line, column and kind of what `--format json` says."""
    said: dict[str, Any] = json.loads(done.stdout)
    assert sum(said["counts"].values()) == len(said["findings"])
    return [(e["file"], e["line"], e["column"], e["kind"]) for e in said["findings"]]


def test_a_line_each(scan: Run, tmp_path: Path) -> None:
    """Place, kind, and too little of the value to use it; exit 1. A clean file: nothing, exit 0."""
    (tmp_path / "a.txt").write_text(TEXT, newline="")
    (tmp_path / "clean.md").write_text("Order 12345, version 1.2.3, 2026-11-29.\n")
    done = scan("a.txt", "clean.md")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "a.txt:2:10  email     a…@….com",
        "a.txt:3:1  phone     …43",
        f"a.txt:4:6  secret    …{KEY[-4:]}",
    ]
    assert done.stderr == "3 found in 2 files: email 1, phone 1, secret 1\n"
    clean = scan("clean.md", "-q")
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, "", "")


@pytest.mark.parametrize("format", ["table", "json", "sarif"])
def test_no_value_is_printed(scan: Run, tmp_path: Path, format: str) -> None:
    """No format holds a value whole, nor more than a few of its characters."""
    (tmp_path / "a.txt").write_text(TEXT)
    done = scan("a.txt", "--format", format)
    assert done.returncode == 1
    for value in ("ann@", "example.com", "555", KEY[:16], KEY[-5:]):
        assert value not in done.stdout + done.stderr


def test_jsonl(scan: Run, tmp_path: Path) -> None:
    """Escapes are read as what they stand for, and columns are those of the file."""
    rows = [{"text": "x\nann@example.com"}, {"phone": "9472 7916", "card": 4111111111111111}]
    lines = [json.dumps(row) for row in rows]
    lines.append('{"text": "\\u0061nn\\u0040example.com"}')
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    done = scan("in.jsonl", "--json")
    assert done.returncode == 1
    assert listed(done) == [
        ("in.jsonl", 1, lines[0].index("ann") + 1, "email"),
        ("in.jsonl", 2, lines[1].index("9472") + 1, "phone"),
        ("in.jsonl", 2, lines[1].index("4111") + 1, "card"),
        ("in.jsonl", 3, lines[2].index("\\u0061") + 1, "email"),
    ]


def test_csv(scan: Run, tmp_path: Path) -> None:
    """The name of a column says what its numbers are; cells may have several lines."""
    (tmp_path / "in.csv").write_text(
        'id,mobile,note\n1,20794609,"first\nthe ""second"" ann@example.com"\n20794609,,ok\n'
    )
    done = scan("in.csv", "--json")
    assert done.returncode == 1
    assert listed(done) == [("in.csv", 2, 3, "phone"), ("in.csv", 3, 16, "email")]


def test_stdin(scan: Run) -> None:
    """- is stdin, as text or JSON lines; --kinds chooses."""
    done = scan("-", "--kinds", "secret", "--json", stdin=TEXT)
    assert listed(done) == [("stdin", 4, 6, "secret")]
    assert listed(scan("-", "--json", stdin='{"a": "b\\nann@example.com"}\n')) == [
        ("stdin", 1, 11, "email")
    ]


def test_unreadable_and_binary(scan: Run, tmp_path: Path) -> None:
    """What cannot be read makes exit 2, after the others were; binary files are left out."""
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\0ann@example.com")
    done = scan("missing.txt", "a.txt", "b.png", ".")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 3
    assert "b.png: binary, left out" in done.stderr
    assert "cannot read missing.txt: No such file or directory; .: Is a directory" in done.stderr
    said = json.loads(scan("missing.txt", "b.png", "--json").stdout)
    assert [each["reason"] for each in said["skipped"]] == ["binary", "No such file or directory"]
    assert scan("b.png").returncode == 0


def test_utf_16(scan: Run, tmp_path: Path) -> None:
    """A file of Windows' Notepad is text."""
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-16")
    assert len(scan("a.txt").stdout.splitlines()) == 3


def test_sarif(scan: Run, tmp_path: Path) -> None:
    """SARIF 2.1.0: the required properties, each result with a rule and a place."""
    (tmp_path / "a b.txt").write_text(TEXT)
    log = json.loads(scan("a b.txt", "--format", "sarif").stdout)
    assert log["version"] == "2.1.0"
    (part,) = log["runs"]
    rules = {rule["id"] for rule in part["tool"]["driver"]["rules"]}
    assert part["tool"]["driver"]["name"]
    for result in part["results"]:
        assert result["ruleId"] in rules
        assert result["level"] in {"warning", "error"}
        assert result["message"]["text"]
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.txt"
        region = place["physicalLocation"]["region"]
        assert 1 <= region["startColumn"] < region["endColumn"]
    assert [result["level"] for result in part["results"]] == ["warning", "warning", "error"]


def test_wrong_kinds_and_missing_extras(scan: Run, tmp_path: Path) -> None:
    """One sentence each, with what to do."""
    (tmp_path / "a.txt").write_text(TEXT)
    wrong = scan("a.txt", "--kinds", "emial")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert 'there is no kind "emial"; did you mean "email"?' in wrong.stderr
    names = scan("a.txt", "--kinds", "person")
    assert (names.returncode, names.stdout) == (2, "")
    assert "pip install" in names.stderr


def test_on_a_terminal(environ: dict[str, str], tmp_path: Path) -> None:
    """It says the same, and no line is wider than 80 columns."""
    (tmp_path / "a.txt").write_text(TEXT)
    code, shown, _ = on_a_terminal(environ, tmp_path, "pii", "scan", "a.txt")
    assert code == 1
    assert b"a.txt:3:1  phone" in shown
    assert max(map(len, shown.decode().splitlines())) <= 80


class Pieces(io.StringIO):
    """A text that is read in pieces of 1,993 characters."""

    def read(self, size: int | None = -1, /) -> str:
        """The next piece."""
        assert size == BLOCK
        return super().read(1993)


@pytest.mark.parametrize("end", ["\n\n\n", "   "])
def test_pieces_are_as_the_whole(end: str) -> None:
    """What lies on the border of two pieces is found once, at its place; a line of many pieces is
    no exception."""
    unit = "x " * 200 + f"ann@example.com {KEY} call (212) 555-0143" + end
    first = list(text_places(io.StringIO(unit), "f", IDENTIFIERS))
    assert len(first) == 3
    times = 80_000 // len(unit)
    found = [(p.line, p.column) for p in text_places(Pieces(unit * times), "f", IDENTIFIERS)]
    if "\n" in end:
        assert found == [(1 + 3 * n, p.column) for n in range(times) for p in first]
    else:
        assert found == [(1, p.column + len(unit) * n) for n in range(times) for p in first]


def test_a_pre_commit_hook_is_defined() -> None:
    """pre-commit makes an environment from this checkout and runs a command that exists."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["language"] == "python"
    program, *words = hook["entry"].split()
    assert program == LLMCTL.name
    done = subprocess.run([LLMCTL, *words, "--help"], capture_output=True, text=True, check=True)
    assert "FILE..." in done.stdout
    assert not [name for name in hook["additional_dependencies"] if name.startswith("llmctl")]
