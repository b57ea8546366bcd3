"""Budgets, as the commands keep them against a provider on loopback."""

from __future__ import annotations

import json
import re
import subprocess
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.conftest import LLMCTL, Run
from tests.ledgers import calls_of
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator

# A dollar a million tokens in, two a million out: a row of 1,000 tokens out may cost a little
# more than $0.002, and does cost $0.002005.
ROW = {"max_tokens": 1000}
REAL = Decimal("0.002005")


def bills(output: int = 1000) -> Any:
    """A model that uses so many tokens, whatever it is asked."""

    def reply(_: Call) -> Reply:
        return Reply("x", usage=Usage(5, output))

    return reply


@pytest.fixture
def config(configured: dict[str, str]) -> Path:
    """The configuration file."""
    return Path(configured["HOME"]) / ".config/llmctl/config.yaml"


@pytest.fixture
def ten(tmp_path: Path, sim: Simulator) -> Path:
    """Ten rows, each of which costs all that it may."""
    sim.reply = bills()
    return write(tmp_path / "in.jsonl", [{**row, **ROW} for row in prompts(10)])


def budgets(config: Path, *said: str) -> None:
    """Configure these."""
    lines = "".join(f"  - {{{one}}}\n" for one in said)
    text = config.read_text(encoding="utf-8").partition("budgets:")[0]
    config.write_text(f"{text}budgets:\n{lines}", encoding="utf-8")


