"""Trust in a project's configuration: this path, these bytes, the user's word."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmctl.config import trust
from llmctl.config.load import project
from llmctl.config.paths import find_folders
from llmctl.config.settings import KeyPlaces, Limits, Profile
from llmctl.config.trust import Untrusted
from llmctl.config.yaml_nodes import keys_of
from llmctl.errors import ConfigError
from tests.configuring import World

UNASKED = {"model", "params", "limits", "tags"}
"""Keys of a profile of which a project may say something unasked."""

EXAMPLES = {
    "privacy": "{action: report}",
    "provider": "groq",
    "api": "responses",
    "timeout": "{total: 0.1}",
    "retry": "{attempts: 1}",
    "breaker": "{failures: 1}",
    "cache": "{enabled: true}",
    "batch": "{poll: 0.1}",
    "on_overflow": "truncate",
    "fallback": "[groq]",
    "context": "77",
    "parallel": "77",
    "base_url": "https://evil.example/v1",
    "key": "{env: AWS_SECRET_ACCESS_KEY}",
    "admin_key": "{env: AWS_SESSION_TOKEN}",
    "model_path": "x.gguf",
    "price": "{input: 0, output: 0}",
    "history": "true",
    "key_header": "x-api-key",
    "query": "{a: b}",
    "http": "standard",
    "default_max_tokens": "4321",
    "extends": "groq",
    "system": "be brief",
    "headers": "{x-team: a}",
    "proxy": "http://proxy.example:3128",
    "env_file": "keys.txt",
    "auth": "azure",
    "region": "eu-central-1",
    "retention": "none",
    "agreements": "[baa]",
    "project": "theirs",
    "route": "{cheap: groq}",
    "degrade": "[{static: sorry}]",
}


def say(world: World, line: str) -> Path:
    """A project's file that says this of a profile that the user has."""
    return world.project(f"profiles:\n  openai:\n    model: m\n    {line}\n")


def give(world: World) -> None:
    """What `llmctl profiles trust` does."""
    folders = find_folders(world.environ, world.repo)
    found = project(folders, world.repo, world.environ)
    assert found is not None
    trust.record(folders, found.path, found.raw)


def test_every_other_key_needs_trust() -> None:
    """What a project may set unasked is a list of its own: a key of a profile that is added later
    needs trust until somebody puts it there."""
    assert keys_of(Profile).keys() - UNASKED == EXAMPLES.keys()


@pytest.mark.parametrize("key", sorted(EXAMPLES))
def test_untrusted(world: World, key: str) -> None:
    """Without trust such a key is exit 2, names file, line and key, and both ways on; the value is
    not repeated."""
    path = say(world, f"{key}: {EXAMPLES[key]}")
    with pytest.raises(Untrusted) as caught:
        world.load()
    message = str(caught.value)
    assert message.startswith(f"{path}:4: profiles.openai.{key} needs your trust")
    assert "`llmctl profiles trust`" in message
    assert str(world.own) in message
    assert EXAMPLES[key] not in message
    assert caught.value.exit_code == 2
    assert caught.value.asks == (f"{path}:4: profiles.openai.{key}",)


MINE = """
profiles:
  mine: {provider: openai, model: m, tags: {team: a}, params: {max_tokens: 100}, limits: {rpm: 60}}
  by_model: {provider: openai, model: other, limits: {models: {m: {rpm: 60}, n: {rpm: 2, tpm: 3}}}}
budgets:
  - {name: own, limit_usd: 5, period: day, match: {model: m, tags: {team: a}}}
default: mine
"""


