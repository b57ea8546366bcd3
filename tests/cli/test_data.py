"""Where data may go, as a user of the command meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.jsonl import read, write
from tests.cli.provider_batches import Provider
from tests.cli.terminal import on_a_terminal
from tests.conftest import KEY, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.server import Simulator


@pytest.fixture
def other() -> Iterator[Simulator]:
    """A second provider."""
    with Simulator(reply=lambda _: "from the other one") as simulator:
        yield simulator


@pytest.fixture
def env(home: Path, environ: dict[str, str], sim: Simulator, other: Simulator) -> dict[str, str]:
    """A profile `sim` without a region, its fallback `inside` the EU, and two classes."""
    more = f"""
    fallback: [inside]
  inside:
    provider: openai
    base_url: {other.base_url}
    model: gpt-5-nano
    key: {{env: SIM_KEY}}
    price: {{input: 3, output: 4}}
    region: eu-central-1
    retention: none
data: {{classes: {{phi: [inside], own: [sim], never: []}}}}
"""
    configure(home, sim.base_url, "{env: SIM_KEY}", more)
    return {**environ, "SIM_KEY": KEY}


ROWS = [
    {"id": "free", "prompt": "hello"},
    {"id": "phi", "prompt": "hello", "tags": {"data.class": "phi"}},
    {"id": "kept", "prompt": "hello 2", "tags": {"data.retention": "none"}},
    {"id": "eu", "prompt": "hello 3", "tags": {"data.region": "eu"}},
    {"id": "never", "prompt": "hello 4", "tags": {"data.class": "never"}},
    {"id": "typo", "prompt": "hello 5", "tags": {"data.clas": "phi"}},
]


def test_rows_go_where_they_may(
    run: Run, env: dict[str, str], home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """Each row to the first profile that its tags allow, by its fallback, too; one that may go
    nowhere is an error row of its own type, unsent, that names the rule. A row identical to one
    that is refused is not."""
    source = write(tmp_path / "in.jsonl", ROWS)
    done = run("batch", str(source), "--no-cache", env=env)
    assert done.returncode == 1, done.stderr
    rows = {row["id"]: row["profile"] for row in read(tmp_path / "in.out.jsonl")}
    assert rows == {"free": "sim", "phi": "inside", "kept": "inside", "eu": "inside"}
    failed = {row["id"]: row for row in read(tmp_path / "in.out.errors.jsonl")}
    assert {row["error"]["type"] for row in failed.values()} == {"data"}
    assert "lets never go only to no profile" in failed["never"]["error"]["message"]
    assert "data.clas" in failed["typo"]["error"]["message"]
    assert all(row["attempts"] == 0 and row["cost_usd"] == 0 for row in failed.values())
    assert (sim.record.requests, other.record.requests) == (1, 3)
    stored = [(call.body or {}).get("store") for call in other.record.calls]
    assert sorted(stored, key=str) == [False, None, None]
    assert len(ledger(home)) == len(ROWS)


def test_the_plan_knows(
    run: Run, env: dict[str, str], tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """`--dry-run` counts the rows that may go nowhere, and says why; `ask --dry-run` says who would
    be asked, or is refused as the call would be."""
    source = write(tmp_path / "in.jsonl", ROWS)
    plan = run("batch", str(source), "--dry-run", "--json", env=env)
    assert json.loads(plan.stdout)["refused"] == 2
    said = run("batch", str(source), "--dry-run", env=env)
    assert "lets never go only to no profile" in said.stdout
    elsewhere = run("ask", "hi", "--tag", "data.class=phi", "--dry-run", env=env)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "inside is asked instead" in elsewhere.stderr
    refused = run("ask", "hi", "--tag", "data.class=never", "--dry-run", env=env)
    assert (refused.returncode, "not sent" in refused.stderr) == (2, True)
    assert sim.record.requests == other.record.requests == 0


def test_a_run_that_may_send_nothing_does_not_begin(
    run: Run, env: dict[str, str], tmp_path: Path, sim: Simulator
) -> None:
    """One sentence, exit 2, no files; the plan says the same."""
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "hi"}])
    for more in ((), ("--dry-run",)):
        done = run("batch", str(source), "--tag", "data.class=never", *more, env=env)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: not sent: `data: classes` lets never go")
    assert [path.name for path in tmp_path.glob("in*")] == ["in.jsonl"]
    assert sim.record.requests == 0


def test_ask_and_the_cache(run: Run, env: dict[str, str], sim: Simulator, other: Simulator) -> None:
    """A refused question is exit 2 and its error's type in JSON. An answer that is kept on this
    machine is given whatever is asked: nothing is sent."""
    refused = run("ask", "hi", "--tag", "data.class=never", "--json", env=env)
    assert (refused.returncode, json.loads(refused.stdout)["error"]["type"]) == (2, "data")
    assert run("ask", "hi", env=env).returncode == 0
    again = run("ask", "hi", "--tag", "data.class=never", "--json", env=env)
    assert (again.returncode, json.loads(again.stdout)["cache"]) == (0, "hit")
    assert (sim.record.requests, other.record.requests) == (1, 0)


def test_an_outage_does_not_loosen_the_rules(
    run: Run, env: dict[str, str], sim: Simulator, other: Simulator
) -> None:
    """A fallback that the data may not go to is not asked, and not announced: the outage is what is
    said."""
    sim.fault = errors.overloaded()
    done = run("ask", "hi", "--tag", "data.class=own", env=env)
    assert done.returncode == 5, done.stderr
    assert "asking inside" not in done.stderr
    assert other.record.requests == 0


def test_a_providers_batch_is_bound(provider: Provider) -> None:
    """Rows that may not go there are errors, and are in no batch; where nothing may be kept no
    batch is made at all, for it is a file there."""
    provider.configure(more="    retention: none", tail="data: {classes: {phi: [], ok: [sim]}}")
    rows = [{"id": "a", "prompt": "say a", "tags": {"data.class": "ok"}}]
    rows += [{"id": "b", "prompt": "say b", "tags": {"data.class": "phi"}}]
    rows += [{"id": "c", "prompt": "say c", "tags": {"data.retention": "none"}}]
    provider.rows(rows)
    done = provider.batch()
    assert done.returncode == 1, done.stderr
    assert provider.answers.keys() == {"a"}
    types = {name: row["error"]["type"] for name, row in provider.errors.items()}
    assert types == {"b": "data", "c": "data"}
    assert "is a file that it keeps" in provider.errors["c"]["error"]["message"]


def test_nothing_kept_is_no_batch(provider: Provider) -> None:
    """By the rule for all calls the run does not begin."""
    provider.configure(more="    retention: none", tail="data: {retention: none}")
    provider.rows(1)
    done = provider.batch()
    assert (done.returncode, "leave --engine provider out" in done.stderr) == (2, True)
    assert provider.sim.record.requests == 0


def test_list_piped(run: Run, env: dict[str, str]) -> None:
    """What the profiles say, a line each, then what their providers state, with pages and day;
    of another address nothing is stated. JSON has both."""
    said = run("profiles", "list", "--data", env=env).stdout
    assert any(line.split()[:4] == ["inside", "openai", "eu-central-1", "none"]
               for line in said.splitlines())  # fmt: skip
    assert "sim, inside: not stated (not openai's own address)" in said
    assert "  switch     store: false\n  2026-11-29 https://developers.openai.com/" in said
    rows = {row["name"]: row for row in json.loads(
        run("profiles", "list", "--data", "--json", env=env).stdout
    )}  # fmt: skip
    assert rows["inside"]["stated"] is None
    assert rows["inside"]["region"] == "eu-central-1"
    for name in ("openai", "anthropic", "gemini", "cohere", "mistral", "openrouter", "groq"):
        stated = rows[name]["stated"]
        assert stated["date"] == "2026-11-29"
        assert stated["urls"]
        assert all(url.startswith("https://") for url in stated["urls"])


def test_list_on_a_terminal(env: dict[str, str], tmp_path: Path) -> None:
    """At 80 columns nothing but an address is wider."""
    code, shown, _ = on_a_terminal(env, tmp_path, "profiles", "list", "--data")
    lines = re.sub(r"\x1b\[[0-9;]*m|\r", "", shown.decode()).splitlines()
    assert code == 0
    assert [line for line in lines if len(line) > 80 and "https://" not in line] == []
