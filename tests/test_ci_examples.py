"""The CI jobs in `configs/`: every command they run does what the job is for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.simulator.oidc import serving, subject
from tests.simulator.server import Simulator

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
GITHUB, GITLAB = "ci-github-actions.yaml", "ci-gitlab.yaml"
KEYLESS = ("ci-github-keyless.yaml", "ci-gitlab-keyless.yaml")


def job(name: str) -> Any:
    """The only job of a file."""
    text: Any = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    (only,) = text.get("jobs", text).values()
    return only


def commands(name: str) -> list[str]:
    """The job's commands in order; the first installs."""
    only = job(name)
    if "steps" in only:
        return [step["run"] for step in only["steps"] if "run" in step]
    return [*only["before_script"], *only["script"], *only.get("after_script", ())]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new environment in which the jobs' install command was run, as it stands,
    beside this checkout as `tools/llmctl`."""
    folder = tmp_path_factory.mktemp("job")
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    if not tracked:
        pytest.skip("not a git checkout: which files are the project's is not known")
    for file in filter(None, tracked.split("\0")):
        if (ROOT / file).is_file():
            (folder / "tools/llmctl" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / "tools/llmctl" / file)
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv/bin"
    (install,) = {commands(name)[0] for name in (GITHUB, GITLAB, *KEYLESS)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", install], cwd=folder, capture_output=True, text=True,
        # What commands import is compiled as they do, not all that is installed.
        env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PIP_NO_COMPILE": "1"},
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return scripts


@pytest.fixture
def shell(configured: dict[str, str], tmp_path: Path, installed: Path) -> Any:
    """Run a line as the job's shell would, after its installation."""
    env = {
        **configured,
        "PATH": f"{installed}:{os.environ['PATH']}",
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
    """A15: within its budgets the whole job passes, answers every row and leaves its summary."""
    prompts(tmp_path, 5, 50)
    for line in commands(name)[1:]:
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
    done = shell(commands(name)[1])
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


@pytest.mark.parametrize("name", [GITHUB, GITLAB])
def test_the_plan_needs_no_key(
    name: str, environ: dict[str, str], installed: Path, tmp_path: Path
) -> None:
    """Case 35: with the job's own variables, no configuration and no key the plan exits 0."""
    prompts(tmp_path, 5, 50)
    given = job(name).get("env") or job(name)["variables"]
    named = {k: v for k, v in given.items() if k.startswith("LLMCTL_") and "$" not in v}
    env = {**environ, **named, "PATH": f"{installed}:{environ['PATH']}"}
    plan = ["bash", "-c", commands(name)[1]]
    done = subprocess.run(plan, env=env, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, b"to send" in done.stdout) == (0, True), done.stderr


def test_one_ledger_holds_all_that_was_spent() -> None:
    """Case 35: only runs of the default branch spend, one at a time, and they save the ledger also
    when they failed; others read that one and save none of their own."""
    steps = {step.get("uses", step.get("run")): step for step in job(GITHUB)["steps"]}
    assert "actions/cache/restore@v4" in steps
    only = "github.event_name == 'schedule'"
    assert steps["actions/cache/save@v4"]["if"] == f"always() && {only}"
    assert all(step["if"] == only for run, step in steps.items() if " --tag " in run)
    assert "actions/cache@v4" not in steps
    lab = job(GITLAB)
    assert lab["rules"] == [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
    assert (lab["cache"]["when"], "resource_group" in lab) == ("always", True)


@pytest.mark.parametrize("lacking", ["", "permission", "audience"])
@pytest.mark.parametrize("name", KEYLESS)
def test_a_job_without_a_key(
    name: str, lacking: str, environ: dict[str, str], installed: Path, tmp_path: Path,
    sim: Simulator,
) -> None:  # fmt: skip
    """The job answers every row with what its own OIDC token is exchanged for. Without the
    permission to have one, or for another audience, it ends with exit 4 and nothing is sent."""
    only, folder = job(name), tmp_path / "ci"
    prompts(tmp_path, 20, 50)
    with serving() as server:
        sim.keys = server.issued
        place = f"    provider: openai\n    base_url: {sim.base_url}\n"
        text = (CONFIGS / "keyless.yaml").read_text(encoding="utf-8")
        text = text.replace("    provider: openai\n", place + "    price: {input: 1, output: 2}\n")
        folder.mkdir()
        (folder / "llmctl.yaml").write_text(
            text.replace(
                "      oidc:\n", f"      oidc:\n        url: {server.origin}/oauth/token\n"
            )
        )
        audience = "https://other.example" if lacking == "audience" else "https://api.openai.com/v1"
        server.subjects.add(subject(audience))
        env = {**environ, "PATH": f"{installed}:{environ['PATH']}", "CI_JOB_NAME": "llm-keyless"}
        if "env" in only:
            env |= {"GITHUB_ACTIONS": "true"} | only["env"]
            if only["permissions"]["id-token"] == "write" and lacking != "permission":
                env |= server.github
        else:
            env |= only["variables"]
            for variable, of in only["id_tokens"].items() if lacking != "permission" else ():
                env[variable] = subject(of["aud"])
        (line,) = commands(name)[1:]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, sim.billed.requests) == ((4, 0) if lacking else (0, 20)), done.stderr
    if lacking == "permission":
        assert ("id-token: write" if "env" in only else "id_tokens:") in done.stderr


@pytest.mark.parametrize("name", KEYLESS)
def test_no_key_is_named(name: str) -> None:
    """Neither job nor profile of a keyless example names a secret."""
    for file in (name, "keyless.yaml"):
        said = (CONFIGS / file).read_text(encoding="utf-8")
        assert not re.search(r"secrets\.|_API_KEY|^ +key:", said, re.MULTILINE)


def test_nothing_installs_the_package_of_a_stranger() -> None:
    """No file of the project installs by the bare name `llmctl`, which is a stranger's on PyPI."""
    found = subprocess.run(
        ["git", "grep", "-nE", r"pip3? install[^'\"]*['\" ]llmctl(\[|['\" `]|$)"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout == ""
