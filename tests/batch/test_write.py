"""Appending rows durably."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.batch.write import Appender, Durable, ErrorsFile, Sink, Stdout
from llmctl.errors import DiskError
from llmctl.storage.files import sync_file
from llmctl.storage.lock import LockedFile


class Disk:
    """A disk that keeps a diary, writes what it is told to at most, and fails when told to.

    `synced` is what a power failure would leave of the file.
    """

    def __init__(self, path: Path, *, most: int = 1 << 20) -> None:
        self.path = path
        self.most = most
        self.diary: list[str] = []
        self.synced = b""
        self.fail_write: OSError | None = None
        self.fail_sync: OSError | None = None
        self.go = threading.Event()
        self.go.set()

    def write(self, fd: int, data: memoryview) -> int:
        """Take a piece, at most."""
        self.go.wait()
        if self.fail_write:
            os.write(fd, data[: len(data) // 2])
            raise self.fail_write
        self.diary.append("write")
        return os.write(fd, data[: self.most])

    def sync(self, fd: int) -> None:
        """Make what was written last."""
        self.diary.append("sync")
        if self.fail_sync:
            raise self.fail_sync
        sync_file(fd)
        self.synced = self.path.read_bytes()

    def appender(self, file: LockedFile) -> Appender:
        """An appender to the file on this disk."""
        return Appender(Durable(file, write=self.write, sync=self.sync))


def use(path: Path, work: Callable[[Appender, Disk], Awaitable[None]], **options: int) -> Disk:
    """Run `work` with an appender of the file."""
    disk = Disk(path, **options)

    async def main() -> None:
        with LockedFile.open(path) as file:
            sink = disk.appender(file)
            await work(sink, disk)
            await sink.close()

    asyncio.run(main())
    return disk


def test_synced_before_it_returns(tmp_path: Path) -> None:
    """When `append` returns, the line would survive a power failure."""

    async def work(sink: Sink, disk: Disk) -> None:
        for n in range(5):
            await sink.append(b"%d\n" % n)
            assert disk.synced.endswith(b"%d\n" % n)

    assert use(tmp_path / "x", work).diary == ["write", "sync"] * 5


def test_lines_are_grouped(tmp_path: Path) -> None:
    """Lines of many tasks that come while the disk is busy share one write and one sync."""

    async def work(sink: Sink, disk: Disk) -> None:
        disk.go.clear()
        tasks = [asyncio.ensure_future(sink.append(b"%d\n" % n)) for n in range(500)]
        await asyncio.sleep(0)
        disk.go.set()
        await asyncio.gather(*tasks)
        assert disk.synced == b"".join(b"%d\n" % n for n in range(500))

    assert use(tmp_path / "x", work).diary.count("sync") <= 2


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.integers(1, 60))
def test_small_writes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], most: int
) -> None:
    """However little the system takes at once, every line is written whole and in order."""
    path = tmp_path_factory.mktemp("small") / "x"

    async def work(sink: Sink, _: Disk) -> None:
        await asyncio.gather(*(sink.append(line) for line in lines))

    use(path, work, most=most)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("when", ["write", "sync"])
def test_the_disk_fails(tmp_path: Path, when: str) -> None:
    """When the disk refuses, all who wait and all who come later hear it; the file ends with
    what was durable before, and neither write nor sync is tried again."""
    path = tmp_path / "x"

    async def work(sink: Sink, disk: Disk) -> None:
        await sink.append(b"good\n")
        setattr(disk, f"fail_{when}", OSError(28, "No space left on device"))
        done = await asyncio.gather(
            *(sink.append(b"bad\n") for _ in range(9)), return_exceptions=True
        )
        assert all(isinstance(error, DiskError) and error.exit_code == 74 for error in done)
        assert path.read_bytes() == b"good\n"
        before = list(disk.diary)
        disk.fail_write = disk.fail_sync = None
        with pytest.raises(DiskError, match=f"cannot write to {path}: the disk is full"):
            await sink.append(b"later\n")
        assert disk.diary == before

    use(path, work)
    assert path.read_bytes() == b"good\n"


def test_a_task_that_gave_up(tmp_path: Path) -> None:
    """A cancelled `append` disturbs nobody else."""
    path = tmp_path / "x"

    async def work(sink: Sink, disk: Disk) -> None:
        disk.go.clear()
        tasks = [asyncio.ensure_future(sink.append(b"%d\n" % n)) for n in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        disk.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[1], asyncio.CancelledError)
        assert results[::2] == [None, None]

    use(path, work)
    assert path.read_bytes() == b"0\n1\n2\n"


def test_the_loop_goes_on(tmp_path: Path) -> None:
    """While the disk is busy the event loop does other things."""

    async def work(sink: Sink, disk: Disk) -> None:
        disk.go.clear()
        task = asyncio.ensure_future(sink.append(b"x\n"))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        disk.go.set()
        await task

    use(tmp_path / "x", work)


LIMITED = """
    import asyncio, json, resource, sys
    from pathlib import Path
    from llmctl.batch.write import Appender, Durable
    from llmctl.errors import DiskError
    from llmctl.storage.lock import LockedFile

    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    done, refused = [], []

    async def one(sink, n):
        try:
            await sink.append(json.dumps({"n": n, "x": "y" * 90}).encode() + b"\\n")
            done.append(n)
        except DiskError as error:
            refused.append(error.message)

    async def main():
        with LockedFile.open(Path(sys.argv[1])) as file:
            sink = Appender(Durable(file))
            for first in range(0, 300, 7):
                await asyncio.gather(*(one(sink, n) for n in range(first, first + 7)))
            await sink.close()

    asyncio.run(main())
    print(json.dumps([done, sorted(set(refused))]))
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """At a real limit of the system the file keeps exactly the lines that were acknowledged."""
    path = tmp_path / "x.jsonl"
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(path)],
        capture_output=True,
        check=True,
        text=True,
    )
    done, [refused] = json.loads(ran.stdout)
    assert 80 < len(done) < 110
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == done
    assert "may not grow any more" in refused


