"""Routes as a user meets them: what goes where, what it costs, and what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.jsonl import read, write
from tests.conftest import KEY, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator

Routed = Callable[..., dict[str, str]]


def cheap_answer(call: Call) -> Reply:
    """Good unless the question is hard."""
    asked = call.ask.last if call.ask else ""
    return Reply("I'm sorry, I can't." if "hard" in asked else "fine", usage=Usage(100, 10))


def strong_answer(_: Call) -> Reply:
    """Always good."""
    return Reply("well considered", usage=Usage(100, 10))


@pytest.fixture
def cheap() -> Iterator[Simulator]:
    """The provider of the cheap profile."""
    with Simulator(reply=cheap_answer) as simulator:
        yield simulator


@pytest.fixture
def routed(home: Path, environ: dict[str, str], sim: Simulator, cheap: Simulator) -> Routed:
    """Configures the profile `sim`, the strong one, with a route to `cheap`."""
    sim.reply = strong_answer

    def point(route: str, profile: str = "", more: str = "") -> dict[str, str]:
        text = f"""    route: {{cheap: cheap, {route}}}
{profile}
  cheap:
    provider: openai
    base_url: {cheap.base_url}
    model: gpt-5-nano
    key: {{env: SIM_KEY}}
    retry: {{max_wait: 0.01, attempts: 1}}
    price: {{input: 0.1, output: 0.2}}
{more}
"""
        configure(home, sim.base_url, "{env: SIM_KEY}", text)
        return {**environ, "SIM_KEY": KEY}

    return point


CASCADE = "cascade: {check: [refusal]}"


def questions(count: int, hard: int) -> list[dict[str, Any]]:
    """So many rows, every one of which that the number divides is hard."""
    return [
        {"id": f"r{n}", "prompt": f"{'hard' if n % hard == 0 else 'easy'} question {n}"}
        for n in range(count)
    ]


def usd(text: str) -> Any:
    """JSON whose amounts are exact."""
    return json.loads(text, parse_float=Decimal)


def test_both_calls_of_a_row_are_on_record_and_in_its_cost(
    routed: Routed, run: Run, home: Path, tmp_path: Path, sim: Simulator, cheap: Simulator
) -> None:
    """A cheap answer that fails its check is a call of its own in the ledger, under the row's
    parent; the row costs both, and the ledger is what the providers billed."""
    env = routed(CASCADE)
    source = write(tmp_path / "in.jsonl", questions(20, 4))
    done = run("batch", str(source), "--json", env=env)
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "in.out.jsonl")
    assert (sim.billed.requests, cheap.billed.requests) == (5, 20)
    low, high = Decimal("0.000012"), Decimal("0.00012")
    for row in rows:
        hard = int(row["id"][1:]) % 4 == 0
        checked, to = ("refusal", "sim") if hard else ("passed", "cheap")
        assert row["route"] == {"to": to, "by": "cascade", "score": None, "checked": checked}
        assert row["profile"] == to
        (own,) = [call for call in ledger(home) if call["call_id"] == row["call_id"]]
        calls = [call for call in ledger(home) if call["parent"] == own["parent"] != ""]
        assert len(calls) == 1 + hard
        cost = low + high if hard else low
        assert Decimal(str(row["cost_usd"])) == cost
        assert sum(call["cost_pico"] for call in calls) == cost * 10**12
    summary = usd(done.stdout)
    assert summary["routed"] == {"to": {"cheap": 15, "sim": 5}, "asked_twice": {"refusal": 5}}
    assert summary["cost_usd"] == 20 * low + 5 * high
    assert "routed: 15 to cheap, 5 to sim; 5 of them asked twice (refusal 5)" in done.stderr
    report = usd(run("cost", "report", "--json", env=env).stdout)["total"]
    assert report["cost_usd"] == summary["cost_usd"]
    assert report["routed_saved_usd"] == 20 * high - summary["cost_usd"]
    said = run("cost", "report", env=env).stdout
    assert "USD less than the strong model alone would have." in said


def test_a_loss_is_shown_as_one(routed: Routed, run: Run, tmp_path: Path) -> None:
    """Where every answer fails, the cheap calls are what the route cost more."""
    env = routed(CASCADE)
    source = write(tmp_path / "in.jsonl", questions(3, 1))
    assert run("batch", str(source), env=env).returncode == 0
    report = usd(run("cost", "report", "--json", env=env).stdout)["total"]
    assert report["routed_saved_usd"] == -3 * Decimal("0.000012")
    said = run("cost", "report", env=env).stdout
    assert "USD more than the strong model alone would have." in said


def test_a_budget_refuses_the_second_call_and_counts_the_first(
    routed: Routed, run: Run, home: Path, tmp_path: Path, sim: Simulator, cheap: Simulator
) -> None:
    """What is left does not hold the strong call: the row fails as `budget` with what the cheap
    one cost, exit 3, and the strong provider is never asked."""
    env = routed(CASCADE, "    params: {max_tokens: 1000}", "    params: {max_tokens: 10}")
    source = write(tmp_path / "in.jsonl", questions(1, 1))
    done = run("batch", str(source), "--budget", "0.001", "--json", env=env)
    assert done.returncode == 3, done.stderr
    (row,) = read(tmp_path / "in.out.errors.jsonl")
    assert row["error"]["type"] == "budget"
    assert row["cost_usd"] == 0.000012
    assert row["route"] == {"to": "sim", "by": "cascade", "score": None, "checked": "refusal"}
    assert (sim.billed.requests, cheap.billed.requests) == (0, 1)
    paid = [(call["profile"], call["cost_pico"]) for call in ledger(home) if call["cost_pico"]]
    assert paid == [("cheap", 12 * 10**6)]
    assert usd(done.stdout)["cost_usd"] == Decimal("0.000012")


@pytest.mark.parametrize("route", [CASCADE, "rules: [{when: {matches: question}, to: cheap}]"])
def test_what_the_cheap_one_cannot_serve_the_strong_one_is_asked(
    routed: Routed, run: Run, tmp_path: Path, cheap: Simulator, route: str
) -> None:
    """By a rule as by a cascade; the row says why, `ask` says it aloud, and the summary counts."""
    cheap.fault = errors.overloaded()
    env = routed(route)
    write(tmp_path / "in.jsonl", questions(3, 1))
    done = run("batch", "in.jsonl", "-o", "-", "--no-cache", env=env)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(r["profile"], r["route"]["checked"]) for r in rows} == {("sim", "overloaded")}
    assert "3 of them asked twice (overloaded 3)" in done.stderr
    asked = run("ask", "question", "--no-cache", env=env)
    assert asked.stdout == "well considered"
    assert "asking sim instead" in asked.stderr


def test_where_the_strong_one_is_down_its_fallback_answers(
    routed: Routed, run: Run, home: Path, tmp_path: Path, sim: Simulator, cheap: Simulator
) -> None:
    """As without a route; the row says who answered, and all calls have one parent."""
    sim.fault = errors.out_of_quota()
    spare = f"""
  spare:
    provider: openai
    base_url: {cheap.base_url}
    model: gpt-5
    key: {{env: SIM_KEY}}
    price: {{input: 3, output: 4}}
