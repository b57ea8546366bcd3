"""Requests and outcomes for suites and benchmarks; every field has a telling value."""

from __future__ import annotations

from decimal import Decimal
from itertools import count
from typing import Any

from llmctl.errors import CallError
from llmctl.protocols import BudgetWindow, CachedAnswer, Hold
from llmctl.types import Answer, CallRecord, Message, Request, Target, Usage

TARGET = Target(
    profile="fast",
    provider="openai",
    adapter="openai",
    base_url="https://api.openai.com/v1",
    model="gpt-5-mini",
)
NOW = 1_800_000_000.0
"""A moment in 2027, in seconds since the epoch."""

_numbers = count(1)


def a_request(call_id: str = "") -> Request:
    """A request whose prompt and parameters hold a canary that no ledger may keep."""
    return Request(
        id="row",
        target=TARGET,
        messages=(Message("user", "canary-prompt"),),
        tags={"team": "search", "ünïcode": "✓"},
        call_id=call_id or f"01CALL{next(_numbers):020d}",
        fingerprint="ab" * 32,
    )


def a_hold(
    request: Request, cost: Decimal | None = Decimal("0.0123"), *, at: float = NOW, times: int = 1
) -> Hold:
    """The hold of the request: 1,000 tokens in, 500 out at the most."""
    return Hold(request.call_id, request, Usage(1000, 500, estimated=True), cost, at, times)


DAY = 24 * 3600 * 1000


def a_cap(limit: str | int, name: str = "team", **changes: Any) -> BudgetWindow:
    """A budget of `limit` US dollars for all calls of the day of `NOW`."""
    start = int(NOW * 1000) // DAY * DAY
    span = {"start": start, "end": start + DAY, "key": f"{name} {start}", **changes}
    return BudgetWindow(name=name, limit=Decimal(limit), **span)


def an_answer(request: Request) -> Answer:
    """An answer from a dated model, with all figures different from each other."""
    return Answer(
        text="canary-answer",
        usage=Usage(312, 48, 7, 5, 3),
        target=request.target,
        finish="stop",
        model="gpt-5-mini-2026-05-01",
        cache="miss",
        attempts=2,
        latency=0.912,
        provider_request_id="req_1",
    )


def an_outcome(
    request: Request,
    result: Answer | CallError | None = None,
    *,
    cost: Decimal | None = Decimal("0.00021"),
    usage: Usage | None = None,
    started: float = NOW,
) -> CallRecord:
    """How the request ended: well, unless `result` says otherwise."""
    result = an_answer(request) if result is None else result
    own = result.usage if isinstance(result, Answer) else Usage()
    return CallRecord(
        request=request,
        result=result,
        usage=own if usage is None else usage,
        cost=cost,
        saved=None,
        started=started,
        elapsed=1.5,
        first_token=0.25,
    )


def a_cached_answer(text: str = "forty-two", *, stored: float = NOW) -> CachedAnswer:
    """An answer as the cache keeps it, with all fields set."""
    return CachedAnswer(
        text=text,
        finish="stop",
        model="gpt-5-mini-2026-05-01",
        usage=Usage(312, 48, 7, 5, 3, estimated=True),
        cost=Decimal("0.00021"),
        body=b'{"choices": [{"text": "forty-two"}]}\r\n',
        stored=stored,
    )
