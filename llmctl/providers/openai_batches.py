"""Batches of OpenAI and of the servers that imitate them, and what other families share with them.

Azure OpenAI (below `/openai/v1`), Groq, Together. Reference: platform.openai.com/docs/
api-reference/batch, …/docs/guides/batch, learn.microsoft.com/azure/ai-services/openai/how-to/batch,
console.groq.com/docs/batch, docs.together.ai/docs/batch-inference.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, BinaryIO, ClassVar, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import orjson
from msgspec import Raw, Struct

from llmctl.errors import BadResponse, InvalidRequest, NotFound, ServerFailed
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
from llmctl.providers.openai_chat import openai_usage
from llmctl.redact import cut
from llmctl.types import JSON, Request

T = TypeVar("T")

INTENT = "llmctl_intent"
"""The key of a batch's metadata that holds the part's own id."""
CLOCK_SKEW = 60.0  # seconds that a provider's clock may be behind ours
_PAGE = 100
_SHOWN = 3  # errors of a refused batch that are repeated


class Server(Struct, frozen=True):
    """What a server of the family does in its own way.

    Attributes:
        prefix: stands before the path below the base URL in rows, and in a batch's `endpoint`.
        upload, purpose: where a file is sent, and what it is for.
        named: the form has the file's name once more, as a field.
        metadata: a batch takes and keeps it.

    """

    limits: BatchLimits = BatchLimits(50_000, 200_000_000)
    prefix: str = "/v1"
    upload: str = "/files"
    purpose: str = "batch"
    named: bool = False
    metadata: bool = True


_OPENAI = Server()
_TOGETHER = Server(
    BatchLimits(50_000, 100_000_000),
    upload="/files/upload",
    purpose="batch-api",
    named=True,
    metadata=False,
)
_SERVERS = {
    "api.groq.com": Server(BatchLimits(50_000, 100_000_000)),
    "api.together.xyz": _TOGETHER,
    "api.together.ai": _TOGETHER,
}
"""By host; all others are taken to be like OpenAI's."""

_OTHER_SHAPES = {"api.fireworks.ai": "Fireworks", "api.x.ai": "xAI"}
"""Chat completions like OpenAI's, but batches of another shape (docs.fireworks.ai/guides/
batch-inference, docs.x.ai/developers/advanced-api-usage/batch-api)."""


def server_of(base_url: str) -> Server:
    """The server at an address. Raises `InvalidRequest` where its batches are none of OpenAI's."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if "/openai/deployments" in parts.path:
        raise InvalidRequest(
            "Azure's batches are asked for below /openai/v1: give that as base_url, and the name "
            "of a batch deployment as model",
            sent=False,
        )
    if other := _OTHER_SHAPES.get(host):
        raise InvalidRequest(
            f"the batches of {other} are not like OpenAI's: leave `--engine provider` out",
            sent=False,
        )
    return _SERVERS.get(host, _OPENAI)


_RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_CANCELLED = frozenset({"cancelled", "canceled"})
_ENDED = frozenset({"completed", "failed", "expired"}) | _CANCELLED


class Batch(Struct):
    """A batch as the provider tells of it. Ends are times, files are ids."""

    id: str
    status: str
    endpoint: Any = None
    created_at: Any = None
    completed_at: Any = None
    failed_at: Any = None
    expired_at: Any = None
    cancelled_at: Any = None
    finalized_at: Any = None
    input_file_id: Any = None
    output_file_id: Any = None
    error_file_id: Any = None
    request_counts: Any = None
    metadata: Any = None
    errors: Any = None
    error: Any = None
    usage: Any = None

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more; of a status that nobody knows, times and files tell."""
        word = self.status.lower()
        signs = (
            self.completed_at, self.failed_at, self.expired_at, self.cancelled_at,
            self.finalized_at, self.output_file_id, self.error_file_id,
        )  # fmt: skip
        return word in _ENDED or (word not in _RUNNING and any(signs))

    @property
    def created(self) -> float | None:
        """Seconds since the epoch; None: not said."""
        return unix_time(self.created_at)


class _Made(Struct):
    """A new file or batch; Together's stands in `job`."""

    id: str = ""
    job: _Made | None = None


class _List(Struct):
    data: list[Batch]
    has_more: Any = None


class _File(Struct):
    filename: Any = None


