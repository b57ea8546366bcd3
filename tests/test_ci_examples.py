"""The CI jobs in `configs/`: every command they run does what the job is for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import LLMCTL
from tests.simulator.server import Simulator

CONFIGS = Path(__file__).parent.parent / "configs"
GITHUB, GITLAB = "ci-github-actions.yaml", "ci-gitlab.yaml"


def commands(name: str) -> list[str]:
    """The job's commands in order, but for the installation."""
    job: Any = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    if name == GITHUB:
        found = [step["run"] for step in job["jobs"]["cost"]["steps"] if "run" in step]
    else:
        only = job["llm-cost"]
        found = [*only["before_script"], *only["script"], *only["after_script"]]
    assert found[0] == "pip install llmctl"
    return found[1:]


@pytest.fixture
def shell(configured: dict[str, str], tmp_path: Path) -> Any:
    """Run a line as the job's shell would."""
    env = {
        **configured,
        "PATH": f"{LLMCTL.parent}:{os.environ['PATH']}",
        "LLMCTL_STATE_DIR": str(tmp_path / ".llmctl/state"),
        "LLMCTL_CACHE_DIR": str(tmp_path / ".llmctl/cache"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "CI_JOB_NAME": "llm-cost",
    }

    def run(line: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            env={**env, **more}, cwd=tmp_path, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip

    return run


def prompts(folder: Path, number: int, max_tokens: int) -> None:
    """The file that the jobs answer."""
    rows = [{"id": str(n), "prompt": f"say {n}", "max_tokens": max_tokens} for n in range(number)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_every_command_runs(name: str, shell: Any, tmp_path: Path, sim: Simulator) -> None:
    """Within its budgets the whole job passes, answers every row and leaves its summary."""
    prompts(tmp_path, 5, 50)
    for line in commands(name):
        done = shell(line)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert sim.billed.requests == 5
    summary = (tmp_path / ("summary.md" if name == GITHUB else "llm-cost.md")).read_text()
    assert "| gpt-5-mini |" in summary
    if name == GITLAB:
        assert (tmp_path / "llm-cost.csv").read_text().startswith("day,model,calls,")


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_a_batch_that_could_cost_too_much_stops_the_job(
    name: str, shell: Any, tmp_path: Path, sim: Simulator
) -> None:
    """The first command exits 3 before anything is sent."""
    prompts(tmp_path, 100, 50_000)
    done = shell(commands(name)[0])
    assert done.returncode == 3
    assert "above the budget of $5.00" in done.stderr
    assert sim.calls == []


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_a_month_that_cost_too_much_stops_the_job(name: str, shell: Any, tmp_path: Path) -> None:
    """Once the ledger has more than the month's budget the check exits 3."""
    lines = commands(name)
    prompts(tmp_path, 1, 50)
    config = tmp_path / "home/.config/llmctl/config.yaml"
    config.write_text(
        config.read_text().replace("{input: 1, output: 2}", "{input: 9e8, output: 2}")
    )
    answer = next(line for line in lines if " --tag " in line)
    check = next(line for line in lines if "cost check --budget 200" in line)
    assert shell(answer).returncode == 0
    done = shell(check)
    assert done.returncode == 3
    assert "exceeded" in done.stderr
