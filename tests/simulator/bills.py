"""What OpenAI, Anthropic and OpenRouter tell of their bills, keys and limits, on one stub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

from .call import Call, Json
from .errors import JSON, Status, unauthorized
from .fault import Fault
from .http1 import Answer
from .reply import Problem
from .wires.wire import Wire, dump

_NEWEST = "2026-10-21"
_BETA = "analytics-usage-cost-2026-08-24"
PROJECT = "proj_sim"


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What was used on a UTC day, and charged: US dollars. `list_usd` is before a discount."""

    day: date
    model: str = "gpt-5-mini"
    usd: str = "0"
    list_usd: str | None = None
    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    requests: int = 1
    batch: bool = False
    key: str | None = "key_ours"
    project: str = PROJECT


@dataclass(frozen=True, kw_only=True)
class Bills(Fault):
    """Answers to the admin `key` alone, on `sim.bills`.

    `page`: buckets, or rows, of a page. `places`: decimal places of dollars that amounts are
    rounded to; None: none is lost. `shown`: what is shown of each key, by id. `limits`: rows of
    rate limits, as the provider writes them. `refusals` are given first, one a request.
    """

    key: str
    charges: list[Charge] = field(default_factory=list)
    page: int = 2
    places: int | None = None
    shown: dict[str, str] = field(default_factory=dict)
    limits: list[Json] = field(default_factory=list)
    refusals: list[Fault] = field(default_factory=list)

    def serves(self, call: Call) -> bool:
        """Whether the request is one to an administration."""
        return any(re.fullmatch(form, call.path) for form, _ in self._places())

    def _places(self) -> tuple[tuple[str, Callable[[Json], Json]], ...]:
        openai, project = r"/v1/organization", rf"/v1/organization/projects/{PROJECT}"
        anthropic = r"/anthropic/v1/organizations"
        return (
            (rf"{openai}/usage/completions", self._completions),
            (rf"{openai}/usage/embeddings", lambda asked: self._buckets(asked, 31, lambda _: [])),
            (rf"{openai}/costs", self._costs),
            (rf"{project}/api_keys", lambda _: self._listed("redacted_value")),
            (rf"{project}/rate_limits", self._after),
            (rf"{anthropic}/analytics/usage", lambda asked: self._analytics(asked, "usage")),
            (rf"{anthropic}/analytics/cost", lambda asked: self._analytics(asked, "cost")),
            (rf"{anthropic}/api_keys", lambda _: self._listed("partial_key_hint")),
            (rf"{anthropic}/rate_limits", lambda asked: self._cursor(asked, self.limits)),
            (r"/openrouter/api/v1/activity", self._activity),
            (r"/openrouter/api/v1/keys", self._hashes),
        )

    def instead(self, call: Call, wire: Wire) -> Answer | None:
        """Tell what is asked, or refuse."""
        if call.api_key != self.key:
            return unauthorized().instead(call, wire)
        if self.refusals:
            return self.refusals.pop(0).instead(call, wire)
        if "/anthropic/" in call.path and call.headers.get("anthropic-version") != _NEWEST:
            return _wrong("an old version").instead(call, wire)
        if "/analytics/" in call.path and call.headers.get("anthropic-beta") != _BETA:
            return _wrong("no beta").instead(call, wire)
        asked = parse_qs(call.query)
        answer = next(how for form, how in self._places() if re.fullmatch(form, call.path))
        try:
            said = answer(asked)
        except ValueError as error:
            return _wrong(str(error)).instead(call, wire)
        return Answer(200, (JSON,), (dump(said),))

    def _usd(self, text: str) -> Decimal:
        amount = Decimal(text)
        return amount if self.places is None else round(amount, self.places)

    # OpenAI.

    def _buckets(self, asked: Json, most: int, rows: Callable[[date], list[Json]]) -> Json:
        start, end, limit = (int(asked[name][0]) for name in ("start_time", "end_time", "limit"))
        if limit > most:
            raise ValueError(f"limit must be at most {most}")
        first = int(asked.get("page", [f"page_{start}"])[0].removeprefix("page_"))
        days = list(range(first, end, 86400))[: min(limit, self.page)]
        following = days[-1] + 86400
        return {
            "object": "page",
            "data": [
                {
                    "object": "bucket",
                    "start_time": day,
                    "end_time": day + 86400,
                    "results": rows(datetime.fromtimestamp(day, UTC).date()),
                }
                for day in days
            ],
            "has_more": following < end,
            "next_page": f"page_{following}" if following < end else None,
        }

    def _completions(self, asked: Json) -> Json:
        def rows(day: date) -> list[Json]:
            return [
                {
                    "object": "organization.usage.completions.result",
                    "input_tokens": one.input,
                    "output_tokens": one.output,
                    "input_cached_tokens": one.cached,
                    "input_cache_write_tokens": one.written,
                    "num_model_requests": one.requests,
                    "model": one.model,
                    "batch": one.batch,
                    "api_key_id": one.key,
                    "project_id": one.project,
                }
                for one in self._of(day)
                if one.input or one.output
            ]

        return self._buckets(asked, 31, rows)

    def _costs(self, asked: Json) -> Json:
        def rows(day: date) -> list[Json]:
            return [
                {
                    "object": "organization.costs.result",
                    "amount": {"value": float(self._usd(one.usd)), "currency": "usd"},
                    "line_item": f"{one.model}, input_tokens",
                    "api_key_id": one.key,
                    "project_id": one.project,
                }
                for one in self._of(day)
            ]

        return self._buckets(asked, 180, rows)

    def _of(self, day: date) -> Iterator[Charge]:
        return (one for one in self.charges if one.day == day)

    def _listed(self, name: str) -> Json:
        rows = [{"id": key, name: shown} for key, shown in self.shown.items()]
        return {"data": rows, "has_more": False, "last_id": None}

    def _after(self, asked: Json) -> Json:
        ids = [f"rl-{n}" for n in range(len(self.limits))]
        after = asked.get("after", [""])[0]
        start = ids.index(after) + 1 if after else 0
        rows = [{"id": ids[n], **self.limits[n]} for n in range(start, len(ids))][: self.page]
        more = start + self.page < len(ids)
        return {"data": rows, "has_more": more, "last_id": rows[-1]["id"] if rows else None}

    # Anthropic.

    def _cursor(self, asked: Json, rows: list[Any]) -> Json:
        start = int(asked.get("page", ["0"])[0])
        end = start + self.page
        more = end < len(rows)
        return {
            "data": rows[start:end],
            "has_more": more,
            "next_page": str(end) if more else None,
        }

    def _analytics(self, asked: Json, kind: str) -> Json:
        start, end = (
            datetime.fromisoformat(asked[name][0]) for name in ("starting_at", "ending_at")
        )
        if end - start > timedelta(days=31):
            raise ValueError("the range may span at most 31 days")
        rows = [
            self._analysed(one, kind)
            for one in self.charges
            if start.date() <= one.day < end.date()
        ]
        return self._cursor(asked, rows)

    def _analysed(self, one: Charge, kind: str) -> Json:
        cents = self._usd(one.usd) * 100
        listed = cents if one.list_usd is None else self._usd(one.list_usd) * 100
        group = {
            "model": one.model,
            "service_tier": "batch" if one.batch else "standard",
            "api_key_id": one.key,
            "workspace_id": "wrkspc_sim",
        }
        figures: Json = {"amount": str(cents), "list_amount": str(listed), "currency": "USD"}
        if kind == "usage":
            figures = {
                "uncached_input_tokens": one.input - one.cached - one.written,
                "cache_read_input_tokens": one.cached,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": one.written,
                    "ephemeral_1h_input_tokens": 0,
                },
                "output_tokens": one.output,
                "requests": one.requests,
            }
        after = one.day + timedelta(days=1)
        span = {"starting_at": f"{one.day}T00:00:00Z", "ending_at": f"{after}T00:00:00Z"}
        return {**span, "group": group, kind: figures}

    # OpenRouter.

    def _activity(self, asked: Json) -> Json:
        wanted = asked.get("api_key_hash", [None])[0]
        return {
            "data": [
                {
                    "date": str(one.day),
                    "model": one.model,
                    "model_permaslug": one.model,
                    "usage": float(self._usd(one.usd)),
                    "byok_usage_inference": 0,
                    "requests": one.requests,
                    "prompt_tokens": one.input,
                    "completion_tokens": one.output,
                    "reasoning_tokens": 0,
                }
                for one in self.charges
                if wanted in (None, one.key)
            ]
        }

    def _hashes(self, asked: Json) -> Json:
        start = int(asked.get("offset", ["0"])[0])
        rows = [{"hash": key, "label": shown} for key, shown in self.shown.items()]
        return {"data": rows[start : start + self.page]}


def hash_of(key: str) -> str:
    """How OpenRouter names a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def _wrong(message: str) -> Status:
    return Status(status=400, problem=Problem(message, "invalid_request_error"))
