"""The ledger against a bill: equal is equal, and every planted cause is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.providers.bills import BillLine
from llmctl.reports.periods import moment
from llmctl.reports.reconcile import (
    Reconciliation,
    Row,
    Scope,
    Settlement,
    Span,
    _shares,
    compare,
    in_scope,
    settle,
    stems_of,
)
from llmctl.storage.ledger import open_ledger
from llmctl.types import Usage
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost

DAY = date(2026, 11, 20)
NOON = moment(datetime(2026, 11, 20, 12, tzinfo=UTC))
LATER = moment(datetime(2026, 11, 25, 12, tzinfo=UTC))
DOLLAR = 10**12
NONE, ONE = Decimal(0), Decimal(1)
CENT = Decimal("0.01")

Calls = Sequence[dict[str, Any]]
Compare = Callable[..., tuple[Reconciliation, list[Settlement]]]


def call(**changes: Any) -> dict[str, Any]:
    """A call of a dollar, of 100 tokens in and 10 out, at noon of `DAY`."""
    return a_call(**{"started_ms": NOON, **changes})


def line(**changes: Any) -> BillLine:
    """The same on the bill."""
    usual = {"usage": Usage(100, 10), "requests": 1, "cost": Decimal(1)}
    return BillLine(**{"day": DAY, "model": "gpt-5-mini", **usual, **changes})


@pytest.fixture
def both(tmp_path: Path) -> Compare:
    """Compares calls with lines from the 19th to the 23rd, as seen on the 25th."""

    def work(
        calls: Calls,
        lines: Sequence[BillLine],
        now: int = LATER,
        scope: Scope = "key",
        profiles: Sequence[str] = ("fast",),
    ) -> tuple[Reconciliation, list[Settlement]]:
        path = a_ledger(tmp_path / "ledger.db", *calls)
        day, mine = timedelta(days=1), frozenset(profiles)
        span = Span(DAY - day, DAY + 3 * day, now, mine, scope)
        with closing(open_ledger(path, "", "")) as ledger:
            found = ledger.report(lambda reading: compare(reading, lines, span))
            return found, settle(found, ledger.report(lambda reading: reading.unknown(0, LATER)))

    return work


def kinds(row: Row) -> list[str]:
    """The names of a row's causes."""
    return [cause.kind for cause in row.causes]


def only(found: tuple[Reconciliation, list[Settlement]]) -> Row:
    """The one row."""
    (row,) = found[0].rows
    return row


def test_equal_is_equal(both: Compare) -> None:
    """No difference and no cause where both say the same; kept answers, failures and calls of
    other profiles are on no bill."""
    calls = [call(), call(), a_hit(started_ms=NOON), a_failure(started_ms=NOON, input_tokens=0,
             output_tokens=0), call(profile="other")]  # fmt: skip
    found = both(calls, [line(usage=Usage(200, 20), cost=Decimal(2), requests=2)])
    row = only(found)
    assert (row.difference, found[0].share) == (NONE, NONE)
    assert not row.causes
    assert found[0].ours == found[0].theirs == 2
    assert row.ours.usage == Usage(200, 20)


def test_a_line_for_tokens_and_one_for_dollars_are_one_row(both: Compare) -> None:
    """OpenAI counts and charges apart; costs do not say what was in batches."""
    lines = [line(cost=None, batch=False), line(usage=None, requests=None)]
    assert only(both([call()], lines)).agrees


def test_dated_versions_are_the_model(both: Compare) -> None:
    """Whichever side names the version."""
    dated = "gpt-5-mini-2026-05-01"
    assert only(both([call()], [line(model=dated)])).model == "gpt-5-mini"
    assert stems_of({"gpt-5-mini", dated, "gpt-5", "gpt-5-2026-01-01", "m-latest", "m-2411"}) == {
        "gpt-5-mini": "gpt-5-mini",
        dated: "gpt-5-mini",
        "gpt-5": "gpt-5",
        "gpt-5-2026-01-01": "gpt-5",
        "m-latest": "m-latest",
        "m-2411": "m-latest",
    }
    assert stems_of({dated}) == {dated: dated}


