"""Batches of OpenRouter: the rows go along, and the results stand in the batch itself.

Reference: openrouter.ai/docs/batch-quickstart, …/docs/api/api-reference/batch. There is no name for
a batch that comes back, and no way to end one early.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import orjson
from msgspec import Struct

from llmctl.errors import InvalidRequest
from llmctl.protocols import FileBody, WireRequest
from llmctl.providers import replies
from llmctl.providers.batch_api import BatchClient, BatchLimits, BatchPart, BatchResult
from llmctl.providers.openai_batches import (
    CLOCK_SKEW,
    Batch,
    OpenAIBatches,
    Row,
    get,
    made,
    read_typed,
    row_result,
    whole_body,
)
from llmctl.types import Request

# All results come in one reply, of which a poll reads as much as of any other (`http.MAX_BODY`).
_LIMITS = BatchLimits(5_000, 50_000_000, separator=b",\n")


_EARLY = frozenset({"expired", "cancelled"})


class _Results(Struct):
    status: str
    results: list[Row] | None = None


class OpenRouterBatches(OpenAIBatches):
    """The family; see `batch_api.BatchApi`."""

    keeps_intent = False

    def limits(self, base_url: str) -> BatchLimits:  # noqa: ARG002 - the seam's
        """5,000 rows: OpenRouter names no limit, but their results must come in one reply."""
        return _LIMITS

    def line(self, call_id: str, wire: WireRequest, request: Request) -> bytes:  # noqa: ARG002
        """`{"custom_id", "body"}`."""
        return orjson.dumps({"custom_id": call_id, "body": whole_body(wire)})

    async def upload(self, client: BatchClient, part: BatchPart) -> str | None:  # noqa: ARG002
        """None: the rows go along."""
        return None

    async def create(self, client: BatchClient, part: BatchPart, file: str | None) -> str:  # noqa: ARG002
        """A batch of the rows, which must stand behind all other fields."""
        fields = {"endpoint": f"/v1{part.wire_path}", "model": part.model}
        fields["completion_window"] = "24h"
        head = orjson.dumps(fields)[:-1] + b',"requests":['
        body = FileBody(head, part.open, part.size, b"]}")
        return await made(client, WireRequest(self.jobs, None, file=body))

    async def find(self, client: BatchClient, part: BatchPart) -> tuple[str, ...]:
        """The batches made since then for the same endpoint, of as many rows, or of a number that
        is not said yet."""
        return tuple([
            batch.id
            async for batch in self._newest(client, part.created - CLOCK_SKEW)
            if str(batch.endpoint).endswith(part.wire_path)
            and replies.object_or_empty(batch.request_counts).get("total") in (part.rows, 0, None)
        ])  # fmt: skip

    def downloads(self, batch: Batch) -> tuple[WireRequest, ...]:
        """The batch itself, once it has ended; none that was refused whole."""
        done = replies.object_or_empty(batch.request_counts).get("completed")
        there = batch.ended and (batch.status != "failed" or done)
        return (get(self.place(batch.id)),) if there else ()

    async def cancel(self, client: BatchClient, batch: str) -> None:  # noqa: ARG002
        """Raises `InvalidRequest`: OpenRouter ends no batch early."""
        raise InvalidRequest(
            "OpenRouter ends no batch early: its rows are answered, and billed, all the same",
            sent=False,
        )

    def results(self, file: BinaryIO) -> Iterator[BatchResult]:
        """The rows in a batch, which is read whole: it is one JSON object. In one that ended early
        a row's timeout says that it was not asked."""
        batch = read_typed(file.read(), _Results, "the batch with the results")
        early = batch.status in _EARLY
        for row in batch.results or ():
            kind = replies.object_or_empty(row.error).get("error_type")
            late = early and row.response is None and kind == "timeout"
            yield BatchResult(row.custom_id, 0) if late else row_result(row)
