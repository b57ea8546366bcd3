"""Keys are found where the profile says, and never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest
from msgspec.structs import replace

from llmctl.config.settings import KeyPlaces, Profile
from llmctl.errors import NoKeyError
from llmctl.keys.key import Key, KeySlot, slot_of
from llmctl.keys.keyring_store import Keyring, KeyringUnavailable
from llmctl.keys.resolver import KeyResolver
from tests.keys.fakes import Memory, holding

PROFILE = Profile(
    name="openai",
    provider="openai",
    adapter="openai",
    base_url="https://api.openai.com/v1",
    model="m",
    key=KeyPlaces("OPENAI_API_KEY", keyring="openai"),
)
VARIABLE = replace(PROFILE, key=KeyPlaces("MY_KEY"))
KEYLESS = replace(PROFILE, key=None)
SLOT = KeySlot("openai", "https://api.openai.com:443")


def require(
    profile: Profile,
    environ: dict[str, str],
    keyring: Keyring | None = None,
    stored: Collection[KeySlot] = (),
) -> Key | None:
    """The key of a profile; without a keyring none may be opened."""
    resolver = KeyResolver(environ, stored=stored)
    if keyring:
        resolver.keyring = keyring
    return asyncio.run(resolver.require(profile))


@pytest.fixture(autouse=True)
def no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test opens the system's keyring."""

    def unavailable(*_: object) -> Keyring:
        raise KeyringUnavailable("there is none on this machine")

    monkeypatch.setattr(Keyring, "open", unavailable)


def test_the_one_place_or_environment_before_keyring() -> None:
    """A profile's `key` is where the key is looked for, and nowhere else; without one of its own
    it takes the variable of its provider first, and then the stored key."""
    environ = {"MY_KEY": "sk-1234", "OPENAI_API_KEY": "sk-1"}
    for end in ("", "\n", "\r\n"):  # a secret read from a file ends its line
        assert require(VARIABLE, {"MY_KEY": f"sk-1234{end}"}) == Key("sk-1234", "$MY_KEY")
    assert require(PROFILE, environ) == Key("sk-1", "$OPENAI_API_KEY")
    found = require(PROFILE, {}, holding(SLOT, "sk-2", "sk-1"))
    assert found == Key("sk-2", "keyring", Key("sk-1", "keyring"))
    team = replace(PROFILE, key=KeyPlaces(keyring="team"))
    assert require(team, environ, holding(KeySlot("team", SLOT.origin), "sk-9"))
    with pytest.raises(NoKeyError, match="no key team is stored"):
        require(team, environ, Keyring(Memory()))
    printed = replace(PROFILE, key=KeyPlaces(command=("printf", "sk-7")))
    assert require(printed, environ) == Key("sk-7", "command")


def test_server_without_a_key() -> None:
    """A profile that names no key needs none, and costs no keyring, unless one was stored."""
    environ = {"OPENAI_API_KEY": "sk-1234"}
    assert require(KEYLESS, environ) is None
    found = require(KEYLESS, environ, holding(SLOT, "sk-5"), stored={SLOT})
    assert found == Key("sk-5", "keyring")
    assert require(KEYLESS, environ, Keyring(Memory()), stored={SLOT}) is None
    resolver = KeyResolver({}, stored={SLOT, KeySlot("openai", "https://x:443")})
    assert resolver.elsewhere(KEYLESS) == [KeySlot("openai", "https://x:443")]


ELSEWHERE = replace(PROFILE, base_url="https://proxy.example/v1", key=KeyPlaces(keyring="openai"))


@pytest.mark.parametrize(
    ("profile", "environ", "message"),
    [
        (VARIABLE, {}, "$MY_KEY is not set; set it with `export MY_KEY=…`"),
        (VARIABLE, {"MY_KEY": "\n"}, "$MY_KEY is empty; set it"),
        (
            PROFILE,
            {},
            (
                "$OPENAI_API_KEY is not set, and no key openai is stored for "
                "https://api.openai.com; set it with `export OPENAI_API_KEY=…`, store one with "
                "`llmctl keys set openai`"
            ),
        ),
        (
            ELSEWHERE,
            {},
            (
                "the stored key openai belongs to https://api.openai.com and is not sent to "
                "https://proxy.example; store one with `llmctl keys set openai`"
            ),
        ),
    ],
)
def test_missing(profile: Profile, environ: dict[str, str], message: str) -> None:
    """A key that is nowhere names the places where it should be, and how to put one there; a
    stored one of another origin is not used."""
    with pytest.raises(NoKeyError) as caught:
        require(profile, environ, Keyring(Memory()), stored={SLOT} if profile is ELSEWHERE else ())
    assert caught.value.message.startswith(f"no key for the profile openai: {message}")
    assert caught.value.exit_code == 4


def test_missing_and_no_keyring() -> None:
    """Without a keyring the message says both, and names the three ways on with the variable of
    the profile; nobody is told to install what is installed."""
    pytest.importorskip("keyrings.cryptfile")
    gemini = replace(PROFILE, key=KeyPlaces(env="GEMINI_API_KEY", keyring="gemini"))
    with pytest.raises(NoKeyError, match="export GEMINI_API_KEY=…\n") as caught:
        require(gemini, {})
    assert "pip install" not in caught.value.message
    with pytest.raises(NoKeyError, match=r"(?s)API_KEY is not set, and no keyring.*Three ways on"):
        require(PROFILE, {})
    with pytest.raises(KeyringUnavailable):
        require(replace(PROFILE, key=KeyPlaces(keyring="openai")), {})


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        (" sk-1234", "white space"),
        ("   ", "white space"),
        ("sk-12\n34", "line break"),
        ("sk-12\x7f34", "control character"),
        ("sk-12\x8534", "control character"),
        ("sk-12…34", "no HTTP header"),
        ('"sk-1234"', "quotation marks"),
    ],
)
def test_what_cannot_be_a_key(value: str, wrong: str) -> None:
    """A value that no header can carry is refused with the reason and without showing it, be it
    set or stored."""
    with pytest.raises(NoKeyError, match=rf"MY_KEY .*{wrong}") as caught:
        require(VARIABLE, {"MY_KEY": value})
    assert "sk-" not in str(caught.value)
    with pytest.raises(NoKeyError, match=wrong):
        require(PROFILE, {}, holding(SLOT, value))


def test_never_shown() -> None:
    """Neither repr, str, a format nor a traceback's message shows the value."""
    key = Key("sk-1234", "$MY_KEY")
    shown = f"{key} {key!r} {[key]} {key!s:>40}"
    assert "sk-1234" not in shown
    assert "$MY_KEY" in shown


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
