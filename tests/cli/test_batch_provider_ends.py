"""`batch --engine provider`: however a batch ends, each row of INPUT has its one record."""

from __future__ import annotations

import json

import pytest

from tests.cli.provider_batches import HAND, OUT, Provider, bills, summary
from tests.ledgers import calls_of
from tests.simulator import errors
from tests.simulator.batches import Fate
from tests.simulator.faults import Body, html
from tests.simulator.reply import Problem
from tests.simulator.scripts import fail_first, for_prompt


def test_an_expired_batch(provider: Provider) -> None:
    """Expired with 37 of 100 done: 37 rows in OUTPUT, paid, and 63 in a second batch, all that is
    held then; at the end each row is answered and billed once."""
    provider.sim.batch.fates = (Fate(expire_after=37), HAND)
    provider.rows(100)
    provider.sim.reply = bills()
    with provider.started() as process:
        provider.sim.wait_until(lambda: len(provider.batches.jobs) == 2)
        assert len(provider.answers) == 37
        assert provider.settled == provider.bill
        number, held = provider.held
        assert number == 63
        assert 63 * 100 * OUT <= held < 63 * 110 * OUT  # 100 tokens out, and the prompt
        provider.batches.finish()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
    assert "expired, 37 of 100 rows answered" in said
    assert provider.batches.jobs[1].total == 63
    assert len(provider.answers) == 100
    assert (provider.batches.billed.requests, provider.batches.billed.repeated) == (100, 0)
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_a_row_that_no_batch_answers(provider: Provider) -> None:
    """It has been in as many batches as the profile allows attempts: it fails as `timeout`, costs
    nothing, and the next run tries again."""
    provider.configure(attempts=2)
    provider.sim.batch.fates = (Fate(expire_after=0), Fate(expire_after=0), Fate())
    provider.rows(3)
    done = provider.batch("--json")
    assert (done.returncode, len(provider.batches.jobs)) == (5, 2), done.stderr
    assert {row["error"]["type"] for row in provider.errors.values()} == {"timeout"}
    assert "2 batches of the provider ended before the row was answered" in done.stderr
    assert (summary(done)["cost_usd"], provider.held) == (0, (0, 0))
    assert provider.batch().returncode == 0
    assert len(provider.answers) == 3


def test_results_in_disorder(provider: Provider) -> None:
    """Out of order, one doubled, one of an unknown row, one row missing: OUTPUT is complete and
    right, the unknown one named, the missing one sent again."""
    fate = Fate(double=(2,), unknown=1, drop=(4,))
    provider.sim.batch.fates = (fate, Fate())
    provider.rows(10)
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert {name: row["text"] for name, row in provider.answers.items()} == {
        f"r{n}": f"echo: say {n}" for n in range(10)
    }
    assert "1 results are of unknown rows (unknown-0)" in done.stderr
    assert [job.total for job in provider.batches.jobs] == [10, 1]
    assert provider.batches.billed.repeated == 0
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_all_rows_failed(provider: Provider) -> None:
    """A batch without an output file: all rows are error rows in the provider's words, by their
    own kinds; nothing is billed, nothing held."""
    fault = for_prompt("say", errors.context_too_long())
    provider.sim.batch.fates = (Fate(row=fault),)
    provider.rows(5)
    done = provider.batch()
    assert provider.batches.jobs[0].output is None
    assert (done.returncode, provider.answers, len(provider.errors)) == (1, {}, 5), done.stderr
    assert {row["error"]["type"] for row in provider.errors.values()} == {"context_length"}
    assert "5 context_length" in done.stderr
    assert (provider.settled, provider.held) == (0, (0, 0))


def test_some_rows_failed(provider: Provider) -> None:
    """Rows of the file of errors fail, the others are answered; the next run sends only those."""
    provider.sim.batch.fates = (Fate(row=for_prompt("say 1", errors.server_error())), Fate())
    provider.rows(4)
    assert provider.batch().returncode == 1
    assert (set(provider.answers), set(provider.errors)) == ({"r0", "r2", "r3"}, {"r1"})
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.errors) == (4, {})
    assert [job.total for job in provider.batches.jobs] == [4, 1]


