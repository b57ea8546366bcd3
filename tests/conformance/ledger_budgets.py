"""What every `Budget` does about windows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest
from msgspec.structs import replace

from llmctl.errors import CallTimeout, RateLimited
from llmctl.protocols import Budget, BudgetDenied, BudgetUsage, BudgetWindow
from llmctl.types import CallRecord, Request
from tests.conformance.calls import (
    TARGET,
    a_cap,
    a_hold,
    a_request,
    an_answer,
    an_outcome,
)

CENT = Decimal("0.01")


def stands(store: Budget, cap: BudgetWindow) -> tuple[object, object]:
    """Dollars spent and held."""
    usage = asyncio.run(store.usage(cap))
    return usage.spent, usage.held


def settle(store: Budget, record: CallRecord) -> None:
    """The call has ended."""
    asyncio.run(store.settle(record))


def held(
    store: Budget,
    caps: Sequence[BudgetWindow],
    cost: Decimal = CENT,
    request: Request | None = None,
    times: int = 1,
) -> BudgetDenied | None:
    """The answer to a hold."""
    hold = a_hold(request or a_request(), cost, times=times)
    return asyncio.run(store.hold(hold, caps))


def spent(store: Budget, cost: Decimal, caps: Sequence[BudgetWindow] = ()) -> list[Decimal]:
    """Hold and settle a call; the shares that were told of."""
    request = a_request()
    asyncio.run(store.hold(a_hold(request, cost), caps))
    warnings = asyncio.run(store.settle(an_outcome(request, cost=cost)))
    return [warning.share for warning in warnings]


class BudgetContract:
    """Subclasses provide the fixture `store`, of the run `run-1` and the user `ann`."""

    def test_holds_fit_to_the_cent_and_not_beyond(self, store: Budget) -> None:
        """Ten holds of a cent fit under ten cents; the eleventh may wait for one of them, and
        leaves nothing behind."""
        cap = a_cap("0.10")
        assert [held(store, [cap]) for _ in range(10)] == [None] * 10
        refused = held(store, [cap])
        assert refused == BudgetDenied(cap, BudgetUsage(Decimal(0), Decimal("0.10")), never=False)
        assert stands(store, cap) == (0, Decimal("0.10"))

    def test_what_is_settled_at_less_comes_back(self, store: Budget) -> None:
        """The hold ends with the call, and only its real cost stays."""
        cap, request = a_cap("0.01"), a_request()
        assert held(store, [cap], CENT, request) is None
        assert held(store, [cap], Decimal("0.009")) is not None
        settle(store, an_outcome(request, cost=Decimal("0.001")))
        assert stands(store, cap) == (Decimal("0.001"), 0)
        assert held(store, [cap], Decimal("0.009")) is None

    def test_waiting_does_not_help_against_what_is_spent(self, store: Budget) -> None:
        """Calls under way may come to less than they hold; those that ended will not."""
        cap, request = a_cap("0.01"), a_request()
        assert held(store, [cap], Decimal("0.004"), request) is None
        refused = held(store, [cap], Decimal("0.007"))
        assert refused is not None
        assert not refused.never
        settle(store, an_outcome(request, cost=Decimal("0.004")))
        refused = held(store, [cap], Decimal("0.007"))
        assert refused is not None
        assert refused.never

    def test_every_cap_must_have_room(self, store: Budget) -> None:
        """The fullest decides; one without hope is named before one that may have room later."""
        wide, narrow = a_cap("1", "wide"), a_cap("0.01", "narrow")
        assert held(store, [wide, narrow]) is None
        refused = held(store, [wide, narrow])
        assert refused is not None
        assert (refused.window.name, refused.never) == ("narrow", False)
        spent(store, CENT)
        refused = held(store, [replace(wide, limit=CENT), narrow])
        assert refused is not None
        assert refused.never
        assert stands(store, wide) == (CENT, CENT)

    def test_attempts_that_may_have_been_billed_are_held_and_spent(self, store: Budget) -> None:
        """A hold of three attempts is three times the amount; they settle at the doubt."""
        cap, request = a_cap("0.03"), a_request()
        assert held(store, [cap], CENT, request) is None
        assert held(store, [cap], CENT, request, times=3) is None
        assert stands(store, cap) == (0, 3 * CENT)
        answer = replace(an_answer(request), attempts=3, uncertain=2)
        outcome = an_outcome(request, answer, cost=Decimal("0.001"))
        settle(store, replace(outcome, uncertain=2))
        assert stands(store, cap) == (Decimal("0.021"), 0)

    def test_a_hold_that_may_not_grow_stays_as_it_was(self, store: Budget) -> None:
        """The attempt under way is still held."""
        cap, request = a_cap("0.015"), a_request()
        assert held(store, [cap], CENT, request) is None
        assert held(store, [cap], CENT, request, times=2) is not None
        assert stands(store, cap) == (0, CENT)

    def test_an_unknown_end_is_spent_in_full_and_a_failure_is_not(self, store: Budget) -> None:
        """A timeout may have been billed, a refusal for too many requests was not."""
        cap = a_cap("1")
        for error in (CallTimeout("late"), RateLimited("slow down")):
            request = a_request()
            assert held(store, [cap], CENT, request) is None
            settle(store, an_outcome(request, error, cost=Decimal(0)))
        assert stands(store, cap) == (CENT, 0)

    @pytest.mark.parametrize(
        ("match", "counts"),
        [
            ({"run": "run-1"}, True),
            ({"run": "run-2"}, False),
            ({"profile": "fast", "provider": "openai", "user": "ann"}, True),
            ({"profile": "slow"}, False),
            ({"user": "bob"}, False),
            ({"model": "gpt-5-mini"}, True),
            ({"model": "gpt-5"}, False),
            ({"tag:team": "search"}, True),
            ({"tag:team": "search", "tag:ünïcode": "✓"}, True),
            ({"tag:team": "ads"}, False),
            ({"tag:none": "x"}, False),
        ],
    )
    def test_only_calls_that_match_count(
        self, store: Budget, match: dict[str, str], *, counts: bool
    ) -> None:
        """Whether they came before the budget was first used or after, held or ended."""
        cap = a_cap("9", match=match)
        for _ in range(2):
            held(store, [])
            spent(store, CENT)
            # To use the budget without a call that counts: a hold that is taken back.
            probe = a_request()
            assert held(store, [cap], Decimal(0), probe) is None
            settle(store, an_outcome(probe, cost=Decimal(0)))
        assert stands(store, cap) == ((2 * CENT, 2 * CENT) if counts else (0, 0))

    def test_users_of_one_run_are_counted_apart(self, store: Budget) -> None:
        """Each has a budget of its own, held or ended; a request that names nobody is the run's."""
        caps = {name: a_cap("0.02", name, match={"user": name}) for name in ("ann", "bob")}
        for user, name in (("bob", "bob"), ("", "ann")):
            for _ in range(2):
                assert held(store, [caps[name]], CENT, replace(a_request(), user=user)) is None
            assert held(store, [caps[name]], CENT, replace(a_request(), user=user)) is not None
        late = replace(a_request(), user="eve")
        asyncio.run(store.hold(a_hold(late, CENT)))
        settle(store, an_outcome(late, cost=CENT))
        cap = a_cap("0.01", "eve", match={"user": "eve"})
        refused = held(store, [cap], CENT, replace(a_request(), user="eve"))
        assert refused is not None
        assert refused.usage == BudgetUsage(CENT, Decimal(0))
        assert stands(store, caps["bob"]) == stands(store, caps["ann"]) == (0, 2 * CENT)

    @pytest.mark.parametrize(
        ("asked", "answered", "wanted", "counts"),
        [
            ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5", True),
            ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "claude-sonnet-4", False),
            ("mistral-large-latest", "mistral-large-2411", "mistral-large-latest", True),
            ("gemini-1.5-pro", "gemini-1.5-pro-002", "gemini-1.5-pro", True),
            ("qwen3", "qwen3-235b", "qwen3-235b", True),
            ("qwen3-235b", "qwen3-235b", "qwen3", False),
            ("prod-chat", "gpt-5-mini-2026-05-01", "prod-chat", True),
            ("prod-chat", "gpt-5-mini-2026-05-01", "gpt-5-mini", True),
        ],
    )
    def test_a_model_has_more_than_one_name(
        self, store: Budget, asked: str, answered: str, wanted: str, *, counts: bool
    ) -> None:
        """A budget for a model counts its dated versions, and what was asked for by its name."""
        cap = a_cap("9", match={"model": wanted})
        request = replace(a_request(), target=replace(TARGET, model=asked))
        asyncio.run(store.hold(a_hold(request, Decimal(0)), [cap]))
        answer = replace(an_answer(request), model=answered)
        settle(store, an_outcome(request, answer, cost=CENT))
        assert stands(store, cap)[0] == (CENT if counts else 0)

    def test_a_raised_limit_holds_at_once(self, store: Budget) -> None:
        """The limit is the cap's own; what counts against it stays."""
        cap = a_cap("0.01")
        assert held(store, [cap]) is None
        assert held(store, [cap]) is not None
        assert held(store, [replace(cap, limit=Decimal("0.02"))]) is None

    def test_every_share_is_told_once(self, store: Budget) -> None:
        """When several are reached together, only the highest is worth a word."""
        cap = a_cap("0.10", warn_at=(Decimal("0.5"), Decimal("0.8"), Decimal("0.9")))
        held(store, [cap], Decimal(0))
        told = [spent(store, Decimal("0.02"), [cap]) for _ in range(5)]
        assert told == [[], [], [Decimal("0.5")], [Decimal("0.8")], [Decimal("0.9")]]
        assert spent(store, Decimal("0.05"), [cap]) == []

    def test_many_tasks_get_exactly_what_there_is(self, store: Budget) -> None:
        """Of 200 holds at once as many are let through as fit."""
        cap = a_cap("0.77")

        async def all_of_them() -> list[BudgetDenied | None]:
            holds = (store.hold(a_hold(a_request(), CENT), [cap]) for _ in range(200))
            return await asyncio.gather(*holds)

        assert asyncio.run(all_of_them()).count(None) == 77
        assert stands(store, cap) == (0, Decimal("0.77"))
