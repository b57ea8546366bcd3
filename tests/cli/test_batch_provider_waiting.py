"""`batch --engine provider`: how it is left waiting, taken up again, and ended early."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request

import pytest

from tests.cli.provider_batches import HAND, Provider, bills, summary
from tests.conftest import KEY
from tests.keys.secret_service import SecretService
from tests.ledgers import calls_of
from tests.simulator.batches import Fate
from tests.simulator.faults import Hang
from tests.simulator.scripts import fail_first

STUCK = Fate(to_end=float("inf"))
OLD, NEW = "sk-test-old-key-0001", "sk-test-new-key-0002"


def left_behind(provider: Provider, process: subprocess.Popen[str]) -> str:
    """What a command says that leaves ten rows at the provider, with their money held."""
    _, said = process.communicate(timeout=30)
    assert process.returncode == 6, said
    assert "10 rows at the provider, which goes on by itself" in said
    assert (provider.answers, provider.held[0], provider.settled) == ({}, 10, 0)
    return said


def test_detach(provider: Provider) -> None:
    """Exit 6 with nothing but a submission; once the batch has ended the same command fetches."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(10)
    done = provider.batch("--detach", "--json")
    assert (done.returncode, summary(done)["exit_code"]) == (6, 6), done.stderr
    assert provider.paths() == ["POST /v1/files", "POST /v1/batches"]
    assert provider.held[0] == 10
    again = provider.batch("--detach")
    assert (again.returncode, len(provider.batches.jobs)) == (6, 1)
    provider.batches.finish()
    fetched = provider.batch("--detach")
    assert fetched.returncode == 0, fetched.stderr
    assert (len(provider.answers), provider.batches.billed.requests) == (10, 10)
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))


def test_a_cut_prompt_is_fetched(provider: Provider) -> None:
    """A row whose prompt was cut to fit the window is known again by the same command, and sent
    once; its answer is not kept as one to the whole prompt."""
    provider.configure(more="    context: 200\n    on_overflow: truncate")
    provider.sim.batch.fates = (HAND,)
    provider.sim.reply = lambda _: "as asked"
    provider.rows([{"id": "a", "prompt": "word " * 300}])
    assert provider.batch("--detach").returncode == 6
    provider.batches.finish()
    fetched = provider.batch()
    assert fetched.returncode == 0, fetched.stderr
    assert (len(provider.answers), provider.batches.billed.requests) == (1, 1)
    provider.configure(more="    context: 100000")
    asked = len(provider.sim.calls)
    assert provider.local("-o", "whole.jsonl").returncode == 0
    assert [call.prompt.count("word") for call in provider.sim.calls[asked:]] == [300]


