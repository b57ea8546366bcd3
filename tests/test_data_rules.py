"""Where data may go: the rules, what profiles say of themselves, what calls ask for."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.config.data_rules import TAGS, refusal
from llmctl.config.regions import inference_area, lies_in
from llmctl.config.settings import DataRules, Profile
from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from tests.configuring import World

PLACE = Profile("a", "openai", "openai", "https://llm.example/v1", "m")
NOTHING = DataRules()


def why(
    rules: DataRules = NOTHING,
    tags: dict[str, str] | None = None,
    model: str | None = "m",
    *,
    in_batch: bool = False,
    **said: Any,
) -> str:
    """Why a profile that says this may not be asked; empty: it may."""
    profile = replace(PLACE, data=rules, **said)
    found = refusal(profile, model, tags or {}, in_batch=in_batch)
    return "" if found is None else found.why


def test_nothing_is_ruled_by_default() -> None:
    """Without rules and tags every profile may be asked, whatever it does not say."""
    assert not why()
    assert not why(tags={"team": "a", "database": "b"}, in_batch=True)


@pytest.mark.parametrize(
    ("region", "wanted", "holds"),
    [
        ("eu-central-1", "eu", True),
        ("europe-west4", "eu", True),
        ("swedencentral", "eu", True),
        ("eu", "eu", True),
        ("eu-west-2", "eu", False),  # London
        ("eu-central-2", "eu", False),  # Zurich
        ("europe-west2", "uk", True),
        ("europe-west6", "ch", True),
        ("us-east-1", "us", True),
        ("us-east4", "us", True),
        ("eastus2", "us", True),
        ("us-east-1", "eu", False),
        ("eu", "eu-central-1", False),
        ("global", "eu", False),
        ("eu-west-2", "europe", True),
        ("norwayeast", "europe", True),
        ("europe", "eu", False),
        ("us-east-1", "europe", False),
        ("mars-north-1", "mars", False),
        ("mars-north-1", "mars-north-1", True),
    ],
)
def test_regions_lie_in_areas(region: str, wanted: str, holds: bool) -> None:  # noqa: FBT001
    """By a table of the clouds' regions; the European Union is not Europe, and what is not listed
    lies nowhere."""
    assert lies_in(region, wanted) is holds


def test_a_region_must_be_said() -> None:
    """A profile goes by the region it says; one that says none, or another, is refused with the
    rule, what it allows and what the profile says."""
    rules = DataRules(regions=("eu", "ch"))
    assert not why(rules, region="europe-west3")
    assert not why(rules, region="eu-central-2")
    assert "allows only eu or ch, and the profile a is in us-east-1" in why(
        rules, region="us-east-1"
    )
    assert "the profile a does not say its `region:`" in why(rules)
    asked = why(tags={"data.region": "eu"}, region="us-east-1")
    assert "the tag data.region allows only eu" in asked


@pytest.mark.parametrize(
    ("model", "area"),
    [
        ("anthropic.claude-x", None),
        ("eu.anthropic.claude-x", "eu"),
        ("us-gov.anthropic.claude-x", "us"),
        ("global.anthropic.claude-x", "global"),
        ("arn:aws:bedrock:eu-central-1:1:inference-profile/us.anthropic.x", "us"),
        ("arn:aws:bedrock:eu-central-1:1:application-inference-profile/abc", "unknown"),
    ],
)
def test_bedrock_answers_where_the_model_says(model: str, area: str | None) -> None:
    """An inference profile may answer anywhere in its area: both the region and that must do."""
    assert inference_area(model) == area
    rules = DataRules(regions=("eu",))
    said = why(rules, model=model, adapter="bedrock", region="eu-central-1")
    assert bool(said) is (area not in (None, "eu"))
    assert why(rules, model=model, adapter="bedrock", region="us-east-1")
    assert not why(rules, model=None, adapter="bedrock", region="eu-central-1")
    assert not why(rules, model=model, region="eu")  # of others a model's name says nothing


def test_nothing_kept_must_be_agreed() -> None:
    """`retention: none` takes a profile that says so, and no batch, which is a file there; a
    switch alone is enough only where the provider says that nothing else is kept."""
    for rules, tags in ((DataRules(retention="none"), {}), (NOTHING, {"data.retention": "none"})):
        assert not why(rules, tags, retention="none")
        assert "does not say `retention: none`" in why(rules, tags)
        assert "batch is a file that it keeps" in why(rules, tags, retention="none", in_batch=True)
        home: Any = {"provider": "openrouter", "base_url": "https://openrouter.ai/api/v1"}
        assert not why(rules, tags, **home)
        assert why(rules, tags, **{**home, "base_url": "https://other.example/v1"})
        assert why(rules, tags, provider="openai", base_url="https://api.openai.com/v1")
    assert "knows only `none`" in why(tags={"data.retention": "7d"}, retention="none")


def test_classes_name_their_profiles() -> None:
    """A call of a class goes only to its profiles; a class of nobody goes nowhere, and one that
    is not defined is not guessed."""
    rules = DataRules(classes={"phi": ("a", "b"), "pci": ("b",), "never": ()})
    assert not why(rules, {"data.class": "phi"})
    assert "lets pci go only to b, not to a" in why(rules, {"data.class": "pci"})
    assert "only to no profile" in why(rules, {"data.class": "never"})
    assert "has: phi, pci, never" in why(rules, {"data.class": "ph1"})


def test_agreements() -> None:
    """All that are ruled, and the one that a call asks for, stand in the profile."""
    rules = DataRules(agreements=("baa", "dpa"))
    assert not why(rules, agreements=("dpa", "baa"))
    assert "wants dpa" in why(rules, agreements=("baa",))
    assert "the tag data.agreement wants baa" in why(tags={"data.agreement": "baa"})


def test_a_misspelt_wish_is_refused() -> None:
    """A tag that begins as those that bind, and is none of them, is no label."""
    said = why(tags={"data.clas": "phi"})
    assert all(name in said for name in TAGS)


def test_this_machine() -> None:
    """The local model needs no region, no agreement and keeps nothing; a class binds it."""
    rules = DataRules(
        regions=("eu",), retention="none", agreements=("baa",), classes={"phi": ("b",)}
    )
    assert not why(rules, provider="local")
    assert why(rules, {"data.class": "phi"}, provider="local")


RULES = """
data:
  regions: [eu, uk]
  retention: none
  agreements: [baa]
  classes: {phi: [box], pci: [box, openai]}
