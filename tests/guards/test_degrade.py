"""Degradation: what is given while a provider is down, and when nothing is."""

from __future__ import annotations

import pytest

from llmctl.config.settings import DegradeStep
from llmctl.errors import (
    AuthFailed,
    BudgetRefused,
    CallError,
    CallTimeout,
    DataRefused,
    IdentifiersFound,
    InvalidRequest,
    NotFound,
    ProviderDown,
    QuotaExhausted,
    ServerFailed,
    Unavailable,
)
from llmctl.guards.accounting import Stopwatch
from llmctl.guards.degrade import Degrade
from llmctl.protocols import CachedAnswer
from llmctl.storage.answer_cache import SqliteCache
from llmctl.types import Answer, Request, StreamChunk, Usage
from tests.guards.fakes import DOWN, OUTAGES
from tests.support import FakeClock, Scripted, done, request

HOUR = 3600.0
STALE, STATIC = DegradeStep(stale=24 * HOUR), DegradeStep(static="we are down")


class World:
    """A guard around what fails, with a cache in memory and what was settled."""

    def __init__(self, error: CallError, *steps: DegradeStep, text: bool = True) -> None:
        self.clock, self.settled = FakeClock(), list[CallError]()
        self.kept: dict[str, CachedAnswer] = {}
        self.guard = Degrade(
            inner=Scripted(error),
            steps=steps,
            text=text,
            store=Kept(self.kept),
            clock=self.clock,
            call_id=lambda: "another",
            on_error=self._settle,
        )

    async def _settle(self, _: Request, error: CallError, __: Stopwatch) -> None:
        self.settled.append(error)

    def keep(self, age: float) -> None:
        """An answer of that age is kept."""
        stored = self.clock.wall() - age
        answer = CachedAnswer("kept", "stop", "gpt-5-mini", Usage(3, 2), None, None, stored)
        self.kept[request().answer_key] = answer

    def ask(self, asked: Request | None = None) -> Answer:
        """What is given to a question."""
        return done(self.guard, asked or request(), None)


class Kept(SqliteCache):
    """Answers that are kept in a dict; nothing is ever written."""

    def __init__(self, kept: dict[str, CachedAnswer]) -> None:
        super().__init__(None, lambda _: None)
        self._kept = kept

    async def get(self, key: str) -> CachedAnswer | None:
        """The answer, or None."""
        return self._kept.get(key)

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """Nothing may be kept of what is given in an outage."""
        raise AssertionError((key, answer))


def test_a_stale_answer_is_given_up_to_its_age() -> None:
    """Younger than the limit it is given and marked, with its age; older the outage is raised; and
    given a second time it is older, not younger."""
    world = World(DOWN, STALE)
    world.keep(23 * HOUR)
    answer = world.ask()
    assert (answer.text, answer.cache, answer.degraded, answer.age) == (
        "kept", "stale", "stale", 23 * HOUR,
    )  # fmt: skip
    world.clock.now += 1800
    assert world.ask().age == 23.5 * HOUR
    world.clock.now += 1801
    with pytest.raises(ServerFailed):
        world.ask()


def test_a_question_that_wants_no_kept_answer_gets_none() -> None:
    """With the cache bypassed nothing kept is given."""
    world = World(DOWN, STALE)
    world.keep(HOUR)
    with pytest.raises(ServerFailed):
        world.ask(request(cache_mode="bypass"))


def test_the_failed_call_and_the_answer_are_two_calls() -> None:
    """What was held is settled as the failure that it is; the answer has a call id of its own."""
    error = ServerFailed("it fails")
    error.held, error.attempts = True, 4
    world = World(error, STATIC)
    answer = world.ask()
    assert world.settled == [error]
    assert answer.request is not None
    assert (answer.request.call_id, answer.attempts - answer.elsewhere) == ("another", 0)


@pytest.mark.parametrize("error", OUTAGES)
def test_an_outage_degrades(error: CallError) -> None:
    """A provider that fails, is overloaded, cannot be reached or is down by the breaker."""
    answer = World(error, STALE, STATIC).ask()
    assert (answer.text, answer.degraded, answer.finish) == ("we are down", "static", "other")


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("400"),
        AuthFailed("401"),
        QuotaExhausted("402"),
        NotFound("404"),
        BudgetRefused("budget", sent=False),
        IdentifiersFound("pii"),
        DataRefused("data"),
        CallTimeout("it may be at work"),
        ProviderDown("sim", QuotaExhausted("402"), 10.0),
    ],
)
def test_nothing_else_degrades(error: CallError) -> None:
    """Refusals, an account without credit, and a timeout after sending stay what they are."""
    world = World(error, STALE, STATIC)
    world.keep(HOUR)
    with pytest.raises(type(error)) as raised:
        world.ask()
    assert raised.value is error


def test_a_text_is_no_answer_to_a_row_nor_to_a_schema() -> None:
    """A row fails as unavailable, with the attempts of the outage; what must fit a schema fails
    with the outage."""
    error = ServerFailed("it fails", http_status=503)
    error.attempts = 4
    with pytest.raises(Unavailable) as raised:
        World(error, STATIC, text=False).ask()
    assert (raised.value.row_type, raised.value.exit_code) == ("unavailable", 5)
    assert (raised.value.attempts, raised.value.http_status) == (4, 503)
    with pytest.raises(ServerFailed):
        World(error, STATIC).ask(request(schema={"type": "object"}))


def test_a_stream_is_told_before_its_text() -> None:
    """Whoever reads pieces hears that they are no new answer before the first text."""
    pieces: list[StreamChunk] = []
    done(World(DOWN, STATIC).guard, request(), pieces.append)
    assert [(piece.degraded, piece.text) for piece in pieces] == [
        ("static", ""), ("", "we are down"),
    ]  # fmt: skip