class OpenAIBatches:
    """The family; see `batch_api.BatchApi`."""

    keeps_intent: ClassVar[bool] = True
    jobs: ClassVar[str] = "/batches"
    cancelling: ClassVar[str] = "cancelling"

    def limits(self, base_url: str) -> BatchLimits:
        """50,000 rows and 200 MB, if the server has none of its own."""
        return server_of(base_url).limits

    def line(self, call_id: str, wire: WireRequest, request: Request) -> bytes:
        """`{"custom_id", "method", "url", "body"}`."""
        url = server_of(request.target.base_url).prefix + wire.path
        line = {"custom_id": call_id, "method": "POST", "url": url, "body": whole_body(wire)}
        return orjson.dumps(line)

    async def upload(self, client: BatchClient, part: BatchPart) -> str | None:
        """A form with the file, which is named after the intent."""
        server, name = server_of(client.base_url), file_name(part)
        fields = {"purpose": server.purpose} | ({"file_name": name} if server.named else {})
        mark = f"llmctl-{part.intent}"  # no line of JSON begins with dashes
        form = "".join(
            f'--{mark}\r\ncontent-disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
        )
        form += (
            f'--{mark}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
            "content-type: application/jsonl\r\n\r\n"
        )
        body = FileBody(form.encode(), part.open, part.size, f"\r\n--{mark}--\r\n".encode())
        headers = {"content-type": f"multipart/form-data; boundary={mark}"}
        return await made(client, WireRequest(server.upload, None, headers, file=body))

    async def create(self, client: BatchClient, part: BatchPart, file: str | None) -> str:
        """A batch of the file, which is to be done within a day."""
        try:
            return await made(client, WireRequest(self.jobs, self.order(client, part, file)))
        except (InvalidRequest, NotFound) as error:
            if _NO_FILE.search(error.message):
                raise FileNotVisible(
                    error.message,
                    http_status=error.http_status,
                    provider_request_id=error.provider_request_id,
                ) from error
            raise

    def order(self, client: BatchClient, part: BatchPart, file: str | None) -> JSON:
        """The body that makes a batch."""
        server = server_of(client.base_url)
        body = {
            "input_file_id": file,
            "endpoint": server.prefix + part.wire_path,
            "completion_window": "24h",
        }
        return body | ({"metadata": {INTENT: part.intent}} if server.metadata else {})

    async def find(self, client: BatchClient, part: BatchPart) -> tuple[str, ...]:
        """The batch with the intent in its metadata, or, without any, in the name of its file."""
        async for batch in self._newest(client, part.created - CLOCK_SKEW):
            if batch.metadata:
                if replies.object_or_empty(batch.metadata).get(INTENT) == part.intent:
                    return (batch.id,)
            elif await self._is_of_file(client, batch, part):
                return (batch.id,)
        return ()

    async def _is_of_file(self, client: BatchClient, batch: Batch, part: BatchPart) -> bool:
        if not isinstance(batch.input_file_id, str) or not batch.input_file_id:
            return False
        try:
            reply = await client.exchange(get(f"/files/{quote(batch.input_file_id, safe='')}"))
        except NotFound:
            return False
        return bool(read_typed(reply[1], _File).filename == file_name(part))

    async def _newest(self, client: BatchClient, since: float) -> AsyncIterator[Batch]:
        """All batches made since then (seconds since the epoch), and those without a time."""
        after = ""
        while True:
            place = f"{self.jobs}?limit={_PAGE}" + (f"&after={quote(after)}" if after else "")
            _, body = await client.exchange(get(place))
            if body.lstrip().startswith(b"["):  # Together's has neither pages nor a frame
                body = b'{"data":' + body + b"}"
            page = read_typed(body, _List)
            young = [b for b in page.data if b.created is None or b.created >= since]
            for batch in young:
                yield batch
            if not page.has_more or not young or page.data[-1].id == after:
                return
            after = page.data[-1].id

    async def status(self, client: BatchClient, batch: str) -> BatchStatus:
        """The batch with its counts, files, usage, and what was wrong with it."""
        found = read_typed((await client.exchange(get(self.place(batch))))[1], Batch)
        word, counts = found.status.lower(), replies.object_or_empty(found.request_counts)
        problem, full, most = _problem(found) if found.ended else ("", False, None)
        downloads = self.downloads(found)
        return BatchStatus(
            found.status,
            ended=found.ended,
            cancelled=word in _CANCELLED,
            total=replies.token_count(counts.get("total")),
            done=replies.token_count(counts.get("completed")),
            failed=replies.token_count(counts.get("failed")),
            downloads=downloads,
            usage=openai_usage({"usage": found.usage})[0],
            problem="" if downloads else problem,
            queue_full=full,
            queue_limit=most,
        )

    def downloads(self, batch: Batch) -> tuple[WireRequest, ...]:
        """What gets its results: the contents of two files, of which each may be missing."""
        return contents(batch.output_file_id, batch.error_file_id)

    def place(self, batch: str) -> str:
        """The path of a batch."""
        return f"{self.jobs}/{quote(batch, safe='')}"

    async def cancel(self, client: BatchClient, batch: str) -> None:
        """Ask for it; a refusal counts where the batch goes on."""
        try:
            await client.exchange(WireRequest(f"{self.place(batch)}/cancel", None))
        except (InvalidRequest, ServerFailed):
            now = await self.status(client, batch)
            if not now.ended and now.word != self.cancelling:
                raise

    def results(self, file: BinaryIO) -> Iterator[BatchResult]:
        """A row's reply, or its error, in every line."""
        for number, line in enumerate(file, 1):
            if line.strip():
                yield row_result(read_typed(line, Row, f"line {number} of the results"))


_NO_FILE = re.compile(r"(?:cannot|can't|could not) find file|no such file", re.IGNORECASE)


# --- What the families share ----------------------------------------------------------------------


def get(path: str) -> WireRequest:
    """Asks for what is there."""
    return WireRequest(path, None, method="GET")


