"""Batches of Gemini: a file of rows, an operation that works on it, and a file of replies.

Reference: ai.google.dev/api/batch-api, …/api/files, ai.google.dev/gemini-api/docs/batch-api, and
google.rpc's Code, by which a row's error is told (cloud.google.com/apis/design/errors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote, urlencode

import msgspec
import orjson
from msgspec import Raw, Struct

from llmctl.errors import BadResponse, InvalidRequest, NotFound, PermissionRefused, ServerFailed
from llmctl.protocols import FileBody, WireRequest
from llmctl.providers import replies
from llmctl.providers.batch_api import (
    BatchClient,
    BatchLimits,
    BatchPart,
    BatchResult,
    BatchStatus,
    FileNotVisible,
)
from llmctl.providers.openai_batches import (
    CLOCK_SKEW,
    file_name,
    get,
    read_typed,
    said_errors,
    whole_body,
)
from llmctl.types import Request

# Google names no limit of rows; that of Vertex AI's batches is 200,000.
_LIMITS = BatchLimits(200_000, 2_000_000_000)
_PAGE = 100
_ONE, _MANY = ":generateContent", ":batchGenerateContent"
_JSONL = "application/jsonl"
_RUNNING = frozenset({"UNSPECIFIED", "QUEUED", "PENDING", "RUNNING", "UPDATING", "PAUSED",
                      "CANCELLING"})  # fmt: skip
_STOPPED = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "CANCELLED", "EXPIRED"})
_ENDED = _STOPPED | {"FAILED"}
_NO_FILE = re.compile(r"\b(?:exist|find|found|permission|active)\b", re.IGNORECASE)
_CANCELLED = 1
_RPC = {
    2: (500, "UNKNOWN"),
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"),
    11: (400, "OUT_OF_RANGE"),
    12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"),
    16: (401, "UNAUTHENTICATED"),
}
"""The status and its name in HTTP by google.rpc's code."""


class _File(Struct):
    name: str


class _Uploaded(Struct):
    file: _File


class _Output(Struct, rename="camel"):
    responses_file: Any = None


class _Metadata(Struct, rename="camel"):
    state: str = ""
    display_name: Any = None
    create_time: Any = None
    end_time: Any = None
    batch_stats: Any = None
    output: _Output | None = None

    def count(self, name: str) -> int:
        """Rows: int64 is text in Google's JSON, and zeros are left out."""
        return replies.count(str(replies.object_or_empty(self.batch_stats).get(name))) or 0


class _Operation(Struct):
    """A batch as the provider tells of it. Of `response` and `error` one comes at its end."""

    name: str
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    done: Any = None
    response: _Output | None = None
    error: Any = None

    @property
    def id(self) -> str:
        """The last part of its name, which is `batches/ID`."""
        return self.name.removeprefix("batches/")


class _Page(Struct, rename="camel"):
    operations: list[_Operation] | None = None
    next_page_token: str = ""


class _Row(Struct):
    key: str
    response: Raw = Raw()
    error: dict[str, Any] | None = None


