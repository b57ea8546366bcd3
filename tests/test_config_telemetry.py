"""`telemetry:` in a configuration."""

from __future__ import annotations

import pytest

from llmctl.config.settings import Secret, Telemetry
from llmctl.config.trust import Untrusted, record
from llmctl.errors import ConfigError
from tests.configuring import World

HERE = "http://127.0.0.1:4318"


def test_off_unless_it_is_set(world: World) -> None:
    """Without the section nothing is sent, whatever the environment says; an empty line is none."""
    world.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = HERE
    assert world.load().telemetry is None
    world.user("telemetry:")
    assert world.load().telemetry is None
    world.user("telemetry: {otlp: env}")
    assert world.load().telemetry == Telemetry("env")


def test_what_it_says(world: World) -> None:
    """An address without its slash, headers by their variables, content, metrics and a name."""
    world.user(
        f"telemetry: {{otlp: '{HERE}/', headers: {{X-Api-Key: {{env: OTLP_KEY}}}}, "
        "content: true, metrics: false, service: nightly}"
    )
    headers = {"X-Api-Key": Secret("OTLP_KEY")}
    assert world.load().telemetry == Telemetry(
        HERE, headers, content=True, metrics=False, service="nightly"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "needs otlp"),
        ("{otlp: collector:4317}", "http:// or https:// and a host"),
        ("{otlp: 'http://127.0.0.1:4318/v1/traces'}", "without user, password and /v1/traces"),
        ("{otlp: 'https://me:secret@collector.example'}", "without user, password"),
        ("{otlp: env, headers: {x-api-key: secret-4711}}", "never a secret itself"),
        ("{otlp: env, headers: {content-type: {env: A}}}", "does not set itself"),
        ("{otlp: env, contents: true}", "did you mean"),
    ],
)
def test_what_it_may_not_say(world: World, text: str, words: str) -> None:
    """What is none of it is an error that says what is wanted, and never a password."""
    world.user(f"telemetry: {text}")
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert words in caught.value.message
    assert "secret@" not in caught.value.message
    assert "4711" not in caught.value.message


def test_a_command_does_not_see_its_headers(world: World) -> None:
    """The variables of headers are hidden from a command that gives a key."""
    world.user(
        "profiles: {mine: {provider: openai, key: {command: pass show key}}}\n"
        "telemetry: {otlp: env, headers: {x-api-key: {env: OTLP_KEY}}}"
    )
    key = world.load().profiles["mine"].key
    assert key is not None
    assert "OTLP_KEY" in key.hidden


@pytest.mark.parametrize(
    "text", ["{otlp: 'https://x.example'}", "{otlp: env}", "{otlp: env, content: true}", ""]
)
def test_a_project_needs_trust(world: World, text: str) -> None:
    """Where spans go, and what they say, is the user's word, also to turn them off."""
    world.user(f"telemetry: {{otlp: '{HERE}'}}")
    world.project(f"telemetry: {text}")
    with pytest.raises(Untrusted):
        world.load()


def test_a_trusted_project_gets_no_header_of_the_users(world: World) -> None:
    """Headers belong to the address beside them: another one is sent its own alone. It must be
    https://, trusted or not."""
    world.user(f"telemetry: {{otlp: '{HERE}', headers: {{x-api-key: {{env: OTLP_KEY}}}}}}")
    world.project("telemetry: {otlp: 'https://x.example'}")
    with pytest.raises(Untrusted) as caught:
        world.load()
    record(world.load(config=world.own).folders, caught.value.path, caught.value.raw)
    assert world.load().telemetry == Telemetry("https://x.example")
    world.project("telemetry: {otlp: 'http://x.example'}")
    with pytest.raises(ConfigError, match="must be https://"):
        world.load()
