"""`batch --engine provider`: a reply is lost, and exactly one batch is made all the same."""

from __future__ import annotations

import signal

import pytest

from tests.cli.provider_batches import Provider
from tests.cli.test_batch_provider_crash import (
    Unheard,
    a_minute_later,
    killed_at,
)
from tests.ledgers import calls_of
from tests.simulator import errors
from tests.simulator.batches import Action, Fate, LostAnswer
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.faults import CutBody, Disconnect, Hang
from tests.simulator.scripts import fail_first

FAMILIES = pytest.mark.parametrize("family", ["openai", "anthropic"])
"""One that keeps the intent, and one whose results alone tell which batch it was; how each of the
others finds a batch is in `tests/conformance/batch_api.py`."""


def answered_once(provider: Provider, rows: int = 10) -> None:
    """Each row has its answer and was billed once, and nothing is held."""
    assert len(provider.answers) == rows
    assert provider.errors == {}
    billed = provider.batches.billed
    assert (billed.requests, billed.repeated) == (rows, 0)
    assert provider.held == (0, 0)


@pytest.mark.parametrize(
    ("family", "fault"), [("openai", Disconnect()), ("anthropic", LostAnswer())]
)
def test_a_batch_that_was_made_without_a_reply(
    provider: Provider, family: str, fault: Fault
) -> None:
    """Its creation answers 500, or drops the connection, after the batch was made: it is found, by
    the intent or by its results, and no second one is made."""
    provider.configure(family)
    provider.rows()
    provider.batches.settings.faults = {"create": fail_first(1, fault)}
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.batches.jobs) == 1
    answered_once(provider)


@FAMILIES
def test_killed_before_and_after_a_batch_was_made(provider: Provider, family: str) -> None:
    """Where the request never arrived, the next run makes the batch, once it is certain that there
    is none; where it arrived, it finds it."""
    provider.configure(family)
    provider.rows()
    killed_at(provider, "create", Unheard())
    a_minute_later(provider)
    killed_at(provider, "create", Hang())
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.batches.jobs) == 1
    answered_once(provider)


@FAMILIES
def test_stopped_at_once_while_a_batch_is_made(provider: Provider, family: str) -> None:
    """SIGTERM and Ctrl-C between the creation and its reply: the rows may be at the provider (exit
    6), and the next run finds the batch."""
    provider.configure(family)
    provider.rows()
    provider.batches.settings.faults = {"create": fail_first(1, Hang())}
    with provider.started() as process:
        provider.sim.wait_until(lambda: bool(provider.batches.jobs))
        process.send_signal(signal.SIGTERM)  # two of a kind could become one
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 6, said
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.batches.jobs) == 1
    answered_once(provider)


def test_stopped_while_nobody_knows_whether_there_is_a_batch(provider: Provider) -> None:
    """Ctrl-C while the list of batches fails after a lost reply: the next run finds the batch."""
    provider.rows()
    listed: list[Call] = []

    def fails(call: Call) -> Fault:
        listed.append(call)
        return errors.status(500)

    settings = provider.batches.settings
    settings.faults = {"create": LostAnswer(), "list": fails}
    with provider.started() as process:
        provider.sim.wait_until(lambda: bool(listed))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 6, said
    settings.faults = {}
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.batches.jobs) == 1
    answered_once(provider)


@pytest.mark.parametrize("family", ["openai", "openrouter"])
def test_a_download_that_breaks_off(provider: Provider, family: str) -> None:
    """It is downloaded again; no row is lost."""
    provider.configure(family)
    provider.rows()
    action: Action = "poll" if family == "openrouter" else "results"  # results come with the batch
    provider.batches.settings.faults = {action: fail_first(1, CutBody())}
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    answered_once(provider)


def test_a_row_without_a_result_that_the_counts_do_not_have(provider: Provider) -> None:
    """An expired batch has no line of a row, and by its own counts nothing was billed but what it
    has answered: the row is sent again, and nothing is in doubt."""
    provider.configure("anthropic")
    provider.batches.settings.fates = (Fate(expire_after=6, drop=(2,)), Fate())
    provider.rows()
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    answered_once(provider)
    assert {row["status"] for row in calls_of(provider.home)} == {"ok"}
    assert provider.settled == provider.bill
