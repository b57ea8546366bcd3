"""What one provider cannot serve another one is asked for."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from msgspec.structs import replace

from llmctl.config.settings import Profile
from llmctl.errors import (
    AuthFailed,
    CallError,
    CallTimeout,
    ConnectionFailed,
    ContentFiltered,
    ContextTooLong,
    Interrupted,
    InvalidRequest,
    LlmctlError,
    Overloaded,
    ProviderDown,
    QuotaExhausted,
    SetupError,
)
from llmctl.guards.fallback import Fallback, FallbackTarget
from llmctl.http import CancelledAfterSending
from llmctl.request import retarget
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

CLAUDE = Profile(
    "claude", "anthropic", "anthropic", "https://api.anthropic.com/v1", "claude-x",
    max_tokens=500, params={"top_k": 5},
)  # fmt: skip


def sent(error: CallError, *, attempts: int = 4) -> CallError:
    """The error as the retry guard leaves it."""
    error.held, error.attempts = True, attempts
    return error


class Asked:
    """A profile whose fallback `other` is `claude`, which `refuses` to be asked."""

    def __init__(
        self,
        first: CallError | Scripted,
        other: CallError | Answer | None = None,
        refuses: LlmctlError | None = None,
        *,
        overflow: bool = False,
        patient: bool = False,
    ) -> None:
        self.clock = FakeClock()
        self.over: list[tuple[Request, CallError]] = []
        self.other = Scripted(other or response("from claude"))
        self.seconds = {"settled": 0.0, "admitted": 0.0}  # that each takes
        ids = (f"call-{n}" for n in itertools.count(2))

        async def hand(asked: Request, error: CallError, _: object) -> None:
            await self.clock.sleep(self.seconds["settled"])
            self.over.append((asked, error))

        async def admit(asked: Request) -> Request:
            await self.clock.sleep(self.seconds["admitted"])
            if refuses is not None:
                raise refuses
            return asked

        def retargeted(asked: Request) -> Request:
            return retarget(asked, CLAUDE, next(ids))

        self.guard = Fallback(
            inner=Scripted(first) if isinstance(first, CallError) else first,
            others=[FallbackTarget("claude", retargeted, admit, self.other)],
            clock=self.clock,
            on_error=hand,
            overflow=overflow,
            patient=patient,
        )

    def answer(self, asked: Request | None = None) -> Answer:
        """What the guard answers."""
        return self.clock.run(self.guard(asked or request(), None))

    def error(self) -> CallError:
        """What it raises."""
        with pytest.raises(CallError) as caught:
            self.answer()
        return caught.value


@pytest.mark.parametrize(
    "error", [Overloaded("busy"), ConnectionFailed("gone"), QuotaExhausted("no credit")]
)
def test_what_is_unavailable_is_asked_for_elsewhere(error: CallError) -> None:
    """The fallback answers; the failed call is handed over first, and the answer names the
    request that was asked, with a call id of its own and the identity of the first one."""
    asked = Asked(sent(error))
    found = asked.answer()
    assert (found.text, found.attempts, found.elsewhere) == ("from claude", 5, 4)
    assert [failed.call_id for failed, _ in asked.over] == ["call-1"]
    assert asked.other.calls[0].target.profile == "claude"
    assert found.request is not None
    assert (found.request.call_id, found.request.fingerprint) == ("call-2", request().fingerprint)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("bad"),
        ContentFiltered("no"),
        AuthFailed("no"),
        Interrupted(Overloaded("busy")),
        ContextTooLong("long"),
    ],
)
def test_what_is_the_requests_own_fault_is_not(error: CallError) -> None:
    """A bad request, a refusal, a refused key and an answer that broke off stay errors."""
    asked = Asked(sent(error))
    assert asked.error() is error
    assert (asked.other.calls, asked.over) == ([], [])


def test_a_call_that_was_not_made_is_not_settled() -> None:
    """The first provider is known to be down: there is nothing to put on record of it."""
    asked = Asked(ProviderDown("fast", None, 5))
    assert (asked.answer().elsewhere, asked.over) == (0, [])


def test_the_next_one_takes_its_own_parameters() -> None:
    """Model and parameters are the fallback profile's, but for what the question said itself."""
    asked = Asked(sent(Overloaded("busy")))
    options, own = {"seed": 1, "logprobs": True}, frozenset({"max_tokens", "seed"})
    asked.answer(replace(request(), max_tokens=7, temperature=0.5, options=options, own=own))
    got = asked.other.calls[0]
    assert (got.target.model, got.max_tokens, got.temperature) == ("claude-x", 7, None)
    assert got.options == {"top_k": 5, "seed": 1}


