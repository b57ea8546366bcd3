"""`llmctl limits pull`, run as a process: the difference, the file, and what is left alone."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import on_a_terminal
from tests.conftest import KEY, Run
from tests.simulator.bills import PROJECT, Bills
from tests.simulator.errors import status
from tests.simulator.server import Simulator

ADMIN = "sk-admin-canary-7777"
TEXT = """\
# my own
default: sim
profiles:
  sim:   # here
    provider: openai
    base_url: URL/v1
    model: gpt-5-mini-2026-05-01   # dated
    key: {env: SIM_KEY}
    admin_key: {env: SIM_ADMIN}
    limits:
      concurrency: 4   # mine
      rpm: 60
      models: {gpt-5: {rpm: 1}, of-nobody: {rpm: 2}}
    headers: {openai-project: proj_sim}

  claude:
    provider: anthropic
    base_url: URL/anthropic/v1
    model: claude-a
    key: {env: SIM_KEY}
    admin_key: {env: SIM_ADMIN}
"""


def openai_limit(model: str, rpm: int, tpm: int, rpd: int | None = None) -> dict[str, Any]:
    """A row of OpenAI's list."""
    found = {"model": model, "max_requests_per_1_minute": rpm, "max_tokens_per_1_minute": tpm}
    return {**found, "max_requests_per_1_day": rpd}


@pytest.fixture
def bills(sim: Simulator) -> Bills:
    """The provider tells its limits."""
    made = Bills(key=ADMIN)
    sim.bills = made
    made.limits[:] = [
        openai_limit("o3", 1, 1),
        openai_limit("gpt-5", 5000, 800_000),
        openai_limit("gpt-5-mini", 500, 200_000, 10_000),
    ]
    return made


@pytest.fixture
def config(home: Path, sim: Simulator, bills: Bills) -> Path:  # noqa: ARG001 - the same provider
    """The user's file."""
    folder = home / ".config/llmctl"
    folder.mkdir(parents=True)
    path = folder / "config.yaml"
    path.write_text(TEXT.replace("URL", sim.origin))
    path.chmod(0o640)
    return path


@pytest.fixture
def env(environ: dict[str, str]) -> dict[str, str]:
    """The keys are in the environment; what else is said there is of one run."""
    return {**environ, "SIM_KEY": KEY, "SIM_ADMIN": ADMIN, "LLMCTL_RPM": "7"}


def lines(diff: str) -> list[str]:
    """What a difference takes away and adds."""
    body = diff.splitlines()[2:]
    return [line for line in body if line[:1] in "+-"]


WANTED = [
    "-      rpm: 60",
    "-      models: {gpt-5: {rpm: 1}, of-nobody: {rpm: 2}}",
    "+      rpm: 500",
    "+      models: {gpt-5: {rpm: 5000, tpm: 800000}, of-nobody: {rpm: 2}}",
    "+      tpm: 200000",
    "+      rpd: 10000",
]


def test_the_difference_is_shown_and_nothing_written(
    run: Run, env: Mapping[str, str], config: Path
) -> None:
    """Without a terminal and --yes: of the profile's model, by its undated name, and of the models
    that the profile names."""
    before = config.read_bytes()
    done = run("limits", "pull", env=env)
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout) == WANTED
    assert "nothing was written; --yes writes it" in done.stderr
    assert config.read_bytes() == before


def test_yes_writes_it(run: Run, env: Mapping[str, str], config: Path) -> None:
    """Into the file that was shown, with its mode; the settings are the provider's, and again there
    is nothing to do."""
    before = config.read_text()
    done = run("limits", "pull", "--yes", "--json", env=env)
    said = json.loads(done.stdout)
    assert (said["written"], said["file"], lines(said["diff"])) == (True, str(config), WANTED)
    assert said["limits"] == {
        "rpm": 500,
        "tpm": 200_000,
        "rpd": 10_000,
        "models.gpt-5.rpm": 5000,
        "models.gpt-5.tpm": 800_000,
    }
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert [line for line in before.splitlines() if "rpm" not in line] == [
        line
        for line in config.read_text().splitlines()
        if not any(name in line for name in ("rpm", "tpm", "rpd"))
    ]
    shown = run("profiles", "show", "sim", "--json", env={**env, "LLMCTL_RPM": ""})
    assert json.loads(shown.stdout)["limits"]["rpm"] == 500
    again = run("limits", "pull", "--yes", env=env)
    assert (again.returncode, "already" in again.stdout) == (0, True)
    assert [path.name for path in config.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("", False)])
def test_a_person_is_asked(
    env: Mapping[str, str],
    config: Path,
    home: Path,
    answer: str,
    written: bool,  # noqa: FBT001
) -> None:
    """Once it is shown; Enter alone is no."""
    before = config.read_bytes()
    typed, words = f"{answer}\n".encode(), ("limits", "pull")
    code, shown, _ = on_a_terminal(env, home, *words, typed=typed, after=b"[y/N]")
    assert (code, shown.index(b"rpm: 500") < shown.index(b"[y/N]")) == (0, True)
    assert (config.read_bytes() != before) is written


