"""The ledger equals the provider's bill: every provider's usage, plain and streamed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmctl.providers.registry import LOCAL, PRESETS
from llmctl.storage.ledger_rows import from_pico
from tests.conftest import KEY, Run
from tests.ledgers import calls_of
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.faults import Disconnect
from tests.simulator.http1 import Answer
from tests.simulator.reply import Reply, Usage
from tests.simulator.scripts import fail_first
from tests.simulator.server import Simulator
from tests.simulator.wires import openrouter
from tests.simulator.wires.registry import BASES
from tests.simulator.wires.wire import Wire

WIRES = [
    (name, api)
    for name, preset in PRESETS.items()
    if name != LOCAL and name in BASES
    for api in PRESETS[preset.adapter].codecs
]
READ, WROTE, CACHED, WRITTEN = (Decimal(p) for p in ("3.07", "14.93", "0.31", "3.77"))

USAGES = [
    Usage(1000, 100),
    Usage(1000, 100, cached=400),
    Usage(1000, 100, reasoning=60),
    Usage(1000, 100, written=300),
    Usage(2345, 678, cached=1024, reasoning=555, written=111),
    Usage(1, 1),
]
"""Each provider reports of them what its own format can say."""


def said(call: Call) -> Reply:
    """An answer with the usage that the prompt's last word names."""
    return Reply("answer", usage=USAGES[int(call.prompt.split()[-1])])


@pytest.fixture
def pointed(
    environ: dict[str, str], sim: Simulator, provider: str, api: str, home: Path
) -> dict[str, str]:
    """A profile of the provider, at the simulator, with prices that no rounding forgives."""
    folder = home / ".config/llmctl"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"""
default: p
profiles:
  p:
    provider: {provider}
    base_url: {sim.origin}{BASES[provider]}
    {f"api: {api}" if api != "chat" else ""}
    model: some-model
    key: {{env: SIM_KEY}}
    retry: {{max_wait: 0.01}}
    params: {{max_tokens: 1000}}
    price: {{input: {READ}, output: {WROTE}, cached_input: {CACHED}, cache_write: {WRITTEN}}}
"""
    )
    sim.reply = said
    return {**environ, "SIM_KEY": KEY}


def bill(sim: Simulator, provider: str) -> Decimal:
    """What the provider charges for all that it has billed: what it says itself, where it does,
    else by the profile's prices. A format without a word for tokens written to its cache charges
    them as any input."""
    total = Decimal(0)
    for call in sim.calls:
        if (usage := call.billed) is None:
            continue
        if provider == "openrouter":
            total += openrouter.cost(usage) * 1_000_000
            continue
        cached, written = visible(usage, provider)
        total += (usage.input - cached - written) * READ + cached * CACHED + written * WRITTEN
        total += usage.output * WROTE
    return total / 1_000_000


def visible(usage: Usage, provider: str) -> tuple[int, int]:
    """Cached and cache-written input, as far as the provider's usage shows them."""
    tell = {"anthropic", "openai", "bedrock", "vertex-claude"}
    return usage.cached, usage.written if provider in tell else 0


def settled(rows: list[sqlite3.Row]) -> Decimal:
    """What the ledger says was charged."""
    total = from_pico(sum(row["cost_pico"] for row in rows))
    assert total is not None
    return total


def rows_of(path: Path, prompts: Sequence[str]) -> Path:
    """A batch file with a row for each prompt."""
    rows = [{"id": str(n), "prompt": prompt} for n, prompt in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True, kw_only=True)
class Beside(Fault):
    """A billed answer with an error in its place, or beside it; the usage stays."""

    status: int = 200
    only: bool = False

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002 - the seam's
        """Add it."""
        body = json.loads(b"".join(answer.pieces))
        if self.only:
            body = {name: value for name, value in body.items() if name.startswith("usage")}
        else:
            body["error"] = {"message": "x", "code": self.status if self.status > 200 else 500}
        return replace(answer, status=self.status, pieces=(json.dumps(body).encode(),))


