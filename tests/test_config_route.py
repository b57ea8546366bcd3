"""`route:` in a profile: what it says, what is wrong with it, and whose it is."""

from __future__ import annotations

import pytest

from llmctl.config.profiles import as_yaml
from llmctl.errors import ConfigError
from tests.configuring import World

WHOLE = """{cheap: groq, threshold: 0.1, scorer: s.json, rules: [
  {when: {tokens_over: 8000, attachments: true, tools: no, language: de}, to: openai},
  {when: {matches: 'a|b', tag: {k: v}}, to: groq}],
  cascade: {check: [schema, refusal, {matches: ok}, {command: [grep, -q, x]}, {agree: 3},
    {scorer: a.json}]}}"""


def test_it_is_read_whole_and_can_be_shown(world: World) -> None:
    """Files are relative to the file that names them; what is shown is read the same again."""
    own = world.user(f"profiles: {{openai: {{route: {WHOLE}}}}}")
    profile = world.load().profiles["openai"]
    route = profile.route
    assert route is not None
    assert route.cascade is not None
    assert (route.scorer, route.cascade.check[-1].scorer) == (
        own.parent / "s.json",
        own.parent / "a.json",
    )
    assert route.names == ("groq", "openai")
    world.user(as_yaml(profile))
    assert world.load().profiles["openai"].route == route


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("{cheap: gruq}", r"route names no profile: .gruq.; did you mean .groq.\?"),
        ("{cheap: groq, rules: [{when: {tools: true}, to: x}]}", "names no profile"),
        ("{cheap: openai}", "has this profile itself as `cheap`"),
        ("{rules: []}", "needs cheap"),
        ("{cheap: groq, rules: [{when: {matches: '('}, to: groq}]}", "a regular expression"),
        ("{cheap: groq, rules: [{when: {language: xx}, to: groq}]}", "language must be de or"),
        ("{cheap: groq, cascade: {check: []}}", "a cascade without a check"),
        ("{cheap: groq, cascade: {check: [good]}}", "schema, refusal, or one of"),
        ("{cheap: groq, cascade: {check: [{agree: 1}]}}", "from 2 to 9"),
        ("{cheap: groq, sheap: x}", "unknown key"),
    ],
)
def test_what_is_wrong(world: World, said: str, wrong: str) -> None:
    """Every mistake is told when the file is read, with its place."""
    own = world.user(f"profiles: {{openai: {{route: {said}}}}}")
    with pytest.raises(ConfigError, match=wrong) as caught:
        world.load()
    assert str(caught.value).startswith(f"{own}:1")


@pytest.mark.parametrize("back", ["openai", "mistral"])
def test_a_route_leads_no_further(world: World, back: str) -> None:
    """Neither in a circle, nor to a profile that routes again."""
    world.user(
        f"profiles: {{openai: {{route: {{cheap: groq}}}}, groq: {{route: {{cheap: {back}}}}}}}"
    )
    with pytest.raises(ConfigError, match="which has a `route:` of its own"):
        world.load()


def test_a_fallback_does_not_route_again(world: World) -> None:
    """A profile with a route falls back to none that has one."""
    world.user(
        "profiles: {openai: {fallback: [mistral], route: {cheap: groq}}, "
        "mistral: {route: {cheap: groq}}}"
    )
    with pytest.raises(ConfigError, match="falls back to mistral, which has a `route:`"):
        world.load()


def test_a_variant_of_a_profile_does_not_take_its_route(world: World) -> None:
    """So the cheap one may extend the strong one."""
    world.user("profiles: {openai: {route: {cheap: small}}, small: {extends: openai, model: tiny}}")
    assert world.load().profiles["small"].route is None
