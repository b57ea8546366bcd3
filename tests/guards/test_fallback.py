"""What one provider cannot serve another one is asked for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llmctl.config.settings import Profile
from llmctl.errors import (
    AuthFailed,
    CallError,
    ConnectionFailed,
    ContentFiltered,
    ContextTooLong,
    Interrupted,
    InvalidRequest,
    Overloaded,
    ProviderDown,
    QuotaExhausted,
)
from llmctl.guards.fallback import FailedAttempt, Fallback, FallbackTarget
from llmctl.protocols import Emit
from llmctl.request import retarget
from llmctl.types import Answer, Request
from tests.support import FakeClock, Scripted, request, response

CLAUDE = Profile(
    "claude",
    "anthropic",
    "anthropic",
    "https://api.anthropic.com/v1",
    "claude-x",
    max_tokens=500,
    params={"top_k": 5},
)


def sent(error: CallError, *, attempts: int = 4) -> CallError:
    """The error as the retry guard leaves it."""
    error.held, error.attempts = True, attempts
    return error


def make(
    first: Scripted,
    *others: Scripted,
    refuses: CallError | None = None,
    clock: FakeClock | None = None,
    overflow: bool = False,
    patient: bool = False,
) -> tuple[Fallback, list[FailedAttempt]]:
    """The guard, and what it hands over."""
    over: list[FailedAttempt] = []

    async def hand(failed: FailedAttempt) -> None:
        over.append(failed)

    async def admit(asked: Request) -> Request:
        if refuses is not None:
            raise refuses
        return asked

    made = [
        FallbackTarget("claude", lambda asked: retarget(asked, CLAUDE, "call-2"), admit, handler)
        for handler in others
    ]
    guard = Fallback(
        inner=first,
        others=made,
        clock=clock or FakeClock(),
        on_error=hand,
        overflow=overflow,
        patient=patient,
    )
    return guard, over


def answer(guard: Fallback, asked: Request | None = None) -> Answer:
    """What the guard answers."""
    return FakeClock().run(guard(asked or request(), None))


@pytest.mark.parametrize(
    "error", [Overloaded("busy"), ConnectionFailed("gone"), QuotaExhausted("no credit")]
)
def test_what_is_unavailable_is_asked_for_elsewhere(error: CallError) -> None:
    """The fallback answers; the failed call is handed over first, and the answer names the
    request that was asked, with a call id of its own and the identity of the first one."""
    other = Scripted(response("from claude"))
    guard, over = make(Scripted(sent(error)), other)
    found = answer(guard)
    assert (found.text, found.attempts) == ("from claude", 5)
    assert [failed.request.call_id for failed in over] == ["call-1"]
    assert other.calls[0].target.profile == "claude"
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
    other = Scripted(response())
    guard, over = make(Scripted(sent(error)), other)
    with pytest.raises(type(error)):
        answer(guard)
    assert (other.calls, over) == ([], [])


def test_a_prompt_that_is_too_long_goes_on_where_the_profile_wants_that() -> None:
    """With `on_overflow: fallback` the next profile gets it; nothing was sent, so nothing is
    handed over."""
    other = Scripted(response())
    guard, over = make(Scripted(ContextTooLong("long", sent=False)), other, overflow=True)
    assert answer(guard).text == "hi"
    assert over == []


def test_the_next_one_takes_its_own_parameters() -> None:
    """Model and parameters are the fallback profile's, but for what the question said itself."""
    other = Scripted(response())
    guard, _ = make(Scripted(sent(Overloaded("busy"))), other)
    asked = replace(
        request(),
        max_tokens=7,
        temperature=0.5,
        options={"seed": 1, "logprobs": True},
        own=frozenset({"max_tokens", "seed"}),
    )
    answer(guard, asked)
    got = other.calls[0]
    assert (got.target.model, got.max_tokens, got.temperature) == ("claude-x", 7, None)
    assert got.options == {"top_k": 5, "seed": 1}


def test_a_fallback_that_would_not_take_it_is_passed_over() -> None:
    """When the other one is down too, the row ends with the first one's error, settled once."""
    other = Scripted(response())
    first = sent(Overloaded("busy"))
    guard, over = make(Scripted(first), other, refuses=ProviderDown("claude", None, 5))
    with pytest.raises(Overloaded) as caught:
        answer(guard)
    assert caught.value is first
    assert (other.calls, over) == ([], [])


def test_when_all_fail_the_last_error_is_the_rows() -> None:
    """Each failed call has its own ending: the first is handed over, the last is the row's."""
    guard, over = make(
        Scripted(sent(Overloaded("busy"))), Scripted(sent(ConnectionFailed("gone"), attempts=2))
    )
    with pytest.raises(ConnectionFailed) as caught:
        answer(guard)
    assert len(over) == 1
    assert caught.value.request.call_id == "call-2"


def test_a_fallback_whose_key_is_refused_does_not_end_the_run() -> None:
    """The row fails as the first provider failed, and says what the fallback said."""
    guard, over = make(
        Scripted(sent(Overloaded("busy"))), Scripted(sent(AuthFailed("bad key"), attempts=1))
    )
    with pytest.raises(Overloaded, match=r"busy .*bad key") as caught:
        answer(guard)
    assert not caught.value.fatal_to_run
    assert (caught.value.request.call_id, caught.value.attempts) == ("call-2", 1)
    assert len(over) == 1


def test_a_batch_waits_while_all_are_down() -> None:
    """Both breakers are open: the row waits for whichever is looked at first, and is answered."""
    clock = FakeClock()
    down = ProviderDown("fast", None, 60)
    down.reached = True
    also = ProviderDown("claude", None, 20)
    also.reached = True
    first = Scripted(down, response("back again"))
    guard, _ = make(first, Scripted(response()), refuses=also, clock=clock, patient=True)
    assert clock.run(guard(request(), None)).text == "back again"
    assert clock.now - 1000 == 20


def test_nobody_waits_for_what_never_was() -> None:
    """Providers that never replied in this run are not waited for, and a person is not kept."""
    for reached, patient in ((False, True), (True, False)):
        down = ProviderDown("fast", None, 60)
        down.reached = reached
        guard, _ = make(Scripted(down), Scripted(response()), refuses=down, patient=patient)
        with pytest.raises(ProviderDown):
            answer(guard)


def test_pieces_of_the_fallbacks_answer_are_shown() -> None:
    """A stream that never began at the first provider comes from the second."""
    shown: list[str] = []
    emit: Emit = shown.append
    guard, _ = make(Scripted(sent(Overloaded("busy"))), Scripted(response("piece")))
    FakeClock().run(guard(request(), emit))
    assert shown == ["piece"]