def test_a_signal_while_it_waits(provider: Provider) -> None:
    """It leaves the batch to go on: exit 6; the same command fetches it."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(10)
    with provider.started() as process:
        provider.sim.wait_until(lambda: any("/v1/batches/" in path for path in provider.paths()))
        process.send_signal(signal.SIGTERM)
        left_behind(provider, process)
    assert provider.batches.jobs[0].cancelled_at is None
    provider.batches.finish()
    done = provider.batch()
    assert (done.returncode, len(provider.answers)) == (0, 10), done.stderr
    assert (provider.batches.billed.requests, len(provider.batches.jobs)) == (10, 1)
    assert provider.held == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_was_submitted(provider: Provider, number: signal.Signals) -> None:
    """While the file goes up: it ends at once with 130 or 143, no batch is made, nothing held."""
    provider.sim.batch.faults = {"upload": Hang()}
    provider.rows(10)
    with provider.started() as process:
        provider.sim.wait_for_calls(1)
        process.send_signal(number)
        _, said = process.communicate(timeout=15)
        assert process.returncode == 128 + number, said
    assert "the same command goes on" in said
    assert (provider.batches.jobs, provider.held, calls_of(provider.home)) == ([], (0, 0), [])
    provider.sim.batch.faults = {}
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.batches.billed.requests) == (10, 10)


def test_a_signal_during_the_download(provider: Provider) -> None:
    """It ends at once, and the next run downloads from the start: each row is settled once."""
    provider.sim.batch.faults = {"results": fail_first(1, Hang(pieces=2))}
    provider.rows(10)
    with provider.started() as process:
        provider.sim.wait_until(lambda: any(path.endswith("content") for path in provider.paths()))
        process.send_signal(signal.SIGINT)
        left_behind(provider, process)
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.settled) == (10, provider.bill)


def test_cancel(provider: Provider) -> None:
    """Rows that were answered by then are kept and paid, those answered while it ends, too; the
    others are given back, and are sent by the next run. Exit 0."""
    provider.sim.batch.fates = (Fate(to_end=4, late=1), Fate())
    provider.sim.reply = bills()
    provider.rows(8)
    assert provider.batch("--detach").returncode == 6
    done = provider.batch("--cancel", "--json")
    assert (done.returncode, summary(done)["exit_code"]) == (0, 0), done.stderr
    job = provider.batches.jobs[0]
    assert (job.end, job.finished) == ("cancelled", 3)
    assert (len(provider.answers), provider.errors) == (3, {})
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))
    assert "5 not sent" in done.stderr
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.batches.billed.repeated) == (8, 0)
    assert [job.total for job in provider.batches.jobs] == [8, 5]


def test_cancel_without_a_batch(provider: Provider) -> None:
    """Nothing is under way: nothing is sent, exit 0."""
    provider.rows(3)
    done = provider.batch("--cancel")
    assert (done.returncode, provider.sim.calls, provider.errors) == (0, [], {}), done.stderr


def test_openrouter_ends_no_batch_early(provider: Provider) -> None:
    """--cancel says so, and leaves the rows there, exit 6; they are fetched later."""
    provider.configure("openrouter")
    provider.sim.batch.fates = (HAND,)
    provider.rows(3)
    assert provider.batch("--detach").returncode == 6
    done = provider.batch("--cancel")
    assert (done.returncode, provider.held[0]) == (6, 3), done.stderr
    assert "OpenRouter ends no batch early" in done.stderr
    assert sum("GET" in path for path in provider.paths()) == 1  # no use in asking again
    provider.batches.finish()
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.batches.billed.requests) == (3, 3)


def test_cancelled_by_somebody_else(provider: Provider) -> None:
    """On the provider's page: what was answered is kept, the run ends and says why, in its rows
    too, exit 1; it does not send the rest against that person's will; the next run does."""
    provider.sim.batch.fates = (HAND, Fate())
    provider.rows(8)
    with provider.started() as process:
        provider.sim.wait_until(lambda: any("/v1/batches/" in path for path in provider.paths()))
        provider.batches.advance(1)
        (job,) = provider.batches.jobs
        by_hand = urllib.request.Request(
            f"{provider.sim.base_url}/batches/{job.id}/cancel",
            data=b"",
            headers={"authorization": f"Bearer {KEY}"},
        )
        urllib.request.urlopen(by_hand).close()
        provider.batches.finish()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1, said
    assert "was cancelled at the provider: the same command sends the 4 rows again" in said
    assert (len(provider.answers), len(provider.batches.jobs)) == (4, 1)
    assert [row["error"]["type"] for row in provider.errors.values()] == ["cancelled"] * 4
    assert (provider.settled, provider.held) == (provider.bill, (0, 0))
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.batches.billed.repeated) == (8, 0)


def test_max_wait_then_stop(provider: Provider) -> None:
    """A stuck batch is cancelled: exit 5, each of its rows an error record, identical ones too; the
    same command sends them."""
    provider.sim.batch.fates = (STUCK, Fate())
    same = [{"id": f"again{n}", "prompt": "say 0"} for n in range(2)]
    provider.rows([*({"id": f"r{n}", "prompt": f"say {n}"} for n in range(5)), *same])
    done = provider.batch("--max-wait", "1s")
    assert (done.returncode, provider.held) == (5, (0, 0)), done.stderr
    assert [row["error"]["type"] for row in provider.errors.values()] == ["timeout"] * 7
    assert "no answer within --max-wait" in done.stderr
    assert provider.batches.jobs[0].end == "cancelled"
    assert provider.batch().returncode == 0
    assert provider.batches.billed.requests == 5


