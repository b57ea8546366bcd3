"""Questions whose answers are in the cache, by what they have in common; in the cache's own file.

What is found there leads to an answer by its key; `answer_cache` removes the questions of answers
that are removed. In clear are digests only, in an encrypted cache names that need the store key.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from llmctl.semantic.vectors import CLOSE, SIZE
from llmctl.storage.answer_cache import RowKey, SqliteCache, row_key
from llmctl.storage.cipher import Cipher
from llmctl.storage.database import Database, corrupt

if TYPE_CHECKING:
    from llmctl.semantic.vectors import Vector

CANDIDATES = 4
"""Questions that are looked at, the nearest first."""

_MOST = 400_000  # vectors in memory, of 256 bytes each

_PUT = "INSERT OR REPLACE INTO questions (form, facts, answer, body) VALUES (?, ?, ?, ?)"
_COUNT = (
    "INSERT INTO semantic_counts VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET number = number + excluded.number"
)


class KnownQuestion(Struct, frozen=True):
    """A question whose answer was kept: the `key` of that, the call that got it, and the text
    (empty in `strict`, which needs none). `vector` is in bytes."""

    key: str
    call_id: str
    text: str = ""
    vector: bytes = b""


class _Bucket(Struct):
    """The vectors of questions with the same facts, of which `used` rows are; `ids` of those."""

    rows: Any
    ids: list[int] = field(default_factory=list)
    last: int = 0


class SemanticIndex:
    """The questions of one cache. `form` and `facts` are any bytes that stand for what is the same.
    Raises `DiskError` and `BusyError`; a file that is damaged is replaced by the cache."""

    def __init__(self, cache: SqliteCache) -> None:
        self._cache = cache
        self._buckets: dict[RowKey, _Bucket] = {}

    async def same(self, form: bytes) -> KnownQuestion | None:
        """The question of the same form."""
        cipher = self._cache.cipher
        name = _name(form, cipher)

        async def find(db: Database) -> KnownQuestion | None:
            rows = db.read(partial(_select, where="form = ?", values=(name,), cipher=cipher))
            return rows[0][1] if rows else None

        return await self._cache.ask(find, None)

    async def near(self, facts: bytes, vector: Vector) -> list[tuple[float, KnownQuestion]]:
        """The nearest questions with the same facts, and how near: cosines, the highest first."""
        cipher = self._cache.cipher
        name = _name(facts, cipher)

        async def find(db: Database) -> list[tuple[float, KnownQuestion]]:
            bucket = self._loaded(db, name, cipher)
            if not bucket.ids:
                return []
            found = []
            for score, number in _nearest(bucket.rows[: len(bucket.ids)], vector):
                where, values = "id = ? AND facts = ?", (bucket.ids[number], name)
                rows = db.read(partial(_select, where=where, values=values, cipher=cipher))
                found += [(score, question) for _, question in rows]  # none: it was removed
            return found

        return await self._cache.ask(find, [])

    async def put(self, form: bytes, facts: bytes, question: KnownQuestion) -> None:
        """Keep the question, instead of an older one of the same form."""
        cipher = self._cache.cipher
        name = _name(form, cipher)
        body = msgspec.msgpack.encode(question)
        if cipher is not None:
            body = cipher.encrypt(body, str(name).encode())
        row = (name, _name(facts, cipher), row_key(question.key, cipher), body)
        await self._cache.ask(
            lambda db: db.write(lambda connection: connection.execute(_PUT, row).rowcount), 0
        )

    async def count(self, *names: str) -> None:
        """Add one to what is counted by each name: see `answer_cache.SemanticFigures`."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.executemany(_COUNT, [(name, 1) for name in names]).rowcount

        await self._cache.ask(lambda db: db.write(work), 0)

    def _loaded(self, db: Database, name: RowKey, cipher: Cipher | None) -> _Bucket:
        """The bucket with what was added since, here or by other processes."""
        import numpy as np

        bucket = self._buckets.get(name)
        if bucket is None:
            if sum(len(each.ids) for each in self._buckets.values()) > _MOST:
                self._buckets.clear()
            bucket = self._buckets[name] = _Bucket(np.empty((64, SIZE), np.float32))
        where, values = "facts = ? AND id > ? ORDER BY id", (name, bucket.last)
        for number, question in db.read(
            partial(_select, where=where, values=values, cipher=cipher)
        ):
            bucket.last = number
            vector = np.frombuffer(question.vector, np.float32)
            if len(vector) != SIZE:
                continue  # of `strict`
            if len(bucket.ids) == len(bucket.rows):
                bucket.rows = np.concatenate([bucket.rows, np.empty_like(bucket.rows)])
            bucket.rows[len(bucket.ids)] = vector
            bucket.ids.append(number)
        return bucket


def _nearest(rows: Any, vector: Vector) -> Sequence[tuple[float, int]]:
    """The cosines of the nearest rows, and their numbers."""
    import numpy as np

    # Not `@`: its threads wait for one another, up to 18 ms where the processors are busy.
    scores = np.einsum("ij,j->i", rows, vector)
    if len(scores) > CANDIDATES:
        chosen = np.argpartition(scores, -CANDIDATES)[-CANDIDATES:]
    else:
        chosen = np.arange(len(scores))
    found = sorted(((float(scores[n]), int(n)) for n in chosen), reverse=True)
    return [(score, number) for score, number in found if score >= CLOSE]


def _name(what: bytes, cipher: Cipher | None) -> RowKey:
    return row_key(hashlib.sha256(what).hexdigest(), cipher)


_decoder = msgspec.msgpack.Decoder(KnownQuestion)


def _select(
    connection: sqlite3.Connection, where: str, values: Sequence[object], cipher: Cipher | None
) -> list[tuple[int, KnownQuestion]]:
    """The questions of which `where` (SQL) holds, with their numbers."""
    asked = f"SELECT id, form, body FROM questions WHERE {where}"  # noqa: S608 - our own words
    found = []
    for number, form, body in connection.execute(asked, values).fetchall():
        try:
            data = body if cipher is None else cipher.decrypt(body, str(form).encode())
            found.append((number, _decoder.decode(data)))
        except Exception as error:  # flipped bits may change the type of any column
            raise corrupt(f"a question is not as stored: {error}") from error
    return found