def test_anthropic(run: Run, env: Mapping[str, str], config: Path, bills: Bills) -> None:
    """Input tokens are the limit of tokens; that of output is said."""
    bills.limits[:] = [
        {
            "models": ["claude-a", "claude-b"],
            "limits": [
                {"type": "requests_per_minute", "value": 50},
                {"type": "input_tokens_per_minute", "value": 30_000},
                {"type": "output_tokens_per_minute", "value": 8000},
            ],
        }
    ]
    done = run("limits", "pull", "-p", "claude", "--yes", env=env)
    assert lines(done.stdout.partition("claude-a has")[0]) == ["+    limits: {rpm: 50, tpm: 30000}"]
    assert "output tokens, too, 8,000 a minute" in done.stdout
    assert "limits: {rpm: 50, tpm: 30000}" in config.read_text()


def test_a_built_in_profile_gets_an_entry(
    run: Run, env: Mapping[str, str], config: Path, sim: Simulator
) -> None:
    """Where the file has none of it."""
    text = f"profiles:\n  openai:\n    base_url: {sim.base_url}\n    model: gpt-5-mini\n"
    config.write_text(text)
    own = "    admin_key: {env: SIM_ADMIN}\n    headers: {openai-project: proj_sim}\n"
    named = config.with_name("named.yaml")
    named.write_text(config.read_text() + own)
    done = run("limits", "pull", "-p", "openai", "--yes", "--config", str(named), env=env)
    assert done.returncode == 0, done.stderr
    assert named.read_text() == config.read_text() + own + (
        "    limits: {rpm: 500, tpm: 200000, rpd: 10000}\n"
    )


def test_what_cannot_be_edited_is_said_to_be_written_by_hand(
    run: Run, env: Mapping[str, str], config: Path
) -> None:
    """A section that another profile repeats; the file stays."""
    text = config.read_text().replace("limits:\n", "limits: &l\n")
    config.write_text(text + "    limits: *l\n")
    before = config.read_bytes()
    done = run("limits", "pull", "--yes", env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is left as it is" in done.stderr
    assert "    limits: {rpm: 500, tpm: 200000, rpd: 10000" in done.stderr
    assert config.read_bytes() == before


def test_a_profile_of_a_projects_file_is_not_written(
    run: Run, env: Mapping[str, str], config: Path, tmp_path: Path
) -> None:
    """Another byte of that would revoke its trust; the user's own file does not have it."""
    (tmp_path / "repo/.git").mkdir(parents=True)
    project = tmp_path / "repo/llmctl.yaml"
    project.write_text("profiles:\n  ours: {extends: sim, params: {temperature: 0.5}}\n")
    assert run("profiles", "trust", env=env, cwd=project.parent).returncode == 0
    before = config.read_bytes()
    done = run("limits", "pull", "-p", "ours", "--yes", env=env, cwd=project.parent)
    assert (done.returncode, config.read_bytes()) == (2, before)
    assert "the profile ours is not in it" in done.stderr


@pytest.mark.parametrize(
    ("change", "words", "code", "said"),
    [
        (("", ""), ("-p", "groq"), 2, "groq does not tell its limits"),
        (("openai-project", "x-project"), (), 2, "set OPENAI_PROJECT_ID to its id"),
        (("gpt-5-mini-2026-05-01", "gpt-7"), (), 2, "tells no limit of gpt-7; did you mean"),
        (("{env: SIM_ADMIN}", "{env: NOT_SET}"), (), 4, "$NOT_SET is not set"),
    ],
)
def test_what_is_missing_is_named(
    run: Run,
    env: Mapping[str, str],
    config: Path,
    change: tuple[str, str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    """And the file stays."""
    config.write_text(config.read_text().replace(*change))
    before = config.read_bytes()
    done = run("limits", "pull", "--yes", *words, env=env)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert config.read_bytes() == before


def test_a_refused_key_is_an_error(
    run: Run, env: Mapping[str, str], config: Path, bills: Bills
) -> None:
    """Exit 4, and which key it was."""
    bills.refusals.append(status(403))
    done = run("limits", "pull", env=env)
    assert (done.returncode, "the admin key of $SIM_ADMIN is refused" in done.stderr) == (4, True)
    assert config.exists()
    assert PROJECT not in done.stdout


def test_no_admin_key_at_an_address_of_ones_own(run: Run, configured: dict[str, str]) -> None:
    """A variable that is not read at that address is not what the error asks for."""
    done = run("limits", "pull", env={**configured, "OPENAI_ADMIN_KEY": ADMIN})
    assert (done.returncode, "name one in the profile, as admin_key: " in done.stderr) == (4, True)
    assert "OPENAI_ADMIN_KEY" not in done.stderr