def test_a_fallback_that_would_not_take_it_is_passed_over() -> None:
    """When the other one is down too, the row ends with the first one's error, settled once."""
    first = sent(Overloaded("busy"))
    asked = Asked(first, refuses=ProviderDown("claude", None, 5))
    assert asked.error() is first
    assert (asked.other.calls, asked.over) == ([], [])


def test_when_all_fail_the_last_error_is_the_rows() -> None:
    """Each failed call has its own ending: the first is handed over, the last is the row's."""
    asked = Asked(sent(Overloaded("busy")), sent(ConnectionFailed("gone"), attempts=2))
    error = asked.error()
    assert isinstance(error, ConnectionFailed)
    assert (len(asked.over), error.request.call_id) == (1, "call-2")


@pytest.mark.parametrize("first", [Overloaded("busy"), ProviderDown("busy", None, 5)])
def test_a_fallback_whose_key_is_refused_does_not_end_the_run(first: CallError) -> None:
    """The row fails as the first provider failed, and says what the fallback said."""
    asked = Asked(sent(first), sent(AuthFailed("bad key"), attempts=1))
    error = asked.error()
    assert type(error) is type(first)
    assert "busy" in error.message
    assert "bad key" in error.message
    assert not error.fatal_to_run
    assert (error.request.call_id, error.attempts, len(asked.over)) == ("call-2", 5, 1)


def test_a_fallback_that_does_not_start_does_not_end_the_run() -> None:
    """The row fails as the first provider failed, with its call still to be settled, and says what
    is wrong with the fallback."""
    asked = Asked(sent(Overloaded("busy")), refuses=SetupError("no such model"))
    error = asked.error()
    assert type(error) is Overloaded
    assert error.message == "busy (and the fallback failed: no such model)"
    assert (error.held, error.attempts, asked.over, asked.other.calls) == (True, 4, [], [])


def test_a_batch_waits_while_all_are_down() -> None:
    """Both breakers are open: the row waits for whichever is looked at first, and is answered."""
    first = Scripted(ProviderDown("fast", None, 60, reached=True), response("back again"))
    asked = Asked(first, refuses=ProviderDown("claude", None, 20, reached=True), patient=True)
    assert asked.answer().text == "back again"
    assert asked.clock.now - 1000 == 20


def test_what_is_asked_after_the_wait_is_another_call() -> None:
    """A call that was made before all were down is settled once, before the wait; its attempts
    stay on the answer."""
    down = sent(ProviderDown("fast", None, 60, reached=True), attempts=2)
    inner = Scripted(down, response("back again"))
    asked = Asked(inner, refuses=ProviderDown("claude", None, 20), patient=True)
    found = asked.answer()
    assert [failed.call_id for failed, _ in asked.over] == ["call-1"]
    assert found.request is not None
    assert len({"call-1", found.request.call_id, *(each.call_id for each in inner.calls)}) == 2
    assert (found.text, found.attempts, found.elsewhere) == ("back again", 3, 2)


@pytest.mark.parametrize("moment", ["settled", "admitted"])
def test_interrupted_between_two_calls(moment: str) -> None:
    """The call that failed is on record once, as it failed, and the interruption is the ending of
    the next one, which was not sent."""
    asked = Asked(sent(CallTimeout("late")))
    asked.seconds[moment] = 60.0

    async def interrupted() -> None:
        task = asyncio.ensure_future(asked.guard(request(), None))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(CancelledAfterSending) as caught:
        asked.clock.run(interrupted())
    assert [(failed.call_id, type(why)) for failed, why in asked.over] == [("call-1", CallTimeout)]
    end = caught.value
    assert (end.request.call_id, end.attempts, end.elsewhere) == ("call-2", 4, 4)
    assert (end.uncertain, asked.other.calls) == (0, [])


@pytest.mark.parametrize(("reached", "patient"), [(False, True), (True, False)])
def test_nobody_waits_for_what_never_was(*, reached: bool, patient: bool) -> None:
    """Providers that never replied in this run are not waited for, and a person is not kept."""
    down = ProviderDown("fast", None, 60, reached=reached)
    assert Asked(down, refuses=down, patient=patient).error() is down
