"""What the provider engine waits out. The command runs in this process, on a clock that is fast."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, ClassVar

import httpx2
import pytest

from llmctl.cli import batch_provider, batch_run
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context
from llmctl.providers.batch_api import BatchLimits
from llmctl.providers.openai_batches import OpenAIBatches
from tests.cli.provider_batches import Provider
from tests.conftest import KEY
from tests.simulator import errors
from tests.simulator.batches import Fate
from tests.simulator.faults import Disconnect, html
from tests.simulator.reply import Problem
from tests.simulator.scripts import fail_first, first_of, mixture
from tests.simulator.wires.registry import BASES


class FastClock:
    """A clock that goes a hundred times as fast as the machine's."""

    speed: ClassVar[float] = 100.0

    def __init__(self) -> None:
        self._start, self._wall = time.monotonic(), time.time()

    def monotonic(self) -> float:
        """Seconds from its start."""
        return (time.monotonic() - self._start) * self.speed

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._wall + self.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for a hundredth of that."""
        await asyncio.sleep(max(0.0, seconds) / self.speed)


def batch(provider: Provider, **options: Any) -> tuple[int, float]:
    """The command in this process; gives its exit code, and how long it took by its own clock."""
    clock = FastClock()
    context = Context(environ=provider.environ, clock=clock, quiet=True)
    path = str(provider.folder / "in.jsonl")
    given = BatchOptions(input=path, engine="provider", **{"max_time": "30s", **options})
    return batch_run.run(given, context), clock.monotonic()


def answered_once(provider: Provider, rows: int) -> None:
    """Each row has its answer and was billed once, the ledger says so, and nothing is held."""
    assert len(provider.answers) == rows
    assert provider.errors == {}
    billed = provider.batches.billed
    assert (billed.requests, billed.repeated) == (rows, 0)
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_a_creation_that_failed_is_made_again(provider: Provider) -> None:
    """The provider answers 500 twice, and made nothing: for a minute each the list is looked at,
    then the batch is made; its file is uploaded once."""
    provider.batches.settings.faults = {"create": fail_first(2, errors.status(500))}
    provider.rows()
    code, took = batch(provider)
    assert code == 0
    assert took > 120
    assert provider.paths().count("POST /v1/files") == 1
    assert provider.paths().count("POST /v1/batches") == 3
    assert len(provider.batches.jobs) == 1
    answered_once(provider, 10)


def test_two_refusals_for_too_much_at_a_time(provider: Provider) -> None:
    """429 at two creations: the batch waits a minute, then two, and is made; its file is uploaded
    once."""
    fault = errors.status(429, "Too many batches are queued.")
    provider.batches.settings.faults = {"create": fail_first(2, fault)}
    provider.rows()
    code, took = batch(provider)
    assert code == 0
    assert took > 0.9 * 180
    assert provider.paths().count("POST /v1/files") == 1
    assert provider.paths().count("POST /v1/batches") == 3
    answered_once(provider, 10)


def test_a_file_that_is_not_seen_at_once(provider: Provider) -> None:
    """`Cannot find file` four times after the upload: the batch is made of it when it is seen."""
    provider.batches.settings.invisible = 4
    provider.rows()
    assert batch(provider)[0] == 0
    assert len(provider.batches.files) == 2  # of requests, and of results
    answered_once(provider, 10)


def test_storms_of_429_and_500(provider: Provider) -> None:
    """Looks and downloads fail ten times each in a row, then every other time: all is fetched."""
    faults = mixture((0.25, errors.status(429)), (0.25, errors.status(500)))
    storm = {
        action: first_of(fail_first(5, errors.status(500)), fail_first(5, errors.status(429)),
                         faults)
        for action in ("poll", "results", "list", "upload")
    }  # fmt: skip
    provider.batches.settings.faults = storm  # type: ignore[assignment]
    provider.rows()
    assert batch(provider)[0] == 0
    assert len(provider.batches.jobs) == 1
    answered_once(provider, 10)


def test_a_full_queue_that_is_told_of_late(provider: Provider) -> None:
    """The provider fails a batch minutes later with `token_limit_exceeded`, and names its limit:
    the rows are split by it, each part waits for the one before, and no row fails."""
    provider.batches.settings.queue_tokens = 60
    provider.rows(40)
    assert batch(provider)[0] == 0
    parts = [job for job in provider.batches.jobs if job.end == "completed"]
    assert len(parts) > 1
    assert all(job.input_tokens <= 60 for job in parts)
    answered_once(provider, 40)


def test_a_queue_that_others_fill(provider: Provider) -> None:
    """Another's batch fills the provider's queue: the rows wait until it has ended."""
    provider.batches.settings.queue_tokens = 130
    provider.batches.settings.fates = (Fate(to_end=float("inf"), progress="seconds"), Fate())
    url, headers = provider.sim.base_url, {"authorization": f"Bearer {KEY}"}
    row = {
        "custom_id": "theirs", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "x" * 500}]},
    }  # fmt: skip
    files = {"file": ("a.jsonl", json.dumps(row).encode())}
    made = httpx2.post(f"{url}/files", headers=headers, data={"purpose": "batch"}, files=files)
    order = {
        "input_file_id": made.json()["id"], "endpoint": row["url"], "completion_window": "24h",
    }  # fmt: skip
    httpx2.post(f"{url}/batches", headers=headers, json=order).raise_for_status()
    theirs = provider.batches.jobs[0]
    provider.rows(10)

    def script(_: Any) -> None:
        if len(provider.batches.jobs) == 3:  # ours was refused once
            theirs.steps = float("inf")

    provider.batches.settings.faults = {"poll": script}
    code, took = batch(provider)
    assert code == 0
    assert took > 50
    assert len(provider.answers) == 10
    assert provider.held == (0, 0)
    assert provider.batches.billed.repeated == 0


def test_a_queue_whose_limit_is_not_named(provider: Provider) -> None:
    """`token_limit_exceeded` without a number: the rows go in smaller parts, and none fails."""
    full = Fate(invalid=Problem("Too much is queued.", code="token_limit_exceeded"))
    provider.batches.settings.fates = (full, full, Fate())
    provider.rows([{"id": f"r{n}", "prompt": f"{n} " * 10_000} for n in range(8)])
    assert batch(provider)[0] == 0
    parts = [job.total for job in provider.batches.jobs]
    assert parts[:2] == [8, 4]
    assert min(parts[2:]) == 2
    answered_once(provider, 8)


@pytest.mark.parametrize("family", ["openai", "anthropic"])
def test_an_address_that_nobody_is_at(provider: Provider, family: str) -> None:
    """After five tries the rows fail, with where it was asked; nothing is held. Once a provider
    has replied, it is waited for."""
    provider.configure(family)
    config = provider.home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace(provider.sim.origin, "http://127.0.0.1:9"))
    provider.rows(3)
    assert batch(provider)[0] == 5
    assert {row["error"]["type"] for row in provider.errors.values()} == {"connection"}
    assert "127.0.0.1:9" in provider.errors["r0"]["error"]["message"]
    assert provider.held == (0, 0)


def test_a_queue_that_refuses_a_batch_at_once(provider: Provider) -> None:
    """429 at the creation of a batch that alone is more than the queue takes: after three of them
    it is halved, until it fits."""
    provider.configure("anthropic")
    provider.batches.settings.queue_tokens = 50_000  # a token has 4 bytes there
    provider.rows([{"id": f"r{n}", "prompt": f"{n} " * 20_000} for n in range(8)])
    assert batch(provider, max_time=None)[0] == 0
    assert len(provider.batches.jobs) > 1
    answered_once(provider, 8)


def test_a_row_that_the_queue_can_never_hold(provider: Provider) -> None:
    """A row of more tokens than the provider's limit fails with the provider's words; the others
    are answered."""
    provider.batches.settings.queue_tokens = 60
    long = {"id": "long", "prompt": "word " * 500}
    provider.rows([{"id": "r0", "prompt": "say 0"}, long, {"id": "r2", "prompt": "say 2"}])
    assert batch(provider)[0] == 1
    assert set(provider.answers) == {"r0", "r2"}
    assert "Enqueued token limit reached" in provider.errors["long"]["error"]["message"]
    assert provider.held == (0, 0)


def test_a_list_that_makes_no_sense(provider: Provider) -> None:
    """The reply to a creation is lost, and the list of batches is a proxy's page: nobody knows
    whether there is a batch. Its rows are left (exit 6), not sent again; the next run finds it."""
    settings = provider.batches.settings
    settings.faults = {"create": fail_first(1, Disconnect()), "list": html()}
    provider.rows()
    assert batch(provider, max_time="3s")[0] == 6
    settings.faults = {}
    assert batch(provider)[0] == 0
    assert len(provider.batches.jobs) == 1
    answered_once(provider, 10)


def test_a_queue_limit_of_the_profile(provider: Provider) -> None:
    """`queued_tokens`: no batch is made while those at the provider and it hold more."""
    text = provider.home / ".config/llmctl/config.yaml"
    text.write_text(text.read_text().replace("poll: 0.1", "poll: 0.1, queued_tokens: 100"))
    provider.batches.settings.queue_tokens = 30  # as it counts them: one such batch, not two
    provider.rows(40)
    assert batch(provider)[0] == 0
    jobs = provider.batches.jobs
    assert len(jobs) > 1
    assert {job.end for job in jobs} == {"completed"}  # the provider refused none
    answered_once(provider, 40)


class SmallServer(OpenAIBatches):
    """OpenAI's interface at a server that takes little at a time."""

    most = BatchLimits(7, 1 << 20)

    def limits(self, base_url: str) -> BatchLimits:  # noqa: ARG002 - the seam's
        """Little."""
        return self.most


