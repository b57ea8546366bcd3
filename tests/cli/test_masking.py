"""Identifiers leave no process in clear: providers, disk and stderr meet tokens, answers do not."""

from __future__ import annotations

import base64
import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.cli.jsonl import read, write
from tests.cli.provider_batches import HAND, Provider
from tests.cli.test_batch_provider_crash import Unheard, killed_at
from tests.conftest import KEY, Run, configure, sent
from tests.simulator.call import Call
from tests.simulator.reply import Reply, ToolCall
from tests.simulator.server import Simulator

MAIL, CARD, SECRET = "mary.poe@example.com", "4111 1111 1111 1111", "ghp_" + "aB3dE5fG7hJ9" * 3
PLANTED = (MAIL, CARD, SECRET)
STORE_KEY = "0123456789abcdef" * 4


def forms(value: str) -> list[bytes]:
    """The value as it may stand somewhere: raw, in base64 at any offset, URL-encoded."""
    raw = value.encode()
    shifted = [base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3)]
    return [raw, quote(value, safe="").encode(), *shifted]


def leaks(data: bytes, *values: str) -> list[str]:
    """Those of the values that are in the data."""
    return [value for value in values or PLANTED if any(form in data for form in forms(value))]


def received(sim: Simulator) -> bytes:
    """All that the provider got: addresses, headers, bodies, files of batches."""
    calls = [(call.path, call.query, dict(call.headers), call.raw) for call in sim.calls]
    files = [row for job in sim.batches.jobs for row in job.lines]
    return repr(calls).encode() + b"\n".join(files)


