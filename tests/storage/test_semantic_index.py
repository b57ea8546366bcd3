"""Questions whose answers are kept, on a real disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest

from llmctl.storage.answer_cache import PruneFilter, SemanticFigures, SqliteCache, prune
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.semantic_index import KnownQuestion, SemanticIndex
from tests.semantic.pairs import kept

if TYPE_CHECKING:
    from llmctl.semantic.vectors import Vector

T = TypeVar("T")
TEXT = "canary-4711 how do I sail"


def known(number: int, text: str = TEXT) -> KnownQuestion:
    """A question with a vector along one axis."""
    return KnownQuestion(f"{number:064x}", f"call-{number}", text, axis(number).tobytes())


def axis(number: int) -> Vector:
    """A vector of length 1."""
    vector = np.zeros(64, np.float32)
    vector[number] = 1
    return vector


def ask(
    path: Path,
    do: Callable[[SqliteCache, SemanticIndex], Awaitable[T]],
    store: StoreCipher | None = None,
) -> T:
    """What comes of doing this with the index of a cache."""

    async def run() -> T:
        cache = SqliteCache(path, pytest.fail, store=store)
        try:
            return await do(cache, SemanticIndex(cache))
        finally:
            cache.close()

    return asyncio.run(run())


async def fill(cache: SqliteCache, index: SemanticIndex) -> None:
    """Three questions and their answers; two have the same facts."""
    for number in range(3):
        await cache.put(known(number).key, kept("an answer"))
        await index.put(b"form %d" % number, b"facts %d" % (number // 2), known(number))


def test_questions_are_found_by_form_and_the_nearest_by_facts(tmp_path: Path) -> None:
    """By another process, too; the highest cosine first, never those of other facts."""
    path = tmp_path / "cache.db"
    ask(path, fill)

    async def look(_: SqliteCache, index: SemanticIndex) -> None:
        assert await index.same(b"form 1") == known(1)
        assert await index.same(b"form 9") is None
        near = (2 * axis(0) + axis(1) + axis(2)) / np.float32(6**0.5)
        found = await index.near(b"facts 0", near)
        assert [question for _, question in found] == [known(0), known(1)]
        assert [score for score, _ in found] == pytest.approx([2 / 6**0.5, 1 / 6**0.5])
        assert await index.near(b"facts 9", near) == []

    ask(path, look)


def test_what_another_process_adds_is_seen(tmp_path: Path) -> None:
    """And a question of the same form takes the place of the older one."""
    path = tmp_path / "cache.db"

    async def both(cache: SqliteCache, index: SemanticIndex) -> None:
        await fill(cache, index)
        assert len(await index.near(b"facts 0", axis(0))) == 1
        other = SqliteCache(path, pytest.fail)
        await SemanticIndex(other).put(b"form 7", b"facts 0", known(0, "added"))
        await SemanticIndex(other).put(b"form 0", b"facts 0", known(0, "newer"))
        other.close()
        found = await index.near(b"facts 0", axis(0))
        assert sorted(question.text for _, question in found) == ["added", "newer"]

    ask(path, both)


def test_a_question_goes_with_its_answer(tmp_path: Path) -> None:
    """No byte of its text stays in the file."""
    path = tmp_path / "cache.db"
    ask(path, fill)
    assert TEXT.encode() in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    prune(path, PruneFilter())
    assert TEXT.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())

    async def look(_: SqliteCache, index: SemanticIndex) -> None:
        assert await index.same(b"form 1") is None
        assert await index.near(b"facts 0", axis(0)) == []

    ask(path, look)


def test_an_encrypted_cache_tells_nothing_of_its_questions(tmp_path: Path) -> None:
    """Those in clear are forgotten when it is encrypted; new ones are neither text nor digest."""
    path = tmp_path / "cache.db"
    ask(path, fill)
    store = StoreCipher({"LLMCTL_STORE_KEY": "ab" * 32}, on=True)

    async def again(cache: SqliteCache, index: SemanticIndex) -> None:
        assert await index.same(b"form 1") is None
        await fill(cache, index)
        assert await index.same(b"form 1") == known(1)
        assert len(await index.near(b"facts 0", axis(0))) == 1

    ask(path, again, store)
    on_disk = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert TEXT.encode() not in on_disk
    assert b"call-1" not in on_disk


def test_damage_is_no_answer(tmp_path: Path) -> None:
    """A question that is not as stored sets the file aside, as a damaged answer does."""
    path = tmp_path / "cache.db"
    ask(path, fill)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE questions SET body = x'ff00'")
    connection.close()
    said: list[str] = []

    async def look() -> None:
        cache = SqliteCache(path, said.append)
        assert await SemanticIndex(cache).same(b"form 1") is None
        cache.close()

    asyncio.run(look())
    assert "set aside" in said[0]


@pytest.mark.parametrize(
    ("wrong", "audited", "bound"),
    [
        (0, 0, None),
        (0, 59, 0.0495),
        (1, 100, 0.0466),
        (0, 1, 0.95),
        (5, 5, 1.0),
        (20, 1000, 0.0289),
    ],
)
def test_the_bound_is_that_of_clopper_and_pearson(
    wrong: int, audited: int, bound: float | None
) -> None:
    """Of so many audited hits, with 95% confidence; nothing where there was none."""
    found = SemanticFigures(audited=audited, wrong=wrong).bound
    assert found == (None if bound is None else pytest.approx(bound, abs=2e-4))