@pytest.mark.parametrize(
    ("most", "rows"), [(BatchLimits(7, 1 << 20), 7), (BatchLimits(1000, 1500), None)]
)
def test_batches_within_the_servers_limits(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, most: BatchLimits, rows: int | None
) -> None:
    """None has more rows or bytes than the server takes, and none could have taken another row."""
    server = SmallServer()
    server.most = most
    monkeypatch.setattr(batch_provider, "batch_api", lambda _: server)
    provider.rows(40)
    assert batch(provider)[0] == 0
    jobs = provider.batches.jobs
    assert len(jobs) > 3
    assert all(job.total <= most.rows and job.lines.size <= most.size for job in jobs)
    for job in jobs[:-1]:  # another row has 200 bytes and some
        assert job.total == rows or job.lines.size > most.size - 250
    assert sum(job.total for job in jobs) == 40
    answered_once(provider, 40)


def test_anothers_batch_is_not_taken_for_ours(provider: Provider) -> None:
    """At Anthropic only results tell whose a batch is. One of as many rows that another program
    made while ours was not made is not ours: ours is made, after a minute."""
    provider.configure("anthropic")
    url = provider.sim.origin + BASES["anthropic"]
    theirs = [
        {
            "custom_id": f"theirs-{n}",
            "params": {
                "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": f"{n}"}],
            },
        }
        for n in range(10)
    ]  # fmt: skip
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    httpx2.post(
        f"{url}/messages/batches", headers=headers, json={"requests": theirs}
    ).raise_for_status()
    provider.batches.settings.faults = {"create": fail_first(1, errors.status(500))}
    provider.rows()
    assert batch(provider)[0] == 0
    assert len(provider.batches.jobs) == 2
    assert len(provider.answers) == 10
    assert provider.batches.billed.requests == 20
    assert provider.held == (0, 0)
