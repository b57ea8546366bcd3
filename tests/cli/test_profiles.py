"""`llmctl profiles`, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from typer.testing import CliRunner

from llmctl.cli.app import program
from llmctl.config import paths
from llmctl.config.load import load
from llmctl.config.paths import VARIABLES
from llmctl.providers.registry import BUILT_IN
from tests.cli.terminal import on_a_terminal
from tests.configuring import World
from tests.conftest import Run, configure, sent
from tests.simulator.server import Simulator

TEXT = """\
default: fast
profiles:
  fast: {provider: openai, key: {env: CORP_KEY}, price: {input: 0.1, output: 1}, tags: {n: "1"}}
  box: {provider: openai, base_url: 'http://gpu.internal:8000/v1', model: Qwen/Qwen3-8B}
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that the command finds itself in: its folder, its environment."""
    world = World(tmp_path)
    monkeypatch.chdir(world.repo)
    for name in list(os.environ):
        if name.startswith(("LLMCTL_", "XDG_", "OPENAI_", "CLICOLOR", "NO_COLOR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", world.environ["HOME"])
    return world


def invoke(*arguments: str) -> Any:
    """Run the sub-app as `llmctl profiles …` does."""
    return CliRunner().invoke(program(), ["profiles", *arguments])


def test_list_piped(world: World) -> None:
    """Into a pipe the table is plain text on stdout, one line a profile; the default is marked."""
    world.user(TEXT)
    result = invoke("list")
    assert result.exit_code == 0
    head, *lines = [re.split("  +", line) for line in result.stdout.splitlines()]
    assert head == ["", "NAME", "PROVIDER", "MODEL", "WHERE", "KEY"]
    assert [line[1] for line in lines] == [*BUILT_IN, "fast", "box"]
    named = {line[1]: line for line in lines}
    openai = ["openai", "gpt-6.1-terra", "api.openai.com"]
    assert named["openai"][2:] == [*openai, "missing: $OPENAI_API_KEY"]
    assert named["local"][2:] == ["local", "smollm2-135m", "this machine", "not needed"]
    assert named["fast"] == ["*", "fast", *openai, "missing: $CORP_KEY"]
    assert named["box"][3:] == ["Qwen/Qwen3-8B", "gpu.internal:8000", "not needed"]
    assert "fast, for the default" in result.stderr
    assert invoke("list", "-q").stderr == ""


def test_list_json(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--json` gives every profile with the state of its key, and no key."""
    world.user(TEXT)
    monkeypatch.setenv("CORP_KEY", "sk-1234")
    monkeypatch.setenv("OPENAI_API_KEY", " bad ")
    result = invoke("list", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["fast"]["key"] == {"env": "CORP_KEY", "state": "found"}
    assert rows["openai"]["key"]["state"] == "unusable"
    assert rows["box"]["key"] == {"env": None, "state": "not needed"}
    assert [name for name, row in rows.items() if row["default"]] == ["fast"]
    assert rows["local"]["base_url"] is None
    assert "sk-1234" not in result.output


def test_list_without_anything(world: World) -> None:
    """Where nothing can be used yet, nothing is marked, and the note says why."""
    assert world.load().files == ()
    result = invoke("list")
    assert result.exit_code == 0
    assert "*" not in result.stdout
    assert "no key is set, no local model is installed" in result.stderr


def test_default_of_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMCTL_PROFILE marks the default; an unknown name there does not hide the list."""
    world.user(TEXT)
    monkeypatch.setenv("LLMCTL_PROFILE", "box")
    assert re.search(r"^\*  box", invoke("list").stdout, re.MULTILINE)
    monkeypatch.setenv("LLMCTL_PROFILE", "nobody")
    result = invoke("list")
    assert result.exit_code == 0
    assert "*" not in result.stdout
    assert "nobody" in result.stderr


def test_show_can_be_read_again(world: World, tmp_path: Path) -> None:
    """What `show` prints is a configuration file that means the same profile."""
    world.user(TEXT)
    for name in ("fast", "box", "openai", "local"):
        result = invoke("show", name)
        assert result.exit_code == 0
        copy = tmp_path / "copy.yaml"
        copy.write_text(result.stdout)
        again = load(environ=world.environ, cwd=tmp_path, config=copy).profiles[name]
        first = world.load().profiles[name]
        assert replace(again, source=first.source) == first


def test_show_names_sources(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`show` says where the profile comes from and whether its key is found, never the key."""
    path = world.user(TEXT)
    monkeypatch.setenv("CORP_KEY", "sk-1234")
    monkeypatch.setenv("LLMCTL_RPM", "77")
    result = invoke("show", "fast")
    assert f"# from: {path}:3, LLMCTL_RPM\n# key: found: $CORP_KEY\n" in result.stdout
    assert yaml.safe_load(result.stdout)["profiles"]["fast"]["limits"]["rpm"] == 77
    assert "sk-1234" not in result.output
    shown = json.loads(invoke("show", "fast", "--json").stdout)
    assert shown["price"]["input"] == 0.1
    assert shown["source"].startswith(str(path))


def test_broken_configuration(world: World) -> None:
    """A broken file is exit 2, one sentence on stderr, nothing on stdout."""
    world.user("profiles: {p: {}}")
    for command in (("list",), ("show", "openai")):
        result = invoke(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1


def test_config_option(world: World, tmp_path: Path) -> None:
    """`--config` and LLMCTL_CONFIG name the file to look at."""
    other = tmp_path / "other.yaml"
    other.write_text("profiles: {only: {provider: openai}}")
    world.user(TEXT)
    assert "only" in invoke("list", "--config", str(other)).stdout
    result = CliRunner().invoke(program(), ["profiles", "list"], env={"LLMCTL_CONFIG": str(other)})
    assert "only" in result.stdout
    assert "fast" not in result.stdout


def test_init(world: World) -> None:
    """`init` writes a file that loads, for the user alone, and prints its path."""
    result = invoke("init")
    assert (result.exit_code, result.stdout) == (0, f"{world.own}\n")
    assert stat.S_IMODE(world.own.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.own.parent.stat().st_mode) == 0o700
    assert [path.name for path in world.own.parent.iterdir()] == ["config.yaml"]
    settings = world.load()
    assert settings.files == (world.own,)
    assert settings.profiles["openai"].source == "built in"


def test_init_does_not_overwrite(world: World) -> None:
    """A file that exists is kept, a dangling link too, unless `--force` says otherwise."""
    world.user(TEXT)
    result = invoke("init")
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert world.own.read_text() == TEXT
    assert invoke("init", "--force").exit_code == 0
    assert world.own.read_text() != TEXT
    assert stat.S_IMODE(world.own.stat().st_mode) == 0o600
    world.own.unlink()
    world.own.symlink_to("nowhere.yaml")
    assert invoke("init").exit_code == 2


def test_folder_that_is_gone(world: World) -> None:
    """A current folder that was removed is a sentence, not a traceback."""
    gone = world.root / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    result = invoke("list")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "is gone" in result.stderr


@pytest.mark.parametrize(("columns", "no_color"), [(80, False), (200, True)])
def test_list_on_a_terminal(world: World, columns: int, *, no_color: bool) -> None:
    """On a terminal the table keeps to its width and colours nothing when told so."""
    world.user(TEXT)
    environ = {"HOME": world.environ["HOME"], "TERM": "xterm", "PATH": os.environ["PATH"]}
    environ |= {"NO_COLOR": "1"} if no_color else {}
    code, got, _ = on_a_terminal(
        environ, world.repo, "profiles", "list", columns=columns, streams=["stdout"]
    )
    assert code == 0
    shown = got.decode()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    lines = plain.replace("\r", "").splitlines()
    assert lines[0].split() == ["NAME", "PROVIDER", "MODEL", "WHERE", "KEY"]
    assert max(map(len, lines)) <= columns
    assert "\x1b[3" not in shown
    assert ("\x1b[" in shown) is not no_color
    if columns == 200:
        assert "missing: $OPENAI_API_KEY" in plain


def test_system_and_headers_of_a_profile(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 48: `system` begins what brings none itself, once in a conversation, and `-s` wins;
    `headers` go with every call, never in the place of the key."""
    more = "    system: |\n      be\n      brief\n    headers: {X-Team: blue}\n"
    configure(home, sim.base_url, "{env: SIM_KEY}", more)
    env = {**environ, "SIM_KEY": "sk-test"}
    run("ask", "one", env=env)
    run("ask", "two", "-c", env=env)
    run("ask", "three", "-s", "own", env=env)
    (tmp_path / "in.jsonl").write_text('{"prompt": "four"}\n', encoding="utf-8")
    run("batch", "in.jsonl", env=env)
    systems = [
        [m["content"] for m in sent(sim, n)["messages"] if m["role"] == "system"] for n in range(4)
    ]
    assert systems == [["be\nbrief\n"], ["be\nbrief\n"], ["own"], ["be\nbrief\n"]]
    assert all(call.headers["x-team"] == "blue" for call in sim.calls)
    assert all(call.api_key == "sk-test" for call in sim.calls)


def test_the_proxy_of_a_profile(
    run: Run, environ: dict[str, str], home: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 48: all calls of a profile go through its `proxy`, whatever the environment says."""
    address = sim.base_url.removesuffix("/v1")
    configure(home, "http://provider.example/v1", "{env: SIM_KEY}", f"    proxy: {address}\n")
    env = {**environ, "SIM_KEY": "sk-test", "NO_PROXY": "*"}
    (tmp_path / "in.jsonl").write_text('{"prompt": "two"}\n', encoding="utf-8")
    for command in (("ask", "one"), ("batch", "in.jsonl")):
        run(*command, env=env)
    assert [call.headers["host"] for call in sim.calls] == ["provider.example"] * 2


def test_variables(run: Run, environ: dict[str, str], tmp_path: Path) -> None:
    """Case 48: the README lists every variable that is read; another `LLMCTL_` one, and a
    configuration folder that is not there, are warned of."""
    readme = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(LLMCTL_[A-Z_]+)`", readme)) == set(VARIABLES)
    files = Path(paths.__file__).parents[1].rglob("*.py")
    used = "".join(file.read_text(encoding="utf-8") for file in files)
    assert set(re.findall(r'"(LLMCTL_[A-Z_]+)"', used)) <= set(VARIABLES)
    env = {**environ, "LLMCTL_MODL": "x", "LLMCTL_CONFIG_DIR": str(tmp_path / "no")}
    said = run("profiles", "show", "openai", env=env).stderr
    assert "LLMCTL_MODL means nothing to llmctl; did you mean LLMCTL_MODEL?" in said
    assert f"LLMCTL_CONFIG_DIR names {tmp_path / 'no'}" in said


def test_the_profile_in_use_is_shown(run: Run, environ: dict[str, str]) -> None:
    """Without a name `profiles show` shows the profile that a call would use, and of it what is
    set."""
    env = {**environ, "LLMCTL_PROFILE": "groq"}
    assert "null" not in run("profiles", "show", env=env).stdout
    assert json.loads(run("profiles", "show", "--json", env=env).stdout)["name"] == "groq"


def test_names_are_completed(run: Run, configured: dict[str, str]) -> None:
    """Case 48: after `-p` and `-m` the shell offers the profiles and models that are configured."""
    for words, offered in (("llmctl ask -p s", "sim"), ("llmctl ask -m gpt-5-m", "gpt-5-mini")):
        count = str(len(words.split()) - 1)
        more = {"_LLMCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
        assert run(env={**configured, **more}).stdout.split() == [offered]
