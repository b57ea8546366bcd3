"""What every `CacheStore` does."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from llmctl.protocols import CacheStore
from llmctl.storage import inbox
from tests.conformance.calls import a_cached_answer
from tests.support import done

KEY = "0f" * 32
OTHER = "0f" * 31 + "0e"


class CacheStoreContract:
    """Subclasses provide the fixture `store`."""

    def test_an_unknown_key_has_no_answer(self, store: CacheStore) -> None:
        """What was never stored is a miss."""
        assert store.get(KEY) is None

    def test_an_answer_comes_back_as_it_was(self, store: CacheStore) -> None:
        """Every field survives, the provider's bytes and the exact cost included."""
        answer = a_cached_answer()
        done(store.put, KEY, answer)
        assert store.get(KEY) == answer
        assert store.get(OTHER) is None

    @pytest.mark.parametrize("body", [None, b"", b"\x00\xff not UTF-8"])
    def test_any_body_comes_back(self, store: CacheStore, body: bytes | None) -> None:
        """No body, an empty one and one that is no text are three different things."""
        answer = replace(a_cached_answer(), body=body, cost=None)
        done(store.put, KEY, answer)
        assert store.get(KEY) == answer

    @pytest.mark.parametrize("text", ["", "\ud800 half a pair", "a\x00b\u2028✓🎉", "yes " * 99_999])
    def test_any_text_comes_back(self, store: CacheStore, text: str) -> None:
        """No text is too long, too short or too odd."""
        done(store.put, KEY, a_cached_answer(text))
        answer = store.get(KEY)
        assert answer is not None
        assert answer.text == text

    def test_a_newer_answer_takes_the_place_of_an_older_one(self, store: CacheStore) -> None:
        """One key has one answer: the last."""
        newer = a_cached_answer("newer", stored=1_900_000_000.5)
        done(store.put, KEY, a_cached_answer())
        done(store.put, KEY, newer)
        assert store.get(KEY) == newer

    def test_many_tasks_may_store_at_once(self, store: CacheStore) -> None:
        """Every one of 200 answers stored at the same time is found."""
        answers = {f"{n:064x}": a_cached_answer(str(n)) for n in range(200)}

        async def put_all() -> None:
            await asyncio.gather(*(store.put(key, answer) for key, answer in answers.items()))

        asyncio.run(put_all())
        assert {key: store.get(key) for key in answers} == answers

    def test_nobody_who_is_in_a_hurry_waits(
        self, store: CacheStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However long what was put may lie otherwise."""
        monkeypatch.setattr(inbox, "LAZY", 3600.0)

        async def put() -> None:
            kept = store.put(KEY, a_cached_answer())
            store.hurry()
            async with asyncio.timeout(20):
                await kept

        asyncio.run(put())
        assert store.get(KEY) == a_cached_answer()

    def test_a_claim_is_the_process_s_own(self, store: CacheStore) -> None:
        """Within a process a claim may be had again; storing and releasing need none."""

        async def claims() -> list[bool]:
            found = [await store.claim(KEY), await store.claim(KEY)]
            store.beat()
            store.release(KEY)
            store.release(OTHER)
            await store.put(OTHER, a_cached_answer())
            return [*found, await store.claim(KEY)]

        assert asyncio.run(claims()) == [True] * 3

    def test_many_are_found_at_once(self, store: CacheStore) -> None:
        """`get_all` gives what `get` gives, for those that are there."""
        done(store.put, KEY, a_cached_answer())
        assert store.get_all([OTHER, KEY]) == {KEY: a_cached_answer()}

    def test_many_are_claimed_at_once(self, store: CacheStore) -> None:
        """What is kept needs no claim; the rest is this process's, and may be released."""
        done(store.put, KEY, a_cached_answer())
        wanted = [f"{n:064x}" for n in range(300)]

        async def claims() -> set[str]:
            found = await store.claim_all([KEY, *wanted])
            assert await store.claim_all([]) == set()
            for key in found:
                store.release(key)
            return found

        assert asyncio.run(claims()) == set(wanted)

    def test_a_key_stored_twice_at_once_has_the_last_answer(self, store: CacheStore) -> None:
        """Answers that come together for one key do not stand in each other's way."""

        async def both() -> None:
            first = store.put(KEY, a_cached_answer("first"))
            second = store.put(KEY, a_cached_answer("second"))
            await asyncio.gather(first, second, store.put(OTHER, a_cached_answer("other")))

        asyncio.run(both())
        found = store.get(KEY)
        assert found is not None
        assert found.text == "second"
        assert store.get(OTHER) is not None
