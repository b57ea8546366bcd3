"""`.env` files: keys for one folder, named by an option or a profile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmctl.config.env_file import read_env_file
from llmctl.config.settings import EnvFile
from llmctl.errors import ConfigError
from tests.configuring import World
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
    path.chmod(0o600)
    assert read_env_file(path, "") == {"A": value, "B": "2"}


@pytest.mark.parametrize("line", ["sk-secret", "A='x", 'A="x', "1A=sk-secret"])
def test_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    """The line is named, and nothing of it is shown."""
    path = tmp_path / ".env"
    path.write_text(f"B=2\n{line}\n", encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"\.env:2: is no NAME=VALUE") as caught:
        read_env_file(path, "")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("why", ["is not UTF-8 text", "belongs to another user"])
def test_a_file_that_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """One in another encoding, and one that somebody else may have put keys into."""
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\n")
    path.chmod(0o600)
    if "another" in why:
        os.chown(path, 4711 if os.geteuid() == 0 else -1, -1)
        monkeypatch.setattr("os.geteuid", lambda: 4712)
    with pytest.raises(ConfigError, match=why):
        read_env_file(path, "")


def test_a_file_that_others_can_read(tmp_path: Path) -> None:
    """It is refused, with the command that mends it and how to use it all the same; one that others
    can change is refused whatever the user says."""
    path = tmp_path / "my.env"
    path.write_text("A=x\n", encoding="utf-8")
    for mode in (0o640, 0o604, 0o644, 0o444):
        path.chmod(mode)
        with pytest.raises(ConfigError) as caught:
            read_env_file(path, "say so")
        assert f"others can read it; `chmod 600 {path}`, or say so" in str(caught.value)
        assert read_env_file(path, "", shared=True) == {"A": "x"}
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        for shared in (True, False):
            with pytest.raises(ConfigError, match="others can change it; `chmod 600"):
                read_env_file(path, "", shared=shared)
    for mode in (0o600, 0o400, 0o700):
        path.chmod(mode)
        assert read_env_file(path, "") == {"A": "x"}


def test_a_folder_that_everybody_can_write(tmp_path: Path) -> None:
    """Its file may be anybody's in a moment: refused, unless the folder is sticky as /tmp is. Its
    own group is no matter."""
    path = tmp_path / "folder/.env"
    path.parent.mkdir()
    path.write_text("A=x\n", encoding="utf-8")
    path.chmod(0o600)
    path.parent.chmod(0o777)
    for shared in (True, False):
        with pytest.raises(ConfigError, match=f"everybody can .*`chmod o-w {path.parent}`"):
            read_env_file(path, "", shared=shared)
    for mode in (0o1777, 0o775):
        path.parent.chmod(mode)
        assert read_env_file(path, "") == {"A": "x"}


@pytest.mark.parametrize("form", ["plain", "shared", "not shared"])
def test_the_user_says_that_a_file_is_shared(
    run: Run, home: Path, environ: dict[str, str], sim: Simulator, tmp_path: Path, form: str
) -> None:
    """By an option, and in the profile, whose other form is the path alone."""
    sim.accept_keys([KEY])
    path = tmp_path / ".env"
    path.write_text(f"SIM_KEY={KEY}\n", encoding="utf-8")
    path.chmod(0o644)
    place = {
        "plain": str(path),
        "shared": f"{{path: {path}, shared: true}}",
        "not shared": f"{{path: {path}}}",
    }[form]
    configure(home, sim.base_url, "{env: SIM_KEY}")
    done = run("ask", "q", "--env-file", ".env", env=environ)
    assert (done.returncode, "--env-file-shared" in done.stderr) == (2, True), done.stderr
    done = run("ask", "q", "--env-file", ".env", "--env-file-shared", env=environ)
    assert done.returncode == 0, done.stderr
    config = home / ".config/llmctl/config.yaml"
    config.write_text(f"{config.read_text()}    env_file: {place}\n", encoding="utf-8")
    done = run("ask", "r", env=environ)
    if form == "shared":
        assert (done.returncode, done.stdout) == (0, "echo: r"), done.stderr
        return
    assert done.returncode == 2
    assert f"`chmod 600 {path}`, or write `env_file: {{path: …, shared: true}}`" in done.stderr
    path.chmod(0o600)
    assert run("ask", "r", env=environ).stdout == "echo: r"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{path: a, shard: true}", 'unknown key "shard"; did you mean "shared"'),
        ("{shared: true}", "needs path"),
        ("{path: a, shared: maybe}", "must be true or false"),
    ],
)
def test_a_wrong_place_is_named(world: World, place: str, words: str) -> None:
    """With file and line."""
    own = world.user(f"profiles:\n  openai:\n    env_file: {place}\n")
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{own}:3: profiles.openai.env_file")


def test_another_file_is_shared_only_where_that_is_said(world: World) -> None:
    """A profile over another one that names a file of its own does not inherit the word."""
    own = world.user(
        "profiles: {openai: {env_file: {path: a, shared: true}}, "
        "b: {extends: openai, env_file: {path: ./b}}, c: {extends: openai}}"
    )
    profiles = world.load().profiles
    assert profiles["openai"].env_file == EnvFile(own.parent / "a", shared=True)
    assert profiles["b"].env_file == EnvFile(own.parent / "b")
    assert profiles["c"].env_file == EnvFile(own.parent / "a", shared=True)


def test_none_is_searched_for(
    run: Run, home: Path, environ: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """A `.env` in the current folder, the home folder or beside the configuration changes
    nothing."""
    configure(home, sim.base_url, "{env: SIM_KEY}")
    for folder in (tmp_path, home, home / ".config/llmctl"):
        (folder / ".env").write_text(f"SIM_KEY={KEY}\nLLMCTL_PROFILE=none\n", encoding="utf-8")
        (folder / ".env").chmod(0o600)
    done = run("ask", "q", env=environ)
    assert (done.returncode, "$SIM_KEY is not set" in done.stderr) == (4, True), done.stderr
    assert sim.calls == []


def test_the_option_and_the_profile_name_a_file(
    run: Run, home: Path, environ: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """The key is found there, by its variable; the environment wins; a missing file is exit 2."""
    sim.accept_keys([KEY])
    configure(home, sim.base_url, "{env: SIM_KEY}")
    (tmp_path / ".env").write_text(f"SIM_KEY={KEY}\n", encoding="utf-8")
    (tmp_path / ".env").chmod(0o600)
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


def test_keys_of_the_others_are_checked(run: Run, configured: dict[str, str], home: Path) -> None:
    """A profile whose file is not there is one row of `keys list` and `keys check`, with exit 2 of
    the latter."""
    config = home / ".config/llmctl/config.yaml"
    more = "  gone: {extends: sim, key: {env: GONE}, env_file: gone.env}\n"
    config.write_text(config.read_text() + more)
    done = run("keys", "list", "--json", env=configured)
    problems = {row["name"]: row["problem"] for row in json.loads(done.stdout)}
    assert (done.returncode, problems["sim"]) == (0, None)
    assert "gone.env: cannot be read" in problems["gone"]
    done = run("keys", "check", env=configured)
    assert done.returncode == 2
    assert "sim  http" in done.stdout
    assert "warning: gone: " in done.stderr
