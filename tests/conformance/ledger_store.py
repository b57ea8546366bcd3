"""What every ledger keeps of calls."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from sqlite3 import IntegrityError

import pytest
from msgspec.structs import replace

from llmctl.errors import (
    CallError,
    CallTimeout,
    Cancelled,
    ConnectionFailed,
    Interrupted,
    RateLimited,
)
from llmctl.storage.ledger import Ledger
from llmctl.storage.ledger_rows import CallRow, HeldCall
from llmctl.types import Masked, Usage
from tests.conformance.calls import a_hold, a_request, an_answer, an_outcome
from tests.conformance.ledger_budgets import settle


class LedgerContract:
    """Subclasses provide the fixture `store`, of the run `run-1` and the user `ann`."""

    def test_a_call_is_held_until_it_is_settled(self, store: Ledger) -> None:
        """A hold is on record at once, with its worst case, and ends with the call's row."""
        request = a_request()
        asyncio.run(store.hold(a_hold(request)))
        (held,) = store.open_holds()
        assert held == HeldCall(
            request.call_id, "run-1", 1_800_000_000_000, "fast", "openai", "gpt-5-mini",
            held.tags, "ann", 1000, 500, 12_300_000_000,
        )  # fmt: skip
        assert not list(store.calls())
        settle(store, an_outcome(request))
        assert store.open_holds() == []
        assert [row.call_id for row in store.calls()] == [request.call_id]

    def test_rows_name_the_user_of_the_request(self, store: Ledger) -> None:
        """While it is held, and when it has ended; the run's where the request names nobody."""
        for user in ("bob", ""):
            request = replace(a_request(), user=user)
            asyncio.run(store.hold(a_hold(request)))
            (held,) = store.open_holds()
            settle(store, an_outcome(request))
            assert held.user == store.calls()[-1].user == (user or "ann")

    def test_a_row_holds_every_figure_of_the_call(self, store: Ledger) -> None:
        """Tokens, money, times and names arrive in the row, each in its unit."""
        request = a_request()
        settle(store, an_outcome(request))
        (row,) = store.calls()
        assert row == CallRow(
            call_id=request.call_id,
            run_id="run-1",
            started_ms=1_800_000_000_000,
            profile="fast",
            provider="openai",
            model="gpt-5-mini-2026-05-01",
            tags='{"team":"search","\\u00fcn\\u00efcode":"\\u2713"}',
            user="ann",
            input_tokens=312,
            output_tokens=48,
            cached_tokens=7,
            cache_write_tokens=5,
            reasoning_tokens=3,
            estimated=False,
            cost_pico=210_000_000,
            saved_pico=None,
            uncertain=0,
            uncertain_pico=0,
            latency_ms=912,
            elapsed_ms=1500,
            first_token_ms=250,
            attempts=2,
            status="ok",
            error_type=None,
            cache="miss",
            http_status=200,
            provider_request_id="req_1",
            asked_model="gpt-5-mini",
        )

    def test_a_row_counts_what_was_masked(self, store: Ledger) -> None:
        """By kind, and nothing else of it."""
        said = Masked(counts={"iban": 1, "email": 2}, values={"[EMAIL_1]": "ann@a.example"})
        request = replace(a_request(), masked=said)
        settle(store, an_outcome(request))
        assert store.calls()[0].masked == '{"email":2,"iban":1}'

    def test_a_cached_answer_costs_nothing_and_says_what_it_saved(self, store: Ledger) -> None:
        """A hit needs no hold."""
        request = a_request()
        hit = replace(an_answer(request), cache="hit")
        outcome = an_outcome(request, hit, cost=Decimal(0))
        settle(store, replace(outcome, saved=Decimal("0.00021")))
        (row,) = store.calls()
        assert (row.cache, row.cost_pico, row.saved_pico) == ("hit", 0, 210_000_000)

    def test_attempts_that_came_to_nothing_are_not_free(self, store: Ledger) -> None:
        """Two attempts that may have been billed before the answer count at the held amount."""
        request = a_request()
        asyncio.run(store.hold(a_hold(request, cost=Decimal("0.5"))))
        answer = replace(an_answer(request), attempts=3, uncertain=2)
        settle(store, replace(an_outcome(request, answer), uncertain=2))
        (row,) = store.calls()
        assert (row.status, row.cost_pico, row.uncertain) == ("ok", 210_000_000, 2)
        assert row.uncertain_pico == 10**12

    def test_an_unknown_price_is_unknown_and_not_zero(self, store: Ledger) -> None:
        """No price, no cost: held and settled."""
        request = a_request()
        asyncio.run(store.hold(a_hold(request, cost=None)))
        assert store.open_holds()[0].cost_pico is None
        settle(store, an_outcome(request, cost=None))
        assert store.calls()[0].cost_pico is None

    @pytest.mark.parametrize(
        ("error", "status", "type"),
        [
            (RateLimited("slow down", http_status=429), "error", "rate_limited"),
            (ConnectionFailed("no route", sent=False, ambiguous=True), "error", "connection"),
            (Cancelled("stopped", sent=False), "cancelled", "cancelled"),
        ],
    )
    def test_a_failure_that_cannot_have_been_billed_costs_what_it_says(
        self, store: Ledger, error: CallError, status: str, type: str
    ) -> None:
        """The provider refused, or nothing was sent: the hold is simply over."""
        row = self._settled(store, error, cost=Decimal(0))
        found = row.status, row.error_type, row.cost_pico, row.input_tokens
        assert found == (status, type, 0, 0)
        assert row.http_status == error.http_status

    @pytest.mark.parametrize(
        "error",
        [CallTimeout("no answer in 60 s"), ConnectionFailed("reset by peer", ambiguous=True)],
    )
    def test_a_failure_that_may_have_been_billed_is_unknown_at_the_full_amount(
        self, store: Ledger, error: CallError
    ) -> None:
        """The hold's worst case stands until somebody knows better."""
        row = self._settled(store, error, cost=None)
        assert (row.status, row.cost_pico) == ("unknown", 12_300_000_000)
        assert (row.input_tokens, row.output_tokens, row.estimated) == (1000, 500, True)

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (Interrupted(ConnectionFailed("reset by peer")), "interrupted"),
            (Cancelled("Ctrl-C", ambiguous=True), "cancelled"),
        ],
    )
    def test_an_answer_that_broke_off_costs_what_was_counted(
        self, store: Ledger, error: CallError, status: str
    ) -> None:
        """With figures of its own the row has those, without any it has the hold's."""
        counted = Usage(312, 9, estimated=True)
        row = self._settled(store, error, cost=Decimal("0.0001"), usage=counted)
        assert (row.status, row.cost_pico, row.output_tokens) == (status, 100_000_000, 9)
        row = self._settled(store, error, cost=None)
        assert (row.status, row.cost_pico, row.output_tokens) == (status, 12_300_000_000, 500)

    def test_a_row_is_final(self, store: Ledger) -> None:
        """A settled call cannot be settled again."""
        outcome = an_outcome(a_request())
        settle(store, outcome)
        with pytest.raises(IntegrityError):
            settle(store, replace(outcome, cost=Decimal(0)))
        assert store.calls()[0].cost_pico == 210_000_000

    def _settled(
        self, store: Ledger, error: CallError, *, cost: Decimal | None, usage: Usage | None = None
    ) -> CallRow:
        request = a_request()
        asyncio.run(store.hold(a_hold(request)))
        settle(store, an_outcome(request, error, cost=cost, usage=usage))
        assert store.open_holds() == []
        return next(row for row in store.calls() if row.call_id == request.call_id)