def test_errors_file(tmp_path: Path) -> None:
    """The errors of an earlier run are removed at once; the file is made for the first error."""
    path = tmp_path / "x.errors.jsonl"
    path.write_bytes(b"old\n")

    async def main() -> None:
        sink = ErrorsFile(path)
        assert not path.exists()
        await sink.append(b"one\n")
        await asyncio.gather(sink.append(b"two\n"), sink.append(b"three\n"))
        assert path.read_bytes() == b"one\ntwo\nthree\n"
        await sink.close()
        await ErrorsFile(path).close()

    asyncio.run(main())
    assert not path.exists()


def test_errors_file_is_private(tmp_path: Path) -> None:
    """The errors file is 0600 under any umask."""
    path = tmp_path / "x.errors.jsonl"

    async def main() -> None:
        sink = ErrorsFile(path)
        await sink.append(b"one\n")
        await sink.close()

    before = os.umask(0)
    try:
        asyncio.run(main())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_stdout() -> None:
    """Lines for stdout go out whole and in order, however small the pipe is."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as a terminal's other user may have left it
    found: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 1000):
            found.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    lines = [b"%d " % n * 9000 + b"\n" for n in range(20)]

    async def main() -> None:
        sink = Stdout(writing)
        await asyncio.gather(*(sink.append(line) for line in lines))
        await sink.close()

    asyncio.run(main())
    os.close(writing)
    reader.join()
    os.close(reading)
    assert b"".join(found) == b"".join(lines)


def test_a_reader_that_has_gone() -> None:
    """Once nobody reads stdout any more, every `append` says so."""
    reading, writing = os.pipe()
    os.close(reading)

    async def main() -> None:
        sink = Stdout(writing)
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                await sink.append(b"x\n")
        await sink.close()

    asyncio.run(main())
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_stdout_on_a_full_disk() -> None:
    """A full disk behind stdout is a disk error."""

    async def main() -> None:
        fd = os.open("/dev/full", os.O_WRONLY)
        sink = Stdout(fd)
        with pytest.raises(DiskError, match="cannot write to stdout: the disk is full"):
            await sink.append(b"x\n")
        await sink.close()
        os.close(fd)

    asyncio.run(main())
