"""Mistral's batch jobs: of an uploaded file or of requests in the create call, results alike."""

from __future__ import annotations

import re
from urllib.parse import parse_qs

import orjson

from .batches import (
    DAY,
    Batches,
    Dialect,
    Endpoint,
    File,
    Job,
    Lines,
    Row,
    invalid,
    json_lines,
    number,
)
from .batches_openai import Content, FileEndpoint, Files, Removal, Retrieved, Upload, bound
from .call import Call, Json
from .http1 import Answer
from .wires.mistral import Mistral

_STATUS = {
    "validating": "QUEUED",
    "running": "RUNNING",
    "finalizing": "RUNNING",
    "completed": "SUCCESS",
    "failed": "FAILED",
    "expired": "TIMEOUT_EXCEEDED",
    "cancelling": "CANCELLATION_REQUESTED",
    "cancelled": "CANCELLED",
}
_JOB = r"/batch/jobs/([^/]+)"
_SAMPLES = {"batch": "batch_request", "batch_output": "batch_result"}


class MistralRows(Dialect):
    """`{"custom_id", "body"}`; a body without a model has the job's."""

    max_rows = 1_000_000
    max_bytes = 512_000_000

    def row(self, job: Job, line: Json) -> Row:
        """Read a row."""
        base = job.path.removesuffix("/batch/jobs")
        path = base + re.sub("^/v1", "", job.said["endpoint"])
        body = line["body"]
        if job.said.get("model") and "model" not in body:
            body = {"model": job.said["model"], **body}
        return Row(str(line["custom_id"]), path, body)

    def result(self, job: Job, row: Row, answer: Answer) -> bytes:
        """Give the response with its status."""
        body = orjson.Fragment(b"".join(answer.pieces))
        line = {"id": f"{job.id}-{row.custom_id}", "custom_id": row.custom_id}
        said = {"status_code": answer.status, "body": body}
        return orjson.dumps(line | {"response": said, "error": None})

    def unfinished(self, job: Job, row: Row) -> None:
        """Give no line: what was not done stands nowhere."""


class MistralFile(FileEndpoint):
    """What describes a file."""

    def shown(self, file: File) -> Json:
        """Tell its lines and what it is good for."""
        return {
            "id": file.id,
            "object": "file",
            "bytes": len(file.data),
            "created_at": file.created,
            "expires_at": file.created + 30 * DAY,
            "filename": file.name,
            "purpose": "batch",
            "sample_type": _SAMPLES[file.purpose],
            "num_lines": len(Lines(file.data)),
            "mimetype": "application/jsonl",
            "source": "upload" if file.purpose == "batch" else "mistral",
        }


class MistralContent(Content):
    """`GET …/files/F/content`."""

    kind = "application/octet-stream"


class Creation(Endpoint):
    """`POST …/batch/jobs`: `input_files` or `requests`."""

    at = "POST", "/batch/jobs"
    action = "create"

    def done(self, call: Call, batches: Batches) -> Json:
        """Make a job."""
        body, project = call.body or {}, self.project(call, batches)
        if not isinstance(body.get("endpoint"), str):
            raise invalid("endpoint: Field required")
        if bool(body.get("input_files")) == bool(body.get("requests")):
            raise invalid("either input_files or requests must be given")
        if body.get("requests"):
            data = json_lines(body["requests"])
        else:
            if len(body["input_files"]) != 1:
                raise invalid("the simulator takes one file")
            data = batches.input_file(body["input_files"][0], project).data
        return shown(batches.create(call, MistralRows(), data, "job-", project))


class Poll(Endpoint):
    """`GET …/batch/jobs/J`, with `inline=true` the outputs, too."""

    at = "GET", _JOB
    action = "poll"

    def done(self, call: Call, batches: Batches) -> Json:
        """Count a poll, and say where it is."""
        job = batches.job(self.named(call), self.project(call, batches), polled=True)
        inline = parse_qs(call.query).get("inline") == ["true"]
        return shown(job) | {"outputs": job.results() if inline and job.end else None}


class Listing(Endpoint):
    """`GET …/batch/jobs?page=0&page_size=100&status=…`, the newest first."""

    at = "GET", "/batch/jobs"
    action = "list"

    def done(self, call: Call, batches: Batches) -> Json:
        """Give a page; pages are numbered from 0."""
        asked = parse_qs(call.query)
        size, place = number(call, "page_size", 100), number(call, "page", 0)
        found = [shown(job) for job in batches.newest(self.project(call, batches))]
        if "status" in asked:
            found = [job for job in found if job["status"] in asked["status"]]
        part = found[place * size : (place + 1) * size]
        return {"object": "list", "data": part, "total": len(found)}


class Cancellation(Endpoint):
    """`POST …/batch/jobs/J/cancel`."""

    at = "POST", _JOB + "/cancel"
    action = "cancel"

    def done(self, call: Call, batches: Batches) -> Json:
        """Begin to cancel."""
        job = batches.job(self.named(call), self.project(call, batches))
        batches.cancel(job)
        return shown(job)


MISTRAL = (
    *(bound(MistralFile, kind, Mistral) for kind in (Upload, Files, Retrieved)),
    *(
        bound(kind, Mistral)
        for kind in (MistralContent, Removal, Creation, Listing, Poll, Cancellation)
    ),
)


def shown(job: Job) -> Json:
    """A job as Mistral describes it."""
    done = sum(job.counts.values()) if job.end else job.done
    failed = job.counts["errored"]
    return {
        "id": job.id,
        "object": "batch",
        "input_files": job.said.get("input_files") or [],
        "endpoint": job.said["endpoint"],
        "model": job.said.get("model"),
        "metadata": job.said.get("metadata"),
        "agent_id": None,
        "errors": [{"message": problem.message, "count": 1} for problem, _ in job.problems]
        if job.end == "failed"
        else [],
        "status": job.word(_STATUS),
        "created_at": job.created,
        "started_at": job.created if job.progress > 0 else None,
        "completed_at": job.ended,
        "total_requests": job.total,
        "completed_requests": done - job.counts["expired"] - job.counts["cancelled"],
        "succeeded_requests": job.counts["succeeded"] if job.end else job.done,
        "failed_requests": failed,
        "output_file": job.output.id if job.output else None,
        "error_file": job.errors.id if job.errors else None,
        "outputs": None,
    }
