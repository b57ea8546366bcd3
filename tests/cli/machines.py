"""Machines of tests: home folders of their own, with one provider and one Redis."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import KEY, LLMCTL
from tests.simulator.server import Simulator

PATIENCE = 60.0  # seconds that a batch of a test may take on a busy machine


@dataclass
class Machine:
    """A home folder whose profile `sim` points at the provider."""

    home: Path

    @property
    def environ(self) -> dict[str, str]:
        """A fresh login's, with the key."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "HOME": str(self.home), "SIM_KEY": KEY, "PYTHONWARNINGS": "error"}

    def configure(
        self, sim: Simulator, coordinator: str, profile: str = "", more: str = ""
    ) -> None:
        """Write the configuration: lines of the profile, and what follows it."""
        file = self.home / ".config/llmctl/config.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"    {line.strip()}\n" for line in profile.strip().splitlines())
        file.write_text(
            f"coordinator: {coordinator}\ndefault: sim\nprofiles:\n  sim:\n"
            f"    provider: openai\n    base_url: {sim.base_url}\n    model: gpt-5-mini\n"
            f"    key: {{env: SIM_KEY}}\n{lines}{more}",
            encoding="utf-8",
        )

    def write(self, prompts: list[str], **fields: Any) -> Path:
        """The input of a batch."""
        rows = [{"id": f"r{n}", "prompt": text, **fields} for n, text in enumerate(prompts)]
        path = self.home / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that runs."""
        return subprocess.Popen(
            [LLMCTL, *arguments],
            env=self.environ,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command that has ended; `more` are variables."""
        return subprocess.run(
            [LLMCTL, *arguments],
            env={**self.environ, **more},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def answered(self) -> int:
        """Lines of the batch's output."""
        return len((self.home / "in.out.jsonl").read_text(encoding="utf-8").splitlines())


def machines(folder: Path, number: int) -> list[Machine]:
    """So many of them."""
    made = [Machine(folder / f"machine{n}") for n in range(number)]
    for machine in made:
        machine.home.mkdir()
    return made


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it has said."""
    out, said = process.communicate(timeout=PATIENCE)
    return process.returncode, out + said
