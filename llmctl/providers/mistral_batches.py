"""Batches of Mistral: jobs with uploaded files of rows. Reference: docs.mistral.ai/api, "Batch"."""

from __future__ import annotations

from typing import Any

import orjson
from msgspec import Struct

from llmctl.protocols import WireRequest
from llmctl.providers import replies
from llmctl.providers.batch_api import BatchClient, BatchLimits, BatchPart, BatchStatus
from llmctl.providers.openai_batches import (
    CLOCK_SKEW,
    INTENT,
    OpenAIBatches,
    contents,
    get,
    read_typed,
    said_errors,
    unix_time,
    whole_body,
)
from llmctl.types import JSON, Request

_LIMITS = BatchLimits(1_000_000, 500_000_000)
_PAGE = 100
_RUNNING = frozenset({"QUEUED", "RUNNING", "CANCELLATION_REQUESTED"})
_ENDED = frozenset({"SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"})


class _Job(Struct):
    """A job as Mistral tells of it."""

    id: str
    status: str
    created_at: Any = None
    completed_at: Any = None
    output_file: Any = None
    error_file: Any = None
    total_requests: Any = None
    succeeded_requests: Any = None
    failed_requests: Any = None
    metadata: Any = None
    errors: Any = None


class _Jobs(Struct):
    total: int
    data: list[_Job] | None = None


class MistralBatches(OpenAIBatches):
    """The family; see `batch_api.BatchApi`."""

    jobs = "/batch/jobs"
    cancelling = "CANCELLATION_REQUESTED"

    def limits(self, base_url: str) -> BatchLimits:  # noqa: ARG002 - the seam's
        """A million rows in 500 MB."""
        return _LIMITS

    def line(self, call_id: str, wire: WireRequest, request: Request) -> bytes:  # noqa: ARG002
        """`{"custom_id", "body"}`."""
        return orjson.dumps({"custom_id": call_id, "body": whole_body(wire)})

    def order(self, client: BatchClient, part: BatchPart, file: str | None) -> JSON:  # noqa: ARG002
        """The body that makes a job, which has one model."""
        return {
            "endpoint": "/v1" + part.wire_path,
            "input_files": [file],
            "model": part.model,
            "metadata": {INTENT: part.intent},
            "timeout_hours": 24,
        }

    async def find(self, client: BatchClient, part: BatchPart) -> tuple[str, ...]:
        """The job with the intent in its metadata; the list is the newest first."""
        since, page, seen = part.created - CLOCK_SKEW, 0, 0
        while True:
            reply = await client.exchange(get(f"{self.jobs}?page={page}&page_size={_PAGE}"))
            listed = read_typed(reply[1], _Jobs)
            jobs = listed.data or []
            for job in jobs:
                if replies.object_or_empty(job.metadata).get(INTENT) == part.intent:
                    return (job.id,)
            times = [unix_time(job.created_at) for job in jobs]
            page, seen = page + 1, seen + len(jobs)
            if seen >= listed.total or all(time is not None and time < since for time in times):
                return ()

    async def status(self, client: BatchClient, batch: str) -> BatchStatus:
        """The job with its counts, files, and what was wrong with it."""
        job = read_typed((await client.exchange(get(self.place(batch))))[1], _Job)
        word, downloads = job.status.upper(), contents(job.output_file, job.error_file)
        signs = bool(downloads or job.completed_at)
        ended = word in _ENDED or (word not in _RUNNING and signs)
        problem = said_errors(replies.objects({"errors": job.errors}, "errors"))
        if word == "FAILED" and not problem:
            problem = "the provider does not say why"
        return BatchStatus(
            job.status,
            ended=ended,
            cancelled=word == "CANCELLED",
            total=replies.token_count(job.total_requests),
            done=replies.token_count(job.succeeded_requests),
            failed=replies.token_count(job.failed_requests),
            downloads=downloads,
            problem=problem if ended and not downloads else "",
        )
