"""Batches of Mistral keep the one contract, in Mistral's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmctl.errors import BadResponse
from tests.conformance.batch_api import BatchApiSuite, Wired
from tests.conformance.codec import KEY, Loop
from tests.simulator.faults import Body
from tests.simulator.server import Simulator


class TestMistral(BatchApiSuite):
    """The suite."""

    adapter = "mistral"
    tells_usage = False
    tells_queue = False


@pytest.fixture
def wired(loop: Loop, tmp_path: Path) -> Iterator[Wired]:
    """Mistral's batches."""
    with Simulator(keys=[KEY]) as sim:
        yield Wired("mistral", sim, loop, tmp_path)


def told(wired: Wired, status: str, **fields: Any) -> Any:
    """What is made of a job that Mistral describes so."""
    body = orjson.dumps({"id": "b", "status": status, **fields})
    wired.sim.batch.faults = {"poll": Body(body=body)}
    return wired.run(wired.api.status(wired.client, "b"))


def test_a_job_names_its_model_and_endpoint(wired: Wired) -> None:
    """The one model of all rows, and a day's time."""
    wired.submit("hi")
    said = wired.sim.batches.jobs[0].said
    assert (said["model"], said["endpoint"]) == ("sim-small", "/v1/chat/completions")
    assert said["timeout_hours"] == 24


@pytest.mark.parametrize("word", ["QUEUED", "RUNNING", "CANCELLATION_REQUESTED"])
def test_words_of_jobs_that_go_on(wired: Wired, word: str) -> None:
    """Such a job has not ended, whatever stands beside its word."""
    assert not told(wired, word, output_file="f", completed_at=1).ended


@pytest.mark.parametrize("word", ["SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"])
def test_words_of_jobs_that_are_over(wired: Wired, word: str) -> None:
    """Such a job has ended, and both of its files are got."""
    status = told(wired, word, output_file="f", error_file="g")
    assert [wire.path for wire in status.downloads] == ["/files/f/content", "/files/g/content"]
    assert (status.ended, status.cancelled) == (True, word == "CANCELLED")


def test_a_word_that_nobody_knows_is_the_end_by_its_signs(wired: Wired) -> None:
    """An end time or a file beside it says so; without any the job goes on."""
    assert not told(wired, "RESTING").ended
    assert told(wired, "RESTING", completed_at=1).ended
    assert told(wired, "RESTING", output_file="f").ended


def test_a_job_that_failed_has_a_reason(wired: Wired) -> None:
    """Mistral's words, or that there are none."""
    failed = told(wired, "FAILED", errors=[{"message": "no such model", "count": 3}])
    assert failed.problem == "no such model"
    assert told(wired, "FAILED", errors=[]).problem == "the provider does not say why"
    assert not told(wired, "SUCCESS", output_file="f", errors=[{"message": "m"}]).problem


def test_an_empty_list_must_say_so(wired: Wired) -> None:
    """Nothing is found in a list without jobs, but a reply that is no list proves nothing."""
    part = wired.part("hi")
    wired.sim.batch.faults = {"list": Body(body=b'{"object":"list","total":0}')}
    assert wired.run(wired.api.find(wired.client, part)) == ()
    wired.sim.batch.faults = {"list": Body(body=b'{"object":"list"}')}
    with pytest.raises(BadResponse):
        wired.run(wired.api.find(wired.client, part))
