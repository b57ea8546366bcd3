"""Rotation that needs nobody, as units: each provider's interface, and a secrets manager's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmctl.cli.context import Context
from llmctl.cli.keys_every import run_every
from llmctl.clock import SystemClock
from llmctl.config.load import load
from llmctl.config.settings import Profile, SecretUri
from llmctl.errors import AuthFailed, RotationDue
from llmctl.keys.key import KeySlot, StoredKey
from llmctl.keys.renewal import due_in
from llmctl.keys.requested_keys import RequestedKeys
from llmctl.keys.secrets import Secret, SecretSource
from llmctl.providers.key_admin import admin_places, open_key_api
from llmctl.providers.key_api import KeyApi
from tests.configuring import World
from tests.simulator.key_admin import KeyAdmin, Listed
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

ADMIN = "sk-admin-canary-7777"
HAND = "sk-ant-api03-R2Dxyzxyzxyzxyzxyzxyz-igAA"


def profile_of(world: World, provider: str, base_url: str, more: str = "") -> Profile:
    """A profile of a provider at another address."""
    text = f"profiles:\n  p:\n    provider: {provider}\n    base_url: {base_url}\n{more}"
    world.user(text)
    return load(environ=world.environ, cwd=world.repo).profiles["p"]


@asynccontextmanager
async def opened(world: World, sim: Simulator, provider: str) -> AsyncIterator[KeyApi]:
    """The interface of a provider that the simulator plays."""
    more = "    headers: {openai-project: proj_sim}\n" if provider == "openai" else ""
    profile = profile_of(world, provider, sim.origin + BASES[provider], more)
    async with open_key_api(profile, ADMIN, "$ADMIN", SystemClock()) as api:
        yield api


@pytest.mark.parametrize("provider", ["openai", "openrouter"])
def test_a_key_is_made_found_and_revoked(provider: str, world: World, sim: Simulator) -> None:
    """What was made is found by its whole name, on whatever page it is listed, and revoked by its
    id; to revoke it again is no error."""
    sim.key_admin = admin = KeyAdmin(key=ADMIN)
    admin.keys.update({f"id_{n}": Listed(name=f"other {n}", value=f"v{n}") for n in range(5)})

    async def work() -> None:
        async with opened(world, sim, provider) as api:
            assert (api.makes, api.lacks) == (True, None)
            made = await api.create("llmctl p now", None)
            assert admin.keys[made.id].value == made.value
            assert made.value not in repr(made)
            assert await api.named("llmctl p now") == [made.id]
            assert await api.named("llmctl p") == []
            await api.revoke(made.id)
            await api.revoke(made.id)
            assert len(admin.keys) == 5

    asyncio.run(work())


def test_a_spending_limit_goes_over(world: World, sim: Simulator) -> None:
    """OpenRouter's new key may spend what the one before it may."""
    sim.key_admin = admin = KeyAdmin(key=ADMIN)
    admin.keys["id_old"] = Listed(name="old", value="v", limit=25)

    async def work() -> None:
        async with opened(world, sim, "openrouter") as api:
            made = await api.create("new", "id_old")
            assert admin.keys[made.id].limit == 25

    asyncio.run(work())


def test_anthropics_key_is_found_by_its_ends(world: World, sim: Simulator) -> None:
    """A key that was made by hand is found by its beginning and end, where it is the only one that
    has them, and made inactive."""
    sim.key_admin = admin = KeyAdmin(key=ADMIN)
    admin.keys["id_1"] = Listed(name="by hand", value=HAND)
    admin.keys["id_2"] = Listed(name="other", value="sk-ant-api03-R2Xxyzxyzxyzxyzxyz-igAA")

    async def work() -> None:
        async with opened(world, sim, "anthropic") as api:
            assert not api.makes
            assert await api.find(HAND) == "id_1"
            assert await api.find(HAND[:-1] + "B") is None
            admin.keys["id_3"] = admin.keys["id_1"]
            assert await api.find(HAND) is None
            await api.revoke("id_1")
            assert "id_1" not in admin.keys

    asyncio.run(work())


def test_a_refused_admin_key_is_named(world: World, sim: Simulator) -> None:
    """What the provider refuses is the admin key, by the place it was found in."""
    sim.key_admin = KeyAdmin(key="another")

    async def work() -> None:
        async with opened(world, sim, "openai") as api:
            await api.create("x", None)

    with pytest.raises(AuthFailed, match=r"the admin key of \$ADMIN is refused"):
        asyncio.run(work())


