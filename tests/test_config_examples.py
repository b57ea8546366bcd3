"""The examples in `configs/` and the starter file are configurations that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.batch.rows import RowReader
from llmctl.config.load import load
from llmctl.config.profiles import as_yaml, choose, starter
from llmctl.config.settings import Settings
from llmctl.errors import ConfigError
from llmctl.providers.model_parameters import is_reasoning_model
from llmctl.providers.registry import BUILT_IN, PRESETS, codec
from llmctl.request import left_out, target_for

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
    servers = [p for name, p in settings.profiles.items() if name not in BUILT_IN]
    assert len(servers) == 6
    assert all(p.key is None or p.key.env != "OPENAI_API_KEY" for p in servers)


def test_starter(tmp_path: Path) -> None:
    """The starter file says nothing yet, and every line it offers is valid."""
    path = tmp_path / "c.yaml"
    path.write_text(starter())
    assert list(own(path, tmp_path).profiles) == list(BUILT_IN)
    path.write_text(re.sub(r"^# ", "", starter(), flags=re.MULTILINE))
    settings = own(path, tmp_path)
    assert settings.default == "fast"
    assert list(settings.profiles) == [*BUILT_IN, "fast", "server", "mine"]


README = CONFIGS.parent / "README.md"
SHOWN = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [
        *(path.read_text(encoding="utf-8") for path in EXAMPLES),
        (CONFIGS / "project/llmctl.yaml").read_text(encoding="utf-8"),
        re.sub(r"^# ", "", starter(), flags=re.MULTILINE),
        *SHOWN,
    ],
)
def test_what_ships_runs_with_what_it_names(text: str, tmp_path: Path) -> None:
    """Case 33: no profile that ships says what its model refuses, or gives one that thinks too
    little room for it."""
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    for profile in own(path, tmp_path).profiles.values():
        assert left_out(profile) == []
        if is_reasoning_model(target_for(profile)):
            assert (profile.max_tokens or 9999) >= 2048


@pytest.mark.parametrize("provider", [*PRESETS])
def test_the_samples_run_with_every_preset(provider: str, tmp_path: Path) -> None:
    """Case 33: each row of `samples/reviews.jsonl` can be said to every preset's model, and leaves
    room to think."""
    path = tmp_path / "c.yaml"
    path.write_text(f"profiles: {{own: {{provider: {provider}}}}}")
    places = {"GOOGLE_CLOUD_LOCATION": "eu", "GOOGLE_CLOUD_PROJECT": "p", "AWS_REGION": "eu-west-1"}
    environ = {"HOME": str(tmp_path), **places}
    profile = load(environ=environ, cwd=tmp_path, config=path).profiles["own"]
    lines = (CONFIGS.parent / "samples/reviews.jsonl").read_bytes().splitlines()
    for index, line in enumerate(lines):
        request = RowReader().request((index + 1, line), profile, index, "use", "c")
        codec(profile.adapter).encode(request, stream=False)
        assert (request.max_tokens or 0) >= 1024


@pytest.mark.parametrize("base_url", [None, "https://gateway.example/v1"])
def test_openai_is_told_organisation_and_project(base_url: str | None, tmp_path: Path) -> None:
    """Case 34: the variables of OpenAI's SDK become headers for api.openai.com and nobody else; a
    header of the profile's own wins."""
    path = tmp_path / "c.yaml"
    place = f", base_url: {base_url}" if base_url else ""
    own_header = "b: {extends: a, headers: {openai-project: own}}"
    path.write_text(f"profiles: {{a: {{provider: openai{place}}}, {own_header}}}")
    environ = {"HOME": str(tmp_path), "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT": "proj_1"}
    profiles = load(environ=environ, cwd=tmp_path, config=path).profiles
    both = {"openai-organization": "org-1", "openai-project": "proj_1"}
    assert profiles["openai"].headers == both
    assert profiles["a"].headers == ({} if base_url else both)
    assert profiles["b"].headers["openai-project"] == "own"
    assert profiles["groq"].headers == {}
    with pytest.raises(ConfigError, match=r"\$OPENAI_ORG_ID must be"):
        load(environ={**environ, "OPENAI_ORG_ID": "a\x07b"}, cwd=tmp_path)


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
