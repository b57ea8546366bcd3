"""OpenAI's SDK, and Groq's, use the simulated batches as they use the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulator import errors
from tests.simulator.batches import BatchSettings, Fate
from tests.simulator.scripts import for_prompt
from tests.simulator.server import Simulator

KEY = "sk-test-canary-4711"
ENDPOINT = "/v1/chat/completions"
FATES = (Fate(row=for_prompt("Oslo", errors.context_too_long())), Fate(progress="hand"))
CLIENTS = [
    ("openai", "OpenAI", "/v1"),
    ("openai", "OpenAI", "/openai/v1"),  # as an Azure OpenAI resource is called
    ("groq", "Groq", "/groq"),
]


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A provider whose first batch ends with one row failed; the others go on by hand."""
    with Simulator(keys=[KEY], batch=BatchSettings(fates=FATES)) as simulator:
        yield simulator


def row(number: int, city: str) -> str:
    """A line that asks for a city."""
    body = {"model": "sim-small", "messages": [{"role": "user", "content": city}]}
    line = {"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line) + "\n"


@pytest.mark.parametrize(("module", "name", "path"), CLIENTS)
def test_a_batch(sim: Simulator, tmp_path: Path, module: str, name: str, path: str) -> None:
    """Upload, create, retrieve to the end, read both files, list with pages, cancel."""
    sdk = pytest.importorskip(module)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(row(0, "Paris") + row(1, "Oslo"), encoding="utf-8")
    with getattr(sdk, name)(api_key=KEY, base_url=sim.origin + path, max_retries=0) as client:
        file = client.files.create(file=rows, purpose="batch")
        assert (file.filename, file.bytes) == ("rows.jsonl", rows.stat().st_size)
        made = [create(client, file.id, intent=f"i{number}") for number in range(3)]
        assert [batch.status for batch in made] == ["validating"] * 3
        found = [client.batches.retrieve(made[0].id) for _ in range(2)]
        assert [batch.status for batch in found] == ["in_progress", "completed"]
        counts = found[1].request_counts
        assert (counts.total, counts.completed, counts.failed) == (2, 1, 1)
        (good,) = lines(client, found[1].output_file_id)
        (bad,) = lines(client, found[1].error_file_id)
        listed = client.batches.list()
        assert [batch.id for batch in listed.data] == [batch.id for batch in made[::-1]]
        assert listed.data[0].metadata == {"intent": "i2"}
        assert client.batches.cancel(made[1].id).status == "cancelling"
        sim.batches.finish(sim.batches.jobs[1])
        assert client.batches.retrieve(made[1].id).status == "cancelled"
        with pytest.raises(sdk.NotFoundError):
            client.batches.retrieve("batch_none")
        client.files.delete(file.id)
        with pytest.raises(sdk.BadRequestError, match="Cannot find file"):
            create(client, file.id)
    assert (good["custom_id"], bad["custom_id"]) == ("r0", "r1")
    said = good["response"]["body"]
    assert said["choices"][0]["message"]["content"] == "echo: Paris"
    assert bad["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert sim.billed.requests == 1


def test_openais_lists_go_on_by_themselves(sim: Simulator, tmp_path: Path) -> None:
    """The SDK's iterator finds all pages; its types know the fields of a whole batch."""
    sdk = pytest.importorskip("openai")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(row(0, "Paris"), encoding="utf-8")
    with sdk.OpenAI(api_key=KEY, base_url=sim.base_url, max_retries=0) as client:
        file = client.files.create(
            file=rows, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        made = [create(client, file.id).id for _ in range(5)]
        assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
        sim.batches.finish()
        batch = client.batches.retrieve(made[0])
        output = client.files.retrieve(batch.output_file_id)
    assert (batch.model, batch.usage.total_tokens) == ("sim-small", batch.usage.input_tokens + 3)
    assert output.purpose == "batch_output"
    type(batch).model_validate(batch.to_dict(), strict=True)


def create(client: Any, file: str, **metadata: str) -> Any:
    """Make a batch of a file."""
    return client.batches.create(
        input_file_id=file, endpoint=ENDPOINT, completion_window="24h", metadata=metadata
    )


def lines(client: Any, file: str) -> list[dict[str, Any]]:
    """The lines of a file; SDKs differ in the name."""
    data = client.files.content(file).read()
    return list(map(json.loads, data.splitlines()))