def contents(*files: object) -> tuple[WireRequest, ...]:
    """Get the contents of files by their ids; of what is no id nothing."""
    ids = (file for file in files if isinstance(file, str) and file)
    return tuple(get(f"/files/{quote(file, safe='')}/content") for file in ids)


async def made(client: BatchClient, wire: WireRequest) -> str:
    """The id of what a request makes. Raises `BadResponse` without one."""
    found = read_typed((await client.exchange(wire))[1], _Made)
    if named := (found.job or found).id:
        return named
    raise BadResponse("the provider does not say what it has made; check `base_url`")


def file_name(part: BatchPart) -> str:
    """What the provider is told that the part's file is called."""
    return f"{part.intent}.jsonl"


def whole_body(wire: WireRequest) -> JSON:
    """The body of a row. Raises `InvalidRequest` for what is asked elsewhere, and for a stream."""
    if wire.body is None or wire.path.startswith("../"):
        raise InvalidRequest("this request cannot stand in a batch", sent=False)
    if wire.body.get("stream"):
        raise InvalidRequest("a row of a batch cannot be streamed: leave `stream` out", sent=False)
    return wire.body


def unix_time(value: object) -> float | None:
    """Seconds since the epoch, of a number or an RFC 3339 time; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return replies.unix_time(value)


def read_typed(body: bytes, form: type[T], what: str = "the provider's reply") -> T:
    """The JSON of a body, which has this form. Raises `BadResponse`, which shows nothing of it:
    prompts and answers may stand there."""
    for text in (body, replies.strict_json(body)):
        try:
            return msgspec.json.decode(text, type=form)
        except (ValueError, RecursionError) as error:
            failed = error
    raise BadResponse(f"{what} cannot be read: it is cut, or none of this API's") from failed


# --- Refused batches ------------------------------------------------------------------------------

_QUEUE_LIMIT = re.compile(r"limit:\s*(\d[\d,]*)\s*enqueued tokens", re.IGNORECASE)


def _problem(batch: Batch) -> tuple[str, bool, int | None]:
    """Why a batch was refused, whether the queue was full, and the limit of that."""
    found = replies.objects(replies.object_or_empty(batch.errors), "data")
    if not found:
        said = batch.error or batch.errors
        found = [said if isinstance(said, dict) else {"message": said}] if said else []
    full = any(error.get("code") == "token_limit_exceeded" for error in found)
    limits = [_QUEUE_LIMIT.search(str(error.get("message"))) for error in found] if full else []
    most = next((int(limit[1].replace(",", "")) for limit in limits if limit), None)
    if not found and batch.status.lower() == "failed":
        return "the provider does not say why", full, most
    return said_errors(found), full, most


def said_errors(errors: list[Mapping[str, Any]]) -> str:
    """The provider's words for the first few errors of a batch, with their lines."""
    said = [
        (f"line {error['line']}: " if type(error.get("line")) is int else "")
        + (replies.first_text(error, "message", "code") or "an error without a word")
        for error in errors[:_SHOWN]
    ]
    more = [f"and {len(errors) - _SHOWN} more"] if len(errors) > _SHOWN else []
    return "; ".join([cut(" ".join(text.split()), replies.SHOWN) for text in said] + more)


# --- Results --------------------------------------------------------------------------------------


class Reply(Struct):
    """What the call alone would have been answered; `body` is as it came."""

    status_code: Any = None
    request_id: Any = None
    body: Raw = Raw(b"null")


class Row(Struct):
    """A row's result: a reply, or an error."""

    custom_id: str
    response: Reply | None = None
    error: Any = None


_NOT_ASKED = re.compile(r"(?:batch_)?(?:expired|cancell?ed)")
_STATUS = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "model_not_found": 404,
}
"""The HTTP status of a call that fails so."""


def row_result(row: Row) -> BatchResult:
    """The result of a row. An error gets the status that a call alone would have had, and a body
    in which a codec finds it."""
    reply = row.response or Reply()
    status, body = _http_status(reply.status_code), bytes(reply.body)
    named = reply.request_id if isinstance(reply.request_id, str) else None
    if body != b"null" and (status or not row.error):
        return BatchResult(row.custom_id, status or 200, body, named or None)
    error = row.error if isinstance(row.error, dict) else {"message": row.error or "no reply"}
    status = status if status >= 400 else _error_status(error)
    body = orjson.dumps({"error": error}) if status else b""
    return BatchResult(row.custom_id, status, body, named or None)


def _error_status(error: Mapping[str, Any]) -> int:
    """The status of an error; 0: the batch ended before the row was asked."""
    for name in ("code", "type", "error_type", "status"):
        word = error.get(name)
        if isinstance(word, str) and _NOT_ASKED.fullmatch(word):
            return 0
        if (status := _http_status(word)) >= 400 or (status := _STATUS.get(str(word), 0)):
            return status
    return 500


def _http_status(value: object) -> int:
    """The status as a number or in digits; 0 for anything else."""
    if isinstance(value, str) and re.fullmatch("[2-5][0-9]{2}", value):
        return int(value)
    return value if type(value) is int and 200 <= value < 600 else 0