def test_what_is_left_is_shared_out_again(
    llmctl: Run, tmp_path: Path, sim: Simulator, config: Path
) -> None:
    """Case 46: calls that wait for what others leave get an output limit by that, not by what was
    left before: eight at a time, each held at all there is, and all are answered."""
    budgets(config, "name: team, limit_usd: 0.01, period: month")
    sim.reply = bills(20)
    path = write(tmp_path / "in.jsonl", prompts(30))
    done = llmctl("batch", str(path), "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, 30), done.stderr
    assert len({call.body["max_completion_tokens"] for call in sim.calls if call.body}) > 1

    def all_that_is_allowed(call: Call) -> Reply:
        return Reply("x", usage=Usage(5, (call.body or {})["max_completion_tokens"]))

    sim.reply = all_that_is_allowed
    path = write(tmp_path / "more.jsonl", prompts(40)[30:])
    done = llmctl("batch", str(path), "--json")
    assert done.returncode == 3
    check = json.loads(llmctl("cost", "check", "--json").stdout)["budgets"][0]
    assert check["used_usd"] <= 0.01


def test_a_run_stops_at_its_budget_and_goes_on_with_a_larger_one(
    llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Four rows fit into a cent; the others are `budget` errors and were not sent; exit 3."""
    done = llmctl("batch", str(ten), "--budget", "0.01", "--json")
    assert done.returncode == 3
    assert sim.billed.requests == 4
    assert len(read(tmp_path / "in.out.jsonl")) == 4
    errors = read(tmp_path / "in.out.errors.jsonl")
    assert [row["error"]["type"] for row in errors] == ["budget"] * 6
    assert {row["cost_usd"] for row in errors} == {0}
    assert "the budget of $0.01 (--budget) is used up: $0.00802 is spent" in done.stderr
    assert "budget: $0.00802 of $0.01 spent" in done.stderr
    summary = json.loads(done.stdout, parse_float=Decimal)
    assert (summary["exit_code"], summary["failed"]) == (3, 6)
    assert summary["cost_usd"] == 4 * REAL

    done = llmctl("batch", str(ten), "--budget", "1")
    assert done.returncode == 0
    assert sim.billed.requests == 10
    assert len(read(tmp_path / "in.out.jsonl")) == 10
    assert not (tmp_path / "in.out.errors.jsonl").exists()


def test_one_that_waits_for_another_process_goes_on_when_that_settles(
    configured: dict[str, str], config: Path, sim: Simulator
) -> None:
    """`ask` says that it waits, and for whom (case 53), and is answered."""
    budgets(config, "name: team, limit_usd: 0.003, period: month")
    sim.reply = bills(10)
    sim.hold()
    words = [str(LLMCTL), "ask", "first", "--max-tokens", "1000"]
    with subprocess.Popen(words, env=configured, stdin=subprocess.DEVNULL) as first:
        sim.wait_for_calls(1)
        words[2] = "second"
        with subprocess.Popen(
            words, env=configured, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as second:
            assert second.stderr is not None
            said = second.stderr.readline()
            assert "waiting: other calls under way" in said
            assert "holds $0.002008)" in said
            assert len(sim.calls) == 1
            sim.release()
    assert (first.returncode, second.returncode, sim.billed.requests) == (0, 0, 2)


def test_ask_keeps_to_a_budget(llmctl: Run, sim: Simulator) -> None:
    """What may cost more is not sent; with `--dry-run` neither, and both exit 3."""
    asked = ("ask", "hello", "--max-tokens", "1000")
    done = llmctl(*asked, "--budget", "0.002")
    assert (done.returncode, done.stdout) == (3, "")
    assert "more than all of the budget of $0.002 (--budget)" in done.stderr
    for budget, code in (("0.002", 3), ("0.01", 0)):
        plan = llmctl(*asked, "--budget", budget, "--dry-run", "--json")
        assert plan.returncode == code
        assert json.loads(plan.stdout, parse_float=Decimal)["budget_usd"] == Decimal(budget)
    assert sim.calls == []
    assert llmctl(*asked, "--budget", "0.01").returncode == 0
    assert llmctl(*asked, "--budget", "much").returncode == 2
    assert "NOT ENOUGH" not in llmctl(*asked, "--budget", "0", "--dry-run").stdout
    assert llmctl(*asked, "--budget", "0").returncode == 0  # cached, and so free
    assert sim.billed.requests == 1


def test_a_configured_budget_holds_ask_and_batch_alike(
    llmctl: Run, config: Path, ten: Path, sim: Simulator
) -> None:
    """What `ask` spent, `batch` has no more; calls that do not match are free to go."""
    budgets(config, "name: team, limit_usd: 0.005, period: month, match: {tags: {team: a}}")
    asked = ("ask", "hello", "--max-tokens", "1000", "--tag", "team=a")
    assert llmctl(*asked).returncode == 0
    done = llmctl("batch", str(ten), "--tag", "team=a")
    assert (done.returncode, sim.billed.requests) == (3, 2)
    assert "budget team: $0.00401 of $0.005 spent" in done.stderr
    third = llmctl("ask", "again", "--max-tokens", "1000", "--tag", "team=a")
    assert third.returncode == 3
    assert "(team) is used up" in third.stderr
    assert llmctl("batch", str(ten), "--tag", "team=b").returncode == 0


def test_a_share_of_a_budget_is_told_in_one_call_of_many(
    llmctl: Run, config: Path, sim: Simulator
) -> None:
    """Each share once, whichever process reaches it."""
    budgets(config, "name: team, limit_usd: 0.0101, period: day, warn_at: [50%, 80%]")
    sim.reply = bills()
    told = [llmctl("ask", f"say {n}", "--max-tokens", "1000", "-q").stderr for n in range(5)]
    assert told[:2] == ["", ""]
    assert told[2].startswith("warning: budget team: 50% is reached, $0.006015 of $0.0101")
    assert told[3] == ""
    assert told[4].startswith("warning: budget team: 80% is reached")
    states = json.loads(llmctl("cost", "check", "--json").stdout)["budgets"]
    assert states[0]["state"] == "warning"


def test_an_unknown_price_is_refused_under_a_budget(
    run: Run, configured: dict[str, str], home: Path, config: Path, ten: Path, tmp_path: Path,
    sim: Simulator,
) -> None:  # fmt: skip
    """Every row is denied once, unsent, and says what to set (case 22: the model it is); without a
    budget they go."""
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("    price: {input: 1, output: 2}\n", ""), encoding="utf-8")
    done = run("batch", str(ten), "--budget", "100", env=configured)
    assert (done.returncode, len(sim.calls)) == (3, 0)
    errors = read(tmp_path / "in.out.errors.jsonl")
    assert [row["error"]["type"] for row in errors] == ["budget"] * 10
    assert (
        "set `price:` in profile sim, `{as: openai/gpt-4o}` where" in errors[0]["error"]["message"]
    )
    refused = [(row["status"], row["error_type"], row["attempts"]) for row in calls_of(home)]
    assert refused == [("error", "budget", 0)] * 10
    assert run("batch", str(ten), env=configured).returncode == 0


def test_a_plan_is_held_to_what_is_left(
    llmctl: Run, config: Path, ten: Path, sim: Simulator
) -> None:
    """Case 46: of the configured budgets that such calls count towards, too: exit 3 when the worst
    case is above; a budget for another profile does not matter."""
    budgets(config, "name: team, limit_usd: 0.03, period: month, match: {profile: sim}",
            "name: other, limit_usd: 0.001, period: day, match: {profile: openai}")  # fmt: skip
    sim.reply = bills()
    plan = llmctl("batch", str(ten), "--dry-run")
    assert (plan.returncode, "$0.030 left of team: enough" in plan.stdout) == (0, True)
    assert "other" not in plan.stdout
    assert llmctl("batch", str(ten), "--limit", "7").returncode == 0
    assert llmctl("batch", str(ten), "--dry-run", "--restart", "--no-cache").returncode == 3
    found = json.loads(llmctl("batch", str(ten), "--dry-run", "--json").stdout)
    assert (found["exit_code"], 0 < found["budget_usd"] < 0.03) == (0, True)


def test_what_is_free_fits_into_a_budget_that_is_overspent(
    llmctl: Run, config: Path, ten: Path
) -> None:
    """Nothing is left, not less: a plan of answered rows is within it, one more row is not."""
    assert llmctl("batch", str(ten), "--limit", "9").returncode == 0
    budgets(config, "name: team, limit_usd: 0.001, period: month")
    for limit, code in (("9", 0), ("10", 3)):
        plan = llmctl("batch", str(ten), "--dry-run", "--limit", limit, "--json")
        assert (plan.returncode, json.loads(plan.stdout)["budget_usd"]) == (code, 0)


def _limit(sim: Simulator, number: int) -> int:
    body = sim.calls[number].body or {}
    return int(body.get("max_tokens", 0) or body.get("max_completion_tokens", 0))


def test_an_answer_without_limit_gets_one_under_a_budget(
    llmctl: Run, config: Path, ten: Path, sim: Simulator
) -> None:
    """Case 46: the profile's `default_max_tokens`, or what the budget has left where that is less;
    plan and summary say so. Without a budget nothing is added, and a body that is passed through
    is refused."""
    bare = [{"id": str(n), "prompt": f"say {n}"} for n in range(2)]
    write(ten, bare)
    assert llmctl("batch", str(ten), "--no-cache", "--restart").returncode == 0
    assert not {"max_tokens", "max_completion_tokens"} & (sim.calls[0].body or {}).keys()
    plan = llmctl("batch", str(ten), "--dry-run", "--restart", "--budget", "100")
    assert (
        plan.returncode,
        "no max_tokens in 2 rows: under a budget an answer gets at most 8,192" in plan.stdout,
    ) == (0, True)
    two = llmctl("batch", str(ten), "--dry-run", "--restart", "--budget", "9", "--param", "n=2")
    assert "at most 32,768" in two.stdout  # two answers to each of two rows
    done = llmctl("batch", str(ten), "--no-cache", "--restart", "--budget", "100")
    assert "2 calls without max_tokens got one" in done.stderr
    assert _limit(sim, 2) == 8192
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("    retry:", "    default_max_tokens: 50\n    retry:", 1))
    assert llmctl("ask", "hello", "--budget", "1").returncode == 0
    assert _limit(sim, 4) == 50
    assert llmctl("ask", "hello all", "--budget", "0.00003").returncode == 0
    assert 0 < _limit(sim, 5) < 50
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}  # fmt: skip
    done = llmctl("batch", str(write(ten, [line])), "--budget", "1", "--restart")
    assert (done.returncode, len(sim.calls)) == (3, 6)
    assert "nothing limits the answers" in done.stderr


@pytest.mark.parametrize(("budget", "code"), [("1", 0), ("0.00003", 0), ("0.000001", 3)])
def test_the_plan_of_ask_is_what_is_sent_under_a_budget(
    llmctl: Run, sim: Simulator, budget: str, code: int
) -> None:
    """An answer without limit gets the same one in the plan as in the call, and the same end."""
    asked = ("ask", "hello all", "--budget", budget)
    plan = llmctl(*asked, "--dry-run", "--json")
    assert (plan.returncode, sim.calls) == (code, [])
    assert llmctl(*asked).returncode == code
    planned = json.loads(plan.stdout)["max_tokens"]
    assert [planned for _ in sim.calls] == [_limit(sim, 0) for _ in sim.calls]
    assert json.loads(llmctl("ask", "hi", "--dry-run", "--json").stdout)["max_tokens"] is None


def test_a_provider_that_bills_more_stops_the_run_and_is_told_of(
    llmctl: Run, ten: Path, sim: Simulator
) -> None:
    """17% above the worst case: what was in flight is the most that is spent beyond."""
    sim.reply = bills(1170)
    sim.latency = 0.05
    done = llmctl("batch", str(ten), "--budget", "0.01", "--concurrency", "4")
    assert (done.returncode, sim.billed.requests) == (3, 4)
    assert re.search(r"billed \$0\.0013\d+ more than the worst case of 4 calls", done.stderr)


def test_a_budget_that_makes_no_sense_is_refused(llmctl: Run, ten: Path, sim: Simulator) -> None:
    """Nothing is sent."""
    for words in (("batch", str(ten)), ("ask", "x")):
        done = llmctl(*words, "--budget", "much")
        assert (done.returncode, len(sim.calls)) == (2, 0)
        assert "--budget wants an amount in USD" in done.stderr


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"max_tokens": 20000, "options": {"max_output_tokens": 1}}, "may cost"),
        ({"max_tokens": 1, "options": {"max_completion_tokens": 20000}}, "may cost"),
        ({"max_tokens": 600, "options": {"n": 20}}, "may cost"),
        ({"max_tokens": 1, "options": {"documents": ["word " * 30000]}}, "may cost"),
        ({"options": {"max_tokens": -1}}, "`max_tokens` is -1"),
        ({"options": {"max_tokens": 10.0}}, "`max_tokens` is 10.0"),
        ({"options": {"max_tokens": "10"}}, "`max_tokens` is"),
        ({"max_tokens": 5, "options": {"n": -3}}, "`n` is -3"),
    ],
)
def test_a_hold_is_what_the_body_that_is_sent_allows(
    llmctl: Run, tmp_path: Path, sim: Simulator, row: dict[str, Any], why: str
) -> None:
    """Case 49: the largest of several limits, times the answers, and every field that the model
    may read; a limit that is none is refused by name, unsent."""
    path = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", **row}])
    done = llmctl("batch", str(path), "--budget", "0.02")
    assert (done.returncode, len(sim.calls)) == (3, 0)
    (error,) = read(tmp_path / "in.out.errors.jsonl")
    assert error["error"]["type"] == "budget"
    assert why in error["error"]["message"]


def test_a_row_does_not_step_out_of_a_budget(
    llmctl: Run, config: Path, ten: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 52: a used-up budget that matches the profile's tags stops rows that have tags of their
    own, too: those add, and replace none that a budget matches by. The user's own flags choose
    otherwise."""
    budgets(config, "name: team, limit_usd: 0.005, period: month, match: {tags: {team: a}}")
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("    retry:", "    tags: {team: a}\n    retry:", 1))
    assert llmctl("batch", str(ten), "--limit", "2").returncode == 0
    rows = [{**row, **ROW, "tags": {"team": "b", "mine": "c"}} for row in prompts(3)]
    path = write(tmp_path / "out.jsonl", [{**row, "prompt": "new"} for row in rows])
    done = llmctl("batch", str(path))
    assert (done.returncode, sim.billed.requests) == (3, 2), done.stderr
    assert "(team) is used up" in done.stderr
    flags = ("--tag", "team=c", "--max-tokens", "1000")
    assert llmctl("ask", "hello", *flags).returncode == 0
