"""`on_overflow: {summarise: NAME}`, run as a process against providers on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.jsonl import read, write
from tests.conftest import KEY, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.server import Simulator

TEXT = "\n\n".join(
    f"Paragraph {n}: the pump {n} ran for {n} hours. It then stopped." for n in range(80)
)


@pytest.fixture
def other() -> Iterator[Simulator]:
    """The provider of the model that summarises."""
    with Simulator(reply=lambda _: "pumps ran") as simulator:
        yield simulator


Configured = Callable[..., dict[str, str]]


@pytest.fixture
def summarising(
    home: Path, environ: dict[str, str], sim: Simulator, other: Simulator
) -> Configured:
    """Configures `sim` with a window of 300 tokens and `short`, which summarises for it."""

    def make(more: str = "", short: str = "") -> dict[str, str]:
        configure(
            home,
            sim.base_url,
            "{env: SIM_KEY}",
            f"""    context: 300
    on_overflow: {{summarise: short}}
{more}
  short:
    provider: openai
    base_url: {other.base_url}
    model: gpt-5-nano
    context: 1200
    key: {{env: SIM_KEY}}
    price: {{input: 10, output: 20}}
{short}
""",
        )
        return {**environ, "SIM_KEY": KEY}

    return make


def test_a_prompt_that_is_too_long_is_summarised(
    summarising: Configured, run: Run, sim: Simulator, other: Simulator, tmp_path: Path, home: Path
) -> None:
    """Its chunks together are the text; the row says how many there were and what they cost, its
    cost includes that, each chunk has a call of its own on record, under the row's as its parent,
    and stderr says it once."""
    source = write(tmp_path / "in.jsonl", [{"id": "long", "prompt": TEXT, "max_tokens": 50}])
    done = run("batch", str(source), env=summarising())
    assert done.returncode == 0, done.stderr
    (row,) = read(tmp_path / "in.out.jsonl")
    chunks = row["summarised"]["chunks"]
    assert chunks == len(other.calls) > 1
    assert "".join(call.ask.last for call in other.calls if call.ask).count("hours") == 80
    assert sim.calls[0].prompt.count("pumps ran") == chunks
    calls = ledger(home)
    assert sorted(c["profile"] for c in calls) == ["short"] * chunks + ["sim"]
    assert {c["parent"] for c in calls} == {row["call_id"]}
    spent = {p: sum(c["cost_pico"] for c in calls if c["profile"] == p) for p in ("short", "sim")}
    assert row["summarised"]["cost_usd"] == pytest.approx(spent["short"] / 1e12)
    assert row["cost_usd"] == pytest.approx((spent["short"] + spent["sim"]) / 1e12)
    assert done.stderr.count("1 prompt was summarised to fit the model's window for $") == 1


def test_the_plan_names_what_summaries_add(
    summarising: Configured, run: Run, sim: Simulator, other: Simulator, tmp_path: Path
) -> None:
    """`--dry-run` counts the rows that would be summarised and prices it; nothing is sent."""
    rows = [{"id": "long", "prompt": TEXT, "max_tokens": 50}, {"id": "s", "prompt": "short"}]
    source = str(write(tmp_path / "in.jsonl", rows))
    env = summarising()
    done = run("batch", source, "--dry-run", "--json", env=env)
    made = json.loads(done.stdout)
    assert (made["to_send"], made["over_context"], made["summarised"]["rows"]) == (2, 0, 1)
    assert 0 < made["summarised"]["expected_usd"] < made["summarised"]["worst_case_usd"]
    assert made["worst_case_usd"] > made["summarised"]["worst_case_usd"]
    shown = run("batch", source, "--dry-run", env=env)
    assert "by short; at most $" in shown.stdout
    assert not sim.calls
    assert not other.calls


def test_the_same_chunks_are_free_the_second_time(
    summarising: Configured, run: Run, other: Simulator, sim: Simulator, tmp_path: Path
) -> None:
    """Another question that holds the same text pays for no chunk again."""
    env = summarising()
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": TEXT, "max_tokens": 50}])
    run("batch", str(source), env=env)
    before = len(other.calls)
    run("batch", str(source), "-o", str(tmp_path / "two.jsonl"), env=env)
    (row,) = read(tmp_path / "two.jsonl")
    assert (len(other.calls), len(sim.calls)) == (before, 2)
    assert row["summarised"] == {"chunks": before, "cost_usd": 0}


def test_a_budget_that_does_not_hold_the_chunks(
    summarising: Configured, run: Run, other: Simulator, sim: Simulator, tmp_path: Path
) -> None:
    """The row fails as `budget`, exit 3; no chunk is sent."""
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": TEXT, "max_tokens": 50}])
    done = run("batch", str(source), "--budget", "0.001", env=summarising())
    assert done.returncode == 3, done.stderr
    (row,) = read(tmp_path / "in.out.errors.jsonl")
    assert row["error"]["type"] == "budget"
    assert not other.calls
    assert not sim.calls


def test_a_chunk_that_fails_fails_the_row(
    summarising: Configured, run: Run, other: Simulator, sim: Simulator, tmp_path: Path
) -> None:
    """Its error names who was to summarise; nothing is sent to the model itself."""
    other.fault = errors.status(400)
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": TEXT, "max_tokens": 50}])
    assert run("batch", str(source), env=summarising()).returncode == 1
    (row,) = read(tmp_path / "in.out.errors.jsonl")
    assert row["error"]["message"].startswith("no summary of a part by short: ")
    assert row["attempts"] == 0
    assert not sim.calls


def test_summaries_that_stay_too_long(
    summarising: Configured, run: Run, other: Simulator, sim: Simulator, tmp_path: Path
) -> None:
    """A model that repeats instead of shortening is asked a bounded number of times, and the row
    says what that cost."""
    other.reply = lambda call: "pump " * int((call.body or {})["max_completion_tokens"] * 0.7)
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": TEXT, "max_tokens": 50}])
    assert run("batch", str(source), env=summarising()).returncode == 1
    (row,) = read(tmp_path / "in.out.errors.jsonl")
    assert row["error"]["type"] == "context_length"
    assert "after 4 rounds" in row["error"]["message"]
    assert row["cost_usd"] == row["summarised"]["cost_usd"] > 0
    assert not sim.calls


def test_only_masked_text_is_summarised(
    summarising: Configured, run: Run, other: Simulator, sim: Simulator, tmp_path: Path
) -> None:
    """An address in the text reaches neither provider, and is back in the answer."""
    other.reply = lambda call: " ".join(
        ["pumps", *re.findall(r"\[[^\]]*\]", call.ask.last if call.ask else "")]
    )
    text = TEXT.replace("Paragraph 7:", "Write to ada@example.com now:")
    source = write(tmp_path / "in.jsonl", [{"id": "a", "prompt": text, "max_tokens": 50}])
    done = run("batch", str(source), env=summarising("    privacy: {mask: [email]}"))
    assert done.returncode == 0, done.stderr
    assert not any("ada@" in call.prompt for call in [*other.calls, *sim.calls])
    (row,) = read(tmp_path / "in.out.jsonl")
    assert "ada@example.com" in row["text"]


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("{summarise: shrot}", 'names no profile: "shrot"; did you mean "short"?'),
        ("{summarize: short}", "unknown key"),
        ("shorten", "must be reject, truncate, fallback or {summarise: PROFILE}"),
    ],
)
def test_what_the_configuration_may_not_say(
    summarising: Configured, run: Run, home: Path, said: str, wrong: str
) -> None:
    """It is named with file and line."""
    env = summarising()
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("{summarise: short}", said))
    done = run("ask", "hello", env=env)
    assert done.returncode == 2
    assert "config.yaml:12: profiles.sim.on_overflow" in done.stderr
    assert wrong in done.stderr