@pytest.mark.parametrize(
    "text",
    [
        "default: openai",
        "default: groq",
        "cache: {max_size: 1MB}",
        "profiles: {new: {provider: openai}}",
        "profiles: {openai: {params: {tools: [{type: mcp}]}}}",
        "profiles: {openai: {params: {input: x}}}",
        "profiles: {openai: {params: {contents: []}}}",
        "profiles: {openai: {params: {system: x}}}",
        "profiles: {openai: {params: {n: 100}}}",
        "profiles: {openai: {params: {top_p: {a: b}}}}",
        "profiles: {openai: {params: {stop: [{a: b}]}}}",
        "profiles: {mine: {params: {max_tokens: 101}}}",
        "profiles: {mine: {params: {max_tokens: null}}}",
        "profiles: {mine: {limits: {rpm: 61}}}",
        "profiles: {mine: {limits: {rpm: null}}}",
        "profiles: {mine: {limits: {concurrency: 9}}}",
        "profiles: {mine: {limits: {models: {m: {rpm: 60}}}}}",
        "profiles: {mine: {limits: {tier: openai-1}}}",
        "profiles: {by_model: {limits: {models: {m: {rpm: 61}}}}}",
        "profiles: {by_model: {limits: {models: {m: {rpm: null}}}}}",
        "profiles: {mine: {model: other}}",
        "profiles: {mine: {tags: {team: b}}}",
        "profiles: {openai: {<<: &a {fallback: groq}, model: m}}",
        "budgets: [{name: own, limit_usd: 6, period: day, match: {model: m, tags: {team: a}}}]",
    ],
)
def test_what_decides_where_prompts_go_needs_trust(world: World, text: str) -> None:
    """Case 67, 52: all but sampling parameters, lower limits and lower budgets, and tags and models
    that no budget of the user's matches by; with trust it holds."""
    world.user(MINE)
    world.project(text)
    with pytest.raises(Untrusted):
        world.load()
    give(world)
    world.load()


def test_what_a_project_may_say_unasked(world: World) -> None:
    """Case 67: sampling parameters, lower limits (of one model, too) and budgets, other tags;
    saying what holds anyway changes nothing; models where no budget matches by them."""
    world.user(MINE)
    world.project(
        "default: mine\n"
        "profiles: {mine: {provider: openai, model: m, tags: {team: a, project: x}, "
        "limits: {concurrency: 8, rpm: 6_0, tpm: 5}, "
        "params: {max_tokens: 100, temperature: 0, top_p: 0.5, seed: 1, stop: [a, b]}}, "
        "by_model: {limits: {models: {m: {rpm: 6}, n: {rpm: 1}, new: {tpm: 5}}}}}\n"
        "budgets: [{name: own, limit_usd: 4, period: day, match: {model: m, tags: {team: a}}}]\n"
    )
    limits = world.load().profiles["by_model"].limits
    assert (limits.of("m").rpm, limits.of("n").tpm, limits.of("new").tpm) == (6, 3, 5)
    mine = world.load().profiles["mine"]
    assert (mine.limits.tpm, mine.tags["project"], mine.params["stop"]) == (5, "x", ["a", "b"])
    world.user(MINE.replace("model: m,", "").replace("mine: {", "mine: {model: m, "))
    world.project("profiles: {mine: {model: other}, groq: {model: third}}")
    assert world.load().profiles["mine"].model == "other"


@pytest.mark.parametrize(
    "said", ["", "{}", "{models: }", "{models: {}}", "{models: {n: }}", "{models: {m: {rpm: 1}}}"]
)
def test_what_a_project_leaves_out_lifts_no_limit(world: World, said: str) -> None:
    """Limits of the user's that a project's file does not repeat stay as they are."""
    world.user(MINE)
    world.project(f"profiles: {{by_model: {{limits: {said}}}}}")
    assert world.load().profiles["by_model"].limits.of("n") == Limits(rpm=2, tpm=3)