FAILURES = [Beside(), Beside(status=429), Beside(status=500), Beside(status=504), Beside(only=True)]


@pytest.mark.parametrize(("provider", "api"), WIRES)
def test_a_batch_settles_what_was_billed(
    run: Run, pointed: dict[str, str], sim: Simulator, provider: str, api: str, tmp_path: Path,
    home: Path,
) -> None:  # fmt: skip
    """Plain answers: every token of every kind, and the sum to the last picodollar.

    Case 51: also a usage beside an error, whatever its status, or without an answer at all. The row
    that a second attempt answers costs both, and nothing is in doubt.
    """
    sim.fault = lambda call: (
        FAILURES[int(call.prompt.split()[-1])]
        if call.attempt == 1 and "fails" in call.prompt
        else None
    )
    prompts = [f"usage {n}" for n in range(len(USAGES))]
    prompts += [f"fails, usage {n}" for n in range(len(FAILURES))]
    done = run("batch", str(rows_of(tmp_path / "in.jsonl", prompts)), "--json", env=pointed)
    assert done.returncode == 0, done.stderr
    rows = calls_of(home)
    assert len(rows) == len(prompts)
    assert len(sim.calls) == sim.billed.requests == len(prompts) + len(FAILURES)
    assert sum(r["input_tokens"] for r in rows) == sim.billed.input_tokens
    assert sum(r["output_tokens"] for r in rows) == sim.billed.output_tokens
    assert [row["uncertain"] for row in rows] == [0] * len(rows)
    assert settled(rows) == bill(sim, provider)
    summary = json.loads(done.stdout, parse_float=Decimal)
    assert summary["cost_usd"] == settled(rows)
    if (provider, api) == WIRES[0]:  # a report reads the ledger, whoever billed
        said = json.loads(run("cost", "report", "--json", env=pointed).stdout, parse_float=Decimal)
        assert said["total"]["cost_usd"] == settled(rows)
        assert said["total"]["input_tokens"] == sim.billed.input_tokens


@pytest.mark.parametrize(("provider", "api"), WIRES)
def test_a_stream_settles_what_was_billed(
    run: Run, pointed: dict[str, str], sim: Simulator, provider: str, home: Path
) -> None:
    """A streamed answer reports the same usage at its end, of every kind."""
    every_kind = next(n for n, usage in enumerate(USAGES) if usage.written and usage.cached)
    done = run("ask", "--stream", "--no-history", f"usage {every_kind}", env=pointed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "answer", "")
    rows = calls_of(home)
    streamed = [call.body for call in sim.calls if call.body is not None]
    assert len(streamed) == 1
    assert streamed[0].get("stream", True)
    assert not any(row["estimated"] for row in rows)
    assert sum(r["output_tokens"] for r in rows) == sim.billed.output_tokens
    assert settled(rows) == bill(sim, provider)


@pytest.mark.parametrize(("provider", "api"), [("openai", "chat")])
def test_what_was_billed_is_settled_or_in_doubt(
    run: Run, pointed: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Connections that break after the bill: the ledger has it as charged, or as what may have
    been billed; together they are never less than the bill."""
    broken: Fault = Disconnect()
    sim.fault = fail_first(4, broken)
    prompts = [f"usage {n}" for n in range(len(USAGES))]
    source = rows_of(tmp_path / "in.jsonl", prompts)
    run("batch", str(source), "--concurrency", "1", env=pointed)
    said: Any = json.loads(run("cost", "report", "--json", env=pointed).stdout, parse_float=Decimal)
    total = said["total"]
    assert total["uncertain_attempts"] > 0
    assert total["cost_usd"] + total["may_have_been_billed_usd"] >= bill(sim, "openai")
    assert total["cost_usd"] <= bill(sim, "openai")
