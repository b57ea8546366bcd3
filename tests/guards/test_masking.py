"""The guard: masked before accounting, restored within it, and only for whose values they are."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from llmctl.clock import SystemClock
from llmctl.config.settings import Privacy, Profile
from llmctl.errors import IdentifiersFound, NoKeyError, SchemaMismatch, SetupError
from llmctl.guards.cache import Cache
from llmctl.guards.masking import masked, open_masker, restored, restoring
from llmctl.privacy.masking import LONGEST
from llmctl.protocols import Emit
from llmctl.types import Answer, Masked, Message, Request, StreamChunk
from tests.guards.fakes import FakeCache
from tests.support import MASKER, request, response

MAIL = "mary.poe@example.com"
KEY = {"LLMCTL_STORE_KEY": "0123456789abcdef" * 4}


def asked(text: str, **more: Any) -> Request:
    """A masked request."""
    return MASKER(request(messages=(Message("user", text),), **more))


def token(one: Request) -> str:
    """The token of its only value."""
    assert one.masked is not None
    (found,) = one.masked.values
    return found


async def echo(one: Request, emit: Emit | None) -> Answer:
    """Says what it was asked, a character a piece."""
    for letter in one.messages[0].text if emit else "":
        emit and emit(StreamChunk(letter))
    return response(one.messages[0].text)


def test_every_field_of_an_answer_is_restored() -> None:
    """Text, parsed value, tool calls, citations and the provider's body have the values; a body
    without tokens stays byte for byte."""
    one = asked(f"I am {MAIL}")
    it = token(one)
    call = {"function": {"name": "f", "arguments": orjson.dumps({"to": it}).decode()}}
    answer = replace(
        response(f"hi {it}"), parsed={"to": [it]}, tool_calls=(call,), citations=({"title": it},),
        body=orjson.dumps({"choices": [{"message": {"content": it}}]}),
    )  # fmt: skip
    made = restored(one, answer)
    assert (made.text, made.parsed, made.citations) == (
        f"hi {MAIL}", {"to": [MAIL]}, ({"title": MAIL},),
    )  # fmt: skip
    assert orjson.loads(made.tool_calls[0]["function"]["arguments"]) == {"to": MAIL}
    assert made.body is not None
    assert orjson.loads(made.body)["choices"][0]["message"]["content"] == MAIL
    plain = replace(answer, body=b'{ "a": [1,\n2.50] }')
    assert restored(one, plain).body == plain.body


def test_streams_are_the_same_however_they_are_cut() -> None:
    """Pieces of any size give the text of the whole answer, and hold back less than a token."""
    one = asked(f"I am {MAIL}, [you] are [[ and {MAIL} [[EMA")
    text, chance, shown = one.messages[0].text, random.Random(4711), list[str]()
    held: list[int] = []

    async def cut(_: Request, emit: Emit | None) -> Answer:
        assert emit is not None
        at = 0
        while at < len(text):
            end = at + chance.randint(1, 12)
            emit(StreamChunk(text[at:end]))
            at = end
            held.append(len(text[:at]) - len("".join(shown).replace(MAIL, token(one))))
        return response(text)

    for _ in range(300):
        shown.clear()
        answer = asyncio.run(restoring(cut)(one, lambda piece: shown.append(piece.text)))
        assert "".join(shown) == answer.text == f"I am {MAIL}, [you] are [[ and {MAIL} [[EMA"
    assert 0 < max(held) < LONGEST


def test_a_request_is_masked_once() -> None:
    """The inner handler gets the masked request; one that is masked already goes as it is."""
    seen: list[Request] = []

    async def inner(one: Request, _: Emit | None) -> Answer:
        seen.append(one)
        return response("")

    plain = request(messages=(Message("user", MAIL),))
    asyncio.run(masked(inner, MASKER)(plain, None))
    asyncio.run(masked(inner, MASKER)(seen[0], None))
    assert seen == [MASKER(plain)] * 2


def test_a_shared_answer_is_restored_for_each() -> None:
    """Of one flight each request gets its own: answers and errors in it stay masked, also where
    two questions were to have the same tokens."""

    async def slow(one: Request, emit: Emit | None) -> Answer:
        await asyncio.sleep(0.01)  # the other one comes meanwhile
        if one.schema:
            error = SchemaMismatch("no")
            error.text = one.messages[0].text
            raise error
        return await echo(one, emit)

    async def both(**more: Any) -> list[Any]:
        cache = Cache(slow, FakeCache(), SystemClock(), print)
        handler = restoring(cache)
        mary = asked(f"I am {MAIL}", **more)
        assert mary.masked is not None
        # As if the digests fell together.
        bob = replace(mary, masked=replace(mary.masked, values={token(mary): "bob@example.org"}))
        calls = handler(mary, None), handler(bob, None)
        found: list[Any] = [*await asyncio.gather(*calls, return_exceptions=True)]
        await cache.close()
        return found

    assert [each.text for each in asyncio.run(both())] == [f"I am {MAIL}", "I am bob@example.org"]
    failed = asyncio.run(both(schema={"type": "object"}))
    assert [each.text for each in failed] == [f"I am {MAIL}", "I am bob@example.org"]


def test_what_must_not_be_sent_is_refused() -> None:
    """A request that says why it must not be sent is an error unsent: type `pii`, exit code 2."""
    one = request(masked=Masked({"email": 1}, refused="there is 1 email"))
    with pytest.raises(IdentifiersFound, match="there is 1 email") as refused:
        asyncio.run(restoring(echo)(one, None))
    error = refused.value
    assert (error.row_type, error.sent, error.exit_code) == ("pii", False, 2)


def profile(name: str, privacy: Privacy | None) -> Profile:
    """A profile."""
    url = "http://127.0.0.1:1/v1"
    return Profile(name, "openai", "openai", url, "gpt-5-mini", privacy=privacy)


def test_profiles_are_masked_together(tmp_path: Path) -> None:
    """A question is masked once for a profile and its fallbacks: all kinds, the strictest action,
    and no restoring where one of them wants none; nothing where none asks for it."""
    one = profile("one", Privacy(mask=("email",), action="report"))
    two = profile("two", Privacy(mask=("card",), restore=False))
    none = profile("none", None)
    masker = open_masker((one, two, none), {**KEY, "HOME": str(tmp_path)})
    assert masker is not None
    assert masker.kinds == frozenset({"email", "card"})
    assert (masker.action, masker.restores) == ("mask", False)
    assert (masker.profile, masker.lasting) == ("two", True)
    assert open_masker((none,), {}) is None
    with pytest.raises(NoKeyError, match="shorter"):
        open_masker((one,), {"LLMCTL_STORE_KEY": "short", "HOME": str(tmp_path)})


def test_a_missing_extra_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kind needs and is not installed is named before anything is asked."""
    monkeypatch.setattr("llmctl.auth.extras.find_spec", lambda _: None)
    with pytest.raises(SetupError, match="pip install phonenumbers"):
        open_masker((profile("one", Privacy(mask=("phone",))),), KEY)
