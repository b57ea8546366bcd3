"""`batch --engine provider` and its files: others who use them, and a disk that is full."""

from __future__ import annotations

import resource
import subprocess

from tests.cli.provider_batches import HAND, Provider
from tests.conftest import LLMCTL
from tests.simulator.reply import Reply

MIB = 1 << 20


def answered_once(provider: Provider, rows: int = 10) -> None:
    """Each row has its answer and was billed once, and nothing is held."""
    assert len(provider.answers) == rows
    assert provider.errors == {}
    billed = provider.batches.billed
    assert (billed.requests, billed.repeated) == (rows, 0)
    assert provider.held == (0, 0)


def with_small_files(provider: Provider) -> subprocess.CompletedProcess[str]:
    """Run the command where no file can grow beyond a MiB."""
    return subprocess.run(
        [LLMCTL, *provider.words()],
        env=dict(provider.environ), cwd=provider.folder, capture_output=True, text=True,
        timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)),
    )  # fmt: skip


def test_two_commands_on_one_output(provider: Provider) -> None:
    """The second ends with 75 at once, whichever engine it asks for, and sends nothing."""
    provider.batches.settings.fates = (HAND,)
    provider.rows()
    with provider.started() as process:
        provider.sim.wait_until(lambda: bool(provider.batches.jobs))
        for second in (provider.batch(), provider.local()):
            assert second.returncode == 75, second.stderr
        provider.batches.finish()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
    assert len(provider.batches.jobs) == 1
    answered_once(provider)


def test_rows_that_are_under_way_for_another_output(provider: Provider) -> None:
    """The same questions for another OUTPUT are refused (exit 2) with the name of the one that they
    are being answered for, and nothing is sent or held; --no-cache asks them once more."""
    provider.batches.settings.fates = (HAND,)
    provider.rows()
    assert provider.batch("--detach").returncode == 6
    held = provider.held
    second = provider.batch("--detach", "-o", "other.jsonl")
    assert second.returncode == 2
    assert str(provider.folder / "in.out.jsonl") in second.stderr
    assert (len(provider.batches.jobs), provider.held) == (1, held)
    assert provider.batch("--detach", "--no-cache", "-o", "other.jsonl").returncode == 6
    assert len(provider.batches.jobs) == 2
    provider.batches.finish()
    assert provider.batch().returncode == 0
    assert provider.batch("--no-cache", "-o", "other.jsonl").returncode == 0
    assert provider.held == (0, 0)


def test_the_local_engine_while_rows_are_at_the_provider(provider: Provider) -> None:
    """It is refused (exit 2), says how many rows are there and how to fetch them, and sends
    nothing; once they are fetched it goes on."""
    provider.batches.settings.fates = (HAND,)
    provider.rows()
    assert provider.batch("--detach").returncode == 6
    before = len(provider.sim.calls)
    done = provider.local()
    assert done.returncode == 2
    assert "10 rows of" in done.stderr
    assert "--engine provider" in done.stderr
    assert len(provider.sim.calls) == before
    provider.batches.finish()
    assert provider.batch().returncode == 0
    assert provider.local().returncode == 0
    answered_once(provider)


def test_a_disk_that_is_full_when_a_batch_is_filled(provider: Provider) -> None:
    """Exit 74, and nothing was sent; with room for it the same command answers all rows."""
    provider.rows([{"id": f"r{n}", "prompt": f"{n} " + "word " * 20_000} for n in range(20)])
    done = with_small_files(provider)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert provider.sim.calls == []
    assert provider.batch().returncode == 0
    answered_once(provider, 20)


def test_a_disk_that_is_full_when_results_come(provider: Provider) -> None:
    """Exit 74; the rows stay at the provider, and held. With room for them the same command fetches
    them, and none is sent again."""
    provider.sim.reply = lambda _: Reply("word " * 20_000)
    provider.rows([{"id": f"r{n}", "prompt": f"say {n}", "max_tokens": 50_000} for n in range(20)])
    done = with_small_files(provider)
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert provider.held[0] == 20
    assert provider.answers == {}
    assert provider.batch().returncode == 0
    assert len(provider.batches.jobs) == 1
    answered_once(provider, 20)
