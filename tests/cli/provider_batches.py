"""`llmctl batch --engine provider` against the simulator: the command, its files, its money."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.cli.jsonl import prompts, read, write
from tests.conftest import LLMCTL, Run
from tests.ledgers import calls_of
from tests.simulator.batches import Batches, Fate
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

HAND = Fate(progress="hand")
IN, OUT = Decimal("0.125e-6"), Decimal("1e-6")
"""Dollars for a token of gpt-5-mini in a batch."""
MODELS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "openrouter": "openai/gpt-5-mini",
    "gemini": "gemini-2.5-flash",
    "mistral": "mistral-large-latest",
    "groq": "llama-3.3-70b-versatile",
}


def bills(output: int = 100) -> Any:
    """A model that uses ten tokens in, whatever it is asked, and so many out."""

    def reply(call: Call) -> Reply:
        return Reply(f"echo: {call.ask.last if call.ask else ''}", usage=Usage(10, output))

    return reply


@dataclass
class Provider:
    """A home folder whose profile `sim` has the simulator's batches, and commands run there."""

    sim: Simulator
    run: Run
    home: Path
    folder: Path
    environ: Mapping[str, str]

    def configure(
        self,
        adapter: str = "openai",
        more: str = "",
        *,
        key: str = "{env: SIM_KEY}",
        price: str = "{as: openai/gpt-5-mini}",
        attempts: int = 5,
        tail: str = "",
    ) -> None:
        """Write the configuration: `more` are further lines of the profile, `tail` of the file."""
        folder = self.home / ".config/llmctl"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(
            f"""
default: sim
profiles:
  sim:
    provider: {adapter}
    base_url: {self.sim.origin}{BASES[adapter]}
    model: {MODELS[adapter]}
    key: {key}
    price: {price}
    params: {{max_tokens: 100}}
    retry: {{max_wait: 0.01, attempts: {attempts}}}
    batch: {{poll: 0.1}}
{more}
{tail}
""",
            encoding="utf-8",
        )

    @property
    def batches(self) -> Batches:
        """The provider's."""
        return self.sim.batches

    def rows(self, rows: int | list[Any] = 10) -> None:
        """Write the input, `in.jsonl`: `say 0`, `say 1`, … or these."""
        write(self.folder / "in.jsonl", prompts(rows) if isinstance(rows, int) else rows)

    def words(self, *arguments: str) -> tuple[str, ...]:
        """The command's words."""
        return ("batch", "in.jsonl", "--engine", "provider", *arguments)

    def batch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it, to its end."""
        return self.run(*self.words(*arguments), env=self.environ, cwd=self.folder)

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `llmctl batch in.jsonl` without the provider's batches."""
        return self.run("batch", "in.jsonl", *arguments, env=self.environ, cwd=self.folder)

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The command, running; its stderr is a pipe."""
        with subprocess.Popen(
            [LLMCTL, *self.words(*arguments)],
            env=dict(self.environ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """The rows of the output by their ids; one that stands twice is a failure."""
        return by_id(read(self.folder / "in.out.jsonl"))

    @property
    def errors(self) -> dict[str, dict[str, Any]]:
        """The error rows by their ids; one that stands twice is a failure."""
        return by_id(read(self.folder / "in.out.errors.jsonl"))

    @property
    def held(self) -> tuple[int, Decimal | int]:
        """How many calls the ledger holds, and their dollars."""
        path = self.home / ".local/state/llmctl/ledger.db"
        with closing(sqlite3.connect(path)) as db:
            found = db.execute("SELECT cost_pico FROM holds").fetchall()
        return len(found), sum((Decimal(pico) for (pico,) in found), Decimal(0)) / 10**12

    @property
    def settled(self) -> Decimal | int:
        """Dollars that all calls in the ledger cost."""
        return sum((Decimal(row["cost_pico"]) for row in calls_of(self.home)), Decimal(0)) / 10**12

    @property
    def bill(self) -> Decimal:
        """Dollars on the provider's bill for batches."""
        billed = self.batches.billed
        return IN * billed.input_tokens + OUT * billed.output_tokens

    def paths(self) -> list[str]:
        """What the provider was asked, each as `POST /v1/batches`."""
        return [f"{call.method} {call.path}" for call in self.sim.calls]


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows by their ids."""
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The summary that `--json` prints."""
    found: dict[str, Any] = json.loads(done.stdout, parse_float=Decimal)
    return found