def on_disk(*folders: Path) -> bytes:
    """All bytes of all files there."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return b"\n".join(file.read_bytes() for file in files)


def masks(home: Path, sim: Simulator, said: str = "{}", more: str = "") -> None:
    """Configure the profile `sim` with `privacy`."""
    configure(home, sim.base_url, "{env: SIM_KEY}", f"    privacy: {said}\n{more}")


@pytest.fixture
def llmctl(run: Run, environ: dict[str, str]) -> Run:
    """Run `llmctl`, with a key of the store."""
    return partial(run, env={**environ, "SIM_KEY": KEY, "LLMCTL_STORE_KEY": STORE_KEY})


@pytest.fixture
def keyless(run: Run, environ: dict[str, str]) -> Run:
    """Run `llmctl` where no key is kept."""
    null = "keyring.backends.null.Keyring"
    return partial(run, env={**environ, "SIM_KEY": KEY, "PYTHON_KEYRING_BACKEND": null})


def test_nothing_leaves_in_clear(llmctl: Run, sim: Simulator, home: Path, tmp_path: Path) -> None:
    """Prompt, system text, attachment and parameters reach the provider as tokens; nothing of
    them is on the disk or in what `-vv` says; the answer has the values, but for secrets."""
    masks(home, sim)
    file = tmp_path / "a.txt"
    file.write_text(f"card {CARD}")
    done = llmctl(
        "ask", "-vv", f"I am {MAIL}, key {SECRET}", "-s", f"for {MAIL}", "--attach", str(file),
        "--param", f"user={MAIL}", "--no-history", "-u",
    )  # fmt: skip
    assert done.returncode == 0
    assert (MAIL in done.stdout, CARD in done.stdout, SECRET in done.stdout) == (True, True, False)
    assert (leaks(received(sim)), leaks(on_disk(home)), leaks(done.stderr.encode())) == ([], [], [])
    assert done.stderr.strip().endswith("identifiers: 3 email, 1 card, 1 secret")


def test_the_same_question_is_in_the_cache(llmctl: Run, sim: Simulator, home: Path) -> None:
    """A question that was asked before is answered from the cache, restored; another value in
    the same words is another question."""
    masks(home, sim)
    ask = partial(llmctl, "ask", "--no-history", "--json")
    rows = [json.loads(ask(f"I am {who}").stdout) for who in (MAIL, MAIL, "bob@example.org")]
    assert [row["cache"] for row in rows] == ["miss", "hit", "miss"]
    assert [row["text"] for row in rows] == [
        f"echo: I am {MAIL}", f"echo: I am {MAIL}", "echo: I am bob@example.org",
    ]  # fmt: skip
    assert rows[1]["masked"] == {"email": 1}
    assert leaks(on_disk(home), MAIL, "bob@example.org") == []


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_streams_are_restored(llmctl: Run, sim: Simulator, home: Path, size: int) -> None:
    """However a stream is cut, its text is that of the whole answer."""
    masks(home, sim)

    def reply(call: Call) -> Reply:
        text = f"[not one] {call.prompt} [[EMAIL_ffff]] [[EMA"
        return Reply(text, pieces=tuple(text[n : n + size] for n in range(0, len(text), size)))

    sim.reply = reply
    done = llmctl("ask", f"I am {MAIL}", "--stream", "--no-history", "--no-cache")
    assert done.stdout == f"[not one] I am {MAIL} [[EMAIL_ffff]] [[EMA"


def test_tool_calls_and_schemas_are_restored(llmctl: Run, sim: Simulator, home: Path) -> None:
    """The arguments of calls, and what fits a schema, have the values, and stay JSON."""
    masks(home, sim)
    odd = r"\[\[EMAIL\_1a2b\]\]"  # looks like a token, and comes back with its backslashes

    def reply(call: Call) -> Reply:
        arguments = json.dumps({"to": call.prompt})
        if b"response_format" in call.raw:
            return Reply(arguments)
        return Reply(tool_calls=(ToolCall("send", arguments),))

    sim.reply = reply
    ask = partial(llmctl, "ask", f"{MAIL} {odd}", "--no-history", "--json")
    called = json.loads(ask().stdout)["tool_calls"][0]["function"]["arguments"]
    fitted = json.loads(ask("--schema", '{"type": "object"}').stdout)
    assert json.loads(called) == {"to": f"{MAIL} {odd}"}
    assert fitted["parsed"] == {"to": f"{MAIL} {odd}"} == json.loads(fitted["text"])


def test_what_was_paid_for_is_restored(llmctl: Run, sim: Simulator, home: Path) -> None:
    """The text of an answer that does not fit its schema has the values."""
    masks(home, sim)
    ask = partial(llmctl, "ask", f"I am {MAIL}", "--no-history", "--json")
    done = ask("--schema", '{"type": "object"}', "--schema-retries", "0")
    assert (done.returncode, json.loads(done.stdout)["text"]) == (1, f"echo: I am {MAIL}")
    assert leaks(received(sim)) == []


def test_block_sends_nothing(llmctl: Run, sim: Simulator, home: Path, tmp_path: Path) -> None:
    """With `action: block` a question that holds one is exit 2, a row an error of type `pii`, and
    neither is sent; what says so names kind and place, not the value."""
    masks(home, sim, "{action: block}")
    done = llmctl("ask", f"I am {MAIL}")
    assert (done.returncode, len(sim.calls), leaks(done.stderr.encode())) == (2, 0, [])
    assert "`messages[0].content`: there is 1 email, which the profile sim does not" in done.stderr
    rows = [{"id": "a", "prompt": "hi"}, {"id": "b", "prompt": f"I am {MAIL}"}]
    write(tmp_path / "in.jsonl", rows)
    assert llmctl("batch", "in.jsonl", cwd=tmp_path).returncode == 1
    (failed,) = read(tmp_path / "in.out.errors.jsonl")
    assert (failed["id"], failed["error"]["type"], failed["masked"]) == ("b", "pii", {"email": 1})
    assert (len(sim.calls), leaks(received(sim)), leaks(on_disk(home))) == (1, [], [])


def test_report_only_counts(llmctl: Run, sim: Simulator, home: Path) -> None:
    """With `action: report` everything goes as it is, and is counted."""
    masks(home, sim, "{mask: [email], action: report}")
    row = json.loads(llmctl("ask", f"I am {MAIL}, {CARD}", "--json").stdout)
    assert (row["masked"], sent(sim)["messages"][0]["content"]) == (
        {"email": 1},
        f"I am {MAIL}, {CARD}",
    )


def test_a_plan_counts(llmctl: Run, sim: Simulator, home: Path, tmp_path: Path) -> None:
    """`--dry-run` says what would be masked; with `block` which rows would be refused."""
    masks(home, sim)
    write(tmp_path / "in.jsonl", [{"prompt": f"I am {MAIL}"}, {"prompt": f"pay {CARD}"}])
    plan = json.loads(llmctl("batch", "in.jsonl", "--dry-run", "--json", cwd=tmp_path).stdout)
    one = json.loads(llmctl("ask", MAIL, "--dry-run", "--json").stdout)
    assert (plan["masked"], one["masked"]) == ({"email": 1, "card": 1}, {"email": 1})
    (home / ".config/llmctl/config.yaml").unlink()
    (home / ".config/llmctl").rmdir()
    masks(home, sim, "{action: block}")
    plan = json.loads(llmctl("batch", "in.jsonl", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert (plan["refused"], plan["to_send"], len(sim.calls)) == (2, 0, 0)


def test_batches(llmctl: Run, sim: Simulator, home: Path, tmp_path: Path) -> None:
    """Rows are masked and restored, each with its own values; the summary counts; run again,
    every row has its answer, and a row that was sent once is in the cache for others."""
    masks(home, sim)
    people = [f"u{number}@example.com" for number in range(30)]
    write(tmp_path / "in.jsonl", [{"id": who, "prompt": f"I am {who}"} for who in people])
    done = llmctl("batch", "in.jsonl", cwd=tmp_path)
    rows = read(tmp_path / "in.out.jsonl")
    assert {row["id"]: row["text"] for row in rows} == {who: f"echo: I am {who}" for who in people}
    assert all(row["masked"] == {"email": 1} for row in rows)
    assert "identifiers in what was asked: 30 email" in done.stderr
    assert leaks(received(sim) + on_disk(home), *people) == []
    again = llmctl("batch", "in.jsonl", cwd=tmp_path)
    assert "30 answered before" in again.stderr
    other = llmctl("batch", "in.jsonl", "-o", "other.jsonl", cwd=tmp_path)
    assert "30 of them from the cache" in other.stderr
    assert len(sim.calls) == 30
    texts = {row["id"]: row["text"] for row in read(tmp_path / "other.jsonl")}
    assert texts == {who: f"echo: I am {who}" for who in people}


def test_without_a_key_of_the_store(
    keyless: Run, sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """Where no key is kept, masking works by one of the run: a batch goes on where it stopped, but
    provider's batches are refused, naming the variable."""
    masks(home, sim)
    write(tmp_path / "in.jsonl", [{"id": "a", "prompt": f"I am {MAIL}"}])
    assert keyless("batch", "in.jsonl", cwd=tmp_path).returncode == 0
    again = keyless("batch", "in.jsonl", cwd=tmp_path)
    assert (again.returncode, "1 answered before" in again.stderr) == (0, True)
    assert (read(tmp_path / "in.out.jsonl")[0]["text"], len(sim.calls)) == (f"echo: I am {MAIL}", 1)
    refused = keyless("batch", "in.jsonl", "--engine", "provider", "-o", "b.jsonl", cwd=tmp_path)
    assert (refused.returncode, "set LLMCTL_STORE_KEY" in refused.stderr) == (2, True)


