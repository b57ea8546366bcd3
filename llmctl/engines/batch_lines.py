"""Filling batches with rows: on the disk, and on record before anything of them is sent."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.engines.batch_tools import BatchTools
from llmctl.errors import InvalidRequest
from llmctl.storage.batch_jobs import BatchJob, BatchRow
from llmctl.storage.files import disk, private_folder, sync_file, sync_folder
from llmctl.types import Request


class _Lines(Struct):
    """A batch that is being filled: rows of one path and one model."""

    intent: str
    group: tuple[str, str]
    file: BinaryIO
    path: Path
    rows: list[BatchRow] = field(default_factory=list)
    size: int = 0
    tokens: int = 0


class BatchLines:
    """The batches that are being filled. `most` gives how many tokens one may hold (None: any);
    `sealed` gets each that is on record."""

    def __init__(
        self,
        tools: BatchTools,
        most: Callable[[], int | None],
        sealed: Callable[[BatchJob], None],
    ) -> None:
        self._tools, self._most, self._sealed = tools, most, sealed
        self._filling: dict[tuple[str, str], _Lines] = {}

    async def add(self, request: Request, attempts: int, answer_key: str) -> None:
        """Put in a request that may be sent, and is held, on record by `answer_key`; `attempts`
        with this one. Raises `InvalidRequest` for what cannot be asked in a batch."""
        tools, model = self._tools, request.target.model
        wire = tools.client.endpoint.codec.encode(request, stream=False)
        line = tools.api.line(request.call_id, wire, request)
        fitted = request.schema is not None or answer_key != request.answer_key
        row = BatchRow(request.call_id, "", request.id, answer_key, attempts, fitted=fitted)
        await self._add((wire.path, model), row, line, tools.tokens(request))

    async def _add(self, group: tuple[str, str], row: BatchRow, line: bytes, tokens: int) -> None:
        most, limits = self._most(), self._tools.api.limits(self._tools.client.base_url)
        size = len(line) + len(limits.separator)
        if size > limits.size:
            raise InvalidRequest(
                f"the row has {size:,} bytes, and all of a batch {limits.size:,} at most",
                sent=False,
            )
        while lines := self._filling.get(group):
            full = len(lines.rows) >= limits.rows or lines.size + size > limits.size
            if not full and (most is None or lines.tokens + tokens <= most):
                break
            await self._seal(self._filling.pop(group))
        if lines is None:
            lines = self._filling[group] = self._open_lines(group)
        with disk("write", lines.path):
            lines.file.write(limits.separator + line if lines.rows else line)
        lines.size += size if lines.rows else len(line)
        lines.rows.append(replace(row, intent=lines.intent))
        lines.tokens += tokens

    def _open_lines(self, group: tuple[str, str]) -> _Lines:
        intent = self._tools.call_id()
        path = self._tools.lines(intent)
        private_folder(path.parent)
        with disk("write", path):
            return _Lines(intent, group, self._tools.create(path), path)

    async def seal_all(self) -> None:
        """Put what was filled so far on record."""
        while self._filling:
            await self._seal(self._filling.pop(next(iter(self._filling))))

    async def _seal(self, lines: _Lines) -> None:
        """Put a batch on record, durably, before anything of it is sent."""
        tools, (path, model) = self._tools, lines.group
        with disk("write", lines.path), lines.file as file:
            file.flush()
            await asyncio.to_thread(sync_file, file.fileno())
            sync_folder(lines.path.parent)
        job = BatchJob(
            intent=lines.intent,
            output=tools.output,
            input=tools.input,
            run_id=tools.run_id,
            profile=tools.target.profile,
            provider=tools.target.provider,
            adapter=tools.target.adapter,
            base_url=tools.target.base_url,
            model=model,
            wire_path=path,
            rows=len(lines.rows),
            size=lines.size,
            tokens=lines.tokens,
            made_ms=tools.now(),
            key=tools.client.key,
        )
        await tools.jobs.seal(job, lines.rows)
        self._sealed(job)

    def abandon(self) -> list[BatchRow]:
        """Throw away what was filled and is not sealed; gives its rows, which are held."""
        filling, self._filling = [*self._filling.values()], {}
        for lines in filling:
            with contextlib.suppress(OSError):
                lines.file.close()
            shutil.rmtree(lines.path.parent, ignore_errors=True)
        return [row for lines in filling for row in lines.rows]
