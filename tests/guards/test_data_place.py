"""A call is sent only where its data may go, and with nothing stored where that is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.config.settings import DataRules, Profile
from llmctl.errors import CallError, DataRefused, ProviderDown
from llmctl.guards.data_place import data_place, first_place, placed
from llmctl.providers.registry import codec
from llmctl.types import JSON, RawRequest
from tests.guards.test_fallback import Asked
from tests.support import TARGET, Scripted, request, response

NONE = DataRules(retention="none")
CLASSES = DataRules(classes={"phi": ("b",)})


def profile(name: str = "a", rules: DataRules = NONE, **said: Any) -> Profile:
    """A profile that keeps nothing."""
    made = Profile(name, "openai", "openai", TARGET.base_url, "m", retention="none", data=rules)
    return replace(made, **said)


def wire(
    provider: str, api: str = "chat", options: JSON | None = None, raw: RawRequest | None = None
) -> Any:
    """The body that goes out under `retention: none`."""
    target = replace(TARGET, provider=provider, adapter=provider, api=api)
    asked = request("hello", target=target, options=options or {}, raw=raw)
    sent = placed(asked, profile(provider=provider), {})
    return codec(provider, api).encode(sent, stream=False).body


@pytest.mark.parametrize(
    ("provider", "api", "said"),
    [
        ("openai", "chat", {"store": False}),
        ("openai", "responses", {"store": False}),
        ("gemini", "chat", {"store": False}),
        ("openrouter", "chat", {"provider": {"zdr": True}}),
        ("anthropic", "chat", {}),
        ("groq", "chat", {}),
        ("mistral", "chat", {}),
        ("cohere", "chat", {}),
    ],
)
def test_switches(provider: str, api: str, said: dict[str, Any]) -> None:
    """Each provider that has a switch against storing is sent it, by the name it knows; the others
    nothing that they would refuse."""
    body = wire(provider, api)
    assert {name: body[name] for name in ("store", "provider") if name in body} == said


def test_a_switch_wins() -> None:
    """Over what the question asks for; other wishes of the same section stay."""
    assert wire("openai", options={"store": True})["store"] is False
    wishes = {"order": ["x"], "zdr": False}
    said = wire("openrouter", options={"provider": wishes})
    assert said["provider"] == {"order": ["x"], "zdr": True}


def test_bodies_that_are_passed_through() -> None:
    """They are sent the switch where their interface knows it."""
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "store": True}
    assert wire("openai", raw=RawRequest("/chat/completions", chat))["store"] is False
    assert wire("openai", raw=RawRequest("/responses", {"model": "m"}))["store"] is False
    assert "store" not in wire("openai", raw=RawRequest("/embeddings", {"model": "m"}))
    plain = {name: chat[name] for name in ("model", "messages")}
    assert wire("gemini", raw=RawRequest("/chat/completions", plain))["store"] is False


def test_no_switch_unasked() -> None:
    """A call that may be kept is sent as it is."""
    asked = request("hello")
    assert placed(asked, profile(rules=DataRules()), {}) is asked


def test_the_asker_and_the_call_both_bind() -> None:
    """The tags of the profile that is asked hold beside those of the call, and neither replaces
    the other."""
    inner = Scripted()
    rules = DataRules(classes={"phi": ("b",), "any": ("a", "b")})
    guard = data_place(inner, profile(rules=rules), {"data.class": "phi"})
    with pytest.raises(DataRefused) as caught:
        asyncio.run(guard(request(tags={"data.class": "any"}), None))
    assert not inner.calls
    error = caught.value
    assert (error.exit_code, error.row_type, error.sent) == (2, "data", False)
    assert error.message.startswith("not sent: `data: classes` lets phi go only to b")
    assert error.rule == "class phi"


@pytest.mark.parametrize(
    ("rules", "asker", "tags"),
    [
        (DataRules(regions=("eu",)), {}, {}),
        (DataRules(), {"data.region": "eu"}, {}),
        (DataRules(), {}, {"data.region": "eu"}),
        (DataRules(), {}, {"data.unheard": "of"}),
    ],
)
def test_each_alone_is_asked(rules: DataRules, asker: dict[str, str], tags: dict[str, str]) -> None:
    """The profile's rules, the tags of whom the user asked, and those of the call; without any of
    them every call goes."""
    inner = Scripted(response())
    guard = data_place(inner, profile(rules=rules), asker)
    with pytest.raises(DataRefused):
        asyncio.run(guard(request("hello", tags=tags), None))
    free = data_place(inner, profile(rules=DataRules()), {"team": "x"})
    assert asyncio.run(free(request("hello", tags={"user.data": "x"}), None)) == response()


def test_the_first_place() -> None:
    """Of the one asked and its fallbacks; the last one's reason where there is none."""
    a, b = profile("a", CLASSES), profile("b", CLASSES)
    assert first_place((a, b), {}) is a
    assert first_place((a, b), {"data.class": "phi"}) is b
    with pytest.raises(DataRefused, match="not to a"):
        first_place((a,), {"data.class": "phi"})


REFUSED = DataRefused("not sent: no", "class phi")


def test_a_fallback_is_asked_where_the_first_may_not_be() -> None:
    """Nothing is on record of what was not asked."""
    asked = Asked(REFUSED, response("from claude"))
    answer = asked.clock.run(asked.guard(request(), None))
    assert answer.text == "from claude"
    assert not asked.over


def test_the_last_refusal_is_the_error() -> None:
    """Where nobody may be asked."""
    last = DataRefused("not sent: nor there", "class phi")
    asked = Asked(REFUSED, refuses=last)
    with pytest.raises(DataRefused, match="nor there"):
        asked.clock.run(asked.guard(request(), None))
    assert not asked.other.calls


def test_a_fallback_that_may_not_be_asked_is_skipped() -> None:
    """The error is then that of the one which was."""
    down: CallError = ProviderDown("sim", None, 5.0)
    asked = Asked(down, refuses=REFUSED)
    with pytest.raises(ProviderDown):
        asked.clock.run(asked.guard(request(), None))
    assert not asked.other.calls


def test_a_fallback_that_is_down_is_what_ends_a_call() -> None:
    """The only one that may be asked: it may come back, and the first will never be allowed."""
    asked = Asked(REFUSED, refuses=ProviderDown("claude", None, 5.0))
    with pytest.raises(ProviderDown):
        asked.clock.run(asked.guard(request(), None))