def test_a_batch_that_is_not_valid(provider: Provider) -> None:
    """It fails after it was accepted: its rows are error rows with the provider's words, and
    nothing is billed or held."""
    why = Problem("The model `gpt-5-mini` is not for batches.", "invalid", "model_not_found")
    provider.sim.batch.fates = (Fate(invalid=why),)
    provider.rows(5)
    done = provider.batch()
    assert (done.returncode, len(provider.errors)) == (1, 5), done.stderr
    said = {row["error"]["message"] for row in provider.errors.values()}
    assert len(said) == 1
    assert "The model `gpt-5-mini` is not for batches." in said.pop()
    assert (provider.settled, provider.held, len(provider.batches.jobs)) == (0, (0, 0), 1)


@pytest.mark.parametrize("adapter", ["anthropic", "openrouter"])
def test_other_families(provider: Provider, adapter: str) -> None:
    """Expired half-way, with a row failed: the answers are kept, the rest is sent again; each row
    is billed once."""
    fault = for_prompt("say 1", errors.context_too_long())
    provider.configure(adapter)
    provider.sim.batch.fates = (Fate(expire_after=4, row=fault), Fate())
    provider.rows(8)
    done = provider.batch()
    assert done.returncode == 1, done.stderr
    assert (len(provider.answers), set(provider.errors)) == (7, {"r1"})
    assert [job.total for job in provider.batches.jobs] == [8, 4]
    assert (provider.batches.billed.requests, provider.batches.billed.repeated) == (7, 0)
    assert provider.held == (0, 0)


def test_results_of_another_origin(provider: Provider) -> None:
    """The key goes nowhere else: results that are said to be at another origin are not fetched,
    and the command says so; nothing is lost."""
    provider.configure("anthropic")
    provider.sim.batch.results_origin = "http://127.0.0.1:9"
    provider.rows(3)
    done = provider.batch()
    assert done.returncode == 6, done.stderr
    assert "sends to another server for it, which the key is not for" in done.stderr
    assert "3 rows at the provider" in done.stderr
    provider.sim.batch.results_origin = None
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.batches.billed.requests) == (3, 3)


@pytest.mark.parametrize("adapter", ["openai", "anthropic"])
def test_results_that_are_gone(provider: Provider, adapter: str) -> None:
    """The files were deleted (after a month): the rows fail, and are in doubt in the ledger, held
    at their worst, never free; they are not sent again by themselves."""
    provider.configure(adapter)
    provider.sim.batch.faults = {"results": errors.status(404)}
    provider.rows(3)
    done = provider.batch("--json")
    assert (len(provider.batches.jobs), len(provider.errors)) == (1, 3), done.stderr
    assert done.returncode == 1
    assert [row["status"] for row in calls_of(provider.home)] == ["unknown"] * 3
    if adapter == "openai":
        assert 300 * OUT <= provider.settled < 330 * OUT
    assert provider.settled > 0
    assert provider.held == (0, 0)


def test_a_look_that_makes_no_sense(provider: Provider) -> None:
    """A proxy's page in place of a batch, a few times, ends nothing: the next look tells."""
    provider.sim.batch.faults = {"poll": fail_first(3, html())}
    provider.rows(3)
    done = provider.batch()
    assert (done.returncode, len(provider.answers)) == (0, 3), done.stderr
    assert provider.batches.billed.requests == 3


def test_a_batch_that_is_archived(provider: Provider) -> None:
    """Anthropic says so after a month, and that rows were answered: they are in doubt, not free."""
    provider.configure("anthropic")
    provider.sim.batch.fates = (HAND,)
    provider.rows(3)
    assert provider.batch("--detach").returncode == 6
    when = "2026-11-01T00:00:00Z"
    counts = {"processing": 0, "succeeded": 3, "errored": 0, "canceled": 0, "expired": 0}
    said = {
        "id": provider.batches.jobs[0].id, "processing_status": "ended", "request_counts": counts,
        "created_at": when, "ended_at": when, "archived_at": when, "results_url": None,
    }  # fmt: skip
    provider.sim.batch.faults = {"poll": Body(body=json.dumps(said).encode())}
    done = provider.batch()
    assert (done.returncode, len(provider.errors)) == (1, 3), done.stderr
    assert "archived" in done.stderr
    assert [row["status"] for row in calls_of(provider.home)] == ["unknown"] * 3
    assert (provider.held, provider.settled > 0) == ((0, 0), True)