def test_an_admin_key_stays_at_its_provider(world: World) -> None:
    """The variable of a provider's admin key counts at its own address alone; elsewhere the profile
    names one, and a provider without such keys has none."""
    env = {"OPENAI_ADMIN_KEY": ADMIN, "ANTHROPIC_ADMIN_API_KEY": ADMIN}
    at_home = load(environ=world.environ, cwd=world.repo).profiles
    place = admin_places(at_home["openai"], env)
    assert place is not None
    assert place.env == "OPENAI_ADMIN_KEY"
    place = admin_places(at_home["anthropic"], env)
    assert place is not None
    assert place.env == "ANTHROPIC_ADMIN_API_KEY"
    assert admin_places(at_home["groq"], env) is None
    assert admin_places(profile_of(world, "openai", "https://box.example/v1"), env) is None
    more = "    admin_key: {keyring: admin}\n"
    place = admin_places(profile_of(world, "openai", "https://box.example/v1", more), env)
    assert place is not None
    assert (place.env, place.keyring) == (None, "admin")


def test_requested_names(tmp_path: Path) -> None:
    """A name is kept for each slot until it is taken back; a damaged file holds none."""
    requested = RequestedKeys(tmp_path / "state")
    one, other = KeySlot("a", "https://x:443"), KeySlot("b", "https://x:443")
    assert requested.name(one) is None
    requested.note(one, "first")
    requested.note(other, "second")
    requested.note(one, None)
    assert (requested.name(one), requested.name(other)) == (None, "second")
    (tmp_path / "state/keys_requested.json").write_text("[")
    assert requested.name(other) is None


def test_due() -> None:
    """Seconds until a key is as old as it may be; None for one whose age is not known."""
    assert due_in(StoredKey("k", 100.0), 50, 120) == 30
    assert due_in(StoredKey("k"), 50, 120) is None


class Manager:
    """A secrets manager that rotates by itself, at the second look after it was told to."""

    name = "Test Manager"

    def __init__(self, sets_up: bool, seconds: float | None) -> None:  # noqa: FBT001
        self.sets_up, self.seconds = sets_up, seconds
        self.looks = -1

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:  # noqa: ARG002
        """The old key, then the new one."""
        self.looks += self.looks >= 0
        return Secret("sk-test-new-key-0002" if self.looks >= 2 else "sk-test-old-key-0001", "v")

    async def age(self, uri: SecretUri) -> float | None:  # noqa: ARG002
        """As it was made."""
        return self.seconds

    async def rotate(self, uri: SecretUri) -> str | None:  # noqa: ARG002
        """Begin."""
        self.looks = 0 if self.sets_up else -1
        return "v2" if self.sets_up else None


class QuickClock(SystemClock):
    """A clock that does not wait."""

    async def sleep(self, seconds: float) -> None:
        """At once."""


@pytest.fixture
def managed(
    world: World, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Manager], int]:
    """Runs the command for a profile whose key a manager keeps."""

    def rotate(manager: Manager) -> int:
        profile_of(world, "openai", sim.base_url, "    key: {secret: 'aws-sm://eu-west-1/x'}\n")
        monkeypatch.setattr(SecretSource, "reader", manager)
        monkeypatch.chdir(world.repo)
        context = Context(environ=world.environ, clock=QuickClock())
        return run_every("p", [], "90d", context)

    return rotate


def test_a_manager_rotates(
    managed: Callable[[Manager], int], sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secrets manager is told to rotate what is due; its new version is waited for and checked
    with the provider."""
    sim.accept_keys({"sk-test-new-key-0002"})
    assert managed(Manager(sets_up=True, seconds=100 * 86400.0)) == 0
    assert "Test Manager has replaced the key …0001 by …0002, which the provider accepts" in (
        capsys.readouterr().out
    )
    assert [call.api_key for call in sim.calls] == ["sk-test-new-key-0002"]


def test_a_managers_key_that_is_not_due(
    managed: Callable[[Manager], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A young version is left alone."""
    manager = Manager(sets_up=True, seconds=10 * 86400.0)
    assert managed(manager) == 0
    assert "is 10 d old; due in 80 d" in capsys.readouterr().out
    assert manager.looks == -1


def test_a_manager_that_does_not_rotate(managed: Callable[[Manager], int]) -> None:
    """Without a rotation set up there it is exit 7, with what to do."""
    with pytest.raises(RotationDue, match="store it there as a new version") as caught:
        managed(Manager(sets_up=False, seconds=None))
    assert caught.value.exit_code == 7
    assert "of unknown age" in caught.value.message
