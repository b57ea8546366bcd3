"""A cheaper profile is asked where the strong one is not needed; every call is on record once."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.config.route import Cascade, RouteSettings, Rule, When
from llmctl.config.route import Check as CheckSettings
from llmctl.config.settings import Profile
from llmctl.errors import (
    AuthFailed,
    BudgetExhausted,
    CallError,
    ConnectionFailed,
    Interrupted,
    InvalidRequest,
    NotFound,
    Overloaded,
    SchemaMismatch,
    SetupError,
)
from llmctl.guards.accounting import Stopwatch
from llmctl.guards.fallback import FallbackTarget
from llmctl.guards.routing import (
    AgreementCheck,
    Check,
    CommandCheck,
    PatternCheck,
    RefusalCheck,
    Routing,
    SchemaCheck,
)
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit
from llmctl.request import retarget
from llmctl.routing.check_command import CheckCommand
from llmctl.routing.router import Router
from llmctl.types import Answer, Request, StreamChunk
from tests.support import FakeClock, Scripted, done, request, response

CHEAP = Profile("cheap", "openai", "openai", "http://127.0.0.1:2/v1", "nano")
ENVIRON: Mapping[str, str] = {"PATH": "/usr/bin:/bin"}
CHECKED = RouteSettings("cheap", cascade=Cascade((CheckSettings(matches="x"),)))
RULED = RouteSettings("cheap", rules=(Rule(When(matches="."), "cheap"),))


def held(error: CallError) -> CallError:
    """The error as the retry guard leaves it."""
    error.held, error.attempts = True, 2
    return error


class Asked:
    """The strong profile `sim`, whose route leads to `cheap`."""

    def __init__(
        self,
        cheap: Scripted,
        *checks: Check,
        settings: RouteSettings = CHECKED,
        strong: Scripted | None = None,
        refuses: Exception | None = None,
    ) -> None:
        self.clock, self.cheap = FakeClock(), cheap
        self.strong = strong or Scripted(response("strong"))
        self.settled: list[tuple[Request, Answer | CallError]] = []
        self.said: list[str] = []
        ids = (f"call-{n}" for n in itertools.count(2))

        async def settle(asked: Request, result: Answer | CallError, _: Stopwatch) -> Decimal:
            self.settled.append((asked, result))
            return Decimal(1)

        async def admit(asked: Request) -> Request:
            if refuses is not None:
                raise refuses
            return asked

        self.guard = Routing(
            inner=self.strong,
            targets={
                "cheap": FallbackTarget(
                    "cheap", lambda one: retarget(one, CHEAP, "other"), admit, cheap
                )
            },
            router=Router(
                strong="sim",
                model="gpt-5-mini",
                settings=settings,
                scorer=None,
                tokens=lambda _: 9,
                bound=lambda _: 9,
            ),
            checks=checks,
            clock=self.clock,
            settle=settle,
            call_id=lambda: next(ids),
            is_long=lambda _: False,
            on_fallback=lambda error, name: self.said.append(f"{error.row_type} → {name}"),
        )

    def answer(self, seen: list[StreamChunk] | None = None) -> Answer:
        """What the guard answers."""
        return self.clock.run(self.guard(request(), None if seen is None else seen.append))


def test_a_good_answer_is_the_rows() -> None:
    """It keeps the row's call id and identity, and is asked for as the cheap profile asks."""
    asked = Asked(Scripted(response("fine")), RefusalCheck())
    found = asked.answer()
    assert (found.text, asked.strong.calls, asked.settled) == ("fine", [], [])
    (call,) = asked.cheap.calls
    assert (call.call_id, call.parent, call.target.model) == ("call-1", "call-1", "nano")
    assert call.fingerprint != request().fingerprint  # of the cache
    assert found.request is not None
    assert found.request.fingerprint == request().fingerprint  # of the output
    assert found.route is not None
    assert (found.route.to, found.route.checked, found.route.cost) == (
        "cheap",
        "passed",
        Decimal(0),
    )


def test_a_failed_answer_is_settled_before_the_strong_one_is_asked() -> None:
    """Both calls have ids of their own and one parent; attempts and cost add up."""
    asked = Asked(Scripted(response("Sorry, no.", attempts=3)), RefusalCheck())
    found = asked.answer()
    assert [(one.call_id, one.parent) for one, _ in asked.settled] == [("call-1", "call-1")]
    (call,) = asked.strong.calls
    assert (call.call_id, call.parent) == ("call-2", "call-1")
    assert (found.text, found.attempts, found.elsewhere) == ("strong", 4, 3)
    assert found.route is not None
    assert (found.route.to, found.route.checked, found.route.cost) == ("sim", "refusal", Decimal(1))


@pytest.mark.parametrize("settings", [CHECKED, RULED])
@pytest.mark.parametrize(
    "error", [Overloaded("x"), ConnectionFailed("x"), AuthFailed("x"), NotFound("x"),
              InvalidRequest("x"), SchemaMismatch("x")],
)  # fmt: skip
def test_no_answer_is_asked_for_at_the_strong_one(
    settings: RouteSettings, error: CallError
) -> None:
    """Whatever it is; it is said, and the failed call is on record."""
    asked = Asked(Scripted(held(error)), settings=settings)
    found = asked.answer()
    assert (found.text, asked.said) == ("strong", [f"{error.row_type} → sim"])
    assert len(asked.settled) == 1
    assert found.attempts == 3


