"""`batch --engine provider` as a stranger uses it: no habit of theirs pays for a row twice."""

from __future__ import annotations

import re
import shlex
from typing import Any

from tests.cli.jsonl import prompts
from tests.cli.provider_batches import HAND, Provider, bills
from tests.cli.terminal import on_a_terminal
from tests.simulator.batches import Fate


def fetched_once(provider: Provider, rows: int) -> None:
    """The batches end, and the command gives each row the one answer that was billed."""
    provider.batches.finish()
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.answers) == rows
    assert (provider.batches.billed.requests, provider.batches.billed.repeated) == (rows, 0)
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_a_question_that_changed_while_it_is_answered(provider: Provider) -> None:
    """Exit 2 with its line; nothing is submitted, even with --restart, and OUTPUT stays: the batch
    is paid for either way, and --cancel ends it."""
    provider.sim.batch.fates = (Fate(to_end=float("inf")), Fate())
    provider.rows(5)
    assert provider.batch("--detach").returncode == 6
    edited = [*prompts(4), {"id": "r4", "prompt": "edited"}]
    changes: list[tuple[tuple[str, ...], Any]] = [
        (("-s", "Be brief."), 5), ((), edited), (("--no-cache",), edited),
        (("--restart",), edited),
    ]  # fmt: skip
    for words, rows in changes:
        provider.rows(rows)
        refused = provider.batch(*words)
        assert refused.returncode == 2, refused.stderr
        assert 'in.jsonl:5: the question of id "r4" has changed' in refused.stderr
        ways = "fetch it with the command that submitted it, or end it with --cancel"
        assert ways in refused.stderr
        assert (len(provider.batches.jobs), provider.errors) == (1, {})
    assert provider.batch("--cancel", "--restart").returncode == 0
    assert provider.batch("--restart").returncode == 0
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


def test_the_command_it_names_is_the_one_that_was_typed(provider: Provider) -> None:
    """With all that makes a row what it is, and without what would leave again or throw answers
    away: typed as it stands it fetches, and nothing is submitted."""
    provider.sim.batch.fates = (HAND,)
    provider.rows([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}])
    asked = ("--template", "Say {{ text }}", "-s", "Be brief.", "--max-tokens", "7")
    left = provider.batch(*asked, "--restart", "--detach")
    named = re.search("the same command fetches: llmctl (.*)", left.stderr)
    assert named is not None
    assert shlex.split(named[1]) == [*provider.words(*asked)]
    provider.batches.finish()
    done = provider.run(*shlex.split(named[1]), env=provider.environ, cwd=provider.folder)
    assert done.returncode == 0, done.stderr
    assert (len(provider.answers), len(provider.batches.jobs)) == (2, 1)


def test_max_wait_counts_the_rows_of_all_batches(provider: Provider) -> None:
    """Two batches are given up: the sentence has the rows of both, and `--list` says that none of
    them was answered."""
    provider.sim.batch.fates = (Fate(to_end=float("inf")),)
    provider.rows(2)
    assert provider.batch("--detach").returncode == 6
    provider.rows(5)
    done = provider.batch("--max-wait", "1s")
    assert done.returncode == 5, done.stderr
    assert "stopped early: 5 rows had no answer within --max-wait" in done.stderr
    listed = provider.run("batch", "--list", env=provider.environ, cwd=provider.folder).stdout
    assert re.findall(r"done, cancelled +(\d/\d)", listed) == ["0/3", "0/2"]


def test_max_time_leaves_the_rows_at_the_provider(provider: Provider) -> None:
    """It says that the time is over, not that they were not sent."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(2)
    assert provider.batch("--detach").returncode == 6
    done = provider.batch("--max-time", "1ms")
    assert done.returncode == 6
    assert "stopped early: the time of --max-time is over\n2 rows at the provider" in done.stderr
    fetched_once(provider, 2)


def test_identical_rows_in_another_order(provider: Provider) -> None:
    """One of them is at the provider for all, wherever it stands in INPUT by now, and when it does
    not any more: the question is not submitted again."""
    provider.sim.batch.fates = (HAND,)
    rows = [{"id": f"r{n}", "prompt": "same"} for n in range(3)]
    for kept in ([0, 1, 2], [2, 1, 0], [2, 1]):
        provider.rows([rows[n] for n in kept])
        assert provider.batch("--detach").returncode == 6
    provider.batches.finish()
    done = provider.batch()
    assert (done.returncode, len(provider.answers)) == (0, 2), done.stderr
    assert (len(provider.batches.jobs), provider.batches.billed.requests) == (1, 1)
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_a_sample_put_before_others(provider: Provider) -> None:
    """Rows at a temperature above 0 are samples, numbered as they stand in INPUT: those at the
    provider stay there when a new one moves them, and only that is submitted."""
    provider.configure("anthropic")
    provider.sim.batch.fates = (HAND,)
    rows = [{"id": f"r{n}", "prompt": "same"} for n in range(3)]
    provider.rows(rows)
    assert provider.batch("-t", "1", "--detach").returncode == 6
    provider.rows([{"id": "new", "prompt": "same"}, *rows])
    assert provider.batch("-t", "1", "--detach").returncode == 6
    assert [job.total for job in provider.batches.jobs] == [3, 1]
    provider.batches.finish()
    assert provider.batch("-t", "1").returncode == 0
    assert (len(provider.answers), provider.batches.billed.requests) == (4, 4)


def test_the_plan_says_what_is_at_the_provider(provider: Provider) -> None:
    """Rows that are there count as not sent, and a note on stderr says that they are there."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(3)
    assert "batches of the provider" not in provider.batch("--dry-run").stderr
    assert provider.batch("--detach").returncode == 6
    done = provider.batch("--dry-run")
    assert done.returncode == 0
    assert "in batches of the provider: 3 rows of OUTPUT, which the plan counts" in done.stderr


def test_progress_says_that_rows_wait_for_the_budget(provider: Provider) -> None:
    """Room for two of five rows: while these are at the provider the bar says why the others are
    not."""
    provider.sim.batch.fates = (Fate(to_end=4),)
    provider.sim.reply = bills(5)
    provider.rows(5)
    words = provider.words("--budget", "0.00025")
    env = provider.environ
    code, shown, _ = on_a_terminal(env, provider.folder, *words, columns=200)
    assert code == 0, shown
    assert b"of 2 rows done there, next look in 0 s; other rows wait for the budget" in shown
