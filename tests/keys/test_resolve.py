"""Keys are found where the profile says, and never shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmctl import keys
from llmctl.errors import NoKeyError
from llmctl.settings import KeySource, Profile

PROFILE = Profile(
    name="p",
    provider="openai",
    adapter="openai",
    base_url="https://api.openai.com/v1",
    model="m",
    key=KeySource("MY_KEY"),
)
KEYLESS = replace(PROFILE, key=None)


def test_found() -> None:
    """The key comes from the variable that the profile names, and says so."""
    key = keys.find(PROFILE, {"MY_KEY": "sk-1234", "OPENAI_API_KEY": "other"})
    assert key == keys.Key("sk-1234", "$MY_KEY")
    assert keys.require(PROFILE, {"MY_KEY": "sk-1234"}) == key


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": ""}, {"MY_KEY": "\n"}])
def test_missing(environ: dict[str, str]) -> None:
    """An unset or empty variable is no key; requiring one names the variable and how to set it."""
    assert keys.find(PROFILE, environ) is None
    with pytest.raises(NoKeyError, match=r"\$MY_KEY is (not set|empty).*export MY_KEY=") as caught:
        keys.require(PROFILE, environ)
    assert caught.value.exit_code == 4


def test_server_without_a_key() -> None:
    """A profile that names no variable needs no key, whatever is in the environment."""
    environ = {"OPENAI_API_KEY": "sk-1234"}
    assert keys.find(KEYLESS, environ) is None
    assert keys.require(KEYLESS, environ) is None


def test_trailing_newline_is_taken_away() -> None:
    """The line end that comes with a secret read from a file does not belong to it."""
    for end in ("\n", "\r\n"):
        key = keys.find(PROFILE, {"MY_KEY": f"sk-1234{end}"})
        assert key is not None
        assert key.value == "sk-1234"


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
    """A value that no header can carry is refused with the reason and without showing it."""
    with pytest.raises(NoKeyError, match=wrong) as caught:
        keys.find(PROFILE, {"MY_KEY": value})
    assert "MY_KEY" in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert "34" not in str(caught.value)


def test_never_shown(tmp_path: Path) -> None:
    """Neither repr, str, a format nor a traceback's message shows the value."""
    key = keys.Key("sk-1234", "$MY_KEY")
    shown = f"{key} {key!r} {[key]} {key!s:>40}"
    assert "sk-1234" not in shown
    assert "$MY_KEY" in shown
    assert "sk-1234" not in str({tmp_path: key})
