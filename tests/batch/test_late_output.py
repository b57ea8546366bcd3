"""OUTPUT after its batch: rows that come later are appended once, and nobody else writes then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmctl.batch.late_output import LateOutput, fetch_answers
from llmctl.cli.queue_file import for_rows
from llmctl.config.settings import DegradeStep
from llmctl.errors import BusyError, InputError
from llmctl.storage.call_queue import CallQueue, Origin, open_queue
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.files import LockedFile
from tests.cli.jsonl import read
from tests.configuring import World
from tests.support import FakeClock, request


def line(row: str, **fields: object) -> bytes:
    """The output row of a row, or with an error its error row."""
    said = {"id": row, "request_hash": "ab" * 32, **(fields or {"text": f"echo: {row}"})}
    return json.dumps(said).encode() + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An OUTPUT with one answer, whose batch was killed while it wrote another and an error."""
    made = tmp_path / "out.jsonl"
    made.write_bytes(line("a") + b'{"id": "half')
    failed = line("e", error={"type": "server"})
    made.with_name("out.errors.jsonl").write_bytes(failed + failed[:20])
    return made


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[CallQueue]:
    """An empty queue."""
    opened = open_queue(tmp_path / "queue.db", StoreCipher({}), FakeClock())
    yield opened
    opened.close()


def test_rows_are_appended_once_behind_what_is_whole(path: Path) -> None:
    """Half-written lines go; a row that has its answer, and one that gets it twice, has one."""

    async def add() -> set[str]:
        async with LateOutput(path, "llmctl", {"a", "b"}) as output:
            answered = set(output.answered)
            for row in ("a", "b", "b"):
                await output.add(row, line(row))
            await output.add_failure(line("c", error={"type": "invalid_request"}))
        return answered

    assert asyncio.run(add()) == {"a"}
    assert [row["id"] for row in read(path)] == ["a", "b"]
    assert [row["id"] for row in read(path.with_name("out.errors.jsonl"))] == ["e", "c"]


def test_who_holds_the_output_is_left_alone(path: Path) -> None:
    """Nothing changes while a batch writes it; a file of somebody else's is no output."""

    async def enter() -> None:
        async with LateOutput(path, "llmctl", ()):
            pass

    before = path.read_bytes()
    with LockedFile.open(path), pytest.raises(BusyError):
        asyncio.run(enter())
    path.write_text('{"not": "ours"}\n')
    with pytest.raises(InputError):
        asyncio.run(enter())
    path.write_bytes(before)
    asyncio.run(enter())
    fresh = path.with_name("fresh.jsonl")
    path = fresh
    asyncio.run(enter())
    assert not fresh.exists()


def test_what_a_killed_run_has_left_is_fetched(path: Path, queue: CallQueue) -> None:
    """Answers that were durable in the queue alone come to OUTPUT, once, and leave the queue; calls
    without one wait on."""
    origin = Origin(output=str(path))
    for row in ("a", "b", "c"):
        asyncio.run(queue.put(request(row, id=row, call_id=f"call-{row}"), origin, "server"))
    for row in ("a", "b"):
        asyncio.run(queue.answer(f"call-{row}", line(row)))
    assert asyncio.run(fetch_answers(queue, path, "llmctl")) == 2
    assert [row["id"] for row in read(path)] == ["a", "b"]
    assert [call.row for call in queue.calls()] == ["c"]
    assert asyncio.run(fetch_answers(queue, path, "llmctl")) == 0


def test_rows_for_stdout_are_not_queued(world: World) -> None:
    """An answer that comes later would find nobody there: the profile's other steps stay."""
    world.user("profiles: {openai: {degrade: [{static: sorry}, queue]}}")
    profile = world.load().profiles["openai"]
    assert for_rows(profile, "out.jsonl") == profile
    assert for_rows(profile, "-").degrade == (DegradeStep(static="sorry"),)