def test_what_was_not_under_way_is_not_settled() -> None:
    """A cheap server that does not start: the strong call is the row's only one."""
    asked = Asked(Scripted(), refuses=SetupError("no model"))
    assert (asked.answer().text, asked.settled) == ("strong", [])
    assert asked.strong.calls[0].call_id == "call-1"


def test_a_budget_ends_the_row_with_what_it_cost_so_far() -> None:
    """The cheap one's refusal asks nobody else; the strong one's names the calls before it."""
    with pytest.raises(BudgetExhausted):
        Asked(Scripted(BudgetExhausted("used up", sent=False))).answer()
    strong = Scripted(BudgetExhausted("used up", sent=False))
    with pytest.raises(BudgetExhausted) as caught:
        Asked(Scripted(response("")), RefusalCheck(), strong=strong).answer()
    assert (caught.value.route.cost, caught.value.request.call_id) == (1, "call-2")


def test_nothing_is_shown_before_it_has_passed() -> None:
    """The pieces of a failed answer are never seen, not even of a stream that broke off; where
    nothing is checked the stream goes through, and what broke off after it was seen is an error."""
    for cheap in (Scripted(response("I'm sorry")), Scripted(held(Interrupted(Overloaded("x"))))):
        seen: list[StreamChunk] = []
        Asked(cheap, RefusalCheck()).answer(seen)
        assert [piece.text for piece in seen] == ["strong"]
    seen = []
    Asked(Scripted(response("fine")), RefusalCheck()).answer(seen)
    assert [piece.text for piece in seen] == ["fine"]

    class Broken(Scripted):
        async def __call__(self, _: Request, emit: Emit | None) -> Answer:
            assert emit is not None
            emit(StreamChunk("half"))
            raise Interrupted(Overloaded("x"))

    with pytest.raises(Interrupted):
        Asked(Broken(), settings=RULED).answer([])


def test_samples_are_calls_of_their_own() -> None:
    """Each has an id, its own number, the same parent, and counts in what the row cost."""
    cheap = Scripted(response("so 4"), response("it is 5"), response("4"))
    asked = Asked(cheap, AgreementCheck(3))
    found = asked.answer()
    assert found.text == "so 4"
    assert len({call.sample for call in cheap.calls}) == 3
    assert {call.parent for call in cheap.calls} == {"call-1"}
    assert [one.call_id for one, _ in asked.settled] == ["call-2", "call-3"]
    assert found.route is not None
    assert found.route.cost == 2


def test_an_interruption_names_the_call_that_was_under_way() -> None:
    """During the second call: its id, with the attempts of both."""
    stop = CancelledAfterSending(attempts=1, uncertain=1)
    asked = Asked(Scripted(response("")), RefusalCheck(), strong=Scripted(stop))

    async def ask() -> CancelledAfterSending:
        with pytest.raises(CancelledAfterSending) as caught:
            await asked.guard(request(), None)
        return caught.value

    end = done(ask)
    assert (end.request.call_id, end.attempts, end.elsewhere) == ("call-2", 2, 1)
    assert end.route.cost == 1


def test_a_row_that_names_its_own_model_is_not_routed() -> None:
    """It is asked of that one."""
    asked = Asked(Scripted())
    own = request()
    own = replace(own, target=replace(own.target, model="other"))
    found = asked.clock.run(asked.guard(own, None))
    assert (found.text, asked.cheap.calls) == ("strong", [])


async def _none(_: int) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("check", "text", "passes"),
    [
        (SchemaCheck(), "no JSON", False),
        (SchemaCheck(), '```json\n{"a": 1}\n```', True),
        (PatternCheck("ye+s"), "oh yes", True),
        (PatternCheck("ye+s"), "no", False),
        (RefusalCheck(), "Es tut mir leid, das kann ich nicht.", False),
        (RefusalCheck(), "The sorry state of affairs", True),
        (RefusalCheck(), "  ", False),
    ],
)
def test_what_checks_say(check: Check, text: str, passes: bool) -> None:  # noqa: FBT001
    """Each by its own rule."""
    asked = request(options={"response_format": {"type": "json_object"}})
    assert done(check.passes, asked, response(text), _none) is passes


def test_a_command_gets_the_answer_and_no_key(tmp_path: Path) -> None:
    """Its exit code is the verdict; it sees none of the environment's keys; one that is not there
    is told before anything is asked."""

    async def ask() -> list[bool]:
        code = "import os, sys; sys.exit('KEY' in os.environ or 'good' not in sys.stdin.read())"
        words = [sys.executable, "-c", code]
        check = CommandCheck(CheckCommand(words, {**ENVIRON, "KEY": "sk-1"}))
        return [await check.passes(request(), response(text), _none) for text in ("good", "bad")]

    assert done(ask) == [True, False]
    with pytest.raises(SetupError, match="there is no program"):
        CheckCommand([str(tmp_path / "none")], ENVIRON)
