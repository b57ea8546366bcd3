"""`llmctl batch --dry-run`: the plan agrees with what the run then does."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmctl.tokens import Counter
from llmctl.types import Message, Request, Target
from tests.cli.jsonl import write
from tests.conftest import Run
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator

COUNTER = Counter()


def counted(call: Call) -> Reply:
    """An echo with the usage that the model's own tokenizer counts, half of the output limit."""
    assert call.body is not None
    target = Target("p", "openai", "openai", "http://127.0.0.1/v1", "gpt-5-mini")
    messages = tuple(Message(m["role"], m["content"]) for m in call.body["messages"])
    tokens = COUNTER.count(Request("a", target, messages)).tokens
    limit = call.body.get("max_tokens") or call.body.get("max_completion_tokens") or 20
    return Reply(f"echo {call.key}", usage=Usage(tokens, limit // 2))


def configure(configured: dict[str, str], more: str) -> None:
    """Add lines to the profile `sim`."""
    path = Path(configured["HOME"]) / ".config/llmctl/config.yaml"
    path.write_text(path.read_text() + more, encoding="utf-8")


def files(*folders: Path) -> dict[str, bytes]:
    """Everything below some folders."""
    return {
        str(path): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def plan_and_run(run: Run, env: dict[str, str], *arguments: str) -> tuple[Any, Any]:
    """The plan, and the summary of the run that follows."""
    planned = run("batch", *arguments, "--dry-run", "--json", env=env)
    assert planned.returncode == 0, planned.stderr
    done = run("batch", *arguments, "--json", "-q", env=env)
    return json.loads(planned.stdout, parse_float=Decimal), json.loads(
        done.stdout, parse_float=Decimal
    )


@pytest.fixture
def mixed(run: Run, configured: dict[str, str], sim: Simulator, tmp_path: Path) -> Path:
    """Rows that are answered, cached, duplicates, too long, and new."""
    configure(configured, "    context: 300\n    params: {max_tokens: 20}\n")
    sim.reply = counted
    elsewhere = [{"id": f"c{n}", "prompt": f"kept {n}"} for n in range(3)]
    assert run("batch", str(write(tmp_path / "x.jsonl", elsewhere)), env=configured).returncode == 0
    rows: list[dict[str, Any]] = [{"id": f"a{n}", "prompt": f"answered {n}"} for n in range(2)]
    path = write(tmp_path / "in.jsonl", rows)
    assert run("batch", str(path), env=configured).returncode == 0
    rows += [{"id": f"k{n}", "prompt": f"kept {n % 3}"} for n in range(4)]
    rows += [{"id": f"n{n}", "prompt": f"new {n % 5}", "tags": {"n": n}} for n in range(12)]
    rows += [{"id": f"l{n}", "prompt": "word " * 400} for n in range(2)]
    rows += [{"id": "own", "prompt": "new 0", "max_tokens": 7}]
    return write(path, rows)


def test_the_plan_agrees_with_the_run(
    run: Run, configured: dict[str, str], mixed: Path, sim: Simulator, tmp_path: Path
) -> None:
    """Every count of the plan is what the run then does, and what the provider bills."""
    before = sim.billed.requests, sim.billed.input_tokens
    plan, done = plan_and_run(run, configured, str(mixed))
    counts = ("answered", "cached", "duplicates", "over_context", "refused", "to_send")
    assert [plan[name] for name in counts] == [2, 4, 7, 2, 0, 6]
    assert plan["rows"] == sum(plan[name] for name in counts) == done["rows"] == 21
    assert plan["answered"] == done["skipped"]
    assert plan["cached"] + plan["duplicates"] == done["cached"] + done["deduplicated"]
    assert plan["over_context"] == done["failed"]
    errors = (tmp_path / "in.out.errors.jsonl").read_text().splitlines()
    assert {json.loads(line)["error"]["type"] for line in errors} == {"context_length"}
    assert plan["to_send"] == done["requests"] == sim.billed.requests - before[0]
    assert plan["input_tokens"] == done["input_tokens"] == sim.billed.input_tokens - before[1]
    assert plan["input_tokens_exact"] is True
    assert plan["max_output_tokens"] == 5 * 20 + 7 == 2 * done["output_tokens"] + 1
    assert plan["worst_case_usd"] >= done["cost_usd"]
    assert plan["expected_usd"] == done["cost_usd"] + Decimal("0.000002") * (
        plan["expected_output_tokens"] - done["output_tokens"]
    )


def test_nothing_is_sent_and_nothing_is_written(
    llmctl: Run, mixed: Path, sim: Simulator, tmp_path: Path, home: Path
) -> None:
    """No call, no file made, no byte of any file changed, twice; a torn output stays torn."""
    out = tmp_path / "in.out.jsonl"
    out.write_bytes(out.read_bytes() + b'{"id":"n0","ind')
    before, calls = files(tmp_path, home), len(sim.calls)
    for more in ((), ("--restart",), ("--refresh",), ("-o", str(tmp_path / "new.jsonl"))):
        done = llmctl("batch", str(mixed), "--dry-run", *more)
        assert done.returncode == 0, done.stderr
        assert "nothing was sent" in done.stdout
    assert files(tmp_path, home) == before
    assert len(sim.calls) == calls


def test_it_needs_no_key(run: Run, configured: dict[str, str], mixed: Path) -> None:
    """A CI job that may not send anything can still see the plan."""
    without = {k: v for k, v in configured.items() if k != "SIM_KEY"}
    assert run("batch", str(mixed), "--dry-run", env=without).returncode == 0


def test_without_a_cache_duplicates_are_sent(
    run: Run, configured: dict[str, str], mixed: Path, sim: Simulator
) -> None:
    """`--no-cache` counts neither kept answers nor duplicates, and the run sends them all."""
    before = len(sim.calls)
    plan, done = plan_and_run(run, configured, str(mixed), "--no-cache")
    assert (plan["cached"], plan["duplicates"], plan["to_send"]) == (0, 0, 17)
    assert done["requests"] == plan["to_send"] == len(sim.calls) - before
    assert done["input_tokens"] == plan["input_tokens"]


@pytest.mark.parametrize(("budget", "code"), [("1", 0), ("0.00006", 0), ("0.000059", 3)])
def test_a_budget_is_held_against_the_worst_case(
    llmctl: Run, tmp_path: Path, sim: Simulator, budget: str, code: int
) -> None:
    """Exit 3 as soon as the worst case is above the budget, to the last digit."""
    path = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", "max_tokens": 26}])
    done = llmctl("batch", str(path), "--dry-run", "--json", "--budget", budget)
    plan = json.loads(done.stdout, parse_float=Decimal)
    assert plan["worst_case_usd"] == Decimal("0.00006")
    assert (done.returncode, plan["exit_code"]) == (code, code)
    assert ("above the budget" in done.stderr) == (code == 3)
    assert sim.calls == []


def test_an_unknown_price_is_null_and_does_not_pass_a_budget(
    run: Run, configured: dict[str, str], tmp_path: Path
) -> None:
    """Without a price the costs are null and `$?`, and nothing fits a budget."""
    config = Path(configured["HOME"]) / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("    price: {input: 1, output: 2}\n", ""))
    path = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", "max_tokens": 26}])
    done = run("batch", str(path), "--dry-run", "--json", env=configured)
    plan = json.loads(done.stdout)
    assert (done.returncode, plan["worst_case_usd"], plan["expected_usd"]) == (0, None, None)
    assert plan["unpriced_rows"] == 1
    said = run("batch", str(path), "--dry-run", env=configured).stdout
    assert "at most $?" in said
    assert "$?: gpt-5-mini (1 row)\n" in said
    held = run("batch", str(path), "--dry-run", "--budget", "100", env=configured)
    assert held.returncode == 3
    assert "is not known" in held.stderr
    assert "{as: openai/gpt-4o}" in held.stderr


def test_the_providers_batch_interface_costs_half(llmctl: Run, tmp_path: Path) -> None:
    """Where batch rates are published they are used; where none are, they are unknown."""
    rows = [{"id": str(n), "prompt": f"say {n}", "max_tokens": 100} for n in range(6)]
    path = str(write(tmp_path / "in.jsonl", rows))
    known, unknown = (
        json.loads(
            llmctl("batch", path, "-p", profile, "--dry-run", "--json").stdout, parse_float=Decimal
        )
        for profile in ("openai", "sim")
    )
    assert known["provider_batch"]["worst_case_usd"] * 2 == known["worst_case_usd"]
    assert unknown["provider_batch"] == {"worst_case_usd": None, "expected_usd": None}
