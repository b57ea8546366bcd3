"""Mistral's SDK uses the simulated batches as it uses the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator import errors
from tests.simulator.batches import BatchSettings, Fate
from tests.simulator.scripts import for_prompt
from tests.simulator.server import Simulator

KEY = "sk-test-canary-4711"
ENDPOINT = "/v1/chat/completions"
FATES = (Fate(row=for_prompt("Oslo", errors.server_error())), Fate(progress="hand"))


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A provider whose first batch ends with one row failed; the others go on by hand."""
    with Simulator(keys=[KEY], batch=BatchSettings(fates=FATES)) as simulator:
        yield simulator


@pytest.fixture
def client(sim: Simulator) -> Iterator[Any]:
    """The SDK's client, closed at the end as its documentation says."""
    sdk = pytest.importorskip("mistralai.client")
    with sdk.Mistral(api_key=KEY, server_url=f"{sim.origin}/mistral") as made:
        yield made


def row(city: str) -> dict[str, Any]:
    """A row that asks for a city, and is named by it; its model is the job's."""
    return {"custom_id": city, "body": {"messages": [{"role": "user", "content": city}]}}


def upload(client: Any, *cities: str) -> Any:
    """Upload rows."""
    data = "\n".join(json.dumps(row(city)) for city in cities).encode()
    file = {"file_name": "rows.jsonl", "content": data}
    return client.files.upload(file=file, purpose="batch")


def lines(client: Any, file: str) -> list[dict[str, Any]]:
    """The lines of a file."""
    data = client.files.download(file_id=file).read()
    return list(map(json.loads, data.splitlines()))


def test_a_batch_of_a_file(sim: Simulator, client: Any) -> None:
    """Upload, create, get to the end, download the output and the errors."""
    file = upload(client, "Paris", "Oslo")
    assert (file.num_lines, file.sample_type) == (2, "batch_request")
    jobs = client.batch.jobs
    made = jobs.create(
        input_files=[file.id], endpoint=ENDPOINT, model="sim-small", metadata={"intent": "i-1"}
    )
    assert (made.status, made.metadata, made.total_requests) == ("QUEUED", {"intent": "i-1"}, 2)
    found = [jobs.get(job_id=made.id) for _ in range(2)]
    assert [job.status for job in found] == ["RUNNING", "SUCCESS"]
    assert (found[1].succeeded_requests, found[1].failed_requests) == (1, 1)
    (good,) = lines(client, found[1].output_file)
    (bad,) = lines(client, found[1].error_file)
    assert (good["custom_id"], bad["custom_id"]) == ("Paris", "Oslo")
    assert good["response"]["body"]["choices"][0]["message"]["content"] == "echo: Paris"
    assert (bad["response"]["status_code"], sim.billed.requests) == (500, 1)


def test_a_batch_of_inlined_requests(sim: Simulator, client: Any) -> None:
    """Requests travel in the create call, and outputs in the job of who asks for them."""
    jobs = client.batch.jobs
    requests = [row("Paris"), row("Rome")]
    made = jobs.create(requests=requests, endpoint=ENDPOINT, model="sim-small")
    jobs.get(job_id=made.id)
    assert not jobs.get(job_id=made.id).outputs
    found = jobs.get(job_id=made.id, inline=True)
    assert sorted(line["custom_id"] for line in found.outputs) == ["Paris", "Rome"]
    assert sim.billed.requests == 2


def test_lists_and_ends(sim: Simulator, client: Any) -> None:
    """Pages of a list, by status, too; a job is cancelled with no result."""
    models = pytest.importorskip("mistralai.client.errors")
    jobs = client.batch.jobs
    given = {"requests": [row("Bern")], "endpoint": ENDPOINT, "model": "sim-small"}
    made = [jobs.create(**given).id for _ in range(3)]
    pages = [jobs.list(page=page, page_size=2) for page in range(2)]
    assert [job.id for page in pages for job in page.data] == made[::-1]
    assert pages[0].total == 3
    assert jobs.cancel(job_id=made[1]).status == "CANCELLATION_REQUESTED"
    sim.batches.finish(sim.batches.jobs[1])
    (cancelled,) = jobs.list(status=["CANCELLED"]).data
    assert (cancelled.id, cancelled.output_file, sim.billed.requests) == (made[1], None, 0)
    with pytest.raises(models.SDKError) as refused:
        jobs.get(job_id="none")
    assert refused.value.status_code == 404
