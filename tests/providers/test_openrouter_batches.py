"""Batches of OpenRouter keep the one contract, without files, names and cancels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmctl.errors import InvalidRequest
from llmctl.providers.openrouter_batches import OpenRouterBatches
from tests.conformance.batch_api import HAND, BatchApiSuite, Wired, call_id
from tests.conformance.codec import KEY, Loop
from tests.simulator.batches import BatchSettings
from tests.simulator.faults import Body
from tests.simulator.server import Simulator

API = OpenRouterBatches()


class TestOpenRouter(BatchApiSuite):
    """The suite."""

    adapter = "openrouter"
    uploads = False
    cancels = False
    tells_queue = False


@pytest.fixture
def wired(loop: Loop, tmp_path: Path) -> Iterator[Wired]:
    """OpenRouter's batches, which go on by hand."""
    with Simulator(keys=[KEY], batch=BatchSettings(fates=(HAND,))) as sim:
        yield Wired("openrouter", sim, loop, tmp_path)


def results(status: str, *rows: Any) -> list[int]:
    """The statuses of the rows of a batch that has this one."""
    body = orjson.dumps({"id": "b", "status": status, "results": list(rows)})
    return [result.status for result in API.results(io.BytesIO(body))]


def test_the_requests_stand_behind_all_other_fields(wired: Wired) -> None:
    """OpenRouter reads a body as it comes, and refuses any other order."""
    wired.submit("a", "b")
    (made,) = [call for call in wired.sim.calls if call.method == "POST"]
    assert list(made.body or ()) == ["endpoint", "model", "completion_window", "requests"]
    assert [row["custom_id"] for row in (made.body or {})["requests"]] == [call_id(0), call_id(1)]


def test_batches_that_may_be_ours(wired: Wired) -> None:
    """Those of as many rows for the same endpoint; those of other parts are left out."""
    first, other, second = wired.submit("a", "b"), wired.submit("c"), wired.submit("d", "e")
    assert set(wired.run(API.find(wired.client, first.part))) == {first.id, second.id}
    assert wired.run(API.find(wired.client, other.part)) == (other.id,)
    listed = {"id": "b", "status": "validating", "created_at": other.part.created}
    young = {**listed, "endpoint": "/v1/chat/completions", "request_counts": {"total": 0}}
    body = orjson.dumps({"data": [young, {**young, "id": "c", "endpoint": "/v1/embeddings"}]})
    wired.sim.batch.faults = {"list": Body(body=body)}
    assert wired.run(API.find(wired.client, first.part)) == ("b",)


def test_no_batch_is_ended_early(wired: Wired) -> None:
    """That is told, and nothing is sent."""
    made = wired.submit("a")
    before = len(wired.sim.calls)
    with pytest.raises(InvalidRequest, match="ends no batch early") as caught:
        wired.run(API.cancel(wired.client, made.id))
    assert (caught.value.sent, len(wired.sim.calls)) == (False, before)


def test_rows_that_were_not_asked() -> None:
    """A timeout in a batch that ended early is one; in any other it is an error."""
    late = {"custom_id": "a", "response": None, "error": {"message": "m", "error_type": "timeout"}}
    assert (results("expired", late), results("completed", late)) == ([0], [500])
    wrong = {"custom_id": "a", "error": {"message": "m", "error_type": "invalid_request"}}
    assert (results("expired", wrong), results("completed")) == ([400], [])


def test_a_failed_batch_with_answers_is_read(wired: Wired) -> None:
    """Rows that were answered before it failed are paid for."""
    for done, files in ((0, 0), (2, 1)):
        said = {"id": "b", "status": "failed", "error": {"message": "m"}}
        body = orjson.dumps({**said, "request_counts": {"total": 3, "completed": done}})
        wired.sim.batch.faults = {"poll": Body(body=body)}
        status = wired.run(API.status(wired.client, "b"))
        assert (len(status.downloads), status.problem) == (files, "" if done else "m")
