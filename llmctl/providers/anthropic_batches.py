"""Batches of Anthropic: the rows go along, and the results have an address of their own.

Reference: platform.claude.com/docs/en/build-with-claude/batch-processing, …/docs/en/api/messages/
batches, …/docs/en/api/errors. There is no name for a batch that comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote, urlencode

import orjson
from msgspec import Raw, Struct

from llmctl.errors import BadResponse, InvalidRequest, ServerFailed
from llmctl.protocols import FileBody, WireRequest
from llmctl.providers import replies
from llmctl.providers.anthropic import VERSION
from llmctl.providers.batch_api import (
    BatchClient,
    BatchLimits,
    BatchPart,
    BatchResult,
    BatchStatus,
)
from llmctl.providers.openai_batches import CLOCK_SKEW, read_typed, whole_body
from llmctl.types import Request

_BATCHES = "/messages/batches"
_HEADERS = {"anthropic-version": VERSION}
_HEAD, _TAIL = b'{"requests":[', b"]}"
_LIMITS = BatchLimits(100_000, 256_000_000 - len(_HEAD + _TAIL), separator=b",\n")
_PAGE = 100
_NOT_ASKED = frozenset({"canceled", "expired"})
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of a call that fails so (…/docs/en/api/errors)."""


class _Batch(Struct):
    """A batch as the provider tells of it. Times are RFC 3339; null: not yet."""

    id: str
    processing_status: str
    request_counts: Any = None
    created_at: Any = None
    ended_at: Any = None
    cancel_initiated_at: Any = None
    archived_at: Any = None
    results_url: Any = None

    def count(self, *names: str) -> int:
        """Rows of these states."""
        counts = replies.object_or_empty(self.request_counts)
        return sum(replies.token_count(counts.get(name)) for name in names)

    @property
    def failed(self) -> int:
        """Rows that ended without an answer."""
        return self.count("errored", "canceled", "expired")

    @property
    def total(self) -> int:
        """All rows, whatever their state."""
        return self.count("processing", "succeeded") + self.failed


class _List(Struct):
    data: list[_Batch]
    has_more: Any = None


class _Result(Struct):
    type: str
    message: Raw = Raw()
    error: Raw = Raw()


class _Row(Struct):
    custom_id: str
    result: _Result


class AnthropicBatches:
    """The family; see `batch_api.BatchApi`."""

    keeps_intent: ClassVar[bool] = False

    def limits(self, base_url: str) -> BatchLimits:  # noqa: ARG002 - the seam's
        """100,000 rows and 256 MB."""
        return _LIMITS

    def line(self, call_id: str, wire: WireRequest, request: Request) -> bytes:  # noqa: ARG002
        """`{"custom_id", "params"}`. What is in beta is asked for by a header of all rows."""
        if "anthropic-beta" in wire.headers:
            raise InvalidRequest(
                "a row of a batch has no `betas` of its own: put `anthropic-beta` into the "
                "`headers` of the profile",
                sent=False,
            )
        return orjson.dumps({"custom_id": call_id, "params": whole_body(wire)})

    async def upload(self, client: BatchClient, part: BatchPart) -> str | None:  # noqa: ARG002
        """None: the rows go along."""
        return None

    async def create(self, client: BatchClient, part: BatchPart, file: str | None) -> str:  # noqa: ARG002
        """A batch of the rows."""
        body = FileBody(_HEAD, part.open, part.size, _TAIL)
        headers = {**_HEADERS, "content-type": "application/json"}
        _, made = await client.exchange(WireRequest(_BATCHES, None, headers, file=body))
        return read_typed(made, _Batch).id

    async def find(self, client: BatchClient, part: BatchPart) -> tuple[str, ...]:
        """The batches made since the part was, with as many rows. The newest are listed first."""
        found: list[str] = []
        since, after = part.created - CLOCK_SKEW, ""
        while True:
            query = urlencode({"limit": _PAGE, **({"after_id": after} if after else {})})
            _, body = await client.exchange(_get(f"{_BATCHES}?{query}"))
            page = read_typed(body, _List)
            for batch in page.data:
                made = replies.unix_time(batch.created_at)
                if made is not None and made < since:
                    return tuple(found)
                if batch.total == part.rows:
                    found.append(batch.id)
            if page.has_more is not True:
                return tuple(found)
            if not page.data or page.data[-1].id == after:  # "none" would be a guess
                raise BadResponse("the provider's list of batches does not go on")
            after = page.data[-1].id

    async def status(self, client: BatchClient, batch: str) -> BatchStatus:
        """The batch; rows are counted when all have ended."""
        _, body = await client.exchange(_get(_place(batch)))
        found = read_typed(body, _Batch)
        word, url = found.processing_status, found.results_url
        downloads = (_get(url),) if isinstance(url, str) and url else ()
        ended = word == "ended" or bool(downloads or found.ended_at or found.archived_at)
        return BatchStatus(
            word,
            ended=ended,
            cancelled=ended and bool(found.cancel_initiated_at),
            total=found.total,
            done=found.count("succeeded"),
            failed=found.failed,
            downloads=downloads,
            problem="the results are archived: nobody can get them any more"
            if found.archived_at and not downloads
            else "",
        )

    async def cancel(self, client: BatchClient, batch: str) -> None:
        """Ask for it; a refusal counts where the batch goes on."""
        try:
            await client.exchange(WireRequest(f"{_place(batch)}/cancel", None, _HEADERS))
        except (InvalidRequest, ServerFailed):
            now = await self.status(client, batch)
            if not now.ended and now.word != "canceling":
                raise

    def results(self, file: BinaryIO) -> Iterator[BatchResult]:
        """A row's message, or its error, in every line."""
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _row_result(read_typed(line, _Row, f"line {number} of the results"))


def _get(path: str) -> WireRequest:
    return WireRequest(path, None, _HEADERS, "GET")


def _place(batch: str) -> str:
    return f"{_BATCHES}/{quote(batch, safe='')}"


def _row_result(row: _Row) -> BatchResult:
    """The result of a row. An error is what a call alone would have got; its type says the
    status."""
    result = row.result
    if result.type == "succeeded":
        return BatchResult(row.custom_id, 200, bytes(result.message))
    if result.type in _NOT_ASKED:
        return BatchResult(row.custom_id, 0)
    body = bytes(result.error)
    whole = replies.json_or_none(body)
    status = _STATUS.get(str(replies.error_object(whole).get("type")), 500)
    named = replies.named(replies.object_or_empty(whole), "request_id")
    return BatchResult(row.custom_id, status, body, named)
