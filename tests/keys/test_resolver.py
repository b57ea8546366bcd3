"""Keys are found where the profile says, and never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from msgspec.structs import replace

from llmctl.config.settings import KeyPlaces, Profile
from llmctl.errors import NoKeyError
from llmctl.keys.key import Key, KeySlot, slot_of
from llmctl.keys.keyring_store import KeyringUnavailable
from llmctl.keys.resolver import KeyResolver
from llmctl.keys.rotation import KeyPair, StoredKey
from llmctl.redact import last_chars
from tests.keys.fakes import MemoryPairs

PROFILE = Profile(
    name="p",
    provider="openai",
    adapter="openai",
    base_url="https://api.openai.com/v1",
    model="m",
    key=KeyPlaces("MY_KEY"),
)
KEYLESS = replace(PROFILE, key=None)


HOME = "https://api.openai.com:443"
DEFAULT = replace(PROFILE, name="openai", key=KeyPlaces("OPENAI_API_KEY", keyring="openai"))


def no_vault(*_: object) -> MemoryPairs:
    """A keyring that must not be opened."""
    raise AssertionError("the keyring was opened")


class Lookup:
    """A resolver over this environment and this keyring; without one no keyring may be opened."""

    def __init__(
        self,
        environ: dict[str, str],
        pairs: MemoryPairs | None = None,
        stored: Collection[KeySlot] = (),
    ) -> None:
        self.resolver = KeyResolver(
            environ, stored=stored, open_keyring=lambda *_: pairs or no_vault()
        )

    def find(self, profile: Profile) -> Key | None:
        """The key of a profile."""
        return asyncio.run(self.resolver.find(profile))

    def require(self, profile: Profile) -> Key:
        """The key that a profile must have."""
        key = asyncio.run(self.resolver.require(profile))
        assert key is not None
        return key


def holding(*keys: str, name: str = "openai", origin: str = HOME) -> MemoryPairs:
    """A vault with a primary, and a previous key."""
    vault = MemoryPairs()
    entries = [StoredKey(key, 5.0, -n) for n, key in enumerate(keys)]
    vault.pairs[KeySlot(name, origin)] = KeyPair(
        (entries[0], entries[1] if len(entries) > 1 else None)
    )
    return vault


def test_the_profiles_variable() -> None:
    """The key comes from the variable that the profile names, says so, and opens no keyring."""
    found = Lookup({"MY_KEY": "sk-1234", "OPENAI_API_KEY": "other"})
    assert found.require(PROFILE) == Key("sk-1234", "$MY_KEY")


def test_environment_before_keyring() -> None:
    """Without a `key` of its own a profile takes the variable first, and then the stored key."""
    assert Lookup({"OPENAI_API_KEY": "sk-1"}).require(DEFAULT).source == "$OPENAI_API_KEY"
    found = Lookup({}, holding("sk-2", "sk-1")).require(DEFAULT)
    assert (found.value, found.source, found.role) == ("sk-2", "keyring", "primary")
    assert found.created == 5.0
    assert found.previous == Key("sk-1", "keyring", "previous", 5.0)


def test_what_the_profile_names_is_the_only_place() -> None:
    """A profile's `key` is where the key is looked for, and nowhere else."""
    environ = {"OPENAI_API_KEY": "sk-1"}
    stored = replace(PROFILE, key=KeyPlaces(keyring="team"))
    assert Lookup(environ, holding("sk-9", name="team")).require(stored).value == "sk-9"
    with pytest.raises(NoKeyError, match="no key team is stored"):
        Lookup(environ, MemoryPairs()).require(stored)
    printed = replace(PROFILE, key=KeyPlaces(command=("printf", "sk-7")))
    assert Lookup(environ).require(printed) == Key("sk-7", "command")


def test_a_stored_key_belongs_to_its_origin() -> None:
    """A profile that points elsewhere finds none, and is told where the key belongs."""
    elsewhere = replace(
        DEFAULT, base_url="https://proxy.example/v1", key=KeyPlaces(keyring="openai")
    )
    stored = {KeySlot("openai", HOME)}
    with pytest.raises(NoKeyError) as caught:
        Lookup({}, holding("sk-1234"), stored=stored).require(elsewhere)
    assert caught.value.message == (
        "no key for the profile openai: the stored key openai belongs to https://api.openai.com "
        "and is not sent to https://proxy.example; store one with `llmctl keys set openai`, or "
        "choose another profile with -p"
    )


