"""`llmctl batch --engine provider` dies at every step: each row is billed and answered once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tests.cli.provider_batches import HAND, Provider
from tests.simulator.batches import Action
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.faults import Hang
from tests.simulator.http1 import Answer
from tests.simulator.wires.wire import Wire


@dataclass(frozen=True, kw_only=True)
class Unheard(Hang):
    """Nothing was done of the request, and nothing is answered."""

    def instead(self, call: Call, wire: Wire) -> Answer | None:  # noqa: ARG002  (the seam passes it)
        """Do nothing."""
        return Answer(500, (), ())


def killed_at(provider: Provider, action: Action, fault: Fault, number: int = 1) -> None:
    """Run the command, and `kill -9` it when its request of that number for an action has come to
    the provider, which `fault` keeps from answering."""
    come: list[Call] = []

    def script(call: Call) -> Fault | None:
        come.append(call)
        return fault if len(come) == number else None

    batches = provider.batches
    batches.settings.faults = {action: script}
    with provider.started() as process:
        provider.sim.wait_until(lambda: len(come) >= number, timeout=30)
        batches.advance(0)  # after this the provider has done what it was asked
        process.kill()
    provider.sim.wait_until(lambda: provider.sim.record.open_connections == 0)
    batches.settings.faults = {}


def killed_when(provider: Provider, holds: Callable[[], bool]) -> None:
    """Run the command, and `kill -9` it as soon as something holds."""
    with provider.started() as process:
        while not holds():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()


def lines(provider: Provider) -> int:
    """The whole lines of the output."""
    path = provider.folder / "in.out.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def a_minute_later(provider: Provider) -> None:
    """Let all creations have been sent a minute earlier."""
    with closing(sqlite3.connect(provider.home / ".local/state/llmctl/ledger.db")) as db, db:
        db.execute("UPDATE batch_jobs SET sent_ms = sent_ms - 61000, made_ms = made_ms - 61000")


def judge(provider: Provider, rows: int) -> None:
    """Every row has its answer, was billed once, and the ledger says what the bill says."""
    assert len(provider.answers) == rows
    for number in range(rows):
        assert provider.answers[f"r{number}"]["text"] == f"echo: say {number}"
    assert provider.errors == {}
    billed = provider.batches.billed
    assert (billed.requests, billed.repeated) == (rows, 0)
    assert provider.settled == provider.bill
    assert provider.held == (0, 0)


def test_killed_at_every_step_each_row_is_billed_and_answered_once(provider: Provider) -> None:
    """`kill -9` at 16 points, one after the other: while a file goes up and after, while a batch is
    made and after, at looks, half-way through downloads, while rows are settled. The last command
    has each row in OUTPUT, the provider two batches, and the ledger the provider's bill."""
    rows, half = 600, 300
    provider.batches.settings.fates = (HAND,)
    models = ["gpt-5-mini", "gpt-5-nano"]  # a batch each
    provider.rows(
        [
            {"id": f"r{n}", "prompt": f"say {n}", "model": models[n >= half]}
            for n in range(rows)
        ]
    )  # fmt: skip
    killed_at(provider, "upload", Unheard())
    killed_at(provider, "upload", Hang())
    for made in (0, 1):
        killed_at(provider, "create", Unheard())
        assert len(provider.batches.jobs) == made
        a_minute_later(provider)
        killed_at(provider, "create", Hang())
        assert len(provider.batches.jobs) == made + 1
    killed_at(provider, "poll", Unheard())
    killed_at(provider, "poll", Hang(), number=2)
    assert lines(provider) == 0
    provider.batches.finish()
    for start in (0, half):
        killed_at(provider, "results", Unheard())
        killed_at(provider, "results", Hang(pieces=2))
        for settled in (1, half // 2):
            killed_when(provider, lambda least=start + settled: lines(provider) >= least)  # type: ignore[misc]
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.batches.jobs) == 2
    judge(provider, rows)


def test_files_of_a_batch_that_somebody_removed(provider: Provider) -> None:
    """Requests that were not sent yet are put together once more, results that were fetched are
    downloaded once more: each row is billed and answered once."""
    folder = provider.home / ".local/state/llmctl/batches"
    rows = 300
    provider.rows(rows)
    killed_at(provider, "upload", Unheard())
    shutil.rmtree(folder)
    killed_when(provider, lambda: lines(provider) > 0)
    shutil.rmtree(folder)
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    assert len(provider.batches.jobs) == 1
    judge(provider, rows)


def test_files_that_killed_commands_left_are_removed(provider: Provider) -> None:
    """Requests of a batch that was never made, or is done, go a day later; those of one that is
    under way stay."""
    provider.batches.settings.fates = (HAND,)
    provider.rows()
    assert provider.batch("--detach").returncode == 6
    folder = provider.home / ".local/state/llmctl/batches"
    (waiting,) = folder.iterdir()
    new, old = folder / "01NEW", folder / "01OLD"
    for path in (new, old):
        path.mkdir()
        (path / "lines.jsonl").write_text("{}", encoding="utf-8")
    for path in (old, waiting):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert provider.batch("--detach").returncode == 6
    assert set(folder.iterdir()) == {waiting, new}
    provider.batches.finish()
    assert provider.batch().returncode == 0
    assert set(folder.iterdir()) == {new}
