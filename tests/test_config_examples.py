"""The examples in `configs/` and the starter file are configurations that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.config.load import load
from llmctl.config.profiles import as_yaml, choose, starter
from llmctl.config.settings import Settings
from llmctl.providers.registry import PRESETS

CONFIGS = Path(__file__).parent.parent / "configs"


def own(path: Path, home: Path) -> Settings:
    """Load as the user's own file."""
    return load(environ={"HOME": str(home)}, cwd=home, config=path)


EXAMPLES = sorted(path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("ci-"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_loads(path: Path, tmp_path: Path) -> None:
    """Every example loads, names a default, and that default can be chosen."""
    settings = own(path, tmp_path)
    assert settings.default is not None
    assert choose(settings, lambda: False).name == settings.default


def test_project_example(tmp_path: Path) -> None:
    """The project example loads as what it is: a project's file, which may say less."""
    project = tmp_path / "llmctl.yaml"
    project.write_bytes((CONFIGS / "project/llmctl.yaml").read_bytes())
    settings = load(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert settings.files == (project,)
    assert settings.profiles["openai"].tags == {"project": "invoices"}
    assert settings.profiles["local"].temperature == 0


def test_no_example_server_gets_openais_key(tmp_path: Path) -> None:
    """Not one of the example servers is sent the key that belongs to OpenAI."""
    settings = own(CONFIGS / "servers.yaml", tmp_path)
    servers = [p for name, p in settings.profiles.items() if name not in PRESETS]
    assert len(servers) == 6
    assert all(p.key is None or p.key.env != "OPENAI_API_KEY" for p in servers)


def test_starter(tmp_path: Path) -> None:
    """The starter file says nothing yet, and every line it offers is valid."""
    path = tmp_path / "c.yaml"
    path.write_text(starter())
    assert list(own(path, tmp_path).profiles) == list(PRESETS)
    path.write_text(re.sub(r"^# ", "", starter(), flags=re.MULTILINE))
    settings = own(path, tmp_path)
    assert settings.default == "fast"
    assert list(settings.profiles) == [*PRESETS, "fast", "server", "mine"]


def test_a_profile_is_shown_as_it_is_written(tmp_path: Path) -> None:
    """What `profiles show` prints means the same again, large and small numbers and words that YAML
    takes for something else too; the provider's own key is not shown."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "profiles: {a: {provider: openai, fallback: groq, timeout: {total: 0.00001}, "
        "price: {input: 0.0000001, output: 2.50}, params: {a: 1e300, b: '1e3', c: [yes, '~']}}}"
    )
    first = own(path, tmp_path).profiles["a"]
    text = as_yaml(first)
    assert "key:" not in text
    path.write_text(text)
    assert replace(own(path, tmp_path).profiles["a"], source=first.source) == first
