"""Gemini's batches: of an uploaded file or of requests in the create call, as operations."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote

import orjson

from .batches import (
    DAY,
    JSONL,
    Batches,
    Dialect,
    Endpoint,
    File,
    Job,
    Row,
    invalid,
    json_lines,
    number,
    quarters,
    stored,
)
from .batches_openai import bound
from .call import Call, Json
from .errors import JSON
from .http1 import Answer
from .wires.gemini import Gemini
from .wires.wire import dump

_STATUS = {
    "validating": "BATCH_STATE_PENDING",
    "running": "BATCH_STATE_RUNNING",
    "finalizing": "BATCH_STATE_RUNNING",
    "cancelling": "BATCH_STATE_RUNNING",
    "completed": "BATCH_STATE_SUCCEEDED",
    "failed": "BATCH_STATE_FAILED",
    "expired": "BATCH_STATE_EXPIRED",
    "cancelled": "BATCH_STATE_CANCELLED",
}
_CREATE = ":batchGenerateContent"
_BATCH = r"/batches/([^/:]+)"
_FILE = r"/files/([^/:]+)"
_TYPES = "type.googleapis.com/google.ai.generativelanguage.v1main."


class GeminiRows(Dialect):
    """`{"key", "request"}` of a file, `{"request", "metadata": {"key"}}` of a create call."""

    ordered = True
    parted = False
    max_rows = 1_000_000
    max_bytes = 2_000_000_000

    def row(self, job: Job, line: Json) -> Row:
        """Read a row; the model stands in the batch's own path."""
        key = line["key"] if "key" in line else (line.get("metadata") or {}).get("key", "")
        if not isinstance(line["request"], dict):
            message = "request must be an object"
            raise TypeError(message)
        request = {name: value for name, value in line["request"].items() if name != "model"}
        return Row(key, job.path.removesuffix(_CREATE) + ":generateContent", request)

    def result(self, job: Job, row: Row, answer: Answer) -> bytes:
        """Give the response, or the error alone."""
        body = b"".join(answer.pieces)
        key = {"metadata": {"key": row.custom_id}} if _inlined(job) else {"key": row.custom_id}
        if answer.status >= 400:
            return dump(key | {"error": orjson.loads(body)["error"]})
        return orjson.dumps(key | {"response": orjson.Fragment(body)})

    def unfinished(self, job: Job, row: Row) -> None:
        """Give no line."""


class Start(Endpoint):
    """`POST /upload/v1beta/files`, resumable: tells where the bytes go."""

    at = "POST", "/upload/v1beta/files"
    action = "upload"

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Give a URL; its last part is the secret that lets bytes in without a key."""
        headers = call.headers
        wanted = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
        if any(headers.get(name) != value for name, value in wanted.items()):
            raise invalid("the simulator takes resumable uploads only")
        file = batches.keep(b"", "", "batch", self.project(call, batches))
        file.name = ((call.body or {}).get("file") or {}).get("displayName", "")
        file.hidden = sys.maxsize  # it cannot be found before its last byte came
        url = f"http://{headers['host']}{call.path}/{file.id}"
        status = (("x-goog-upload-status", "active"), ("x-goog-upload-url", url))
        return Answer(200, (JSON, *status), (b"",))


class Bytes(Endpoint):
    """`POST` to an upload's URL: `upload` of a part, `upload, finalize` of the last one."""

    at = "POST", r"/upload/v1beta/files/([^/:]+)"
    action = "upload"
    takes_bytes = True
    public = True

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Add the bytes."""
        file = batches.files[self.named(call)]
        if int(call.headers.get("x-goog-upload-offset", "0")) != len(file.data):
            raise invalid("the offset is not where the upload stands")
        file.data = stored(file.data[:] + call.raw)
        call.raw = b""
        if "finalize" not in call.headers.get("x-goog-upload-command", ""):
            return Answer(200, (("x-goog-upload-status", "active"),), (b"",))
        file.hidden = batches.settings.invisible
        final = ("x-goog-upload-status", "final")
        return Answer(200, (JSON, final), (dump({"file": described(file)}),))


class Retrieved(Endpoint):
    """`GET …/files/F`."""

    at = "GET", _FILE
    action = "file"

    def done(self, call: Call, batches: Batches) -> Json:
        """Describe the file."""
        return described(batches.file(self.named(call), self.project(call, batches)))


class Removal(Endpoint):
    """`DELETE …/files/F`."""

    at = "DELETE", _FILE
    action = "delete"

    def done(self, call: Call, batches: Batches) -> Json:
        """Forget the file."""
        batches.file(self.named(call), self.project(call, batches)).project = ""
        return {}


class Download(Endpoint):
    """`GET …/files/F:download?alt=media`, also below `/download`."""

    at = "GET", _FILE + ":download"
    action = "results"

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Give the bytes of what the provider made."""
        file = batches.file(self.named(call), self.project(call, batches))
        if file.purpose == "batch" or parse_qs(call.query).get("alt") != ["media"]:
            raise invalid("only generated files can be downloaded, with alt=media")
        return Answer(200, (JSONL,), quarters(file.data))


