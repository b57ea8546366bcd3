"""What a part of a process, working elsewhere, holds and claims."""

from __future__ import annotations

import asyncio
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from msgspec.structs import replace

from llmctl.storage.answer_cache import SqliteCache
from llmctl.storage.ledger import Ledger, open_ledger
from llmctl.storage.process import Process
from tests.conformance.calls import a_cap, a_hold, a_request
from tests.conformance.ledger_budgets import stands

ME = Process.current()
ONE, OTHER = ME.part("node-1"), ME.part("node-2")
KEY = "ab" * 32


def test_a_part_lives_as_long_as_its_process() -> None:
    """Whoever it is of, and no longer."""
    assert not ONE.is_dead(out_of_sight=True)
    assert replace(ME, birth="1").part("node-1").is_dead(out_of_sight=False)


def test_what_a_part_holds_is_lost_with_it(tmp_path: Path) -> None:
    """Its calls become `unknown` at their full amount, those of other parts stay; and all do when
    the process has died."""
    cap = a_cap("10")
    path = tmp_path / "ledger.db"
    with closing(open_ledger(path, "run-1", "ann")) as driver:
        for owner, call in ((ONE, "a"), (ONE, "b"), (OTHER, "c")):
            part = Ledger(driver.database, "run-1", "ann", owner)
            asyncio.run(part.hold(a_hold(a_request(call_id=call), Decimal(1)), [cap]))
        assert stands(driver, cap) == (0, 3)
        assert asyncio.run(driver.end_of(ONE)) == 2
        assert stands(driver, cap) == (2, 1)
        assert [(row.call_id, row.status) for row in driver.calls()] == [
            ("a", "unknown"),
            ("b", "unknown"),
        ]
        dead = Ledger(driver.database, "run-1", "ann", replace(ME, birth="1").part("node-3"))
        asyncio.run(dead.hold(a_hold(a_request(call_id="d"), Decimal(1)), [cap]))
    with closing(open_ledger(path, "run-2", "ann")) as later:
        assert [row.call_id for row in later.calls()] == ["a", "b", "d"]
        assert stands(later, cap) == (3, 1)


def test_who_holds_for_a_part_may_begin_anew(tmp_path: Path) -> None:
    """A second hold of a call takes the place of the first, though another ledger has made it, and
    the process settles what its parts hold."""
    cap = a_cap("10")
    with closing(open_ledger(tmp_path / "ledger.db", "run-1", "ann")) as driver:
        for cost in (Decimal(1), Decimal(2), Decimal(2)):
            part = Ledger(driver.database, "run-1", "ann", ONE)
            asyncio.run(part.hold(a_hold(a_request("a"), cost), [cap]))
        assert stands(driver, cap) == (0, 2)
        (hold,) = driver.open_holds()
        assert hold.amount_pico == 2 * 10**12


def test_parts_claim_answers_from_each_other(tmp_path: Path) -> None:
    """An answer is got by one part of a process; when that one is dead, by the next."""
    with closing(SqliteCache(tmp_path / "cache.db", print)) as cache:
        one, other = cache.on_behalf_of(ONE), cache.on_behalf_of(OTHER)
        claims = [asyncio.run(each.claim(KEY)) for each in (one, other, cache, one)]
        assert claims == ["ours", "theirs", "theirs", "ours"]
        asyncio.run(one.end_claims())
        assert asyncio.run(other.claim(KEY)) == "ours"