profiles:
  box:
    provider: openai
    base_url: https://box.example/v1
    region: eu-central-1
    retention: none
    agreements: [baa, dpa]
    tags: {data.class: phi}
"""


def test_rules_bind_every_profile(world: World) -> None:
    """Those of the top of the file, built-in profiles included; what a profile says is kept."""
    world.user(RULES)
    profiles = world.load().profiles
    rules = DataRules(("eu", "uk"), "none", ("baa",), {"phi": ("box",), "pci": ("box", "openai")})
    assert profiles["groq"].data == profiles["box"].data == rules
    box = profiles["box"]
    assert (box.region, box.retention, box.agreements) == ("eu-central-1", "none", ("baa", "dpa"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {region: [eu]}", 'an unknown key "region"; did you mean "regions"?'),
        ("data: {regions: []}", "data.regions must be a list of one region or more"),
        ("data: {regions: [EU]}", "must be a region such as eu"),
        ("data: {retention: 7d}", "data.retention must be none"),
        ("data: {classes: {phi: [opnai]}}", 'no profile for the class phi: "opnai"; did you'),
        ("data: [eu]", "data must be a mapping"),
        ("profiles: {openai: {data: {regions: [eu]}}}", "it stands beside profiles"),
        ("profiles: {openai: {retention: 30d}}", "retention must be none"),
        ("profiles: {openai: {agreements: [B A]}}", "must be a name in small letters"),
    ],
)
def test_errors(world: World, text: str, words: str) -> None:
    """What is wrong is named with its place and what would be right."""
    path = world.user(text)
    with pytest.raises(ConfigError, match=r":1: ") as caught:
        world.load()
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


TIGHTER = (
    "data: {regions: [eu-central-1]}",
    "data: {regions: eu}",
    "data: {retention: none}",
    "data: {agreements: [dpa, baa]}",
    "data: {classes: {pci: [openai]}}",
    "data: {classes: {phi: []}}",
    "profiles: {openai: {tags: {data.class: pci}}}",
    "profiles: {box: {tags: {data.region: eu}}}",
    "profiles: {box: {tags: {data.class: phi}}}",
)
LOOSER = (
    "data: {regions: [eu, us]}",
    "data: {regions: us}",
    "data: {regions: null}",
    "data: {retention: null}",
    "data: {agreements: []}",
    "data: {agreements: [dpa]}",
    "data: {classes: {phi: [box, openai]}}",
    "data: {classes: {mine: [openai]}}",
    "profiles: {box: {tags: {data.class: pci}}}",
    "profiles: {box: {region: us-east-1}}",
    "profiles: {openai: {retention: none}}",
    "profiles: {openai: {agreements: [baa]}}",
)


@pytest.mark.parametrize("text", TIGHTER)
def test_a_project_may_be_stricter(world: World, text: str) -> None:
    """Unasked, and what it does not say stays as the user's."""
    world.user(RULES)
    world.project(text)
    rules = world.load().profiles["box"].data
    assert rules.retention == "none"
    assert rules.regions in (("eu", "uk"), ("eu-central-1",), ("eu",))
    assert rules.classes.keys() == {"phi", "pci"}


@pytest.mark.parametrize("text", LOOSER)
def test_a_project_that_is_looser_needs_trust(world: World, text: str) -> None:
    """Whatever lets one call more through is the user's to allow."""
    world.user(RULES)
    world.project(text)
    with pytest.raises(Untrusted):
        world.load()


def test_a_project_may_rule_where_the_user_does_not(world: World) -> None:
    """Any region and agreement is stricter than none."""
    world.project("data: {regions: [us], retention: none, agreements: [baa]}")
    assert world.load().profiles["openai"].data.regions == ("us",)
