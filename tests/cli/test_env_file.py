"""`.env` files: keys for one folder, named by an option or a profile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmctl.config.env_file import read_env_file
from llmctl.errors import ConfigError
from tests.conftest import KEY, Run, configure
from tests.simulator.server import Simulator


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=x", "x"),
        ("export A = x y  # note", "x y"),
        ("A='#$x\\n'", "#$x\\n"),
        ('A="a\\nb\\"" # note', 'a\nb"'),
        ("A=' x '", " x "),
        ("A=a#b", "a#b"),
        ("A=", ""),
        ('A=""', ""),
    ],
)
def test_lines(tmp_path: Path, line: str, value: str) -> None:
    """Quotes, escapes, comments and `export` as in a shell; nothing is substituted."""
    path = tmp_path / ".env"
    path.write_text(f"\ufeff# first\r\n\n{line}\r\nB=2", encoding="utf-8")
    assert read_env_file(path) == {"A": value, "B": "2"}


@pytest.mark.parametrize("line", ["sk-secret", "A='x", 'A="x', "1A=sk-secret"])
def test_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    """The line is named, and nothing of it is shown."""
    path = tmp_path / ".env"
    path.write_text(f"B=2\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\.env:2: is no NAME=VALUE") as caught:
        read_env_file(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("why", ["is not UTF-8 text", "belongs to another user"])
def test_a_file_that_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """One in another encoding, and one that somebody else may have put keys into."""
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\n")
    if "another" in why:
        os.chown(path, 4711 if os.geteuid() == 0 else -1, -1)
        monkeypatch.setattr("os.geteuid", lambda: 4712)
    with pytest.raises(ConfigError, match=why):
        read_env_file(path)


def test_the_option_and_the_profile_name_a_file(
    run: Run, home: Path, environ: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """The key is found there, by its variable; the environment wins; a missing file is exit 2."""
    sim.accept_keys([KEY])
    configure(home, sim.base_url, "{env: SIM_KEY}")
    (tmp_path / ".env").write_text(f"SIM_KEY={KEY}\n", encoding="utf-8")
    assert run("ask", "q", env=environ).returncode == 4
    done = run("ask", "q", "--env-file", ".env", env=environ)
    assert (done.returncode, done.stdout) == (0, "echo: q"), done.stderr
    other = {**environ, "SIM_KEY": "sk-another-key-that-is-refused"}
    assert run("ask", "w", "--env-file", ".env", env=other).returncode == 4
    assert run("ask", "q", "--env-file", "none", env=environ).returncode == 2
    config = home / ".config/llmctl/config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(f"{text}    env_file: {tmp_path}/.env\n", encoding="utf-8")
    assert run("ask", "r", env=environ).stdout == "echo: r"
    assert run("ask", "s", env=other).returncode == 4
    listed = json.loads(run("keys", "list", "--json", env=environ).stdout)
    assert [row["last4"] for row in listed] == [KEY[-4:]]


def test_a_project_names_one_only_when_trusted(
    run: Run, configured: dict[str, str], tmp_path: Path
) -> None:
    """A file that brings keys along is not taken from a folder that somebody else may have made."""
    (tmp_path / ".env").write_text("SIM_KEY=x\n", encoding="utf-8")
    (tmp_path / "llmctl.yaml").write_text("profiles: {sim: {env_file: .env}}\n", encoding="utf-8")
    done = run("ask", "q", env=configured)
    assert done.returncode == 2
    assert "profiles trust" in done.stderr


def test_completion_of_key_names(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path
) -> None:
    """Case 48: of stored keys, by the list of their names, and of profiles."""
    del tmp_path
    state = home / ".local/state/llmctl"
    state.mkdir(parents=True, mode=0o700)
    slot = {"name": "openai-team", "origin": "https://api.openai.com:443"}
    (state / "keys.json").write_text(json.dumps({"keys": [slot]}), encoding="utf-8")
    env = {
        **environ,
        "_LLMCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "llmctl keys rotate open",
        "COMP_CWORD": "3",
    }
    assert run(env=env).stdout.split() == ["openai-team", "openai", "openrouter"]
