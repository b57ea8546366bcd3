"""`batch --engine provider`: rows are what they are with the local engine, but for the price."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.cli.jsonl import prompts, read
from tests.cli.provider_batches import HAND, IN, OUT, Provider, bills, summary
from tests.cli.terminal import on_a_terminal
from tests.ledgers import calls_of
from tests.simulator.batches import Fate
from tests.simulator.call import Call
from tests.simulator.faults import Ending
from tests.simulator.reply import Reply, ToolCall
from tests.simulator.scripts import for_prompt

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
OWN = {"cost_usd", "latency_ms", "call_id", "engine"}
"""Fields of a row that depend on the engine, or on the call."""


def mixed() -> list[dict[str, Any]]:
    """Rows of each kind: of a prompt, messages, an OpenAI batch line, a tool, tags, a sample."""
    return [
        {"id": "p", "prompt": "say 1", "system": "briefly", "tags": {"team": "a"}, "note": "kept"},
        {"id": "m", "messages": [{"role": "user", "content": "say 2"}], "max_tokens": 50},
        {
            "custom_id": "raw",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "gpt-5-mini",
                "messages": [{"role": "user", "content": "say 3"}],
                "seed": 7,
            },
        },
        {"id": "tool", "prompt": "call it"},
        {"id": "cut", "prompt": "cut off"},
        {"id": "s1", "prompt": "roll", "temperature": 1.0},
        {"id": "s2", "prompt": "roll", "temperature": 1.0},
        {"id": "x", "prompt": "say 1", "system": "briefly"},
    ]


def reply(call: Call) -> Reply:
    """An echo, a tool that is called, or a text that is cut off."""
    assert call.ask is not None
    if call.ask.last == "call it":
        return Reply("", finish="tool_calls", tool_calls=(ToolCall("weather", '{"a":1}'),))
    cut = call.ask.last == "cut off"
    return Reply(f"echo: {call.ask.last}", finish="length" if cut else "stop")


def test_rows_equal_those_of_the_local_engine(provider: Provider) -> None:
    """Every field but cost, latency and call id; `engine` says where they come from."""
    provider.sim.reply = reply
    provider.rows(mixed())
    extra = ("--keep", "note", "--no-cache", "--tag", "run=1")
    assert provider.batch(*extra).returncode == 0
    ours = provider.answers
    (provider.folder / "in.out.jsonl").unlink()
    assert provider.local(*extra).returncode == 0
    theirs = provider.answers
    assert {row["engine"] for row in ours.values()} == {"provider"}
    assert set(ours) == set(theirs) == {"p", "m", "raw", "tool", "cut", "s1", "s2", "x"}
    for name, row in theirs.items():
        for field, value in row.items():
            assert field in {*OWN, "body"} or ours[name][field] == value, (name, field)
        assert set(ours[name]) - OWN == set(row) - OWN
    assert ours["raw"]["body"]["choices"] == theirs["raw"]["body"]["choices"]
    assert ours["p"]["cost_usd"] == theirs["p"]["cost_usd"] / 2 > 0


def test_error_rows_equal_those_of_the_local_engine(provider: Provider) -> None:
    """A row that the provider refuses, one that is too long, one that a batch cannot ask."""
    provider.configure(more="    context: 300")
    fault = for_prompt("refused", Ending(finish="content_filter", text=""))
    provider.sim.batch.fates, provider.sim.fault = (Fate(row=fault),), fault
    provider.rows([{"id": "a", "prompt": "refused"}, {"id": "long", "prompt": "word " * 400}])
    assert provider.batch().returncode == 1
    ours = errors_without_ids(provider)
    assert provider.local().returncode == 1
    assert errors_without_ids(provider) == ours
    assert set(ours) == {"a", "long"}


def errors_without_ids(provider: Provider) -> dict[str, Any]:
    """The error rows without what belongs to one call."""
    for row in (rows := provider.errors).values():
        assert row.pop("call_id")
        row["error"].pop("provider_request_id")
        row["cost_usd"] = row["cost_usd"] > 0
    return rows


def test_a_schema(provider: Provider) -> None:
    """Answers are held to it: one that misses it is an error row `schema` with its text, and was
    paid; the others are parsed."""
    (provider.folder / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    provider.sim.reply = lambda call: (
        '{"n": "four"}' if call.ask and call.ask.last == "say 1" else '{"n": 4}'
    )
    provider.rows(3)
    done = provider.batch("--schema", "schema.json", "--json")
    assert done.returncode == 1, done.stderr
    assert {name: row["parsed"] for name, row in provider.answers.items()} == {
        "r0": {"n": 4}, "r2": {"n": 4}
    }  # fmt: skip
    (row,) = provider.errors.values()
    assert (row["id"], row["error"]["type"], row["text"]) == ("r1", "schema", '{"n": "four"}')
    assert row["cost_usd"] > 0
    assert provider.settled == provider.bill == summary(done)["cost_usd"]
    (line,) = [json.loads(line) for line in list(provider.batches.jobs[0].lines)[:1]]
    assert line["body"]["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_template_in_order(provider: Provider) -> None:
    """--template, --keep and --ordered: the output is in input order, with the fields kept."""
    rows = [{"id": f"r{n}", "city": f"city {n}"} for n in range(30)]
    provider.rows(rows)
    words = ("--template", "Where is {{ city }}?", "--keep", "city", "--ordered")
    assert provider.batch(*words).returncode == 0
    found = read(provider.folder / "in.out.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["text"] for row in found] == [f"echo: Where is city {n}?" for n in range(30)]
    assert found[7]["input"] == {"city": "city 7"}


def test_openais_format(provider: Provider) -> None:
    """--format openai: the provider's own body, unchanged, in OpenAI's result line."""
    provider.rows(3)
    assert provider.batch("--format", "openai").returncode == 0
    found = {line["custom_id"]: line for line in read(provider.folder / "in.out.jsonl")}
    assert set(found) == {"r0", "r1", "r2"}
    bodies = [line["response"]["body"] for line in provider.batches.jobs[0].results()]
    for line in found.values():
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"] in bodies


def test_tags_and_run_of_the_ledger(provider: Provider) -> None:
    """Calls are on record with their tags and no latency, which a batch has not."""
    provider.rows([{"id": "a", "prompt": "x", "tags": {"team": "blue"}}])
    assert provider.batch("--tag", "k=v").returncode == 0
    (call,) = calls_of(provider.home)
    assert json.loads(call["tags"]) == {"team": "blue", "k": "v"}
    assert (call["latency_ms"], call["status"]) == (None, "ok")


def test_kept_answers_are_not_submitted(provider: Provider) -> None:
    """Answers of the cache are used first, and those of a batch are kept: the same rows of another
    file are free, with either engine."""
    provider.rows(3)
    assert provider.batch().returncode == 0
    provider.rows([{"id": f"other {n}", "prompt": f"say {n}"} for n in range(4)])
    done = provider.batch("-o", "more.jsonl", "--json")
    assert (done.returncode, summary(done)["cached"]) == (0, 3), done.stderr
    assert [job.total for job in provider.batches.jobs] == [3, 1]
    done = provider.local("-o", "third.jsonl", "--json")
    assert (done.returncode, summary(done)["cached"], summary(done)["cost_usd"]) == (0, 4, 0)
    assert provider.sim.billed.requests == 4


def test_identical_rows_share_an_answer(provider: Provider) -> None:
    """They are submitted and billed once, `cache: shared`; with --no-cache each by itself."""
    provider.rows([{"id": f"r{n}", "prompt": f"say {n % 2}"} for n in range(6)])
    done = provider.batch("--json")
    assert (done.returncode, summary(done)["deduplicated"]) == (0, 4), done.stderr
    assert provider.batches.jobs[0].total == provider.batches.billed.requests == 2
    shared = [row for row in provider.answers.values() if row["cache"] == "shared"]
    assert (len(shared), {row["cost_usd"] for row in shared}) == (4, {0})
    assert {row["usage"]["output_tokens"] for row in shared} == {3}  # what it would have used
    assert provider.batch("--no-cache", "-o", "o.jsonl").returncode == 0
    assert provider.batches.jobs[1].total == 6


def test_identical_rows_share_a_failure(provider: Provider) -> None:
    """All of them fail, each with a row of its own; the next run asks once more."""
    fault = for_prompt("say 0", Ending(finish="content_filter", text=""))
    provider.sim.batch.fates = (Fate(row=fault), Fate())
    provider.rows([{"id": f"r{n}", "prompt": "say 0"} for n in range(3)])
    assert provider.batch().returncode == 1
    assert len(provider.errors) == 3
    assert provider.batch().returncode == 0
    assert (len(provider.answers), [job.total for job in provider.batches.jobs]) == (3, [1, 1])


def test_rows_that_are_removed_meanwhile(provider: Provider) -> None:
    """A row that is not in INPUT any more when its batch ends: its money is settled, its answer
    kept in the cache, and OUTPUT has no line of it."""
    provider.sim.batch.fates = (HAND, Fate())
    provider.sim.reply = bills()
    provider.rows(4)
    assert provider.batch("--detach").returncode == 6
    provider.rows([{"id": "r0", "prompt": "say 0"}, {"id": "new", "prompt": "added"}])
    provider.batches.finish()
    done = provider.batch("--json")
    assert done.returncode == 0, done.stderr
    assert "3 rows at the provider with no row in the input any more" in done.stderr
    assert {name: row["text"] for name, row in provider.answers.items()} == {
        "r0": "echo: say 0", "new": "echo: added"
    }  # fmt: skip
    assert provider.settled == provider.bill == 5 * (100 * OUT + 10 * IN)
    assert provider.held == (0, 0)
    provider.rows(4)
    done = provider.batch("-o", "all.jsonl", "--json")
    assert (summary(done)["cached"], summary(done)["cost_usd"]) == (4, 0), done.stdout


def test_all_rows_replaced(provider: Provider) -> None:
    """Rows in a batch are settled by the command of their OUTPUT, whatever INPUT asks by then."""
    provider.sim.batch.fates = (HAND, Fate())
    provider.rows(4)
    assert provider.batch("--detach").returncode == 6
    provider.batches.finish()
    provider.rows([{"id": "new", "prompt": "another"}])
    assert provider.batch().returncode == 0
    assert (set(provider.answers), provider.held) == ({"new"}, (0, 0))
    assert provider.settled == provider.bill


def test_rows_of_several_models(provider: Provider) -> None:
    """A batch has one model: rows of two go into two, and all are answered."""
    rows = [{**row, "model": f"gpt-5{'-nano' * (n % 2)}"} for n, row in enumerate(prompts(6))]
    provider.configure(price="{as: openai/gpt-5}")
    provider.rows(rows)
    assert provider.batch().returncode == 0
    assert sorted(job.model for job in provider.batches.jobs) == ["gpt-5", "gpt-5-nano"]
    assert len(provider.answers) == 6


def test_the_other_paths_of_openai(provider: Provider) -> None:
    """OpenAI batch lines for embeddings and responses go into batches of their own."""
    line = {"method": "POST", "custom_id": "e", "url": "/v1/embeddings"}
    response = {"model": "gpt-5-mini", "input": "hello", "max_output_tokens": 50}
    provider.rows([
        {**line, "body": {"model": "text-embedding-3-small", "input": "hello"}},
        {**line, "custom_id": "r", "url": "/v1/responses", "body": response},
        {"id": "c", "prompt": "hello"},
    ])  # fmt: skip
    done = provider.batch()
    assert done.returncode == 0, done.stderr
    said = sorted(job.said["endpoint"] for job in provider.batches.jobs)
    assert said == ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
    assert set(provider.answers) == {"e", "r", "c"}


@pytest.mark.parametrize("own", [False, True])
def test_anthropics_lines_mark_no_prompt_cache(provider: Provider, *, own: bool) -> None:
    """A long shared prefix is not marked: rows of a batch do not see what others put there, and
    each would pay for writing it. A mark of the user's own goes along."""
    provider.configure("anthropic")
    system = "Answer briefly. " * 2000
    mark: Any = {"options": {"cache_control": {"type": "ephemeral"}}} if own else {}
    provider.rows([{**row, "system": system, **mark} for row in prompts(3)])
    assert provider.batch().returncode == 0
    lines = list(provider.batches.jobs[0].lines)
    assert [b"cache_control" in line for line in lines] == [own] * 3


def test_progress_says_what_it_waits_for(provider: Provider) -> None:
    """On a terminal of 80 columns no line is longer than that, and rows at the provider show."""
    provider.sim.batch.fates = (Fate(to_end=5),)
    provider.rows(200)
    env, words = provider.environ, provider.words()
    code, shown, _ = on_a_terminal(env, provider.folder, *words, streams=("stderr",))
    text = shown.decode()
    assert code == 0, text
    assert "1 batch at the provider" in text
    bars = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()
    assert max(map(len, bars)) <= 80, max(bars, key=len)