def test_rounding_is_no_difference(both: Compare) -> None:
    """Of a bill in whole cents half a cent a line is none; of an exact one it is."""
    calls = [call(cost_pico=DOLLAR // 1000 * 4) for _ in range(2)]
    rounded = [line(usage=None, cost=Decimal("0.00")), line(usage=None, cost=Decimal("0.01"))]
    found = both(calls, rounded)
    assert (only(found).agrees, found[0].share) == (True, NONE)
    exact = [line(usage=None, cost=Decimal("0.0121"))]
    assert not only(both([], exact)).agrees


def planted(both: Compare, calls: Calls, *lines: BillLine) -> tuple[list[str], Decimal | None]:
    """The causes of the one row, and the dollars of the first."""
    row = only(both(calls, lines))
    return kinds(row), row.causes[0].usd


def test_unknown_calls(both: Compare) -> None:
    """What was billed beyond the known calls is theirs, up to their worst case; the rest others
    have used."""
    calls = [call(), lost(started_ms=NOON)]
    more = Usage(180, 18)
    assert planted(both, calls, line(usage=more, cost=Decimal("1.8"))) == (
        ["unknown_calls"],
        Decimal("0.8"),
    )


def test_unknown_calls_and_others(both: Compare) -> None:
    """Beyond the worst case of unknown calls it is others."""
    row = only(both([call(), lost(started_ms=NOON)], [line(usage=Usage(900, 9), cost=Decimal(9))]))
    assert {one.kind: one.usd for one in row.causes} == {
        "unknown_calls": ONE,
        "other_users": 7 * ONE,
    }


def test_other_users(both: Compare) -> None:
    """More tokens than the ledger has, or calls of a day of which it has none."""
    said = line(usage=Usage(150, 15), cost=Decimal("1.5"))
    assert planted(both, [call()], said) == (["other_users"], Decimal("0.5"))
    found = both([], [line(model="other")], scope="organization")
    theirs = next(row for row in found[0].rows if row.model == "other")
    assert kinds(theirs) == ["other_users"]
    assert "organization" in theirs.causes[0].text


def test_price(both: Compare) -> None:
    """The same tokens for other dollars."""
    assert planted(both, [call()], line(cost=Decimal("1.3"))) == (["price"], Decimal("0.3"))


def test_free_tokens(both: Compare) -> None:
    """Tokens that the bill counts and does not charge."""
    row = only(both([call()], [line(cost=None)]))
    assert (kinds(row), row.causes[0].text) == (
        ["price"],
        "the bill charges nothing for these tokens",
    )


def test_unknown_price(both: Compare) -> None:
    """Calls without a price are named, and no price is blamed."""
    row = only(both([call(cost_pico=None)], [line()]))
    assert kinds(row) == ["unknown_price"]


def test_discount(both: Compare) -> None:
    """What is off the list price; what is left beside it has its own cause."""
    off = line(cost=Decimal("0.85"), list_cost=Decimal(1))
    assert planted(both, [call()], off) == (["discount"], Decimal("-0.15"))
    row = only(both([], [replace(off, list_cost=Decimal("1.2"))]))
    assert [(one.kind, one.usd) for one in row.causes] == [
        ("price", Decimal("0.2")),
        ("discount", Decimal("-0.35")),
    ]


def test_cache_tier(both: Compare) -> None:
    """The same tokens, of which others were read from the provider's cache."""
    said = line(usage=Usage(100, 10, 80), cost=Decimal("0.5"))
    assert planted(both, [call()], said) == (["cache_tier"], Decimal("-0.5"))


def test_batch_rate_of_calls_that_the_bill_has_in_a_batch(both: Compare) -> None:
    """By tokens where the amounts do not tell batches apart, and by rows where they do."""
    counted = line(cost=None, batch=True)
    charged = line(usage=None, cost=Decimal("0.5"))
    assert planted(both, [call()], counted, charged) == (["batch_rate"], Decimal("-0.5"))
    found = both([], [line(batch=True, cost=Decimal("0.5"))])
    assert {row.batch: kinds(row) for row in found[0].rows} == {
        False: ["batch_rate"],
        True: ["batch_rate"],
    }


def test_batch_rate_that_was_priced_otherwise(both: Compare) -> None:
    """A batch on both sides, at half of what the ledger says."""
    said = line(batch=True, cost=Decimal("0.5"))
    row = only(both([call(job="batch_1")], [said]))
    assert (row.batch, kinds(row)) == (True, ["batch_rate"])
    assert only(both([], [line(batch=True)])).agrees


def test_batches_and_others_are_rows_of_their_own(both: Compare) -> None:
    """Where the bill tells them apart."""
    calls = [call(), call(job="batch_1", cost_pico=DOLLAR // 2)]
    found = both(calls, [line(batch=False), line(batch=True, cost=Decimal("0.5"))])
    assert [(row.batch, row.difference) for row in found[0].rows] == [(False, NONE), (True, NONE)]
    assert not any(row.causes for row in found[0].rows)


def test_estimated_tokens(both: Compare) -> None:
    """Where the ledger's tokens are estimates nobody else is blamed."""
    said = line(usage=Usage(100, 20), cost=Decimal("1.1"))
    assert planted(both, [call(estimated=1)], said) == (["estimated_tokens"], Decimal("0.1"))


def test_fewer_tokens(both: Compare) -> None:
    """A batch that ended on another day is not on the bill of the day it was sent."""
    said = line(usage=Usage(100, 10), cost=Decimal(1))
    row = only(both([call(job="b"), call(job="b")], [said]))
    assert (kinds(row), "on the day they end" in row.causes[0].text) == (["fewer_tokens"], True)


def test_missing(both: Compare) -> None:
    """The bill has nothing of the day."""
    assert planted(both, [call()]) == (["missing"], -ONE)


def test_late(both: Compare) -> None:
    """What one day lacks, and the next has, is late, and no difference in all."""
    found = both([call()], [line(day=DAY + timedelta(days=1))])
    assert [(kinds(row), row.difference) for row in found[0].rows] == [
        (["late"], -ONE),
        (["late"], ONE),
    ]
    assert found[0].share == 0


@pytest.mark.parametrize(("hours", "complete"), [(-1, False), (0, True)])
def test_incomplete_day(both: Compare, hours: int, complete: bool) -> None:  # noqa: FBT001
    """Until 24 hours after its end a day is shown, not judged; what it lacks may come."""
    now = moment(datetime(2026, 11, 22, tzinfo=UTC)) + hours * 3_600_000
    found = both([call(), call()], [line()], now=now)
    row = only(found)
    assert (row.complete, kinds(row)) == (
        complete,
        ["fewer_tokens"] if complete else ["incomplete_day"],
    )
    assert found[0].share == (Decimal("0.5") if complete else 0)


def test_without_tokens_the_cause_is_not_guessed(both: Compare) -> None:
    """A bill of dollars alone: unknown calls first, then nobody knows."""
    row = only(both([call()], [line(usage=None, cost=Decimal(2))]))
    assert kinds(row) == ["unexplained"]


def test_models_do_not_make_up_for_each_other(both: Compare) -> None:
    """The share is that of each model's difference."""
    calls, lines = (
        [call(), call(model="b")],
        [line(cost=Decimal("1.5")), line(model="b", cost=CENT)],
    )
    found = both(calls, lines)
    assert found[0].share == Decimal("1.49") / 2


def test_lines_are_ours_by_key_then_by_project() -> None:
    """Where the bill tells keys apart and ours are known; else all are compared, and it is said."""
    mine, other = line(key="k", project="p"), line(key="o", project="q")
    assert in_scope([mine, other], ("k",), "p") == ([mine], "key")
    assert in_scope([mine, other], (), "p") == ([mine], "project")
    assert in_scope([mine, other], (), None) == ([mine, other], "organization")
    untold = [line(), line()]
    assert in_scope(untold, ("k",), "p") == (untold, "organization")
    assert in_scope([other], ("k",), None) == ([], "key")


# --- Settling -----------------------------------------------------------------------------------


def amounts(found: tuple[Reconciliation, list[Settlement]]) -> list[Decimal | None]:
    """What the calls in doubt cost by the bill."""
    return [one.usd for one in found[1]]


def test_nothing_more_billed_settles_at_nothing(both: Compare) -> None:
    """Also where the same tokens cost other dollars: that is the price."""
    calls = [call(), lost(started_ms=NOON), lost(started_ms=NOON)]
    assert amounts(both(calls, [line()])) == [0, 0]
    assert amounts(both([], [line(cost=Decimal("1.3"))])) == [0, 0]


def test_room_is_shared_by_worst_case(both: Compare) -> None:
    """To the picodollar, and never more than was billed."""
    calls = [call(), lost(started_ms=NOON), lost(started_ms=NOON, cost_pico=2 * DOLLAR)]
    found = both(calls, [line(usage=Usage(300, 30), cost=Decimal(2))])
    first, second = amounts(found)
    assert first is not None
    assert second is not None
    assert first + second == 1
    assert abs(second - 2 * first) < Decimal("1e-11")


def test_attempts_in_doubt_of_an_answered_call_settle_too(both: Compare) -> None:
    """Of a retried call what one attempt may have cost."""
    calls = [call(uncertain=1, uncertain_pico=DOLLAR // 2)]
    assert amounts(both(calls, [line(usage=Usage(150, 10), cost=Decimal("1.2"))])) == [
        Decimal("0.2")
    ]


@pytest.mark.parametrize(
    ("lines", "now", "why"),
    [
        ([line(usage=Usage(900, 9), cost=Decimal(9))], LATER, "others are in it"),
        ([line(usage=Usage(150, 15), cost=Decimal(2))], NOON + 86_400_000, "not complete"),
        ([line(model="b")], LATER, "nothing of that day and model"),
        ([], LATER, "nothing of that day and model"),
    ],
)
def test_what_the_bill_does_not_decide(
    both: Compare, lines: list[BillLine], now: int, why: str
) -> None:
    """Stays in doubt: more was billed than they can have cost, the day is not complete, or the bill
    has nothing of it."""
    found = both([call(), lost(started_ms=NOON)], lines, now=now)
    (one,) = found[1]
    assert (one.usd, why in one.why) == (None, True)


def test_a_call_of_unknown_price_takes_what_was_billed(both: Compare) -> None:
    """Its worst case is not known, the bill is."""
    calls = [call(), lost(started_ms=NOON, cost_pico=None)]
    assert amounts(both(calls, [line(usage=Usage(150, 15), cost=Decimal("1.4"))])) == [
        Decimal("0.4")
    ]


def test_a_discount_is_no_room_less(both: Compare) -> None:
    """The ledger counts at list prices, and so does the room for unknown calls."""
    calls = [call(), lost(started_ms=NOON)]
    said = line(usage=Usage(150, 15), cost=Decimal("0.75"), list_cost=Decimal("1.5"))
    assert amounts(both(calls, [said])) == [Decimal("0.5")]


@given(
    whole=st.decimals(0, 1000, places=12),
    weights=st.lists(st.decimals(0, 1000, places=12), min_size=1, max_size=20),
)
def test_shares_add_up(whole: Decimal, weights: list[Decimal]) -> None:
    """To the whole, and none is below 0."""
    found = _shares(whole, weights)
    assert sum(found) == whole
    assert min(found) >= 0