"""
    env = routed(CASCADE, "    fallback: [spare]", spare)
    source = write(tmp_path / "in.jsonl", questions(1, 1))
    done = run("batch", str(source), env=env)
    assert done.returncode == 0, done.stderr
    (row,) = read(tmp_path / "in.out.jsonl")
    assert (row["profile"], row["route"]["to"]) == ("spare", "sim")
    calls = ledger(home)
    assert {call["profile"] for call in calls} == {"cheap", "sim", "spare"}
    assert len({call["parent"] for call in calls}) == 1
    assert Decimal(str(row["cost_usd"])) * 10**12 == sum(c["cost_pico"] or 0 for c in calls)
    assert row["attempts"] == sum(call["attempts"] for call in calls)


def test_the_same_file_is_decided_alike(
    routed: Routed, run: Run, tmp_path: Path, sim: Simulator, cheap: Simulator
) -> None:
    """Rows asked anew and out of the cache: each goes where it went before; what is answered
    is sent no more by the same command."""
    rules = "rules: [{when: {matches: '7'}, to: sim}, {when: {tag: {k: a}}, to: cheap}], "
    env = routed(rules + CASCADE)
    rows = [{**row, "tags": {"k": "ab"[n % 2]}} for n, row in enumerate(questions(60, 5))]
    write(tmp_path / "in.jsonl", rows)

    def decided(*more: str) -> dict[str, Any]:
        done = run("batch", "in.jsonl", "-o", "-", *more, env=env)
        assert done.returncode == 0, done.stderr
        said = [json.loads(line) for line in done.stdout.splitlines()]
        return {row["id"]: row["route"] for row in said}

    first = decided()
    asked = sim.billed.requests, cheap.billed.requests
    assert decided("--no-cache") == first
    assert (sim.billed.requests, cheap.billed.requests) == (asked[0] * 2, asked[1] * 2)
    assert decided() == first
    assert (sim.billed.requests, cheap.billed.requests) == (asked[0] * 2, asked[1] * 2)
    assert {route["by"] for route in first.values()} == {"rule", "cascade"}
    assert run("batch", "in.jsonl", "--limit", "30", env=env).returncode == 0
    assert run("batch", "in.jsonl", env=env).returncode == 0
    assert {row["id"]: row["route"] for row in read(tmp_path / "in.out.jsonl")} == first


def test_a_checked_answer_is_shown_once_it_has_passed(routed: Routed, run: Run) -> None:
    """Nothing of a streamed answer that fails is seen; one that passes is whole, and `-u` has what
    both calls cost."""
    env = routed(CASCADE)
    hard = run("ask", "hard", "--stream", "-u", env=env)
    assert (hard.returncode, hard.stdout) == (0, "well considered")
    assert "$0.00013 " in hard.stderr
    assert run("ask", "easy", "--stream", env=env).stdout == "fine"


def test_a_plan_shows_shares_and_prices_between_both(
    routed: Routed, run: Run, tmp_path: Path, sim: Simulator, cheap: Simulator
) -> None:
    """How many rows go where by what, and what it costs if all go to one; nothing is sent."""
    rules = "rules: [{when: {matches: '7'}, to: sim}], "
    limit = "    params: {max_tokens: 10}"
    env = routed(rules + CASCADE, limit, limit)
    write(tmp_path / "in.jsonl", questions(20, 4))
    done = run("batch", "in.jsonl", "--dry-run", env=env)
    assert done.returncode == 0, done.stderr
    assert "  to cheap        18 (90%) by cascade" in done.stdout
    assert "  to sim          2 (10%) by rule" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    plan = usd(run("batch", "in.jsonl", "--dry-run", "--json", env=env).stdout)
    found = plan["routed"]
    assert (found["to"], found["checked"]) == ({"cheap": {"cascade": 18}, "sim": {"rule": 2}}, 18)
    low, high = (found[name]["expected_usd"] for name in ("all_cheap", "all_strong"))
    assert low < plan["expected_usd"] < high
    most = (found["all_cheap"]["worst_case_usd"] + 9 * found["all_strong"]["worst_case_usd"]) / 10
    assert found["all_strong"]["worst_case_usd"] < plan["worst_case_usd"]
    assert plan["worst_case_usd"] > most
    asked = run("ask", "easy", "--dry-run", env={**env, "SIM_KEY": ""})
    assert "route    cheap, by cascade, and the answer is checked" in asked.stdout, asked.stderr
    one = usd(run("ask", "7", "--dry-run", "--json", env=env).stdout)["routed"]
    assert (one["to"], one["by"]) == ("sim", "rule")
    assert (sim.billed.requests, cheap.billed.requests) == (0, 0)


def verdicts(count: int) -> list[dict[str, Any]]:
    """Questions that the weak model fails where they are hard, and one that both fail."""
    return [
        {
            "prompt": f"{'prove the hard theorem' if n % 3 == 0 else 'name the easy town'} {n}",
            "weak_right": n % 3 != 0,
            "strong_right": n % 10 != 9,
            "weak_answer": "so it is wrong 2 + 2 = 5" if n % 3 == 0 else "fine",
        }
        for n in range(count)
    ]


def test_a_scorer_is_trained_and_routes(routed: Routed, run: Run, tmp_path: Path) -> None:
    """What it learned decides, before the call and as a check; the file is small JSON, and says
    how good it was."""
    env = routed("scorer: ../../s.json")
    write(tmp_path / "v.jsonl", verdicts(90))
    for more, name in (((), "s.json"), (("--answers",), "a.json")):
        out = str(tmp_path / "home" / name)
        done = run("route", "train", "v.jsonl", "-o", out, *more, env=env)
        assert done.returncode == 0, done.stderr
        made = json.loads((tmp_path / "home" / name).read_bytes())
        assert (made["weak"], made["strong"], made["rows"]) == ("gpt-5-nano", "gpt-5-mini", 90)
        assert made["apgr"] > 0.6
    asked = [{"id": "h", "prompt": "prove the hard theorem 7"}]
    write(tmp_path / "in.jsonl", [*asked, {"id": "e", "prompt": "name the easy town 7"}])
    assert run("batch", "in.jsonl", env=env).returncode == 0
    by_id = {row["id"]: row for row in read(tmp_path / "in.out.jsonl")}
    assert [by_id[name]["route"]["to"] for name in "he"] == ["sim", "cheap"]
    assert {row["route"]["by"] for row in by_id.values()} == {"score"}
    assert by_id["h"]["route"]["score"] > by_id["e"]["route"]["score"]


def test_a_scorer_of_other_models_is_not_used_and_that_is_said(
    routed: Routed, run: Run, home: Path, tmp_path: Path, cheap: Simulator
) -> None:
    """The strong model is asked, as without a route; the plan and the run each say why, once."""
    env = routed("scorer: ../../s.json")
    write(tmp_path / "v.jsonl", verdicts(60))
    done = run("route", "train", "v.jsonl", "-o", str(home / "s.json"), env=env)
    assert done.returncode == 0, done.stderr
    write(tmp_path / "in.jsonl", [{"id": str(n), "prompt": "name the easy town"} for n in range(5)])
    for command in (("batch", "in.jsonl", "--dry-run"), ("batch", "in.jsonl")):
        done = run(*command, "-m", "gpt-5", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("the scorer of profile sim is not used") == 1
        assert (
            "gpt-5-nano and gpt-5-mini, and the profiles have gpt-5-nano and gpt-5" in done.stderr
        )
    rows = read(tmp_path / "in.out.jsonl")
    assert {(row["route"]["to"], row["route"]["by"]) for row in rows} == {("sim", "default")}
    assert cheap.billed.requests == 0


def test_the_curve_of_two_batches(routed: Routed, run: Run, tmp_path: Path) -> None:
    """Two outputs of one input, and the field that says which answers are right: costs are those
    of the outputs, the curve fits 80 columns, and the threshold has the wanted quality."""
    env = routed("rules: []")
    rows = [{**row, "gold": "Fine"} for row in questions(40, 4)]
    source = write(tmp_path / "in.jsonl", rows)
    assert run("batch", str(source), "-p", "cheap", "-o", "w.jsonl", env=env).returncode == 0
    rows = [
        {"id": row["id"], "text": "I say: fine.", "cost_usd": 0.001}
        for row in read(tmp_path / "w.jsonl")
    ]
    write(tmp_path / "s.jsonl", rows)
    words = ("in.jsonl", "--weak", "w.jsonl", "--strong", "s.jsonl", "--expected", "gold")
    shown = run("route", "eval", *words, env=env)
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    found = usd(run("route", "eval", *words, "--quality", "0.95", "--json", env=env).stdout)
    assert (found["cheap_quality"], found["strong_quality"]) == (Decimal("0.75"), 1)
    assert (found["cheap_cost_usd"], found["strong_cost_usd"]) == (
        Decimal("0.00048"),
        Decimal("0.04"),
    )
    assert found["chosen"]["quality"] >= Decimal("0.95")
    assert 0 < found["chosen"]["saving"] < 1
    costs = [point["cost_usd"] for point in found["points"]]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "v.jsonl", "-o", "v.jsonl"), "would overwrite what is read"),
        (("train", "v.jsonl", "-o", "s.json", "--cheap", "sim"), "--cheap is the strong profile"),
        (("train", "v.jsonl", "-o", "s.json", "--cheap", "chep"), 'did you mean "cheap"?'),
        (("eval", "none.jsonl"), "none.jsonl"),
        (("eval", "bad.jsonl"), "bad.jsonl:1: needs `weak_right`"),
        (("eval", "few.jsonl"), "at least 20 are needed"),
        (("eval", "v.jsonl", "--labels", "x"), "--labels belongs to --weak and --strong"),
        (("eval", "v.jsonl", "--weak", "v.jsonl"), "go together"),
        (("eval", "v.jsonl", "--scorer", "v.jsonl"), "the scorer v.jsonl is none"),
        (("eval", "v.jsonl", "-p", "cheap"), "has no `route:`"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    routed: Routed, run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """Exit 2, one sentence, and no file."""
    env = routed("rules: []")
    write(tmp_path / "v.jsonl", verdicts(30))
    write(tmp_path / "bad.jsonl", [{"prompt": "x", "strong_right": True}])
    write(tmp_path / "few.jsonl", verdicts(3))
    done = run("route", *words, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "s.json").exists()
