"""OpenRouter's batches: requests in the create call, results inside the batch, no cancel."""

from __future__ import annotations

import re
from typing import ClassVar

from .batches import DAY, Batches, Dialect, Endpoint, Job, Refusal, Row, invalid, json_lines
from .batches_openai import bound, page
from .call import Call, Json
from .errors import JSON
from .http1 import Answer
from .reply import Problem
from .wires.openrouter import OpenRouter, cost
from .wires.wire import dump, load

_STATUS = {"running": "in_progress"}
_LISTED = {"finalizing": "in_progress", "cancelling": "in_progress"}
_BATCH = r"/batches/([^/]+)"
_GONE = {"expired": "The batch expired.", "cancelled": "The batch was cancelled."}


class OpenRouterRows(Dialect):
    """`{"custom_id", "body"}`, all for the batch's endpoint and model."""

    parted = False
    late = False

    def row(self, job: Job, line: Json) -> Row:
        """Read a row."""
        path = job.path.removesuffix("/batches") + re.sub("^/v1", "", job.said["endpoint"])
        body = line["body"]
        if "model" not in body:
            body = {"model": job.said["model"], **body}
        return Row(str(line["custom_id"]), path, body)

    def result(self, job: Job, row: Row, answer: Answer) -> bytes:
        """Give the response, or an error in OpenRouter's words."""
        body = load(b"".join(answer.pieces))
        if answer.status >= 400:
            kind = "invalid_request" if answer.status < 500 else "provider_error"
            return _line(job, row, error=_error(body["error"]["message"], kind))
        body["usage"]["cost"] /= 2
        name = f"req-{job.id}-{row.custom_id}"
        response = {"status_code": answer.status, "request_id": name, "body": body}
        return _line(job, row, response=response)

    def unfinished(self, job: Job, row: Row) -> bytes:
        """Give an error."""
        return _line(job, row, error=_error(_GONE[job.end or "expired"], "timeout"))


class Creation(Endpoint):
    """`POST …/api/v1/batches`: `callback_url` must stand before `requests`."""

    at = "POST", "/batches"
    action = "create"
    windows: ClassVar[str] = "24h"

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Make a batch; 202."""
        body = call.body or {}
        for name in ("endpoint", "model", "requests"):
            if not body.get(name):
                raise invalid(f"{name}: Required")
        if body.get("completion_window", self.windows) != self.windows:
            raise invalid("completion_window: must be 24h")
        names = list(body)
        if "callback_url" in names and names.index("callback_url") > names.index("requests"):
            raise invalid("callback_url must precede requests")
        data, project = json_lines(body["requests"]), self.project(call, batches)
        job = batches.create(call, OpenRouterRows(), data, "batch-", project)
        return Answer(202, (JSON,), (dump(shown(job)),))


class Poll(Endpoint):
    """`GET …/api/v1/batches/B`: with its results when it has ended."""

    at = "GET", _BATCH
    action = "poll"

    def done(self, call: Call, batches: Batches) -> Json:
        """Count a poll, and say where it is."""
        job = batches.job(self.named(call), self.project(call, batches), polled=True)
        return shown(job) | {"results": job.results() if job.end else None}


class Listing(Endpoint):
    """`GET …/api/v1/batches?limit=20&after=B`, the newest first, without results."""

    at = "GET", "/batches"
    action = "list"

    def done(self, call: Call, batches: Batches) -> Json:
        """Give a page; what is about to end is still in progress here."""
        found = [shown(job) for job in batches.newest(self.project(call, batches))]
        listed = [job | {"status": _LISTED.get(job["status"], job["status"])} for job in found]
        return page(call, listed)


class Removal(Endpoint):
    """`DELETE …/api/v1/batches/B`: there is no other way to be rid of one."""

    at = "DELETE", _BATCH
    action = "delete"

    def done(self, call: Call, batches: Batches) -> Json:
        """Forget a batch that has ended; 409 while it goes on."""
        job = batches.job(self.named(call), self.project(call, batches))
        if job.end is None:
            raise Refusal(409, Problem("The batch is still in progress", "conflict"))
        job.deleted = True
        return {"id": job.id, "object": "batch", "deletion": {"openrouter": "deleted"}}


OPENROUTER = tuple(bound(kind, OpenRouter) for kind in (Creation, Listing, Poll, Removal))


def shown(job: Job) -> Json:
    """A batch as OpenRouter describes it; the cost is that of what was answered."""
    usage, failed = job.usage, job.end == "failed"
    tokens = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "cost": float(cost(usage) / 2),
        "is_byok": False,
    }
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.said["endpoint"],
        "model": job.said["model"],
        "provider": "Simulator" if job.progress > 0 else None,
        "completion_window": "24h",
        "status": job.word(_STATUS),
        "error": {"message": job.problems[0][0].message} if failed else None,
        "created_at": job.created,
        "expires_at": job.created + DAY,
        "finalized_at": job.ended,
        "request_counts": {
            "total": job.total,
            "completed": job.counts["succeeded"] if job.end else job.done,
            "failed": sum(job.counts.values()) - job.counts["succeeded"],
        },
        "results": None,
        "usage": tokens if job.end and not failed else None,
    }


def _line(job: Job, row: Row, response: Json | None = None, error: Json | None = None) -> bytes:
    line = {"id": f"{job.id}-{row.custom_id}", "custom_id": row.custom_id}
    return dump(line | {"response": response, "error": error})


def _error(message: str, kind: str) -> Json:
    return {"message": message, "type": kind, "param": None, "error_type": kind}
