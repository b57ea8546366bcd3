"""`coordinator:` in a configuration."""

from __future__ import annotations

import pytest

from llmctl.config.settings import RedisSettings, SinkSecret
from llmctl.config.trust import Untrusted, record
from llmctl.errors import ConfigError
from tests.configuring import World

HERE = "redis://127.0.0.1:6379/0"


def test_off_unless_it_is_set(world: World) -> None:
    """Without the section limits and budgets are this machine's; an empty line is none."""
    assert world.load().coordinator is None
    world.user("coordinator:")
    assert world.load().coordinator is None


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (HERE, RedisSettings(HERE)),
        ("rediss://me@redis.example", RedisSettings("rediss://me@redis.example")),
        (
            f"{{url: '{HERE}', key: {{env: REDIS_KEY}}, volatile: true, answers: 2h}}",
            RedisSettings(HERE, key=SinkSecret("REDIS_KEY"), volatile=True, answers=7200.0),
        ),
        (
            "{secret_url: {env: REDIS_URL}}",
            RedisSettings(secret_url=SinkSecret("REDIS_URL")),
        ),
    ],
)
def test_what_it_says(world: World, text: str, settings: RedisSettings) -> None:
    """An address, the place of its password, or of an address that is secret itself."""
    world.user(f"coordinator: {text}")
    assert world.load().coordinator == settings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://127.0.0.1:6379", "or rediss:// (TLS), not http://127.0.0.1:6379"),
        ("redis://me:secret-4711@host", "without password (its place is named by key: {env: NAME}"),
        ("redis://host/db", "NUMBER is the database's, not redis://host/db"),
        ("redis://host:0", "or rediss:// (TLS), not redis://host:0"),
        ("redis://host/0?ssl_cert_reqs=none", "redis://HOST:PORT/NUMBER, or rediss:// (TLS)"),
        ("{volatile: true}", "needs url or secret_url, one of them"),
        (f"{{url: '{HERE}', secret_url: {{env: REDIS_URL}}}}", "one of them"),
        ("{secret_url: {env: REDIS_URL}, key: {env: REDIS_KEY}}", "key beside secret_url"),
        (f"{{url: '{HERE}', key: secret-4711}}", "never a secret itself"),
        (f"{{url: '{HERE}', password: secret-4711}}", "key: {env: NAME}"),
    ],
)
def test_what_it_may_not_say(world: World, text: str, words: str) -> None:
    """What is none of it is an error that says what is wanted, and never a password."""
    world.user(f"coordinator: {text}")
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert words in caught.value.message
    assert "4711" not in caught.value.message


def test_a_project_needs_trust_to_name_one(world: World) -> None:
    """Limits and answers would go to whoever it names, or, with none, be this machine's again."""
    world.user(f"coordinator: {{url: '{HERE}', key: {{env: REDIS_KEY}}}}")
    for said in ("redis://elsewhere.example", "null"):
        path = world.project(f"coordinator: {said}\n")
        with pytest.raises(Untrusted) as caught:
            world.load()
        assert "coordinator" in caught.value.message
    path = world.project("coordinator: redis://elsewhere.example\n")
    settings = world.load(config=world.own)
    record(settings.folders, path, path.read_bytes())
    # The password stays with the address beside it.
    assert world.load().coordinator == RedisSettings("redis://elsewhere.example")


def test_no_command_sees_its_password(world: World) -> None:
    """The variables of its secrets are hidden from a command that gives a key, and the other way
    round."""
    world.user(
        f"coordinator: {{url: '{HERE}', key: {{env: REDIS_KEY}}}}\n"
        "profiles: {mine: {provider: openai, key: {command: op read x}}}\n"
    )
    key = world.load().profiles["mine"].key
    assert key is not None
    assert "REDIS_KEY" in key.hidden
    world.user(f"coordinator: {{url: '{HERE}', key: {{command: op read x}}}}\n")
    shared = world.load().coordinator
    assert shared is not None
    assert shared.key is not None
    assert "OPENAI_API_KEY" in shared.key.hidden
