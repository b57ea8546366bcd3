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
_NONCE = 12  # bytes
_PAGE = 500  # rows that are read at a time
_decode = msgspec.json.Decoder(Request).decode


class _Cipher:
    """AES-256-GCM (NIST SP 800-38D) under a key of its own."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aes = AESGCM(AESGCM.generate_key(256))

    def encrypt(self, data: bytes) -> bytes:
        """A nonce, and the data encrypted with it."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aes.encrypt(nonce, data, None)

    def decrypt(self, data: bytes) -> bytes:
        """What was encrypted."""
        return self._aes.decrypt(data[:_NONCE], data[_NONCE:], None)


class RequestSpool(AbstractContextManager["RequestSpool"]):
    """The requests of one run, in input order, by call id; and the results of one batch.

    A request `waits` until it is put into a batch, unless it asks the question of an earlier one,
    its leader, whose answer it shares. The file has no name and ends with the process. Every method
    raises `DiskError` when it cannot grow. `encrypted`: requests are, by a key that only this
    process has; it needs `cryptography`.
    """

    def __init__(self, *, encrypted: bool = False) -> None:
        self._cipher = _Cipher() if encrypted else None
        with temporary_file():
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.executescript(_SETUP)

    def add(
        self, request: Request, *, leader: str | None = None, waits: bool = True, attempts: int = 0
    ) -> None:
        """Put in a request. Raises `TypeError` and `ValueError` for one that JSON cannot say."""
        data = self._encoded(request)
        self._run(
            "INSERT INTO requests (call_id, answer_key, leader, waits, attempts, request) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            request.call_id, request.answer_key, leader, waits and not leader, attempts, data,
        )  # fmt: skip

    def leader(self, answer_key: str) -> str | None:
        """The call id of the request that asks the question first."""
        found = self._run(
            "SELECT call_id FROM requests WHERE answer_key = ? AND leader IS NULL", answer_key
        )
        return found[0][0] if found else None

    def get(self, call_id: str) -> tuple[Request, int] | None:
        """A request, and how many batches it has been in."""
        found = self._run("SELECT request, attempts FROM requests WHERE call_id = ?", call_id)
        return (self._decoded(found[0][0]), found[0][1]) if found else None

    def followers(self, leader: str) -> Iterator[list[Request]]:
        """The requests that share the answer of their leader, a page at a time."""
        yield from self._pages("SELECT number, request FROM requests WHERE leader = ?", leader)

    def waiting(self) -> Iterator[list[Request]]:
        """The requests that wait, in order, a page at a time; they wait no more."""
        for page in self._pages("SELECT number, request FROM requests WHERE waits"):
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
                    result.call_id, result.status, result.body, result.request_id,
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
        return BatchResult(*found[0]) if found else None

    def clear_results(self) -> tuple[int, list[str]]:
        """Take out all results that are left; gives their number, and some of their call ids."""
        ((number,),) = self._run("SELECT count(*) FROM results")
        found = self._run("SELECT call_id FROM results LIMIT 3")
        self._run("DELETE FROM results")
        return number, [call_id for (call_id,) in found]

    def _encoded(self, request: Request) -> bytes:
        data = msgspec.json.encode(request)
        return data if self._cipher is None else self._cipher.encrypt(data)

    def _decoded(self, data: bytes) -> Request:
        return _decode(data if self._cipher is None else self._cipher.decrypt(data))

    def _pages(self, query: str, *values: object) -> Iterator[list[Request]]:
        last = 0
        asked = f"{query} AND number > ? ORDER BY number LIMIT {_PAGE}"
        while found := self._run(asked, *values, last):
            yield [self._decoded(data) for _, data in found]
            last = found[-1][0]

    def _run(self, query: str, *values: object) -> list[Any]:
        with temporary_file():
            return self._db.execute(query, values).fetchall()

    def __exit__(self, *_: object) -> None:
        self._db.close()