def test_a_fallback_gets_the_masked_request(llmctl: Run, sim: Simulator, home: Path) -> None:
    """What one of the profiles wants masked is masked for all of them."""
    other = (
        f"  other:\n    provider: openai\n    base_url: {sim.base_url}\n    model: gpt-5-mini\n"
        "    key: {env: SIM_KEY}\n    privacy: {mask: [email]}\n"
    )
    masks(home, sim, "{mask: [card]}", f"    fallback: [other]\n{other}")
    done = llmctl("ask", f"{MAIL} {CARD}", "--no-history")
    assert (done.stdout, leaks(received(sim))) == (f"echo: {MAIL} {CARD}", [])


def test_a_conversation_goes_on(llmctl: Run, sim: Simulator, home: Path) -> None:
    """With `-c` the history, which is the user's own and in clear, is masked with the same
    tokens."""
    masks(home, sim)
    llmctl("ask", f"I am {MAIL}")
    assert llmctl("ask", "-c", f"who is {MAIL}?").stdout == f"echo: who is {MAIL}?"
    first, later = (json.loads(call.raw)["messages"] for call in sim.calls)
    assert later[0] == first[0]
    assert later[2]["content"] == first[0]["content"].replace("I am", "who is") + "?"
    assert leaks(received(sim)) == []


