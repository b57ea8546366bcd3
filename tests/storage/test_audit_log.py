"""The audit log: what is done to it is found, what a crash does is not called tampering."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmctl.errors import DiskError, NoKeyError
from llmctl.storage import audit_log
from llmctl.storage.audit_chain import encoded
from llmctl.storage.audit_check import Checkpoint, Integrity, check_integrity, read_checkpoint
from llmctl.storage.audit_log import AuditLog, segment_path, segments, stub_path
from llmctl.storage.audit_upkeep import ChangedError, erasable, erase, read_lines, removable, remove
from tests.storage.audit_worker import KEY, a_line
from tests.support import FakeClock, done

DAY = 86400.0
Where = tuple[int, int]
"""Number of a segment, and of a line in it."""


@contextmanager
def opened(folder: Path, clock: FakeClock | None = None) -> Iterator[AuditLog]:
    """The log in a folder."""
    log = AuditLog(folder, KEY, clock or FakeClock())
    try:
        yield log
    finally:
        log.close()


def write(log: AuditLog, count: int, **more: Any) -> None:
    """Add calls, each by itself, named by how many lines there are."""
    assert log.last is not None or count
    for _ in range(count):
        number = done(log.append, {**a_line(f"call {log.last and log.last.sequence}"), **more})
        assert log.last is not None
        assert number == log.last.sequence


def a_log(folder: Path, segments: int = 3, lines: int = 12) -> Path:
    """A log of that many segments, a day each."""
    clock = FakeClock()
    with opened(folder, clock) as log:
        for _ in range(segments):
            write(log, lines)
            clock.now += DAY
    return folder


def check(folder: Path, checkpoint: Checkpoint | None = None) -> Integrity:
    """The verdict."""
    return check_integrity(folder, KEY, checkpoint)


def first_finding(found: Integrity) -> Where:
    """Where the first thing is that is not as it was written."""
    one = found.findings[0]
    return int(Path(one.file).stem), one.line


def test_a_whole_log(tmp_path: Path) -> None:
    """Lines are found whole, over several segments, of which each but the first says what it
    follows; files are 0600 in a folder of 0700."""
    found = check(a_log(tmp_path / "audit"))
    assert (found.findings, found.lines, found.last, len(found.segments)) == ([], 37, 37, 3)
    assert tmp_path.joinpath("audit").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("audit/*")} == {0o600}


def rows_of(folder: Path, number: int) -> list[bytes]:
    """The lines of a segment, with their ends."""
    return segment_path(folder, number).read_bytes().splitlines(keepends=True)


def edit(folder: Path, chance: random.Random, number: int) -> Where:
    """Change one byte."""
    rows = rows_of(folder, number)
    at = chance.randrange(len(rows))
    place = chance.randrange(len(rows[at]))
    other = chance.choice([byte for byte in range(256) if byte != rows[at][place]])
    rows[at] = rows[at][:place] + bytes([other]) + rows[at][place + 1 :]
    segment_path(folder, number).write_bytes(b"".join(rows))
    return number, at + 1


def say_otherwise(folder: Path, chance: random.Random, number: int) -> Where:
    """Change what a line says, and write it as the program would."""
    rows = rows_of(folder, number)
    at = chance.randrange(len(rows))
    line = orjson.loads(rows[at])
    field = chance.choice(
        ["call", "kind", "time", "sequence", "user", "content", "mac", "previous"]
    )
    if field == "content" and "content" in line:
        line["content"]["prompt"]["text"] += "!"
    else:
        line[field] = chance.choice(["other", 7, None])
    rows[at] = encoded(line)
    segment_path(folder, number).write_bytes(b"".join(rows))
    return number, at + 1


def delete(folder: Path, chance: random.Random, number: int) -> Where:
    """Remove some lines that follow each other."""
    rows = rows_of(folder, number)
    at = chance.randrange(len(rows))
    end = min(len(rows), at + chance.randint(1, 3))
    segment_path(folder, number).write_bytes(b"".join(rows[:at] + rows[end:]))
    in_next = end == len(rows) and number < len(segments(folder))
    return (number + 1, 1) if in_next else (number, at + 1)


def swap(folder: Path, chance: random.Random, number: int) -> Where:
    """Exchange two lines."""
    rows = rows_of(folder, number)
    first, second = sorted(chance.sample(range(len(rows)), 2))
    rows[first], rows[second] = rows[second], rows[first]
    segment_path(folder, number).write_bytes(b"".join(rows))
    return number, first + 1


def insert(folder: Path, chance: random.Random, number: int) -> Where:
    """Add a line that was in the log already, or one that was not."""
    rows = rows_of(folder, number)
    at = chance.randrange(len(rows) + 1)
    new = chance.choice([chance.choice(rows), encoded({**orjson.loads(rows[-1]), "call": "new"})])
    rows.insert(at, new)
    segment_path(folder, number).write_bytes(b"".join(rows))
    if at < len(rows) - 1 and new == rows[at + 1]:
        at += 1  # a line twice: which of the two is the new one, nobody can say
    return number, at + 1


def truncate(folder: Path, chance: random.Random, _: int) -> Where:
    """Cut the end of the log off."""
    number = segments(folder)[-1]
    rows = rows_of(folder, number)
    size = sum(map(len, rows)) - chance.choice([1, len(rows[-1]), chance.randrange(1, 2000)])
    text = b"".join(rows)[:size]
    segment_path(folder, number).write_bytes(text)
    return number, text.count(b"\n") + 1


CHANGES = (edit, say_otherwise, delete, swap, insert, truncate)


def test_what_is_done_to_it_is_found(tmp_path: Path) -> None:
    """200 random edits, deletions, swaps, insertions and truncations: all are found, and the first
    line that is not as it was written is named by file and line."""
    whole = a_log(tmp_path / "whole")
    for seed in range(200):
        chance = random.Random(seed)
        folder = tmp_path / "audit"
        shutil.copytree(whole, folder)
        change = CHANGES[seed % len(CHANGES)]
        where = change(folder, chance, chance.randint(1, 3))
        if any(
            segment_path(folder, n).read_bytes() != segment_path(whole, n).read_bytes()
            for n in segments(whole)
        ):
            assert check(folder).findings, (seed, change.__name__)
            assert first_finding(check(folder)) == where, (seed, change.__name__)
        else:
            assert change is say_otherwise
        shutil.rmtree(folder)


def test_a_segment_that_is_gone(tmp_path: Path) -> None:
    """A segment, or the whole log, that somebody removed is named; so is the head."""
    for gone, where in (("000002.jsonl", (2, 0)), ("000003.jsonl", (3, 0))):
        folder = a_log(tmp_path / gone)
        (folder / gone).unlink()
        assert first_finding(check(folder)) == where
    folder = a_log(tmp_path / "head")
    (folder / "head").unlink()
    assert [Path(one.file).name for one in check(folder).findings] == ["head"]
    what = "there is no audit log: it was removed, or no `audit:` has begun one"
    assert check(tmp_path / "nowhere").findings[0].what == what


def test_a_cut_tail_stays_missed(tmp_path: Path) -> None:
    """Who writes after the end was cut off, or after the head was taken away with it, does not
    cover that up."""
    folder = a_log(tmp_path / "audit", segments=1)
    path = segment_path(folder, 1)
    rows = rows_of(folder, 1)
    path.write_bytes(b"".join(rows[:-2]))
    with opened(folder) as log:
        write(log, 3)
    assert first_finding(check(folder)) == (1, len(rows) - 1)
    path.write_bytes(b"".join(rows[:-2]))
    (folder / "head").unlink()
    with opened(folder) as log:
        write(log, 3)
    assert first_finding(check(folder)) == (1, len(rows) - 1)


def test_the_checkpoint_finds_what_the_head_cannot(tmp_path: Path) -> None:
    """Somebody who puts an older log in place, head and all, is found by the head as it was kept
    elsewhere; a checkpoint of this log is no finding, be it the newest or an older one."""
    folder = a_log(tmp_path / "audit", segments=1)
    with opened(folder) as log:
        older = Checkpoint(log.last.sequence, log.last.mac) if log.last else None
        shutil.copytree(folder, tmp_path / "older")
        write(log, 2)
        assert log.last is not None
        newest = Checkpoint(log.last.sequence, log.last.mac)
    assert check(folder, newest).findings == check(folder, older).findings == []
    assert not check(tmp_path / "older").findings
    assert "the checkpoint says" in check(tmp_path / "older", newest).findings[0].what
    forked = Checkpoint(newest.sequence, "0" * 64)
    assert "another line" in check(folder, forked).findings[0].what
    file = tmp_path / "head.json"
    file.write_bytes(orjson.dumps({"sequence": 3, "mac": "ab"}))
    assert read_checkpoint(file) == Checkpoint(3, "ab")


def test_another_key_is_no_tampering(tmp_path: Path) -> None:
    """A log that was written with another key is neither read nor gone on with."""
    folder = a_log(tmp_path / "audit")
    before = segment_path(folder, 3).read_bytes()
    for use in (lambda: AuditLog(folder, b"x" * 32, FakeClock()), lambda: check_other(folder)):
        with pytest.raises(NoKeyError, match="another store key"):
            use()
    assert segment_path(folder, 3).read_bytes() == before


def check_other(folder: Path) -> Integrity:
    """The verdict of somebody with another key."""
    return check_integrity(folder, b"x" * 32)


def start(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    """A process that writes."""
    command = [sys.executable, "-m", "tests.storage.audit_worker", str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_crash_is_no_tampering(tmp_path: Path) -> None:
    """Twenty processes are killed in the middle of writing: nothing is found wrong, and no line is
    missing that was said to be durable. Lines half written are counted."""
    folder, chance, said = tmp_path / "audit", random.Random(1), 0
    for turn in range(20):
        with start(folder, f"run {turn}", 0) as worker:
            assert worker.stdout is not None
            words = [worker.stdout.readline() for _ in range(chance.randint(20, 200))]
            worker.kill()
            words += worker.stdout.readlines()
        said = max([said, *(int(word) for word in words if word.strip().isdecimal())])
        found = check(folder)
        assert found.findings == []
        assert found.last >= said
    assert found.torn > 0
    with opened(folder) as log:
        write(log, 1)
    assert check(folder).findings == []


def test_what_a_crash_left_cannot_be_changed_later(tmp_path: Path) -> None:
    """Half a line is noted by the next one: from then on it stays as it is."""
    folder = a_log(tmp_path / "audit", segments=1)
    path = segment_path(folder, 1)
    with path.open("ab") as file:
        file.write(b'{"attempts":1,"call":"ha')
    assert (check(folder).findings, check(folder).torn) == ([], 1)
    with opened(folder) as log:
        write(log, 2)
    assert (check(folder).findings, check(folder).torn) == ([], 1)
    path.write_bytes(path.read_bytes().replace(b'"call":"ha\n', b'"call":"hu\n'))
    assert first_finding(check(folder)) == (1, 14)


def test_four_processes_make_one_chain(tmp_path: Path) -> None:
    """Lines of four processes at once stand in one chain, and none is missing."""
    folder = tmp_path / "audit"
    workers = [start(folder, f"w{n}", 60) for n in range(4)]
    numbers = [int(line) for worker in workers for line in worker.communicate()[0].split()]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sorted(numbers) == [*range(2, 242)]
    found = check(folder)
    assert (found.findings, found.lines, len(found.calls)) == ([], 241, 240)


def test_a_large_segment_is_followed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that has its size is not written to any more."""
    monkeypatch.setattr(AuditLog, "segment_size", 2000)
    folder = a_log(tmp_path / "audit", segments=1, lines=40)
    assert len(segments(folder)) > 4
    assert check(folder).findings == []


