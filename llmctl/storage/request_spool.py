"""Requests and results of a provider's batches on disk, in a temporary SQLite file."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import msgspec
from msgspec.structs import replace

from llmctl.providers.batch_api import BatchResult
from llmctl.storage.cipher import Cipher
from llmctl.storage.database import temporary_file
from llmctl.types import Request

_SETUP = """
PRAGMA journal_mode = MEMORY;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -8000;
CREATE TABLE requests (
    number INTEGER PRIMARY KEY, call_id TEXT, answer_key TEXT, leader TEXT, waits INTEGER,
    attempts INTEGER, request BLOB
);
CREATE UNIQUE INDEX by_call ON requests (call_id);
CREATE INDEX by_key ON requests (answer_key) WHERE leader IS NULL;
CREATE INDEX by_leader ON requests (leader) WHERE leader IS NOT NULL;
CREATE INDEX waiting ON requests (number) WHERE waits;
CREATE TABLE results (call_id TEXT PRIMARY KEY, status INTEGER, body BLOB, request_id TEXT)
  WITHOUT ROWID;
"""
_PAGE = 500  # rows that are read at a time
_decode = msgspec.json.Decoder(Request).decode


class RequestSpool(AbstractContextManager["RequestSpool"]):
    """The requests of one run, in input order, by call id; and the results of one batch.

    A request `waits` until it is put into a batch, unless it asks the question of an earlier one,
    its leader, whose answer it shares. The file has no name and ends with the process. Every method
    raises `DiskError` when it cannot grow. `encrypted`: requests and results are, and
    questions have other names, by a key that only this process has; it needs `cryptography`.
    """

    def __init__(self, *, encrypted: bool = False) -> None:
        self._cipher = Cipher(secrets.token_bytes(32)) if encrypted else None
        with temporary_file():
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.executescript(_SETUP)

    def add(
        self, request: Request, *, leader: str | None = None, waits: bool = True, attempts: int = 0
    ) -> None:
        """Put in a request. Raises `TypeError` and `ValueError` for one that JSON cannot say."""
        data, question = self._encoded(request), self._question(request.answer_key)
        self._run(
            "INSERT INTO requests (call_id, answer_key, leader, waits, attempts, request) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            request.call_id, question, leader, waits and not leader, attempts, data,
        )  # fmt: skip

    def leader(self, answer_key: str) -> str | None:
        """The call id of the request that asks the question first."""
        found = self._run(
            "SELECT call_id FROM requests WHERE answer_key = ? AND leader IS NULL",
            self._question(answer_key),
        )
        return found[0][0] if found else None

    def get(self, call_id: str) -> tuple[Request, int] | None:
        """A request, and how many batches it has been in."""
        found = self._run("SELECT request, attempts FROM requests WHERE call_id = ?", call_id)
        return (self._decoded(call_id, found[0][0]), found[0][1]) if found else None

    def followers(self, leader: str) -> Iterator[list[Request]]:
        """The requests that share the answer of their leader, a page at a time."""
        yield from self._pages("leader = ?", leader)

    def waiting(self) -> Iterator[list[Request]]:
        """The requests that wait, in order, a page at a time; they wait no more."""
        for page in self._pages("waits"):
            for request in page:
                self._run("UPDATE requests SET waits = 0 WHERE call_id = ?", request.call_id)
            yield page

    def has_waiting(self) -> bool:
        """Whether a request waits."""
        return bool(self._run("SELECT 1 FROM requests WHERE waits LIMIT 1"))

    def wait_again(self, call_id: str, new_id: str, *, attempts: int) -> None:
        """Let a request wait once more, under a new call id."""
        found = self.get(call_id)
        assert found is not None
        data = self._encoded(replace(found[0], call_id=new_id))
        self._run(
            "UPDATE requests SET waits = 1, attempts = ?, call_id = ?, request = ? "
            "WHERE call_id = ?",
            attempts, new_id, data, call_id,
        )  # fmt: skip
        if new_id != call_id:
            self._run("UPDATE requests SET leader = ? WHERE leader = ?", new_id, call_id)

    def put_results(self, results: Iterable[BatchResult]) -> int:
        """Put in the results of a batch, beside those that are there, and give how many had one
        before. One that has an answer takes the place of one that has none; of others the first
        stays. Raises what `results` raises: then none was put in."""
        count = 0
        self._run("BEGIN")
        ((before,),) = self._run("SELECT count(*) FROM results")
        try:
            for result in results:
                count += 1
                self._run(
                    "INSERT INTO results VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "status = excluded.status, body = excluded.body, "
                    "request_id = excluded.request_id "
                    "WHERE status != 200 AND excluded.status = 200",
                    result.call_id, result.status, self._sealed(result.call_id, result.body),
                    result.request_id,
                )  # fmt: skip
        except BaseException:
            self._run("ROLLBACK")
            raise
        self._run("COMMIT")
        ((after,),) = self._run("SELECT count(*) FROM results")
        return count - int(after - before)

    def result(self, call_id: str) -> BatchResult | None:
        """The result of a call; it is taken out."""
        found = self._run(
            "DELETE FROM results WHERE call_id = ? RETURNING call_id, status, body, request_id",
            call_id,
        )
        if not found:
            return None
        _, status, body, request_id = found[0]
        return BatchResult(call_id, status, self._opened(call_id, body), request_id)

    def clear_results(self) -> tuple[int, list[str]]:
        """Take out all results that are left; gives their number, and some of their call ids."""
        ((number,),) = self._run("SELECT count(*) FROM results")
        found = self._run("SELECT call_id FROM results LIMIT 3")
        self._run("DELETE FROM results")
        return number, [call_id for (call_id,) in found]

    def _encoded(self, request: Request) -> bytes:
        return self._sealed(request.call_id, msgspec.json.encode(request))

    def _decoded(self, call_id: str, data: bytes) -> Request:
        return _decode(self._opened(call_id, data))

    def _sealed(self, call_id: str, data: bytes) -> bytes:
        return data if self._cipher is None else self._cipher.encrypt(data, call_id.encode())

    def _opened(self, call_id: str, data: bytes) -> bytes:
        return data if self._cipher is None else self._cipher.decrypt(data, call_id.encode())

    def _question(self, answer_key: str) -> str:
        return answer_key if self._cipher is None else self._cipher.name(answer_key.encode())

    def _pages(self, condition: str, *values: object) -> Iterator[list[Request]]:
        last = 0
        asked = (
            f"SELECT number, call_id, request FROM requests WHERE {condition} "  # noqa: S608
            f"AND number > ? ORDER BY number LIMIT {_PAGE}"
        )
        while found := self._run(asked, *values, last):
            yield [self._decoded(call_id, data) for _, call_id, data in found]
            last = found[-1][0]

    def _run(self, query: str, *values: object) -> list[Any]:
        with temporary_file():
            return self._db.execute(query, values).fetchall()

    def __exit__(self, *_: object) -> None:
        self._db.close()