def test_server_without_a_key() -> None:
    """A profile that names no key needs none, and costs no keyring, unless one was stored."""
    environ = {"OPENAI_API_KEY": "sk-1234"}
    assert asyncio.run(Lookup(environ).resolver.require(KEYLESS)) is None
    mine = slot_of(KEYLESS)
    vault = holding("sk-5", name=mine.name, origin=mine.origin)
    assert Lookup(environ, vault, stored={mine}).require(KEYLESS).value == "sk-5"
    assert Lookup(environ, MemoryPairs(), stored={mine}).find(KEYLESS) is None
    assert Lookup({}, stored={KeySlot(mine.name, "https://x:443")}).resolver.elsewhere(KEYLESS)


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": ""}, {"MY_KEY": "\n"}])
def test_missing(environ: dict[str, str]) -> None:
    """An unset or empty variable is no key; requiring one names the variable and how to set it."""
    assert Lookup(environ).find(PROFILE) is None
    with pytest.raises(NoKeyError, match=r"\$MY_KEY is (not set|empty).*export MY_KEY=") as caught:
        Lookup(environ).require(PROFILE)
    assert caught.value.exit_code == 4


def test_missing_everywhere() -> None:
    """Where neither the environment nor the keyring has a key, both are named, and both ways."""
    with pytest.raises(NoKeyError) as caught:
        Lookup({}, MemoryPairs()).require(DEFAULT)
    said = caught.value.message
    assert "$OPENAI_API_KEY is not set, and no key openai is stored for https://api.openai" in said
    assert "llmctl keys set openai" in said


def test_missing_and_no_keyring() -> None:
    """Without a keyring the message says both, and names the three ways on."""

    def broken(*_: object) -> MemoryPairs:
        raise KeyringUnavailable("there is none on this machine")

    with pytest.raises(NoKeyError) as caught:
        asyncio.run(KeyResolver({}, open_keyring=broken).require(DEFAULT))
    said = caught.value.message
    assert "$OPENAI_API_KEY is not set, and no keyring can be used: there is none" in said
    assert "Three ways on" in said
    only_stored = replace(DEFAULT, key=KeyPlaces(keyring="openai"))
    with pytest.raises(KeyringUnavailable):
        asyncio.run(KeyResolver({}, open_keyring=broken).require(only_stored))


def test_trailing_newline_is_taken_away() -> None:
    """The line end that comes with a secret read from a file does not belong to it."""
    for end in ("\n", "\r\n"):
        assert Lookup({"MY_KEY": f"sk-1234{end}"}).require(PROFILE).value == "sk-1234"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (" sk-1234", "white space"),
        ("sk-1234 ", "white space"),
        ("sk-12\n34", "line break"),
        ("sk-12\x0034", "control character"),
        ("sk-12\x7f34", "control character"),
        ("sk-12\x8534", "control character"),
        ("sk-12…34", "no HTTP header"),
        ("sk-12\udcff34", "no HTTP header"),
        ('"sk-1234"', "quotation marks"),
        ("   ", "white space"),
    ],
)
def test_what_cannot_be_a_key(value: str, wrong: str) -> None:
    """A value that no header can carry is refused with the reason and without showing it, be it
    set or stored."""
    with pytest.raises(NoKeyError, match=wrong) as caught:
        Lookup({"MY_KEY": value}).find(PROFILE)
    assert "MY_KEY" in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert "34" not in str(caught.value)
    with pytest.raises(NoKeyError, match=wrong):
        Lookup({}, holding(value)).find(DEFAULT)


def test_never_shown() -> None:
    """Neither repr, str, a format nor a traceback's message shows the value."""
    key = Key("sk-1234", "$MY_KEY")
    shown = f"{key} {key!r} {[key]} {key!s:>40}"
    assert "sk-1234" not in shown
    assert "$MY_KEY" in shown


def test_the_ending_of_a_key() -> None:
    """Four characters of a key are shown, none of one so short that they would give it away."""
    assert last_chars("sk-test-canary-4711") == "…4711"
    assert last_chars("sk-4711") == "…"


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("HTTPS://API.openai.com:443/x", "https://api.openai.com"),
        ("https://api.openai.com:8443/v1", "https://api.openai.com:8443"),
        ("http://localhost/v1", "http://localhost"),
        ("http://localhost:443/v1", "http://localhost:443"),
    ],
)
def test_origins(url: str, where: str) -> None:
    """Scheme, host and port make an origin; a port that goes without saying is not said."""
    assert slot_of(replace(PROFILE, base_url=url)).where == where