@pytest.mark.parametrize("step", ["segment", "head"])
def test_killed_between_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Between a new segment's first line and the head, or before that line, a crash leaves a log
    that is whole and goes on."""
    clock = FakeClock()
    folder = tmp_path / "audit"
    with opened(folder, clock) as log:
        write(log, 3)
        clock.now += 2 * DAY

        def crash(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            at_head = step == "head"
            where: object = log if at_head else audit_log
            patch.setattr(where, "write_head" if at_head else "write_all", crash)
            with pytest.raises(KeyboardInterrupt):
                log.append_now(a_line("lost"))
    assert segments(folder) == [1, 2]
    assert check(folder).findings == []
    with opened(folder, clock) as log:
        write(log, 2)
    found = check(folder)
    assert (found.findings, found.lines, len(found.segments)) == ([], 6 + (step == "head"), 2)


def test_erased_content_leaves_the_chain_whole(tmp_path: Path) -> None:
    """Content of a user is gone from every segment, the chain verifies, and it is on record that it
    was erased; who takes it out by hand is found."""
    clock = FakeClock()
    folder = tmp_path / "audit"
    with opened(folder, clock) as log:
        for user in ("ann", "bob") * 2:
            write(log, 2, user=user, content={"prompt": a_content(f"secret of {user}")})
            clock.now += DAY
        numbers = erasable(log, lambda line: line.get("user") == "ann")
        assert erase(log, numbers, {"user": "ann"}, dry_run=True).lines == 4
        assert b"secret of ann" in everything(folder)
        result = erase(log, numbers, {"user": "ann"})
        assert (result.lines, result.segments) == (4, 2)
        write(log, 1, user="ann", content={"prompt": a_content("since")})
    assert b"secret of ann" not in everything(folder)
    assert b"secret of bob" in everything(folder)
    found = check(folder)
    assert (found.findings, found.erased) == ([], 4)
    (record,) = [line for line in read_lines(folder) if line["kind"] == "erase"]
    assert (record["user"], record["lines"]) == ("ann", "2-3,6-7")

    rows = rows_of(folder, 2)
    line = orjson.loads(rows[0])
    line["content"]["prompt"] = {"sha256": line["content"]["prompt"]["sha256"]}
    segment_path(folder, 2).write_bytes(b"".join([encoded(line), *rows[1:]]))
    assert "no erasure is on record" in check(folder).findings[0].what
    assert first_finding(check(folder)) == (2, 1)


def a_content(text: str) -> dict[str, Any]:
    """A field of content."""
    content: dict[str, Any] = a_line(text)["content"]  # type: ignore[assignment]
    return dict(content["prompt"])


def everything(folder: Path) -> bytes:
    """All bytes of the log."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_content_of_the_newest_segment_is_erased_while_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is written to goes on behind a segment that became shorter, also when the next
    one to write is killed."""
    folder = tmp_path / "audit"
    with opened(folder) as log, opened(folder) as other:
        write(log, 3)
        assert erase(log, erasable(log, lambda _: True), {"call": "x"}).lines == 3
        with monkeypatch.context() as patch:
            patch.setattr(other, "write_head", lambda _: sys.exit(9))
            with pytest.raises(SystemExit):
                other.append_now(a_line("later"))
        write(log, 1)
    assert (check(folder).findings, check(folder).lines) == ([], 7)


def test_old_segments_leave_a_stub(tmp_path: Path) -> None:
    """What is older than it is kept is removed, segment by segment, and the rest verifies by the
    stubs; a stub that was changed or removed is found."""
    clock = FakeClock()
    folder = tmp_path / "audit"
    with opened(folder, clock) as log:
        for _ in range(4):
            write(log, 5)
            clock.now += DAY
        old = removable(log, clock.wall() - 2.5 * DAY)
        assert [stub.segment for stub in old] == [1, 2]
        remove(log, old)
    assert segments(folder) == [3, 4, 5]
    found = check(folder)
    assert (found.findings, found.last, len(found.removed)) == ([], 22, 2)
    stub = stub_path(folder, 1)
    text = stub.read_bytes()
    stub.write_bytes(text.replace(b'"last":6', b'"last":5'))
    assert "stub of the removed segment was changed" in check(folder).findings[0].what
    stub.unlink()
    assert first_finding(check(folder)) == (1, 0)


def test_a_stub_of_another_log(tmp_path: Path) -> None:
    """A stub that was signed for another log does not stand for a segment of this one."""
    for name in ("one", "other"):
        with opened(a_log(tmp_path / name)) as log:
            remove(log, removable(log, FakeClock().wall() + 1.5 * DAY))
    assert check(tmp_path / "one").findings == []
    shutil.copy(stub_path(tmp_path / "other", 1), stub_path(tmp_path / "one", 1))
    assert "are missing" in check(tmp_path / "one").findings[0].what


def test_a_changed_log_is_not_pruned(tmp_path: Path) -> None:
    """Where something is wrong with the log nothing of it is removed: it would be gone with it."""
    folder = a_log(tmp_path / "audit")
    edit(folder, random.Random(2), 1)
    with opened(folder) as log, pytest.raises(ChangedError, match="nothing was removed"):
        removable(log, 1e12)


def test_a_full_disk_stops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is a `DiskError`, and so is all that comes after it."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path / "audit") as log:
        with monkeypatch.context() as patch:
            patch.setattr(audit_log, "sync_file", full)
            with pytest.raises(DiskError, match="the disk is full"):
                write(log, 1)
        with pytest.raises(DiskError, match="the disk is full"):
            write(log, 1)
    assert check(tmp_path / "audit").findings == []
