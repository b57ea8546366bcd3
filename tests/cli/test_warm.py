"""`llmctl batch --warm`: one row writes what all begin with, the others read it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.cli.jsonl import write
from tests.conftest import KEY, Run
from tests.simulator.prompt_caches import PromptCaches
from tests.simulator.reply import Usage
from tests.simulator.server import Simulator

RULES = "".join(f"Rule {n}: say so when clause {n * 7} is missing or void.\n" for n in range(420))
"""More than 5,000 tokens, however they are counted."""

ANTHROPIC = "provider: anthropic\n    model: claude-sonnet-5"
OPENAI = "provider: openai\n    model: gpt-5.6\n    price: {as: openai/gpt-5.6}"


def configure(home: Path, sim: Simulator, what: str) -> dict[str, str]:
    """A default profile at the simulator; the environment for it."""
    folder = home / ".config/llmctl"
    folder.mkdir(parents=True, exist_ok=True)
    path = "/v1" if "openai" in what else "/anthropic/v1"
    known = "" if "as:" in what else "\n    price: {as: anthropic/claude-sonnet-5}"
    (folder / "config.yaml").write_text(
        f"default: sim\nprofiles:\n  sim:\n    {what}{known}\n    base_url: {sim.origin}{path}\n"
        "    key: {env: SIM_KEY}\n    retry: {max_wait: 0.01}\n    limits: {concurrency: 16}\n",
        encoding="utf-8",
    )
    return {"SIM_KEY": KEY}


def rows(path: Path, count: int = 48) -> Path:
    """Rows that begin with the rules."""
    return write(path, [{"id": f"r{n}", "prompt": f"{RULES}\nClause: {n}"} for n in range(count)])


def bill(sim: Simulator) -> float:
    """The provider's bill of the input, as tokens of full price."""
    billed = sim.billed
    used = Usage(billed.input_tokens, 0, billed.cached_tokens, 0, billed.written_tokens)
    assert sim.prompt_caches is not None
    return sim.prompt_caches.bill(used)


def total(home: Path) -> Any:
    """What the ledger has of the calls."""
    with sqlite3.connect(home / ".local/state/llmctl/ledger.db") as db:
        asked = "sum(cached_tokens), sum(cache_write_tokens), sum(provider_saved_pico)"
        return db.execute(f"SELECT {asked} FROM calls").fetchone()


