"""OpenAI's batches and their files, which Azure OpenAI and Groq have, too."""

from __future__ import annotations

import re
from typing import ClassVar
from urllib.parse import parse_qs

import orjson

from .batches import (
    DAY,
    Batches,
    Dialect,
    Endpoint,
    File,
    Job,
    Row,
    invalid,
    multipart,
    number,
    quarters,
)
from .call import Call, Json
from .http1 import Answer
from .wires.groq import Groq
from .wires.openai import OpenAI
from .wires.wire import Wire, dump

_STATUS = {"running": "in_progress"}
_FILE = r"/files/([^/]+)"
_BATCH = r"/batches/([^/]+)"
_UNFINISHED = {
    "expired": ("batch_expired", "This request could not be executed before the batch expired."),
    "cancelled": ("batch_cancelled", "This request was cancelled with its batch."),
}


class OpenAIRows(Dialect):
    """`{"custom_id", "method", "url", "body"}`."""

    one_model = True
    late_quota = True

    def row(self, job: Job, line: Json) -> Row:
        """Read a row; its URL must be the batch's endpoint."""
        if line["method"] != "POST" or line["url"] != job.said["endpoint"]:
            message = f"the URL must be {job.said['endpoint']}"
            raise ValueError(message)
        if not isinstance(line["custom_id"], str) or not isinstance(line["body"], dict):
            message = "custom_id must be a text, body an object"
            raise TypeError(message)
        base = job.path.removesuffix("/batches")
        return Row(line["custom_id"], base + re.sub("^/v1", "", line["url"]), line["body"])

    def result(self, job: Job, row: Row, answer: Answer) -> bytes:
        """Give the whole response with its status, and no error beside."""
        name = f"{job.id}-{row.custom_id}"
        said = {
            "status_code": answer.status,
            "request_id": f"req_{name}",
            "body": orjson.Fragment(b"".join(answer.pieces)),
        }
        line = {"custom_id": row.custom_id, "response": said, "error": None}
        return orjson.dumps({"id": f"batch_req_{name}"} | line)

    def unfinished(self, job: Job, row: Row) -> bytes | None:
        """Give an error and no response."""
        code, message = _UNFINISHED["expired" if job.end == "expired" else "cancelled"]
        line = {"id": f"batch_req_{job.id}-{row.custom_id}", "custom_id": row.custom_id}
        return dump(line | {"response": None, "error": {"code": code, "message": message}})


class FileEndpoint(Endpoint):
    """What describes a file."""

    def shown(self, file: File) -> Json:
        """A file as OpenAI describes it."""
        return {
            "id": file.id,
            "object": "file",
            "bytes": len(file.data),
            "created_at": file.created,
            "expires_at": file.created + 30 * DAY if file.purpose == "batch" else None,
            "filename": file.name,
            "purpose": file.purpose,
            "status": "processed",
        }


class Upload(FileEndpoint):
    """`POST …/files`, purpose `batch`."""

    at = "POST", "/files"
    action = "upload"
    takes_bytes = True

    def done(self, call: Call, batches: Batches) -> Json:
        """Keep the file."""
        parts = multipart(call)
        if "file" not in parts or "purpose" not in parts:
            raise invalid("'file' and 'purpose' are required")
        name, data = parts["file"]
        purpose = bytes(parts["purpose"][1]).decode()
        if purpose != "batch":
            raise invalid(f"'{purpose}' is not one of ['batch'] - 'purpose'", "purpose")
        file = batches.keep(data, name, purpose, self.project(call, batches))
        call.raw = b""  # what is kept on the disk is not kept with the recorded calls
        return self.shown(file)


class Files(FileEndpoint):
    """`GET …/files`: one page, the newest first."""

    at = "GET", "/files"
    action = "file"

    def done(self, call: Call, batches: Batches) -> Json:
        """List the project's files."""
        project = self.project(call, batches)
        data = [self.shown(file) for file in batches.files.values() if file.project == project]
        return page(call, data[::-1])


class Retrieved(FileEndpoint):
    """`GET …/files/F`."""

    at = "GET", _FILE
    action = "file"

    def done(self, call: Call, batches: Batches) -> Json:
        """Describe the file."""
        return self.shown(batches.file(self.named(call), self.project(call, batches)))