class GeminiBatches:
    """The family; see `batch_api.BatchApi`."""

    keeps_intent: ClassVar[bool] = True

    def limits(self, base_url: str) -> BatchLimits:  # noqa: ARG002 - the seam's
        """200,000 rows and 2 GB."""
        return _LIMITS

    def line(self, call_id: str, wire: WireRequest, request: Request) -> bytes:  # noqa: ARG002
        """`{"key", "request"}`. The model stands in the batch's own path."""
        body = whole_body(wire)
        if not wire.path.endswith(_ONE):
            raise InvalidRequest("a row of a batch can only ask for a whole answer", sent=False)
        return orjson.dumps({"key": call_id, "request": body})

    async def upload(self, client: BatchClient, part: BatchPart) -> str | None:
        """Two requests: the first gets the address that the second sends the file to."""
        version = client.base_url.partition("?")[0].rstrip("/").rpartition("/")[2]
        start = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(part.size),
            "x-goog-upload-header-content-type": _JSONL,
        }
        named = {"file": {"displayName": file_name(part)}}
        headers, _ = await client.exchange(WireRequest(f"../upload/{version}/files", named, start))
        if not (place := headers.get("x-goog-upload-url")):
            raise BadResponse("the provider does not say where to upload; check `base_url`")
        finish = {
            "x-goog-upload-command": "upload, finalize",
            "x-goog-upload-offset": "0",
            "content-type": _JSONL,
        }
        body = FileBody(b"", part.open, part.size)
        _, made = await client.exchange(WireRequest(place, None, finish, file=body))
        return read_typed(made, _Uploaded).file.name

    async def create(self, client: BatchClient, part: BatchPart, file: str | None) -> str:
        """A batch of the file, which is named after the intent."""
        batch = {"displayName": part.intent, "inputConfig": {"fileName": file}}
        path = part.wire_path.removesuffix(_ONE) + _MANY
        try:
            _, made = await client.exchange(WireRequest(path, {"batch": batch}))
        except (InvalidRequest, NotFound, PermissionRefused) as error:
            named = (file or "").rpartition("/")[2] in error.message
            if named and _NO_FILE.search(error.message):
                raise FileNotVisible(
                    error.message,
                    http_status=error.http_status,
                    provider_request_id=error.provider_request_id,
                ) from error
            raise
        return read_typed(made, _Operation).id

    async def find(self, client: BatchClient, part: BatchPart) -> tuple[str, ...]:
        """The batch that is named after the intent. No order is promised: pages are read until
        one has old batches only."""
        since, token = part.created - CLOCK_SKEW, ""
        while True:
            query = urlencode({"pageSize": _PAGE, **({"pageToken": token} if token else {})})
            _, body = await client.exchange(get(f"/batches?{query}"))
            page, before = read_typed(body, _Page), token
            if page == _Page() and replies.json_or_none(body):
                raise BadResponse("the provider's list of batches is none; check `base_url`")
            listed = page.operations or []
            for batch in listed:
                if batch.metadata.display_name == part.intent:
                    return (batch.id,)
            times = [replies.unix_time(each.metadata.create_time) for each in listed]
            token = page.next_page_token
            if not token or (times and all(t is not None and t < since for t in times)):
                return ()
            if token == before:  # "none" would be a guess
                raise BadResponse("the provider's list of batches does not go on")

    async def status(self, client: BatchClient, batch: str) -> BatchStatus:
        """The operation, with the file of its results wherever that stands."""
        _, body = await client.exchange(get(_place(batch)))
        found = read_typed(body, _Operation)
        data = found.metadata
        kind = data.state.rpartition("STATE_")[2]
        outputs = (output.responses_file for output in (found.response, data.output) if output)
        file = next((file for file in outputs if isinstance(file, str) and file), None)
        ended = (
            found.done is True
            or kind in _ENDED
            or (kind not in _RUNNING and bool(data.end_time or file))
        )
        error = replies.object_or_empty(found.error)
        cancelled = ended and (kind == "CANCELLED" or error.get("code") == _CANCELLED)
        refused = ended and not (file or cancelled or kind in _STOPPED)
        return BatchStatus(
            data.state,
            ended=ended,
            cancelled=cancelled,
            total=data.count("requestCount"),
            done=data.count("successfulRequestCount"),
            failed=data.count("failedRequestCount"),
            downloads=(get(f"/{quote(file)}:download?alt=media"),) if file else (),
            problem=said_errors([error]) if refused else "",
        )

    async def cancel(self, client: BatchClient, batch: str) -> None:
        """Ask for it; a refusal counts where the batch goes on."""
        try:
            await client.exchange(WireRequest(f"{_place(batch)}:cancel", None))
        except (InvalidRequest, PermissionRefused, ServerFailed):  # a failed precondition is a 403
            if not (await self.status(client, batch)).ended:
                raise

    def results(self, file: BinaryIO) -> Iterator[BatchResult]:
        """A row's reply, or its error, in every line."""
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _row_result(read_typed(line, _Row, f"line {number} of the results"))


def _place(batch: str) -> str:
    return f"/batches/{quote(batch, safe='')}"


def _row_result(row: _Row) -> BatchResult:
    """The result of a row. An error gets the status that a call alone would have had."""
    if (body := bytes(row.response)) not in (b"", b"null"):
        return BatchResult(row.key, 200, body)
    error = row.error or {}
    code = replies.token_count(error.get("code"))
    if not error or code == _CANCELLED:
        return BatchResult(row.key, 0)
    status, word = _RPC.get(code, (code if 400 <= code < 600 else 500, "UNKNOWN"))
    body = msgspec.json.encode({"error": {"status": word, **error, "code": status}})
    return BatchResult(row.key, status, body)