@pytest.mark.parametrize("what", [ANTHROPIC, OPENAI], ids=["anthropic", "openai"])
def test_the_input_costs_a_fifth_at_most_with_one_write(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path, what: str
) -> None:
    """With 16 calls at a time one row writes the prefix and all others read it; at the end it is
    said what that saved, and the ledger has the same."""
    sim.prompt_caches, sim.latency = PromptCaches(), 0.05
    if what is OPENAI:
        sim.prompt_caches = PromptCaches(way="automatic")
    env = {**environ, **configure(home, sim, what)}
    done = run("batch", str(rows(tmp_path / "in.jsonl")), "--warm", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert bill(sim) <= 0.2 * sim.billed.input_tokens
    first, *others = sim.calls
    assert first.billed is not None
    assert first.billed.written > 5000
    assert not first.billed.cached
    assert all(call.billed and call.billed.cached >= 5000 for call in others)
    summary = json.loads(done.stdout)
    assert summary["cache_read_tokens"] == sim.billed.cached_tokens
    assert summary["cache_write_tokens"] == sim.billed.written_tokens
    assert "48 rows begin with the same" in done.stderr
    assert f"{sim.billed.cached_tokens:,} tokens read" in done.stderr
    read, written, saved = total(home)
    assert (read, written) == (sim.billed.cached_tokens, sim.billed.written_tokens)
    assert summary["provider_cache_saved_usd"] == pytest.approx(saved / 1e12)
    report = json.loads(run("cost", "report", "--json", env=env).stdout)
    assert report["total"]["provider_cache_saved_usd"] == pytest.approx(saved / 1e12)
    assert saved > 0


def test_without_warm_rows_at_one_time_write_each(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """What `--warm` is for: 16 calls at a time are 16 writes, and a loss is shown as one."""
    sim.prompt_caches, sim.latency = PromptCaches(way="automatic"), 0.3
    env = {**environ, **configure(home, sim, OPENAI)}
    done = run("batch", str(rows(tmp_path / "in.jsonl", 16)), "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert sum(bool(call.billed and call.billed.written > 5000) for call in sim.calls) == 16
    assert json.loads(done.stdout)["provider_cache_saved_usd"] < 0
    assert "more than without" in done.stderr
    report = " ".join(run("cost", "report", env=env).stdout.split())
    assert "more than without" in report


def test_the_provider_is_told_in_its_own_words(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """Anthropic gets `cache_control` where the start ends, and the same text; OpenAI a key."""
    path = rows(tmp_path / "in.jsonl", 3)
    env = {**environ, **configure(home, sim, ANTHROPIC)}
    assert run("batch", str(path), "--warm", env=env).returncode == 0
    for number, call in enumerate(sim.calls):
        parts = (call.body or {})["messages"][0]["content"]
        assert parts[0]["cache_control"] == {"type": "ephemeral"}
        assert "cache_control" not in parts[1]
        assert parts[0]["text"] + parts[1]["text"] == f"{RULES}\nClause: {number}"
    env |= configure(home, sim, OPENAI)
    assert run("batch", str(path), "--warm", "-o", "b.jsonl", env=env).returncode == 0
    keys = [(call.body or {}).get("prompt_cache_key") for call in sim.calls[3:]]
    assert len(set(keys)) == 1
    assert keys[0]


def test_answers_are_found_again_without_warm(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """The mark is no part of the question: neither resume nor the cache of answers sees it."""
    path = rows(tmp_path / "in.jsonl", 4)
    env = {**environ, **configure(home, sim, ANTHROPIC)}
    assert run("batch", str(path), "--warm", "--limit", "3", env=env).returncode == 0
    assert run("batch", str(path), env=env).returncode == 0
    assert run("batch", str(path), "-o", "other.jsonl", env=env).returncode == 0
    assert len(sim.calls) == 4


@pytest.mark.parametrize("prompts", [["One."], [f"{RULES} a"], ["Sum: 1", "Sum: 2"]])
def test_nothing_is_marked_below_the_minimum_or_for_one_row(
    run: Run,
    environ: dict[str, str],
    home: Path,
    sim: Simulator,
    tmp_path: Path,
    prompts: list[str],
) -> None:
    """The plan says why, and the run goes as without."""
    path = write(tmp_path / "in.jsonl", [{"prompt": text} for text in prompts])
    env = {**environ, **configure(home, sim, ANTHROPIC)}
    plan = run("batch", str(path), "--warm", "--dry-run", env=env)
    assert "warm: nothing to do" in plan.stdout
    assert run("batch", str(path), "--warm", env=env).returncode == 0
    assert not any("cache_control" in json.dumps(call.body) for call in sim.calls)


def test_the_plan_says_what_would_be_warmed(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """Rows, tokens, and dollars with and without; nothing is sent."""
    env = {**environ, **configure(home, sim, ANTHROPIC)}
    path = str(rows(tmp_path / "in.jsonl"))
    plan = run("batch", path, "--warm", "--dry-run", env=env)
    assert "48 rows begin with the same" in plan.stdout
    (found,) = json.loads(run("batch", path, "--warm", "--dry-run", "--json", env=env).stdout)[
        "warm"
    ]
    assert found["warm"]
    assert found["rows"] == 48
    assert found["cached_usd"] < 0.2 * found["uncached_usd"]
    assert not sim.calls


def test_a_first_row_that_fails_is_followed_by_another(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """The second row writes; the run ends as any other with a failed row."""
    from tests.simulator.errors import status

    sim.prompt_caches, sim.latency = PromptCaches(), 0.05
    sim.fault = lambda call: status(400, "no") if call.index == 0 else None
    env = {**environ, **configure(home, sim, ANTHROPIC)}
    done = run("batch", str(rows(tmp_path / "in.jsonl", 20)), "--warm", "--json", env=env)
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == 1
    assert sum(bool(call.billed and call.billed.written) for call in sim.calls) == 1


def test_it_goes_with_a_budget(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """The run stops where the budget does, and goes on with a larger one."""
    sim.prompt_caches = PromptCaches()
    env = {**environ, **configure(home, sim, ANTHROPIC)}
    path = str(rows(tmp_path / "in.jsonl", 12))
    more = ("--warm", "--max-tokens", "50", "--json")
    done = run("batch", path, *more, "--budget", "0.05", env=env)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["cost_usd"] <= 0.05
    done = run("batch", path, *more, "--budget", "5", env=env)
    assert done.returncode == 0, done.stderr


def test_batches_of_the_provider_are_refused(run: Run, configured: dict[str, str]) -> None:
    """They share no cache within: said before anything is read."""
    done = run("batch", "in.jsonl", "--warm", "--engine", "provider", "-o", "a", env=configured)
    assert done.returncode == 2
    assert "--warm" in done.stderr