class Content(Endpoint):
    """`GET …/files/F/content`, as `kind`."""

    kind: ClassVar[str] = "application/jsonl"

    at = "GET", _FILE + "/content"
    action = "results"

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Give the bytes."""
        file = batches.file(self.named(call), self.project(call, batches))
        return Answer(200, (("content-type", self.kind),), quarters(file.data))


class Removal(Endpoint):
    """`DELETE …/files/F`."""

    at = "DELETE", _FILE
    action = "delete"

    def done(self, call: Call, batches: Batches) -> Json:
        """Forget the file."""
        file = batches.file(self.named(call), self.project(call, batches))
        file.project = ""  # ids are counted: the place stays taken
        return {"id": file.id, "object": "file", "deleted": True}


class Creation(Endpoint):
    """`POST …/batches`."""

    at = "POST", "/batches"
    action = "create"
    windows: ClassVar[str] = "24h"

    def done(self, call: Call, batches: Batches) -> Json:
        """Make a batch of an uploaded file."""
        body = call.body or {}
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(body.get(name), str):
                raise invalid(f"Missing required parameter: '{name}'.", name)
        if not re.fullmatch(self.windows, body["completion_window"]):
            raise invalid("Invalid 'completion_window'", "completion_window")
        objection = _metadata(body.get("metadata"))
        if objection:
            raise invalid(objection, "metadata")
        project = self.project(call, batches)
        file = batches.input_file(body["input_file_id"], project)
        return batch(batches.create(call, OpenAIRows(), file.data, "batch_", project))


class WeekLong(Creation):
    """Groq's `POST …/batches`: from a day to a week."""

    windows = "24h|[2-7]d"


class Poll(Endpoint):
    """`GET …/batches/B`."""

    at = "GET", _BATCH
    action = "poll"

    def done(self, call: Call, batches: Batches) -> Json:
        """Count a poll, and say where it is."""
        return batch(batches.job(self.named(call), self.project(call, batches), polled=True))


class Listing(Endpoint):
    """`GET …/batches?limit=20&after=B`, the newest first."""

    at = "GET", "/batches"
    action = "list"

    def done(self, call: Call, batches: Batches) -> Json:
        """Give a page."""
        return page(call, [batch(job) for job in batches.newest(self.project(call, batches))])


class Cancellation(Endpoint):
    """`POST …/batches/B/cancel`."""

    at = "POST", _BATCH + "/cancel"
    action = "cancel"

    def done(self, call: Call, batches: Batches) -> Json:
        """Begin to cancel; what has ended cannot be."""
        job = batches.job(self.named(call), self.project(call, batches))
        if job.end is not None:
            raise invalid(f"Cannot cancel a batch with status '{job.end}'.")
        batches.cancel(job)
        return batch(job)


_FILES = (Upload, Files, Content, Retrieved, Removal)


def endpoints(provider: type[Wire], creation: type[Endpoint]) -> tuple[type[Wire], ...]:
    """The endpoints of a provider: what is its own (key, errors), and OpenAI's batches."""
    return tuple(bound(kind, provider) for kind in (creation, *_FILES, Listing, Poll, Cancellation))


def bound(*kinds: type[Wire]) -> type[Wire]:
    """An endpoint made of its parts, the first one wins; the last one is the provider's own."""
    return type("".join(kind.__name__ for kind in kinds), kinds, {})


OPENAI = endpoints(OpenAI, Creation)
GROQ = endpoints(Groq, WeekLong)


def page(call: Call, data: list[Json]) -> Json:
    """A page of a list, after the id that the query names."""
    asked = parse_qs(call.query)
    limit = min(100, number(call, "limit", 20))
    ids = [item["id"] for item in data]
    after = asked.get("after", [""])[0]
    start = ids.index(after) + 1 if after in ids else 0
    part = data[start : start + limit]
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": start + limit < len(data),
    }


def batch(job: Job) -> Json:
    """A batch as OpenAI describes it."""
    problems = [
        {"code": problem.code, "line": line, "message": problem.message, "param": problem.param}
        for problem, line in job.problems
    ]
    failed = job.end == "failed"
    usage = job.usage
    cancelling = job.cancelling is not None
    succeeded = job.counts["succeeded"] if job.end else job.done
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.said["endpoint"],
        "model": job.model,
        "errors": {"object": "list", "data": problems} if failed else None,
        "input_file_id": job.said["input_file_id"],
        "completion_window": job.said["completion_window"],
        "status": job.word(_STATUS),
        "output_file_id": job.output.id if job.output else None,
        "error_file_id": job.errors.id if job.errors else None,
        "created_at": job.created,
        "in_progress_at": job.created if job.progress > 0 and not failed else None,
        "expires_at": job.created + DAY,
        "finalizing_at": job.ended if job.end == "completed" else None,
        "completed_at": job.ended if job.end == "completed" else None,
        "failed_at": job.ended if failed else None,
        "expired_at": job.ended if job.end == "expired" else None,
        "cancelling_at": job.cancelling if cancelling else None,
        "cancelled_at": job.ended if job.end == "cancelled" else None,
        "request_counts": {
            "total": 0 if failed or job.state == "validating" else job.total,
            "completed": succeeded,
            "failed": sum(job.counts.values()) - job.counts["succeeded"],
        },
        "usage": {
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.total,
        },
        "metadata": job.said.get("metadata"),
    }


def _metadata(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > 16:
        return "Invalid 'metadata': an object of at most 16 pairs."
    for name, value in given.items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 512:
            return f"Invalid 'metadata.{name}'."
    return None
