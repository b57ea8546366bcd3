"""`privacy:` in a profile: what it says, what is wrong with it, and whose word it needs."""

from __future__ import annotations

import pytest

from llmctl.config.profiles import as_yaml
from llmctl.config.settings import Privacy
from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from llmctl.privacy.findings import IDENTIFIERS, KINDS
from tests.configuring import World


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("{}", Privacy(IDENTIFIERS, "mask", restore=True)),
        ("{mask: all}", Privacy(KINDS)),
        ("{mask: email, action: block}", Privacy(("email",), "block")),
        ("{mask: [email, card], action: report, restore: no}",
         Privacy(("email", "card"), "report", restore=False)),
    ],
)  # fmt: skip
def test_what_it_says(world: World, said: str, read: Privacy) -> None:
    """All that needs no model unless kinds are named; shown, it can be read again."""
    world.user(f"profiles: {{openai: {{privacy: {said}}}}}")
    profile = world.load().profiles["openai"]
    assert profile.privacy == read
    world.user(as_yaml(profile))
    assert world.load().profiles["openai"].privacy == read


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("{mask: [mail]}", "mask.0. must be email or phone or"),
        ("{mask: everything}", "mask must be all, or a list of email"),
        ("{mask: []}", "mask must be all, or a list of email"),
        ("{action: hide}", "action must be mask or block or report"),
        ("{mode: x}", "unknown key"),
    ],
)
def test_what_is_wrong(world: World, said: str, wrong: str) -> None:
    """Unknown kinds, actions and keys are named."""
    world.user(f"profiles: {{openai: {{privacy: {said}}}}}")
    with pytest.raises(ConfigError, match=wrong):
        world.load()


def test_a_project_needs_trust(world: World) -> None:
    """A project changes nothing of it unasked: it could take the masking away."""
    world.user("profiles: {openai: {privacy: {mask: [email, card]}}}")
    (world.repo / "llmctl.yaml").write_text("profiles: {openai: {privacy: {action: report}}}")
    with pytest.raises(Untrusted, match="privacy"):
        world.load()
