"""Calls that are kept for later: which are, which never are, and what may not be kept in clear."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.config.settings import DegradeStep, DegradeSteps
from llmctl.errors import (
    AuthFailed,
    BudgetExhausted,
    BudgetRefused,
    CallError,
    CallTimeout,
    DataRefused,
    IdentifiersFound,
    InvalidRequest,
    ProviderDown,
    Queued,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
    Unavailable,
)
from llmctl.guards.degrade import Degrade
from llmctl.guards.queueing import Queueing
from llmctl.storage.answer_cache import SqliteCache
from llmctl.storage.call_queue import CallQueue, Origin, open_queue
from llmctl.storage.cipher import StoreCipher
from llmctl.types import Answer, Request
from tests.guards.fakes import DOWN, OUTAGES
from tests.support import MASKER, FakeClock, Scripted, done, request

STATIC = DegradeStep(static="we are down")
MAIL = "mary.poe@example.com"


class World:
    """A guard around what fails, with a queue on the disk."""

    def __init__(self, folder: Path) -> None:
        self.queue: CallQueue = open_queue(folder / "queue.db", StoreCipher({}), FakeClock())
        self.warnings: list[str] = []

    def ask(
        self,
        error: CallError,
        asked: Request | None = None,
        steps: DegradeSteps = ("queue",),
        *,
        text: bool = True,
        queues: bool = True,
        **queueing: Any,
    ) -> Answer:
        """What comes of a question that meets the error."""
        said = {"origin": Origin(), "encrypted": False, "warn": self.warnings.append, **queueing}
        guard = Degrade(
            inner=Scripted(error),
            steps=steps,
            text=text,
            store=SqliteCache(None, lambda _: None),
            clock=FakeClock(),
            call_id=lambda: "another",
            on_error=settled,
            queueing=Queueing(lambda: self.queue, **said) if queues else None,
        )
        return done(guard, asked or request(), None)


async def settled(*_: object) -> None:
    """Nobody's."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty queue."""
    made = World(tmp_path)
    yield made
    made.queue.close()


@pytest.mark.parametrize("error", OUTAGES)
def test_an_outage_is_queued(world: World, error: CallError) -> None:
    """Under the call's id, with the attempts and the bill of the outage; exit code 6."""
    error.attempts, error.held = 3, True
    with pytest.raises(Queued, match="queued as call-1") as raised:
        world.ask(error)
    later = raised.value
    assert (later.exit_code, later.row_type, later.queue_id) == (6, "queued", "call-1")
    assert (later.attempts, later.held) == (3, True)
    assert [(call.id, call.error) for call in world.queue.calls()] == [("call-1", error.row_type)]


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("400"),
        AuthFailed("401"),
        QuotaExhausted("402"),
        RateLimited("429"),
        BudgetRefused("budget", sent=False),
        BudgetExhausted("budget", sent=False),
        IdentifiersFound("pii"),
        DataRefused("data"),
        CallTimeout("it may be at work"),
        ProviderDown("sim", QuotaExhausted("402"), 10.0),
    ],
)
def test_nothing_else_is_queued(world: World, error: CallError) -> None:
    """What the provider or a budget refused stays what it is."""
    with pytest.raises(type(error)) as raised:
        world.ask(error)
    assert raised.value is error
    assert world.queue.calls() == []


def test_whoever_waits_for_an_answer_is_not_queued(world: World) -> None:
    """Where nothing puts calls into the queue, as for a gateway's callers, the step is skipped."""
    with pytest.raises(ServerFailed):
        world.ask(DOWN, queues=False)
    assert world.ask(DOWN, steps=(STATIC, "queue"), queues=False).text == "we are down"


def test_a_text_is_given_while_the_call_waits(world: World) -> None:
    """To a person; a row has no text, and an answer with a form neither."""
    steps: DegradeSteps = (STATIC, "queue")
    shaped = request(schema={"type": "object"}, call_id="c2")
    row = request(call_id="c3")
    for asked, text, static in ((None, True, "we are down"), (shaped, True, ""), (row, False, "")):
        with pytest.raises(Queued) as raised:
            world.ask(DOWN, asked, steps, text=text)
        assert raised.value.static == static
    assert len(world.queue.calls()) == 3


def test_what_is_private_is_kept_only_encrypted(world: World) -> None:
    """Else the outage says why it is not queued, or a text is given, with a warning."""
    with pytest.raises(Unavailable, match=r"it fails; it is not queued: no history.*encrypt: true"):
        world.ask(DOWN, private="no history")
    answer = world.ask(DOWN, steps=(STATIC, "queue"), private="no history")
    assert answer.degraded == "static"
    assert "it is not queued: no history" in world.warnings[0]
    assert world.queue.calls() == []
    with pytest.raises(Queued):
        world.ask(DOWN, private="no history", encrypted=True)


def test_masked_identifiers_never_reach_the_disk_in_clear(world: World, tmp_path: Path) -> None:
    """A request whose answer is to be restored holds them, as one does whose input row is
    repeated; one that holds tokens alone is kept."""
    restored = MASKER(request(f"write to {MAIL}"))
    with pytest.raises(Unavailable, match="identifiers are masked in it"):
        world.ask(DOWN, restored)
    tokens = replace(MASKER, restores=False)
    with pytest.raises(Unavailable, match="identifiers are masked in it"):
        world.ask(DOWN, tokens(request(f"write to {MAIL}", kept={"mail": MAIL})))
    assert world.queue.calls() == []
    with pytest.raises(Queued):
        world.ask(DOWN, tokens(request(f"write to {MAIL}")))
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"[[EMAIL_" in held
    assert MAIL.encode() not in held


def test_what_cannot_be_written_is_not_queued(world: World) -> None:
    """Half a surrogate pair is no JSON: the outage says so."""
    with pytest.raises(Unavailable, match="cannot be written as JSON"):
        world.ask(DOWN, replace(request(), id="\ud800"))
