"""Anthropic's SDK uses the simulated batches as it uses the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator import errors
from tests.simulator.batches import BatchSettings, Fate
from tests.simulator.scripts import for_prompt
from tests.simulator.server import Simulator

KEY = "sk-test-canary-4711"
FATES = (Fate(row=for_prompt("Oslo", errors.server_error())), Fate(progress="hand"))


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A provider whose first batch ends with one row failed; the others go on by hand."""
    with Simulator(keys=[KEY], batch=BatchSettings(fates=FATES)) as simulator:
        yield simulator


@pytest.fixture
def client(sim: Simulator) -> Iterator[Any]:
    """The SDK's client, without retries."""
    sdk = pytest.importorskip("anthropic")
    with sdk.Anthropic(api_key=KEY, base_url=f"{sim.origin}/anthropic", max_retries=0) as made:
        yield made


def requests(*cities: str) -> list[dict[str, Any]]:
    """Rows that ask for cities and are named by them."""
    more = {"model": "sim-small", "max_tokens": 50}
    return [
        {"custom_id": city, "params": {**more, "messages": [{"role": "user", "content": city}]}}
        for city in cities
    ]


def test_a_batch(sim: Simulator, client: Any) -> None:
    """Create, retrieve to the end, results: a message and an error, typed by the SDK."""
    batches = client.messages.batches
    made = batches.create(requests=requests("Paris", "Oslo"))
    assert (made.processing_status, made.request_counts.processing) == ("in_progress", 2)
    found = [batches.retrieve(made.id) for _ in range(2)]
    assert [batch.processing_status for batch in found] == ["in_progress", "ended"]
    counts = found[1].request_counts
    assert (counts.succeeded, counts.errored, counts.processing) == (1, 1, 0)
    assert found[1].results_url == f"{sim.origin}/anthropic/v1/messages/batches/{made.id}/results"
    results = {line.custom_id: line.result for line in batches.results(made.id)}
    message = results["Paris"].message
    assert (results["Paris"].type, message.content[0].text) == ("succeeded", "echo: Paris")
    assert (message.usage.service_tier, sim.billed.requests) == ("batch", 1)
    assert (results["Oslo"].type, results["Oslo"].error.error.type) == ("errored", "api_error")
    type(found[1]).model_validate_json(found[1].to_json())


def test_lists_and_ends(sim: Simulator, client: Any) -> None:
    """All pages of a list both ways; a batch is canceled with no result, and deleted."""
    sdk, batches = pytest.importorskip("anthropic"), client.messages.batches
    made = [batches.create(requests=requests("Rome", "Bern")).id for _ in range(5)]
    assert [batch.id for batch in batches.list(limit=2)] == made[::-1]
    back = [batch.id for batch in batches.list(limit=2, before_id=made[0])]
    assert sorted(back) == made[1:]
    assert batches.cancel(made[1]).processing_status == "canceling"
    sim.batches.finish(sim.batches.jobs[1])
    assert {line.result.type for line in batches.results(made[1])} == {"canceled"}
    assert batches.delete(made[1]).type == "message_batch_deleted"
    with pytest.raises(sdk.NotFoundError):
        batches.retrieve(made[1])
    with pytest.raises(sdk.BadRequestError, match="ended"):
        batches.delete(made[2])
    with pytest.raises(sdk.BadRequestError, match="used before"):
        batches.create(requests=requests("Rome", "Rome"))
    assert sim.billed.requests == 0