class Creation(Endpoint):
    """`POST …/models/M:batchGenerateContent`."""

    at = "POST", _CREATE
    action = "create"

    def done(self, call: Call, batches: Batches) -> Json:
        """Make a batch."""
        given = (call.body or {}).get("batch") or {}
        config = given.get("inputConfig") or {}
        project = self.project(call, batches)
        inlined = (config.get("requests") or {}).get("requests")
        if bool(inlined) == bool(config.get("fileName")):
            raise invalid("inputConfig must have fileName or requests")
        if inlined:
            data = json_lines(inlined)
        else:
            name = config["fileName"].removeprefix("files/")
            data = batches.input_file(name, project).data
        return operation(batches.create(call, GeminiRows(), data, "b", project))


class Poll(Endpoint):
    """`GET …/batches/B`."""

    at = "GET", _BATCH
    action = "poll"

    def done(self, call: Call, batches: Batches) -> Json:
        """Count a poll, and say where it is."""
        return operation(batches.job(self.named(call), self.project(call, batches), polled=True))


class Listing(Endpoint):
    """`GET …/batches?pageSize=50&pageToken=T`, the newest first."""

    at = "GET", "/batches"
    action = "list"

    def done(self, call: Call, batches: Batches) -> Json:
        """Give a page; its token is where the next one starts."""
        start, size = number(call, "pageToken", 0), number(call, "pageSize", 50)
        found = batches.newest(self.project(call, batches))
        page: Json = {"operations": [operation(job) for job in found[start : start + size]]}
        return page | ({"nextPageToken": str(start + size)} if start + size < len(found) else {})


class Cancellation(Endpoint):
    """`POST …/batches/B:cancel`."""

    at = "POST", _BATCH + ":cancel"
    action = "cancel"

    def done(self, call: Call, batches: Batches) -> Json:
        """Begin to cancel; nothing is said of it."""
        batches.cancel(batches.job(self.named(call), self.project(call, batches)))
        return {}


class BatchRemoval(Endpoint):
    """`DELETE …/batches/B`, which does not cancel it."""

    at = "DELETE", _BATCH
    action = "delete"

    def done(self, call: Call, batches: Batches) -> Json:
        """Forget the batch."""
        batches.job(self.named(call), self.project(call, batches)).deleted = True
        return {}


_KINDS = (
    Start,
    Bytes,
    Download,
    Retrieved,
    Removal,
    Creation,
    Listing,
    Poll,
    Cancellation,
    BatchRemoval,
)
GEMINI = tuple(bound(kind, Gemini) for kind in _KINDS)


def described(file: File) -> Json:
    """A file as Google describes it."""
    made = file.purpose != "batch"
    return {
        "name": f"files/{file.id}",
        "displayName": file.name,
        "mimeType": "application/jsonl",
        "sizeBytes": str(len(file.data)),
        "createTime": _time(file.created),
        "updateTime": _time(file.created),
        "expirationTime": _time(file.created + 2 * DAY),
        "state": "ACTIVE",
        "source": "GENERATED" if made else "UPLOADED",
    }


def operation(job: Job) -> Json:
    """A batch as Google describes it: an operation; counts are texts, zeros are not said."""
    counts = job.counts
    failed = counts["errored"]
    stats = {
        "requestCount": job.total,
        "successfulRequestCount": counts["succeeded"],
        "failedRequestCount": failed,
        "pendingRequestCount": 0 if job.end else job.total,
    }
    meta: Json = {
        "@type": _TYPES + "GenerateContentBatch",
        "name": f"batches/{job.id}",
        "model": "models/" + unquote(job.path).rpartition("/models/")[2].removesuffix(_CREATE),
        "displayName": (job.said.get("batch") or {}).get("displayName", ""),
        "createTime": _time(job.created),
        "updateTime": _time(job.ended or job.created),
        "batchStats": {name: str(count) for name, count in stats.items() if count},
        "state": job.word(_STATUS),
    }
    said: Json = {"name": f"batches/{job.id}", "metadata": meta}
    if job.end is None:
        return said
    said["done"] = True
    meta["endTime"] = _time(job.ended)
    if job.output is not None:
        output: Json = {"responsesFile": f"files/{job.output.id}"}
        if _inlined(job):
            output = {"inlinedResponses": {"inlinedResponses": job.results()}}
        meta["output"] = output
        said["response"] = {"@type": _TYPES + "GenerateContentBatchOutput"} | output
    if job.end == "failed":
        said["error"] = {"code": 3, "message": job.problems[0][0].message}
    return said


def _inlined(job: Job) -> bool:
    return "fileName" not in (job.said["batch"].get("inputConfig") or {})


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
