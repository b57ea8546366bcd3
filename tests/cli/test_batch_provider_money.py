"""`batch --engine provider`: prices, budgets and the provider's bill."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.cli.provider_batches import HAND, IN, OUT, Provider, bills, summary
from tests.simulator.batches import Fate
from tests.simulator.call import Call

WORST = 100 * OUT + 20 * IN
"""Dollars that a row of these tests is held at, at the most: 100 tokens out and its prompt."""


def watch(provider: Provider) -> list[Decimal]:
    """Dollars held and settled at each request that the provider gets."""
    seen: list[Decimal] = []

    def look(_: Call) -> None:
        seen.append(provider.held[1] + Decimal(provider.settled))

    provider.sim.fault = look
    return seen


def test_the_plan_has_both_prices(provider: Provider) -> None:
    """Where the price list has a rate of batches it is half; that is what --engine provider is
    held to, and nothing is sent."""
    provider.rows(10)
    plan = json.loads(provider.batch("--dry-run", "--json").stdout, parse_float=Decimal)
    for name in ("worst_case_usd", "expected_usd"):
        assert abs(plan["provider_batch"][name] / plan[name] - Decimal("0.5")) < Decimal("0.01")
    worst = plan["provider_batch"]["worst_case_usd"]
    assert 10 * 100 * OUT < worst < 10 * WORST
    for budget, code in ((worst, 0), (worst - Decimal("0.000001"), 3)):
        assert provider.batch("--dry-run", "--budget", f"{budget:f}").returncode == code
    assert provider.local("--dry-run", "--budget", f"{worst:f}").returncode == 3
    assert provider.sim.calls == []


def test_the_plan_without_a_rate_of_batches(provider: Provider) -> None:
    """Where none is published it is not known, and neither is it that of single calls."""
    provider.configure(price="{input: 1, output: 2}")
    provider.rows(10)
    plan = json.loads(provider.batch("--dry-run", "--json").stdout, parse_float=Decimal)
    assert plan["worst_case_usd"] > 0
    assert plan["provider_batch"] == {"worst_case_usd": None, "expected_usd": None}
    assert "provider's batch  at most $?" in provider.batch("--dry-run").stdout


def test_an_unknown_price(provider: Provider) -> None:
    """Without a budget the rows are answered and cost $?; under one they are refused unsent."""
    provider.configure(price="{input: 1, output: 2}")
    provider.rows(3)
    done = provider.batch("--budget", "1")
    assert (done.returncode, provider.sim.calls) == (3, []), done.stderr
    assert {row["error"]["type"] for row in provider.errors.values()} == {"budget"}
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert "$?" in done.stderr
    assert {row["cost_usd"] for row in provider.answers.values()} == {None}


def test_a_budget_refuses_before_the_upload(provider: Provider) -> None:
    """No row fits: nothing at all is asked of the provider, exit 3."""
    provider.rows(5)
    done = provider.batch("--budget", "0.00005")
    assert (done.returncode, provider.sim.calls, provider.batches.jobs) == (3, [], []), done.stderr
    assert (len(provider.errors), provider.held) == (5, (0, 0))


def test_a_budget_for_half_the_rows(provider: Provider) -> None:
    """Those are answered, the others are `budget` errors, exit 3; what is held and settled is
    never more than the budget, and in the end what the provider bills. A larger budget goes on."""
    provider.sim.reply, seen = bills(), watch(provider)
    provider.rows(10)
    budget = 5 * WORST
    done = provider.batch("--budget", f"{budget:f}", "--json")
    assert done.returncode == 3, done.stderr
    assert (len(provider.answers), len(provider.errors)) == (5, 5)
    assert {row["error"]["type"] for row in provider.errors.values()} == {"budget"}
    assert 0 < max(seen) <= budget
    assert provider.settled == provider.bill == summary(done)["cost_usd"]
    assert provider.held == (0, 0)
    done = provider.batch("--budget", f"{6 * WORST:f}", "--json")
    assert done.returncode == 0, done.stderr
    assert summary(done)["cost_usd"] == 5 * (100 * OUT + 10 * IN)
    assert (len(provider.answers), provider.batches.billed.repeated) == (10, 0)
    assert provider.settled == provider.bill


def test_the_report_says_what_batches_save(provider: Provider) -> None:
    """The usual price of the same tokens, less what was paid: as much again, at half the price."""
    provider.sim.reply = bills()
    provider.rows(4)
    assert provider.batch().returncode == 0
    report = json.loads(provider.run("cost", "report", "--json").stdout, parse_float=Decimal)
    total = report["total"]
    assert total["batch_saved_usd"] == total["cost_usd"] == provider.bill
    assert total["saved_usd"] == 0


def test_what_batches_leave_is_spent_on_the_next(provider: Provider) -> None:
    """Rows cost a tenth of what they may: a budget for three at their worst answers all ten, batch
    by batch, and is never exceeded."""
    provider.sim.reply, seen = bills(5), watch(provider)
    provider.rows(10)
    budget = 3 * WORST
    done = provider.batch("--budget", f"{budget:f}")
    assert (done.returncode, len(provider.answers)) == (0, 10), done.stderr
    assert 0 < max(seen) <= budget
    assert len(provider.batches.jobs) > 3
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_a_budget_of_the_configuration(provider: Provider) -> None:
    """Rows at the provider hold it after their command has gone, and count at what they cost once
    they are fetched."""
    provider.configure(tail=f"budgets:\n  - {{name: team, limit_usd: {WORST * 3:f}, period: day}}")
    provider.sim.reply = bills()
    provider.sim.batch.fates = (HAND,)
    provider.rows(3)
    assert provider.batch("--detach").returncode == 6
    assert used(provider) == (provider.held[1], 3)
    provider.batches.finish()
    assert provider.batch().returncode == 0
    assert used(provider) == (provider.bill, 0)


def used(provider: Provider) -> tuple[Decimal, int]:
    """Dollars of the budget that are used, and the calls under way, by `cost check`."""
    said = provider.run("cost", "check", "--json", env=provider.environ).stdout
    (budget,) = json.loads(said, parse_float=Decimal)["budgets"]
    return budget["used_usd"], budget["in_flight_calls"]


def test_detach_under_a_budget(provider: Provider) -> None:
    """What fits is submitted, exit 6; the same command fetches it, and submits what fits then."""
    provider.sim.reply = bills(5)
    provider.sim.batch.fates = (HAND,)
    provider.rows(4)
    budget = ("--budget", f"{3 * WORST:f}")
    done = provider.batch("--detach", *budget)
    assert done.returncode == 6, done.stderr
    assert provider.errors == {}
    assert provider.held[0] == sum(job.total for job in provider.batches.jobs) == 3
    provider.batches.finish()
    done = provider.batch("--detach", *budget)
    assert (done.returncode, len(provider.answers)) == (6, 3), done.stderr
    provider.batches.finish()
    assert provider.batch(*budget).returncode == 0
    assert (len(provider.answers), provider.batches.billed.repeated) == (4, 0)


def test_a_provider_that_bills_more_than_allowed(provider: Provider) -> None:
    """The ledger has what was billed."""
    provider.sim.reply = bills(1000)
    provider.rows(3)
    done = provider.batch("--budget", "1")
    assert done.returncode == 0, done.stderr
    assert provider.settled == provider.bill == 3 * (1000 * OUT + 10 * IN)


@pytest.mark.parametrize("adapter", ["anthropic", "gemini"])
def test_the_bill_of_others(provider: Provider, adapter: str) -> None:
    """The prices of the vendor's own model in a batch: half."""
    provider.configure(adapter, price={
        "anthropic": "{as: anthropic/claude-haiku-4-5}", "gemini": "{as: gemini/gemini-2.5-flash}"
    }[adapter])  # fmt: skip
    provider.sim.reply = bills()
    provider.rows(3)
    assert provider.batch().returncode == 0
    rates = {"anthropic": ("0.5", "2.5"), "gemini": ("0.15", "1.25")}[adapter]
    each = (10 * Decimal(rates[0]) + 100 * Decimal(rates[1])) / 10**6
    assert provider.settled == 3 * each


def test_the_cost_of_openrouter(provider: Provider) -> None:
    """OpenRouter says what each row cost: that is what the ledger has."""
    provider.configure("openrouter")
    provider.sim.reply = bills()
    provider.rows(3)
    assert provider.batch().returncode == 0
    lines = provider.batches.jobs[0].results()
    said = [Decimal(str(line["response"]["body"]["usage"]["cost"])) for line in lines]
    assert abs(Decimal(provider.settled) - sum(said)) < Decimal("1e-12")


def test_the_report_has_the_batches(provider: Provider) -> None:
    """`cost report` adds up what the provider billed."""
    provider.sim.reply = bills()
    provider.sim.batch.fates = (Fate(expire_after=4), Fate())
    provider.rows(10)
    assert provider.batch().returncode == 0
    done = provider.run("cost", "report", "--json", env=provider.environ)
    total = json.loads(done.stdout, parse_float=Decimal)["total"]["cost_usd"]
    assert abs(total - Decimal(provider.bill)) < Decimal("1e-9"), done.stdout
