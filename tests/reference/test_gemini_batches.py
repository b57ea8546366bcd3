"""Google's SDK uses the simulated batches as it uses the real ones."""

from __future__ import annotations

import io
import json
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
    """The SDK's client."""
    sdk = pytest.importorskip("google.genai")
    options = sdk.types.HttpOptions(base_url=f"{sim.origin}/gemini", api_version="v1beta")
    made = sdk.Client(api_key=KEY, http_options=options)
    yield made
    made.close()


def request(city: str) -> dict[str, Any]:
    """The body that asks for a city."""
    return {"contents": [{"role": "user", "parts": [{"text": city}]}]}


def upload(client: Any, *cities: str, padding: int = 0) -> Any:
    """Upload rows named by their cities, and empty lines."""
    rows = [json.dumps({"key": city, "request": request(city)}) for city in cities]
    data = "\n".join(rows).encode() + b"\n" * padding
    return client.files.upload(file=io.BytesIO(data), config={"mime_type": "application/jsonl"})


def states(client: Any, name: str, count: int = 2) -> list[str]:
    """The states that polls find."""
    return [client.batches.get(name=name).state.value for _ in range(count)]


def test_a_batch_of_a_file(sim: Simulator, client: Any) -> None:
    """Upload in two parts, create, get to the end, download: rows in order, one an error."""
    file = upload(client, "Paris", "Oslo", "Rome", "Bern", padding=9 << 20)
    assert sum(call.path.startswith("/gemini/upload") for call in sim.calls) == 3
    config = {"display_name": "i-1"}
    made = client.batches.create(model="sim-small", src=file.name, config=config)
    assert (made.state.value, made.display_name) == ("JOB_STATE_PENDING", "i-1")
    assert states(client, made.name) == ["JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
    found = client.batches.get(name=made.name)
    data = client.files.download(file=found.dest.file_name)
    good, bad, *rest = map(json.loads, data.splitlines())
    assert (good["key"], bad["key"], bad["error"]["code"]) == ("Paris", "Oslo", 500)
    assert [line["key"] for line in rest] == ["Rome", "Bern"]
    part = good["response"]["candidates"][0]["content"]["parts"][0]
    assert (part["text"], sim.billed.requests) == ("echo: Paris", 3)
    assert (found.model, found.end_time is not None) == ("models/sim-small", True)


def test_a_batch_of_inlined_requests(sim: Simulator, client: Any) -> None:
    """Requests and responses travel in the batch itself."""
    source = [request(city) | {"metadata": {"key": city}} for city in ("Paris", "Oslo")]
    made = client.batches.create(model="sim-small", src=source)
    assert states(client, made.name)[-1] == "JOB_STATE_SUCCEEDED"
    good, bad = client.batches.get(name=made.name).dest.inlined_responses
    assert (good.response.text, good.metadata) == ("echo: Paris", {"key": "Paris"})
    assert (bad.error.code, bad.metadata["key"], sim.billed.requests) == (500, "Oslo", 1)


def test_lists_and_ends(sim: Simulator, client: Any) -> None:
    """All pages of a list; a batch is cancelled with no result, and deleted; so is a file."""
    sdk = pytest.importorskip("google.genai")
    file = upload(client, "Rome")
    names = [client.batches.create(model="sim-small", src=file.name).name for _ in range(5)]
    listed = client.batches.list(config={"page_size": 2})
    assert [batch.name for batch in listed] == names[::-1]
    client.batches.cancel(name=names[1])
    sim.batches.finish(sim.batches.jobs[1])
    found = client.batches.get(name=names[1])
    assert (found.state.value, found.dest, found.done) == ("JOB_STATE_CANCELLED", None, True)
    client.batches.delete(name=names[1])
    client.files.delete(name=file.name)
    with pytest.raises(sdk.errors.ClientError, match="404"):
        client.batches.get(name=names[1])
    with pytest.raises(sdk.errors.ClientError, match="404"):
        client.files.get(name=file.name)
    with pytest.raises(sdk.errors.ClientError, match="Cannot find file"):
        client.batches.create(model="sim-small", src=file.name)
    assert sim.billed.requests == 0
