"""The OUTPUT of a batch that has ended, open for the rows that were queued meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self

from llmctl.batch.output import (
    ErrorsFile,
    Format,
    LineWriter,
    OutputScan,
    append,
    errors_path,
    repair,
)
from llmctl.storage.call_queue import CallQueue
from llmctl.storage.files import LockedFile, disk, sync_folder


class LateOutput:
    """Appends to OUTPUT and its errors file, which no other process can write as long as it is
    open. What is there stays, but for a half-written last line.

    `answered` are those of the rows asked for that have a line in OUTPUT. Opening raises
    `BusyError`, `DiskError`, and `InputError` for files that llmctl did not write; appending
    raises `DiskError`.
    """

    def __init__(self, path: Path, format: Format, rows: Collection[str]) -> None:
        self.answered: set[str] = set()
        self._path, self._format, self._rows = path, format, rows
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            output = stack.enter_context(LockedFile.open(self._path, private=False))
            stack.callback(output.leave_no_trace)
            with disk("read", self._path), output.reader() as reader:
                scan = OutputScan(reader, self._path, self._format)
                self.answered = {name for name, _, _ in scan if name in self._rows}
            repair(output, scan.torn)
            errors = stack.enter_context(ErrorsFile(errors_path(self._path))).file
            repair(errors, _half_line(errors))
            sync_folder(self._path.parent)
            self._answers = LineWriter(partial(append, output))
            stack.push_async_callback(self._answers.close)
            self._failures = LineWriter(partial(append, errors))
            stack.push_async_callback(self._failures.close)
            self._stack = stack.pop_all()
        return self

    async def add(self, row: str, line: bytes) -> None:
        """Append the answer of a row, unless it is there; durable on return."""
        if row not in self.answered:
            await self._answers.append(line)
            self.answered.add(row)

    async def add_failure(self, line: bytes) -> None:
        """Append the line of a row that failed; durable on return."""
        await self._failures.append(line)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def _half_line(file: LockedFile) -> int:
    """The bytes of a last line without its line feed."""
    last = b"\n"
    with disk("read", file.path), file.reader() as reader:
        for line in reader:
            last = line
    return 0 if last.endswith(b"\n") else len(last)


async def fetch_answers(queue: CallQueue, path: Path, format: Format) -> int:
    """Put the answers that a queue run could not bring to OUTPUT any more, because it was killed,
    where they belong; gives how many. Raises as `LateOutput`."""
    found = queue.answers(str(path))
    if found:
        async with LateOutput(path, format, {row for _, row, _ in found}) as output:
            for call, row, line in found:
                await output.add(row, line)
                await queue.remove([call])
    return len(found)