def test_max_wait_then_local(provider: Provider) -> None:
    """What the batch answered is kept, the others are sent one by one, identical rows too: each is
    billed once, in all."""
    provider.sim.batch.fates = (Fate(to_end=float("inf"), late=2),)
    rows = [{"id": f"r{n}", "prompt": f"say {n}"} for n in range(6)]
    provider.rows([*rows, {"id": "again", "prompt": "say 5"}, {"id": "first", "prompt": "say 0"}])
    done = provider.batch("--max-wait", "1s", "--then", "local", "--json")
    assert (done.returncode, len(provider.answers)) == (0, 8), done.stderr
    in_batch = {name for name, row in provider.answers.items() if "engine" in row}
    assert len(in_batch - {"again", "first"}) == 2
    assert provider.batches.billed.requests == 2
    assert (provider.sim.billed.requests, provider.sim.billed.repeated) == (6, 0)
    assert (summary(done)["ok"], summary(done)["deduplicated"]) == (8, 2)
    assert provider.held == (0, 0)


def test_a_key_that_was_rotated_meanwhile(
    provider: Provider, secret_service: SecretService
) -> None:
    """The provider refuses the key that the rows were submitted with: the other one of the keyring
    goes on, and nothing is lost or sent twice."""
    provider.environ = {**provider.environ, **secret_service.environ}
    provider.configure(key="{keyring: sim}")
    provider.sim.batch.fates = (HAND,)
    provider.rows(5)
    provider.run("keys", "set", "sim", env=provider.environ, stdin=OLD)
    with provider.started() as process:
        provider.sim.wait_until(lambda: len(provider.batches.jobs) == 1)
        provider.sim.accept_keys({OLD, NEW})
        provider.run("keys", "rotate", "sim", env=provider.environ, stdin=NEW)
        provider.sim.accept_keys({NEW})
        provider.batches.finish()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
    assert (len(provider.answers), provider.batches.billed.requests) == (5, 5)
    assert provider.sim.calls[-1].api_key == NEW


def test_a_key_that_is_refused(provider: Provider) -> None:
    """No other key: exit 4, and the rows wait at the provider for one."""
    provider.sim.batch.fates = (HAND,)
    provider.rows(5)
    with provider.started() as process:
        provider.sim.wait_until(lambda: len(provider.batches.jobs) == 1)
        provider.sim.accept_keys({NEW})
        _, said = process.communicate(timeout=30)
        assert process.returncode == 4, said
    assert (provider.answers, provider.errors, provider.held[0]) == ({}, {}, 5)
    provider.batches.finish()
    provider.environ = {**provider.environ, "SIM_KEY": NEW}
    assert provider.batch().returncode == 0
    assert (len(provider.answers), provider.batches.billed.requests) == (5, 5)


def test_a_key_that_is_refused_from_the_start(provider: Provider) -> None:
    """Exit 4; every row has an error record that says so, as with the local engine, the summary is
    there, and nothing is held."""
    provider.sim.accept_keys({NEW})
    provider.rows(5)
    done = provider.batch("--json")
    assert done.returncode == 4, done.stderr
    said = json.loads(done.stdout)
    assert (said["exit_code"], said["failed"], said["errors"]) == (4, 5, {"auth": 5})
    assert {row["error"]["type"] for row in provider.errors.values()} == {"auth"}
    assert len(provider.errors) == 5
    assert (provider.answers, provider.held[0]) == ({}, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--detach",), "--detach goes with --engine provider"),
        (("--cancel",), "--cancel goes with --engine provider"),
        (("--max-wait", "2h"), "--max-wait goes with --engine provider"),
        (("--engine", "provider", "-o", "-"), "wants a file with -o"),
        (("--engine", "provider", "--detach", "--cancel"), "choose one"),
        (("--engine", "provider", "--then", "local"), "--max-wait"),
        (("--engine", "provider", "--max-wait", "soon"), "a duration such as 90m"),
    ],
)
def test_options_that_make_no_sense(provider: Provider, words: tuple[str, ...], said: str) -> None:
    """Exit 2, with a sentence, and nothing is sent or written."""
    provider.rows(2)
    done = provider.local(*words)
    assert (done.returncode, provider.sim.calls) == (2, []), done.stderr
    assert said in done.stderr
    assert not (provider.folder / "in.out.jsonl").exists()


def test_a_provider_without_batches(provider: Provider) -> None:
    """Exit 2, and the sentence names the profile and the provider."""
    text = (provider.home / ".config/llmctl/config.yaml").read_text().replace("openai", "cohere", 1)
    (provider.home / ".config/llmctl/config.yaml").write_text(text)
    provider.rows(2)
    done = provider.batch()
    assert done.returncode == 2
    assert "the provider of profile sim (cohere) has no batches" in done.stderr
