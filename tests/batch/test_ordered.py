"""`--ordered`."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from llmctl.batch.answers import Format
from llmctl.batch.check import validate
from llmctl.batch.ordered import reorder
from llmctl.batch.read import Source
from llmctl.batch.records import record
from llmctl.batch.rows import Reader
from llmctl.config.settings import Profile
from llmctl.errors import DiskError
from llmctl.storage.lock import LockedFile
from llmctl.types import CallRecord

Put = Callable[[str, bytes], str]
Ended = Callable[..., CallRecord]


@pytest.mark.parametrize("format", ["llmctl", "openai"])
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_input_order(
    put: Put, ended: Ended, profile: Profile, tmp_path: Path, format: Format, count: int
) -> None:
    """Lines come out unchanged in input order, those of no row last and in their old order."""
    ids = [f"id {n}" for n in range(count)]
    path = put("a.jsonl", b"".join(orjson.dumps({"id": x, "prompt": x}) + b"\n" for x in ids))
    answered = [name for n, name in enumerate(ids) if n % 5]
    strangers = ["old z", "old a", "old m"]
    order = answered + strangers
    random.Random(1).shuffle(order)
    lines = {x: record(ended(x, body=b'{"x":1}'), format) for x in order}
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"".join(lines[x] for x in order))
    out.chmod(0o640)
    with (
        Source.open(path) as source,
        validate(source, Reader(), profile) as rows,
        LockedFile.open(out) as output,
    ):
        reorder(output, rows, format)
    wanted = answered + [x for x in order if x in strangers]
    assert out.read_bytes() == b"".join(lines[x] for x in wanted)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]


def test_a_full_disk(
    put: Put, ended: Ended, profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new file cannot be written, the old one stays and nothing is left beside it."""
    import os

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = put("a.jsonl", b'{"id":"a","prompt":"x"}\n{"id":"b","prompt":"x"}\n')
    out = tmp_path / "out.jsonl"
    content = record(ended("b"), "llmctl") + record(ended("a"), "llmctl")
    out.write_bytes(content)
    with (
        Source.open(path) as source,
        validate(source, Reader(), profile) as rows,
        LockedFile.open(out) as output,
    ):
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(DiskError, match="the disk is full") as caught:
            reorder(output, rows, "llmctl")
    assert caught.value.exit_code == 74
    assert out.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]
