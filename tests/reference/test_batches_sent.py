"""What llmctl sends to submit rows is what each vendor's own SDK sends for the same rows."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from tests.conformance.batch_api import Wired
from tests.conformance.codec import KEY, Loop
from tests.simulator.batches import File
from tests.simulator.call import Call
from tests.simulator.server import Simulator

PROMPTS = ("Where is the Seine? 🦜", "And the Tiber?\n")
UNSAID: dict[str, set[str]] = {"mistral": {"agent_id", "timeout_hours"}}
"""Fields that an SDK sends although they have the values that the provider takes without them."""


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """One event loop for all."""
    made = Loop()
    yield made
    made.close()


class Submitting:
    """Subclasses submit the lines of a part with the vendor's SDK; all is compared."""

    adapter: ClassVar[str]

    def submit(self, origin: str, lines: list[Any], data: bytes, intent: str) -> None:
        """Upload and create with the SDK; `lines` are read from `data`."""
        raise NotImplementedError

    def test_it_sends_the_same(self, loop: Loop, tmp_path: Path) -> None:
        """Requests in the same order, to the same places, the same bodies and files, bytes of the
        rows included."""
        with Simulator(keys=[KEY]) as sim:
            wired = Wired(self.adapter, sim, loop, tmp_path)
            made = wired.submit(*PROMPTS)
            ours, files = list(sim.calls), list(sim.batches.files.values())
            part, separator = made.part, wired.api.limits(wired.client.base_url).separator
            with part.open() as file:
                data = file.read()
            lines = [json.loads(line) for line in data.split(separator)]
            self.submit(sim.origin, lines, data, part.intent)
            theirs = sim.calls[len(ours) :]
            more = list(sim.batches.files.values())[len(files) :]
            assert [self.asked(call) for call in ours] == [self.asked(call) for call in theirs]
            assert [content(file) for file in files] == [content(file) for file in more]
            jobs = sim.batches.jobs
            assert [list(job.lines) for job in jobs[:1]] == [list(job.lines) for job in jobs[1:]]
            assert list(jobs[0].rows()) == list(jobs[1].rows())

    def asked(self, call: Call) -> Any:
        """What a request says, but for the ids of files, which are the provider's."""
        kind = call.headers.get("content-type", "").partition(";")[0]
        body = json.loads(json.dumps(call.body)) if call.body else {}
        said = {
            name: value
            for name, value in body.items()
            if value is not None and name not in UNSAID.get(self.adapter, ())
        }
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        path, text = (re.sub(r"file-\d{8}", "file", said) for said in (call.path, text))
        return call.method, path, parse_qs(call.query), kind, text


def content(file: File) -> tuple[str, bytes]:
    """Purpose and bytes of a file."""
    return file.purpose, bytes(file.data)


class TestOpenAI(Submitting):
    """`files.create`, `batches.create`."""

    adapter = "openai"
    base = "/v1"

    def submit(self, origin: str, lines: list[Any], data: bytes, intent: str) -> None:
        """See `Submitting`."""
        sdk = pytest.importorskip(self.adapter)
        client = getattr(sdk, {"openai": "OpenAI", "groq": "Groq"}[self.adapter])
        with client(api_key=KEY, base_url=origin + self.base, max_retries=0) as made:
            file = made.files.create(file=("rows.jsonl", data), purpose="batch")
            made.batches.create(
                input_file_id=file.id,
                endpoint=lines[0]["url"],
                completion_window="24h",
                metadata={"llmctl_intent": intent},
            )


class TestGroq(TestOpenAI):
    """The same."""

    adapter = "groq"
    base = "/groq"


class TestAnthropic(Submitting):
    """`messages.batches.create`."""

    adapter = "anthropic"

    def submit(self, origin: str, lines: list[Any], data: bytes, intent: str) -> None:  # noqa: ARG002
        """See `Submitting`."""
        sdk = pytest.importorskip("anthropic")
        base = f"{origin}/anthropic"
        with sdk.Anthropic(api_key=KEY, base_url=base, max_retries=0) as made:
            made.messages.batches.create(requests=lines)

    def test_the_bytes_are_the_same(self, loop: Loop, tmp_path: Path) -> None:
        """The whole body, byte for byte but for the ends of its lines."""
        with Simulator(keys=[KEY]) as sim:
            wired = Wired(self.adapter, sim, loop, tmp_path)
            part = wired.submit(*PROMPTS).part
            with part.open() as file:
                lines = [json.loads(line) for line in file.read().split(b",\n")]
            self.submit(sim.origin, lines, b"", "")
            ours, theirs = sim.calls
            assert ours.raw.replace(b",\n", b",") == theirs.raw


class TestMistral(Submitting):
    """`files.upload`, `batch.jobs.create`."""

    adapter = "mistral"

    def submit(self, origin: str, lines: list[Any], data: bytes, intent: str) -> None:  # noqa: ARG002
        """See `Submitting`."""
        sdk = pytest.importorskip("mistralai.client")
        with sdk.Mistral(api_key=KEY, server_url=f"{origin}/mistral") as made:
            file = made.files.upload(
                file={"file_name": "rows.jsonl", "content": data}, purpose="batch"
            )
            made.batch.jobs.create(
                input_files=[file.id],
                endpoint="/v1/chat/completions",
                model="sim-small",
                metadata={"llmctl_intent": intent},
            )


class TestGemini(Submitting):
    """`files.upload`, `batches.create`."""

    adapter = "gemini"

    def submit(self, origin: str, lines: list[Any], data: bytes, intent: str) -> None:  # noqa: ARG002
        """See `Submitting`."""
        sdk = pytest.importorskip("google.genai")
        options = sdk.types.HttpOptions(base_url=f"{origin}/gemini", api_version="v1beta")
        client = sdk.Client(api_key=KEY, http_options=options)
        file = client.files.upload(
            file=io.BytesIO(data),
            config={"mime_type": "application/jsonl", "display_name": intent},
        )
        client.batches.create(model="sim-small", src=file.name, config={"display_name": intent})
        client.close()

    def asked(self, call: Call) -> Any:
        """As for all, but for what the SDK says of an upload besides its name: that of the headers,
        once more, and a content type that is not the file's."""
        method, path, query, *rest = super().asked(call)
        return method, path, query, *([] if "/upload/" in path else rest)