def test_another_users_file_is_not_the_projects(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 67: a file that belongs neither to the user nor to root, or a link of somebody else's,
    is trusted as a whole or not at all; sudo's user is the user, as git's `safe.directory` has
    it."""
    path = world.project("profiles: {openai: {model: m}}")
    if os.geteuid() == 0:
        os.chown(path, 4711, -1)
    owner = path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(Untrusted, match=r"llmctl\.yaml:1 belongs to another user") as caught:
        world.load()
    assert caught.value.asks == (f"{path}:1: the file of another user",)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(Untrusted):
        world.load()
    monkeypatch.setenv("SUDO_UID", str(owner))
    assert world.load().profiles["openai"].model == "m"
    monkeypatch.delenv("SUDO_UID")
    give(world)
    assert world.load().profiles["openai"].model == "m"


@pytest.mark.parametrize("own", ["own", ""])
def test_pipes_and_devices_are_refused_unopened(world: World, own: str) -> None:
    """Case 67, 74: a pipe or a device in the place of a configuration is a sentence, at once;
    `--config /dev/null` stands for none."""
    path = world.own if own else world.repo / "llmctl.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is no regular file"):
        world.load()
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is no regular file"):
        world.load()
    assert world.load(config=Path("/dev/null")).default is None


def test_trusted_until_a_byte_changes(world: World) -> None:
    """A trusted file may say it all; one changed byte ends that, the old bytes bring it back."""
    path = say(world, "key: {command: [op, read, 'op://x']}")
    text = path.read_text()
    give(world)
    key = world.load().profiles["openai"].key
    assert key is not None
    assert key.command == ("op", "read", "op://x")
    path.write_text(text + " ")
    with pytest.raises(Untrusted):
        world.load()
    path.write_text(text)
    assert world.load().profiles["openai"].key == key


def test_trust_is_for_one_path(world: World) -> None:
    """The same bytes elsewhere are not trusted; a symbolic link to the file is the file."""
    path = say(world, "history: true")
    give(world)
    other = world.root / "other"
    (other / ".git").mkdir(parents=True)
    (other / "llmctl.yaml").write_bytes(path.read_bytes())
    with pytest.raises(Untrusted):
        world.load(cwd=other)
    (other / "llmctl.yaml").unlink()
    (other / "llmctl.yaml").symlink_to(path)
    assert world.load(cwd=other).profiles["openai"].history


def test_revoked(world: World) -> None:
    """Trust can be taken back."""
    path = say(world, "history: true")
    folders = find_folders(world.environ, world.repo)
    assert not trust.forget(folders, path)
    give(world)
    assert trust.forget(folders, path)
    with pytest.raises(Untrusted):
        world.load()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": []}', '{"files": {"x": 1}}', "\x00"])
def test_a_damaged_record_trusts_nothing(world: World, content: str) -> None:
    """A record that cannot be read is no trust, and giving trust mends it."""
    say(world, "history: true")
    give(world)
    record = find_folders(world.environ, world.repo).state / "trust.json"
    assert record.stat().st_mode & 0o777 == 0o600
    assert len(next(iter(json.loads(record.read_text())["files"].values()))) == 64
    record.write_text(content)
    with pytest.raises(Untrusted):
        world.load()
    give(world)
    world.load()


@pytest.mark.parametrize("url", ["http://example.com/v1", "http://127.0.0.1.evil.example/v1"])
def test_plain_http_is_the_users_own_to_say(world: World, url: str) -> None:
    """A project's file names no http:// address of another machine, trusted or not; loopback it
    may, and the user's own file any."""
    line = "profiles: {p: {provider: openai, base_url: 'URL'}}"
    world.project(line.replace("URL", url))
    folders = find_folders(world.environ, world.repo)
    path = world.repo / "llmctl.yaml"
    trust.record(folders, path, path.read_bytes())
    with pytest.raises(ConfigError, match="must be https://"):
        world.load()
    for loopback in ("http://127.0.0.1:1/v1", "http://localhost:1/v1", "http://[::1]:1/v1"):
        world.project(line.replace("URL", loopback))
        give(world)
        assert world.load().profiles["p"].base_url == loopback
    path.unlink()
    world.user(line.replace("URL", url))
    assert world.load().profiles["p"].base_url == url


def test_may_not_redirect_a_key(world: World) -> None:
    """A provider is changed under a profile that brings a key with it only when trusted."""
    world.user("profiles: {mine: {provider: openai, key: {env: CORP_KEY}}}")
    for name, provider in (("mine", "groq"), ("openai", "local"), ("groq", "openai")):
        world.project(f"profiles: {{{name}: {{provider: {provider}}}}}")
        with pytest.raises(Untrusted, match=rf"profiles\.{name}\.provider needs your trust"):
            world.load()
        give(world)
        assert world.load().profiles[name].provider == provider
    world.project("profiles: {mine: {provider: openai}, openai: {provider: openai}}")
    assert world.load().profiles["mine"].key == KeyPlaces("CORP_KEY")


def test_a_key_is_replaced_whole(world: World) -> None:
    """A trusted file that names another place for a key does not add to the user's."""
    world.user("profiles: {mine: {provider: openai, key: {env: CORP_KEY}}}")
    world.project("profiles: {mine: {key: {keyring: team}}}")
    give(world)
    assert world.load().profiles["mine"].key == KeyPlaces(keyring="team")


def test_other_keys_are_hidden_from_a_command(world: World) -> None:
    """A profile whose key a command gives knows the variables of all the other keys."""
    world.user(
        "profiles: {a: {provider: openai, key: {command: op read x}}, "
        "b: {provider: openai, key: {env: CORP_KEY}}}"
    )
    key = world.load().profiles["a"].key
    assert key is not None
    assert key.command == ("op", "read", "x")
    assert {"CORP_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"} <= set(key.hidden)
