"""Anthropic's message batches: requests in the create call, results at a URL of their own."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import parse_qs

from .batches import (
    DAY,
    Batches,
    Dialect,
    Endpoint,
    Job,
    Row,
    invalid,
    json_lines,
    not_found,
    number,
    quarters,
)
from .batches_openai import bound
from .call import Call, Json
from .http1 import Answer
from .wires.anthropic import Anthropic
from .wires.wire import dump, load

_STATUS = {"cancelling": "canceling"}
_ENDS = ("completed", "failed", "expired", "cancelled")
_BATCH = r"/messages/batches/([^/]+)"
_LINES = ("content-type", "application/x-jsonl")


class AnthropicRows(Dialect):
    """`{"custom_id", "params"}`; the form is looked at by create, `params` by each row."""

    parted = False
    max_rows = 100_000
    max_bytes = 256_000_000
    late = False
    fails = False

    def row(self, job: Job, line: Json) -> Row:
        """Read a row."""
        if not re.fullmatch("[A-Za-z0-9_-]{1,64}", line["custom_id"]):
            message = "requests.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
            raise ValueError(message)
        if not isinstance(line["params"], dict):
            message = "requests.params: Input should be an object"
            raise TypeError(message)
        return Row(line["custom_id"], job.path.removesuffix("/batches"), line["params"])

    def result(self, job: Job, row: Row, answer: Answer) -> bytes:  # noqa: ARG002  (as above)
        """Give a message or the whole error."""
        body = load(b"".join(answer.pieces))
        if answer.status >= 400:
            return _line(row, {"type": "errored", "error": body})
        body["usage"]["service_tier"] = "batch"
        return _line(row, {"type": "succeeded", "message": body})

    def unfinished(self, job: Job, row: Row) -> bytes:
        """Say why there is no message."""
        return _line(row, {"type": "expired" if job.end == "expired" else "canceled"})


class Creation(Endpoint):
    """`POST …/messages/batches`."""

    at = "POST", "/messages/batches"
    action = "create"

    def done(self, call: Call, batches: Batches) -> Json:
        """Make a batch."""
        requests = (call.body or {}).get("requests")
        if not isinstance(requests, list) or not requests:
            raise invalid("requests: Field required")
        data, project = json_lines(requests), self.project(call, batches)
        job = batches.create(call, AnthropicRows(), data, "msgbatch_", project)
        return shown(job, call, batches)


class Poll(Endpoint):
    """`GET …/messages/batches/B`."""

    at = "GET", _BATCH
    action = "poll"

    def done(self, call: Call, batches: Batches) -> Json:
        """Count a poll, and say where it is."""
        job = batches.job(self.named(call), self.project(call, batches), polled=True)
        return shown(job, call, batches)


class Results(Endpoint):
    """`GET …/messages/batches/B/results`."""

    at = "GET", _BATCH + "/results"
    action = "results"

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Give the lines."""
        job = batches.job(self.named(call), self.project(call, batches))
        if job.end is None:
            raise not_found("results: the batch has not ended")
        return Answer(200, (_LINES,), quarters(job.output.data if job.output else b""))


class Listing(Endpoint):
    """`GET …/messages/batches?limit=20&after_id=B`, the newest first; or `before_id`."""

    at = "GET", "/messages/batches"
    action = "list"

    def done(self, call: Call, batches: Batches) -> Json:
        """Give a page."""
        asked = parse_qs(call.query)
        limit = number(call, "limit", 20)
        found = batches.newest(self.project(call, batches))
        ids = [job.id for job in found]
        start = ids.index(asked["after_id"][0]) + 1 if "after_id" in asked else 0
        if "before_id" in asked:
            end = ids.index(asked["before_id"][0])
            start = max(0, end - limit)
            more = start > 0
        else:
            end = start + limit
            more = end < len(found)
        part = [shown(job, call, batches) for job in found[start:end]]
        first, last = (part[0]["id"], part[-1]["id"]) if part else (None, None)
        return {"data": part, "has_more": more, "first_id": first, "last_id": last}


class Cancellation(Endpoint):
    """`POST …/messages/batches/B/cancel`."""

    at = "POST", _BATCH + "/cancel"
    action = "cancel"

    def done(self, call: Call, batches: Batches) -> Json:
        """Begin to cancel; what has ended cannot be."""
        job = batches.job(self.named(call), self.project(call, batches))
        if job.end is not None:
            raise invalid("Batch processing has already ended.")
        batches.cancel(job)
        return shown(job, call, batches)


class Removal(Endpoint):
    """`DELETE …/messages/batches/B`."""

    at = "DELETE", _BATCH
    action = "delete"

    def done(self, call: Call, batches: Batches) -> Json:
        """Forget a batch that has ended."""
        job = batches.job(self.named(call), self.project(call, batches))
        if job.end is None:
            raise invalid("Batch processing has not ended: cancel it first.")
        job.deleted = True
        return {"id": job.id, "type": "message_batch_deleted"}


ANTHROPIC = tuple(
    bound(kind, Anthropic) for kind in (Creation, Listing, Results, Poll, Cancellation, Removal)
)


def shown(job: Job, call: Call, batches: Batches) -> Json:
    """A batch as Anthropic describes it: nothing is counted before it has ended."""
    counts = job.counts
    ended = job.end is not None
    origin = batches.settings.results_origin or f"http://{call.headers['host']}"
    base = job.path.removesuffix("/messages/batches")
    status = job.word(_STATUS | dict.fromkeys(_ENDS, "ended"))
    return {
        "id": job.id,
        "type": "message_batch",
        "processing_status": status if ended or status == "canceling" else "in_progress",
        "request_counts": {
            "processing": 0 if ended else job.total,
            "succeeded": counts["succeeded"],
            "errored": counts["errored"],
            "canceled": counts["cancelled"],
            "expired": counts["expired"],
        },
        "created_at": _time(job.created),
        "expires_at": _time(job.created + DAY),
        "ended_at": _time(job.ended),
        "cancel_initiated_at": _time(job.cancelling),
        "archived_at": None,
        "results_url": f"{origin}{base}/messages/batches/{job.id}/results" if ended else None,
    }


def _line(row: Row, result: Json) -> bytes:
    return dump({"custom_id": row.custom_id, "result": result})


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
