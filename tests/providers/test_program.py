"""The program itself at every provider: flags in, the provider's own request out, and back."""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, Run
from tests.simulator import errors
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator
from tests.simulator.wires.openrouter import cost
from tests.simulator.wires.registry import BASES

PROFILES = (*sorted(BASES), "responses")
BILLED = Usage(input=1000, output=70, cached=600, reasoning=50)
SILENT_ON_REASONING = ("cohere", "mistral", "bedrock")


@pytest.fixture
def everywhere(home: Path, environ: dict[str, str], sim: Simulator) -> dict[str, str]:
    """A profile for every provider, and one for OpenAI's other interface, at the simulator."""
    profiles: dict[str, Any] = {}
    for name in PROFILES:
        provider = "openai" if name == "responses" else name
        profiles[name] = {
            "provider": provider,
            "base_url": sim.origin + BASES[provider],
            "model": "sim-small",
            "key": {"env": "SIM_KEY"},
            "retry": {"attempts": 1},
        }
    profiles["responses"]["api"] = "responses"
    folder = home / ".config" / "llmctl"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps({"profiles": profiles}), encoding="utf-8")
    return {**environ, "SIM_KEY": KEY}


@pytest.mark.parametrize("name", PROFILES)
def test_a_row(run: Run, everywhere: dict[str, str], sim: Simulator, home: Path, name: str) -> None:
    """A streamed and a plain answer are the same row, and the ledger holds what was billed."""
    sim.reply = lambda _: Reply("It is 🦜.", usage=BILLED)
    arguments = ("ask", "what?", "-p", name, "-s", "be brief", "--max-tokens", "80", "--no-cache")
    plain = run(*arguments, "--json", env=everywhere)
    streamed = run(*arguments, "--stream", env=everywhere)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert (streamed.returncode, streamed.stdout) == (0, "It is 🦜.")
    row = json.loads(plain.stdout)
    assert (row["text"], row["finish_reason"], row["profile"]) == ("It is 🦜.", "stop", name)
    assert row["usage"] == {
        "input_tokens": 1000,
        "output_tokens": 70,
        "cached_input_tokens": 600,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0 if name in SILENT_ON_REASONING else 50,
        "estimated": False,
    }
    for call in sim.calls:
        assert call.ask is not None
        assert call.ask.turns == (("system", "be brief"), ("user", "what?"))
        assert call.ask.max_tokens == 80
    database = sqlite3.connect(home / ".local/state/llmctl/ledger.db")
    kept = database.execute("SELECT sum(input_tokens), sum(output_tokens) FROM calls").fetchone()
    database.close()
    assert kept == (sim.billed.input_tokens, sim.billed.output_tokens) == (2000, 140)


def test_openrouters_own_price(run: Run, everywhere: dict[str, str], sim: Simulator) -> None:
    """What OpenRouter says an answer cost is what it cost, plain and streamed."""
    sim.reply = lambda _: Reply("yes", usage=BILLED)
    for stream in ("--no-stream", "--stream"):
        done = run("ask", "x", "-p", "openrouter", "--no-cache", "--json", stream, env=everywhere)
        assert Decimal(str(json.loads(done.stdout)["cost_usd"])) == cost(BILLED)


def test_a_gateways_timeout(
    run: Run, everywhere: dict[str, str], sim: Simulator, home: Path
) -> None:
    """Case 18: it may have been billed, so it is repeated once, not to the end of the attempts, and
    the last request stays on record as unknown, beside the one before."""
    path = home / ".config/llmctl/config.yaml"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["profiles"]["openai"]["retry"] = {"attempts": 4, "ambiguous_attempts": 1}
    path.write_text(json.dumps(settings), encoding="utf-8")
    sim.fault, sim.headers = errors.status(504, "late"), {"retry-after-ms": "1"}
    assert run("ask", "x", "-p", "openai", env=everywhere).returncode == 5
    database = sqlite3.connect(home / ".local/state/llmctl/ledger.db")
    kept = database.execute("SELECT status, uncertain FROM calls").fetchall()
    database.close()
    assert (len(sim.calls), kept) == (2, [("unknown", 1)])


@pytest.mark.parametrize("name", ["anthropic", "cohere", "gemini"])
def test_a_batch_of_openais_lines(
    run: Run, everywhere: dict[str, str], sim: Simulator, tmp_path: Path, name: str
) -> None:
    """An OpenAI batch line is translated where the provider speaks another language; a field that
    cannot be is a row error that names it."""
    rows = []
    for number, more in enumerate(({}, {"logit_bias": {"50256": -100}})):
        turns = [{"role": "user", "content": f"row {number}"}]
        body = {"model": "sim-small", "messages": turns, "max_tokens": 9, **more}
        line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
        rows.append(json.dumps(line | {"body": body}))
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = run("batch", "in.jsonl", "-p", name, "-q", env=everywhere)
    assert done.returncode == 1
    (row,) = map(json.loads, (tmp_path / "in.out.jsonl").read_text().splitlines())
    (error,) = map(json.loads, (tmp_path / "in.out.errors.jsonl").read_text().splitlines())
    assert (row["id"], row["text"]) == ("r0", "echo: row 0")
    assert (error["id"], error["error"]["type"]) == ("r1", "invalid_request")
    assert "logit_bias" in error["error"]["message"]
    assert len(sim.calls) == 1