def test_provider_batches_are_restored_another_day(provider: Provider) -> None:
    """Rows of a provider's batch, fetched by another process, have their own values, and identical
    questions share an answer; nothing of them is at the provider, or on the disk but in input and
    output."""
    provider.environ = {**provider.environ, "LLMCTL_STORE_KEY": STORE_KEY}
    provider.configure(more="    privacy: {}")
    people = [f"u{number}@example.com" for number in range(6)]
    asked = [*people, people[0]]
    provider.rows([{"id": f"r{n}", "prompt": f"I am {who}"} for n, who in enumerate(asked)])
    provider.sim.batch.fates = (HAND,)
    assert provider.batch("--detach", "--keep", "prompt").returncode == 6
    assert received(provider.sim).count(b"[[EMAIL_") == 6
    assert leaks(received(provider.sim) + on_disk(provider.home), *people) == []
    provider.batches.finish()
    done = provider.batch("--keep", "prompt", "-vv")
    assert (done.returncode, leaks(done.stderr.encode(), *people)) == (0, [])
    rows = provider.answers
    assert [rows[f"r{n}"]["text"] for n in range(7)] == [f"echo: I am {who}" for who in asked]
    assert rows["r6"]["input"] == {"prompt": f"I am {people[0]}"}
    assert provider.batches.billed.repeated == 0
    assert leaks(received(provider.sim) + on_disk(provider.home), *people) == []


def test_blocked_rows_go_into_no_batch(provider: Provider) -> None:
    """With `action: block` a row that holds one is an error row, and the others go."""
    provider.environ = {**provider.environ, "LLMCTL_STORE_KEY": STORE_KEY}
    provider.configure(more="    privacy: {action: block}")
    provider.rows([{"id": "a", "prompt": "hi"}, {"id": "b", "prompt": f"I am {MAIL}"}])
    assert provider.batch().returncode == 1
    assert (list(provider.answers), provider.errors["b"]["error"]["type"]) == (["a"], "pii")
    assert leaks(received(provider.sim) + on_disk(provider.home)) == []


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="the extra is installed")
def test_a_missing_extra_is_named(llmctl: Run, sim: Simulator, home: Path) -> None:
    """Kinds that need an extra which is not installed are exit 2, with the command."""
    masks(home, sim, "{mask: all}")
    done = llmctl("ask", "hi")
    assert (done.returncode, len(sim.calls)) == (2, 0)
    assert "pip install" in done.stderr


def test_a_provider_batch_killed_after_submitting(provider: Provider, tmp_path: Path) -> None:
    """`kill -9` while the batch is at the provider: the same command fetches it, each row has its
    own value, and no value is on the disk but in input and output."""
    provider.environ = {**provider.environ, "LLMCTL_STORE_KEY": STORE_KEY, "TMPDIR": str(tmp_path)}
    provider.configure(more="    privacy: {}")
    people = [f"u{number}@example.com" for number in range(6)]
    provider.rows([{"id": f"r{n}", "prompt": f"I am {who}"} for n, who in enumerate(people)])
    provider.batches.settings.fates = (HAND,)
    killed_at(provider, "poll", Unheard())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if leaks(path.read_bytes(), *people)] == ["in.jsonl"]
    provider.batches.finish()
    assert provider.batch().returncode == 0
    assert [provider.answers[f"r{n}"]["text"] for n in range(6)] == [
        f"echo: I am {who}" for who in people
    ]
    assert leaks(received(provider.sim) + on_disk(provider.home), *people) == []
    assert provider.batches.billed.repeated == 0
