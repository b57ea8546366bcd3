"""A process that writes to an audit log: `python -m tests.storage.audit_worker FOLDER NAME COUNT`.

It says each number once its line is durable. With COUNT 0 it goes on until it is killed, and writes
a few bytes of a line at a time, each with a dot, so that it is killed in the middle of one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import llmctl.storage.audit_log as storage
from llmctl.clock import SystemClock
from llmctl.storage.audit_chain import content_field
from llmctl.storage.audit_log import AuditLog
from llmctl.storage.files import write_all

KEY = b"k" * 32
_PIECE = 40  # bytes
_HEAD = 512  # bytes, which a system writes at once


def a_line(call: str) -> dict[str, object]:
    """What a line says of a call."""
    return {"kind": "call", "call": call, "attempts": 1, "content": {"prompt": content_field(call)}}


def in_pieces(fd: int, data: bytes) -> None:
    """As `write_all`, in pieces of a line."""
    for start in range(0, len(data), _PIECE if len(data) != _HEAD else _HEAD):
        write_all(fd, data[start : start + _PIECE] if len(data) != _HEAD else data)
        print(".", flush=True)


async def main(log: AuditLog, name: str, count: int) -> None:
    """Write, a few at a time."""

    async def write(number: int) -> None:
        done = await log.append(a_line(f"{name}-{number}"))
        print(done, flush=True)

    for start in range(0, count or sys.maxsize, 4):
        await asyncio.gather(*map(write, range(start, start + 4)))


if __name__ == "__main__":
    folder, name, count = sys.argv[1:]
    opened = AuditLog(Path(folder), KEY, SystemClock())
    if count == "0":
        vars(storage)["write_all"] = in_pieces
    asyncio.run(main(opened, name, int(count)))
    opened.close()
