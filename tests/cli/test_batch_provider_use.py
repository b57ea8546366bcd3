"""`batch --engine provider` as a stranger uses it: no habit of theirs pays for a row twice."""

from __future__ import annotations

import pytest

from tests.cli.jsonl import prompts
from tests.cli.provider_batches import HAND, Provider
from tests.simulator.batches import Fate


def fetched_once(provider: Provider, rows: int) -> None:
    """The batches end, and the command gives each row the one answer that was billed."""
    provider.batches.finish()
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.answers) == rows
    assert (provider.batches.billed.requests, provider.batches.billed.repeated) == (rows, 0)
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


@pytest.mark.parametrize("words", [(), ("--restart",), ("--no-cache",), ("-s", "Be brief.")])
def test_a_question_that_changed_while_it_is_answered(
    provider: Provider, words: tuple[str, ...]
) -> None:
    """Exit 2 with its line; nothing is submitted, even with --restart, and OUTPUT stays: the batch
    is paid for either way, and --cancel ends it."""
    provider.sim.batch.fates = (Fate(to_end=float("inf")), Fate())
    provider.rows(5)
    assert provider.batch("--detach").returncode == 6
    if "-s" not in words:
        provider.rows([*prompts(4), {"id": "r4", "prompt": "edited"}])
    refused = provider.batch(*words)
    assert refused.returncode == 2, refused.stderr
    assert 'in.jsonl:5: the question of id "r4" has changed' in refused.stderr
    assert "fetch it with the command that submitted it, or end it with --cancel" in refused.stderr
    assert (len(provider.batches.jobs), provider.errors) == (1, {})
    assert provider.batch("--cancel", *words).returncode == 0
    assert provider.batch(*words).returncode == 0
    assert (len(provider.answers), provider.batches.billed.requests) == (5, 5)


def test_restart_while_rows_are_at_the_provider(provider: Provider) -> None:
    """OUTPUT starts over, and rows that are at the provider wait there: none is submitted again."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(5)
    assert provider.batch("--detach").returncode == 6
    assert provider.batch("--restart", "--detach").returncode == 6
    assert len(provider.batches.jobs) == 1
    fetched_once(provider, 5)


def test_rows_appended_while_others_are_at_the_provider(provider: Provider) -> None:
    """Only the new ones are submitted."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(5)
    assert provider.batch("--detach").returncode == 6
    provider.rows(8)
    assert provider.batch("--detach").returncode == 6
    assert [job.total for job in provider.batches.jobs] == [5, 3]
    fetched_once(provider, 8)


def test_a_limit_and_then_all(provider: Provider) -> None:
    """The rest is submitted; a limit below what is at the provider is refused (exit 2): answers
    of the others would be paid for and thrown away."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(6)
    assert provider.batch("--limit", "2", "--detach").returncode == 6
    assert provider.batch("--detach").returncode == 6
    assert [job.total for job in provider.batches.jobs] == [2, 4]
    provider.batches.finish()
    refused = provider.batch("--limit", "2", "--no-cache")
    assert refused.returncode == 2
    assert "4 of the rows that --limit leaves out are in a batch of the provider" in refused.stderr
    fetched_once(provider, 6)


def test_an_output_deleted_and_an_input_moved(provider: Provider) -> None:
    """Rows at the provider are those of OUTPUT's path: neither makes them be submitted again."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(5)
    assert provider.batch("--detach").returncode == 6
    (provider.folder / "in.out.jsonl").unlink()
    (provider.folder / "in.jsonl").rename(provider.folder / "moved.jsonl")
    provider.batches.finish()
    words = ("batch", "moved.jsonl", "-o", "in.out.jsonl", "--engine", "provider")
    done = provider.run(*words, env=provider.environ, cwd=provider.folder)
    assert done.returncode == 0, done.stderr
    assert (len(provider.answers), provider.batches.billed.requests) == (5, 5)
