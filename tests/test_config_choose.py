"""Which profile is used, and what a newcomer without any is told."""

from __future__ import annotations

import re

import pytest

from llmctl.config.load import Overrides
from llmctl.config.profiles import choose
from llmctl.config.settings import Profile
from llmctl.errors import ConfigError, NoKeyError
from llmctl.providers.local_model_files import has_server
from tests.configuring import World


def chosen(world: World, name: str | None = None, *, installed: bool = False) -> Profile:
    """The profile that a command would use."""
    return choose(world.load(Overrides(profile=name)), lambda: installed)


def test_order(world: World) -> None:
    """The name given wins over the default, that over a key in the environment, that over the
    local model; the profile says why it was taken."""
    assert chosen(world, installed=True).name == "local"
    world.environ["OPENAI_API_KEY"] = "k"
    found = chosen(world, installed=True)
    assert (found.name, found.chosen) == ("openai", "OPENAI_API_KEY is set")
    world.user("default: fast\nprofiles: {fast: {provider: openai}}")
    assert chosen(world).name == "fast"
    assert chosen(world, "local").name == "local"


def test_asks_for_the_local_model_only_when_needed(world: World) -> None:
    """Whether a model is installed is not looked up when something else decides."""

    def never() -> bool:
        raise AssertionError

    world.environ["OPENAI_API_KEY"] = "k"
    assert choose(world.load(), never).name == "openai"
    assert choose(world.load(Overrides(profile="local")), never).name == "local"


def test_a_model_file_of_ones_own(world: World) -> None:
    """A `local` that names a model file is used without the model that llmctl installs."""
    world.user("profiles: {local: {model_path: ~/m.gguf}}")
    assert chosen(world).model == "m"


def test_a_stored_key_counts(world: World) -> None:
    """A stored key of a built-in profile at its own address is taken before the local model."""
    settings = world.load(stored={("groq", "https://api.groq.com:443")})
    found = choose(settings, lambda: True)
    assert (found.name, found.chosen) == ("groq", "its key is stored")
    assert choose(world.load(stored={("groq", "https://x:443")}), lambda: True).name == "local"


def test_default_without_a_key_is_still_the_default(world: World) -> None:
    """A default is not passed over because its key is missing: that would ask somebody else."""
    world.user("default: openai")
    assert chosen(world, installed=True).name == "openai"


def test_unknown_name(world: World) -> None:
    """An unknown profile is answered with the nearest name, or all of them."""
    world.user("profiles: {fast: {provider: openai}}")
    with pytest.raises(ConfigError) as caught:
        chosen(world, "fats")
    assert str(caught.value) == 'there is no profile "fats"; did you mean "fast"?'
    with pytest.raises(ConfigError, match=r'"zzz"; there are: openai, .*, groq, local, fast$'):
        chosen(world, "zzz")


def test_nothing_to_use(world: World) -> None:
    """Without anything, the message says what was looked for and lists the three ways on; profiles
    that nobody chose are named, with the file that could name a default."""
    path = world.user("profiles: {mine: {provider: openai, base_url: 'http://localhost:1'}}")
    with pytest.raises(NoKeyError) as caught:
        chosen(world)
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert f"{path} (names no `default:`)" in message
    assert "groq, local, mine" in message
    assert "OPENAI_API_KEY, ANTHROPIC_API_KEY, " in message
    assert "GROQ_API_KEY (not set)" in message
    assert "export OPENAI_API_KEY=…" in message
    assert "llmctl profiles init" in message
    assert "base_url" in message
    assert re.search(r"3. run a local model: (pip install .* && )?llmctl local install$", message)
    assert ("pip install 'xllamacpp==" in message) is not has_server()
