"""What every `AnswerCache` does."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from llmctl.protocols import AnswerCache, CachedAnswer
from tests.conformance.calls import a_cached_answer

KEY = "0f" * 32
OTHER = "0f" * 31 + "0e"


def get(store: AnswerCache, key: str) -> CachedAnswer | None:
    """The answer."""
    return asyncio.run(store.get(key))


def put(store: AnswerCache, key: str, answer: CachedAnswer) -> None:
    """Keep it."""
    asyncio.run(store.put(key, answer))


class CacheContract:
    """Subclasses provide the fixture `store`."""

    def test_an_answer_comes_back_as_it_was(self, store: AnswerCache) -> None:
        """Every field survives, the provider's bytes and the exact cost included."""
        answer = a_cached_answer()
        put(store, KEY, answer)
        assert get(store, KEY) == answer
        assert get(store, OTHER) is None

    @pytest.mark.parametrize("body", [None, b"", b"\x00\xff not UTF-8"])
    def test_any_body_comes_back(self, store: AnswerCache, body: bytes | None) -> None:
        """No body, an empty one and one that is no text are three different things."""
        answer = replace(a_cached_answer(), body=body, cost=None)
        put(store, KEY, answer)
        assert get(store, KEY) == answer

    @pytest.mark.parametrize("text", ["", "\ud800 half a pair", "a\x00b\u2028✓🎉", "yes " * 99_999])
    def test_any_text_comes_back(self, store: AnswerCache, text: str) -> None:
        """No text is too long, too short or too odd."""
        put(store, KEY, a_cached_answer(text))
        answer = get(store, KEY)
        assert answer is not None
        assert answer.text == text

    def test_a_newer_answer_takes_the_place_of_an_older_one(self, store: AnswerCache) -> None:
        """One key has one answer: the last."""
        newer = a_cached_answer("newer", stored=1_900_000_000.5)
        put(store, KEY, a_cached_answer())
        put(store, KEY, newer)
        assert get(store, KEY) == newer

    def test_a_claim_is_the_process_s_own(self, store: AnswerCache) -> None:
        """Within a process a claim may be had again; storing and releasing need none."""

        async def claims() -> list[bool]:
            found = [await store.claim(KEY), await store.claim(KEY)]
            await store.beat()
            await store.release(KEY)
            await store.release(OTHER)
            await store.put(OTHER, a_cached_answer())
            return [*found, await store.claim(KEY)]

        assert asyncio.run(claims()) == [True] * 3

    def test_many_are_found_at_once(self, store: AnswerCache) -> None:
        """`get_many` gives what `get` gives, for those that are there."""
        put(store, KEY, a_cached_answer())
        assert asyncio.run(store.get_many([OTHER, KEY, KEY])) == {KEY: a_cached_answer()}
        assert asyncio.run(store.get_many([])) == {}

    def test_a_key_stored_twice_at_once_has_the_last_answer(self, store: AnswerCache) -> None:
        """Answers that come together for one key do not stand in each other's way."""

        async def both() -> None:
            first = store.put(KEY, a_cached_answer("first"))
            second = store.put(KEY, a_cached_answer("second"))
            await asyncio.gather(first, second, store.put(OTHER, a_cached_answer("other")))

        asyncio.run(both())
        found = get(store, KEY)
        assert found is not None
        assert found.text == "second"
        assert get(store, OTHER) is not None
