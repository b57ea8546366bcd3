"""What a run has come to so far: counts, tokens and dollars."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from llmctl.errors import CallError, NoAnswer, Queued
from llmctl.types import KEPT, CallRecord

_COUNTS = (
    "rows", "ok", "failed", "skipped", "cached", "deduplicated", "requests", "retries",
    "input_tokens", "output_tokens",
)  # fmt: skip


@dataclass(slots=True)
class Others:
    """What other processes of a group have made of rows since this one joined it: answers, and
    failures by type."""

    ok: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Rows that failed there."""
        return self.failures.total()


@dataclass(slots=True)
class Tally:
    """Counts of calls. `rows` is what the run has before it, `skipped` what was answered
    by an earlier one, `queued` what is kept for later; tokens and dollars are those of calls made,
    not of kept answers; `masked` counts the identifiers that were found in what was asked, by
    kind; `routed` the rows by the profile they were sent to, `escalated` those that had to be asked
    of the strong one, too.
    `provider_saved` is what the provider's prompt cache saved (below 0: cost more), which of
    `provider_unsaved` calls is not known. `others` is what other processes have done of the same
    rows."""

    rows: int = 0
    skipped: int = 0
    ok: int = 0
    failed: int = 0
    cached: int = 0
    deduplicated: int = 0
    stale: int = 0
    queued: int = 0
    truncated: int = 0
    filtered: int = 0
    empty: int = 0
    requests: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    provider_saved: Decimal = Decimal(0)
    provider_unsaved: int = 0
    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced: int = 0
    estimated: int = 0
    uncertain: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    routed: Counter[str] = field(default_factory=Counter)
    escalated: Counter[str] = field(default_factory=Counter)
    failures: dict[str, int] = field(default_factory=dict)
    last_error: CallError | None = None
    others: Others = field(default_factory=Others)

    def add(self, outcome: CallRecord) -> None:
        """Count one call."""
        result = outcome.result
        self.masked.update(outcome.request.masked.counts if outcome.request.masked else {})
        self.uncertain += outcome.uncertain
        self.requests += result.attempts
        self.retries += max(0, result.attempts - 1)
        self.unpriced += outcome.row_cost is None
        self.cost += outcome.row_cost or 0
        if (route := result.route) is not None:
            self.routed[route.to] += 1
            if route.checked not in {"", "passed"}:
                self.escalated[route.checked] += 1
        self.saved += outcome.saved or 0
        if isinstance(result, Queued):
            self.queued += 1
        elif isinstance(result, CallError):
            self.failed += 1
            self.failures[result.row_type] = self.failures.get(result.row_type, 0) + 1
            self.last_error = result
            self.empty += isinstance(result, NoAnswer)
        else:
            self.ok += 1
            self.truncated += result.finish == "length"
            self.filtered += result.finish == "content_filter"
            self.cached += result.cache in {"hit", "semantic"}
            self.deduplicated += result.cache == "shared"
            self.stale += result.cache == "stale"
            if result.cache in KEPT:
                return
        self.estimated += outcome.usage.estimated
        self.input_tokens += outcome.usage.input
        self.output_tokens += outcome.usage.output
        self.cache_read_tokens += outcome.usage.cached_input
        self.cache_write_tokens += outcome.usage.cache_write
        self.provider_saved += outcome.provider_saved or 0
        self.provider_unsaved += outcome.provider_saved is None

    @property
    def done(self) -> int:
        """Rows that have a record, from this run, another process of it, or an earlier one."""
        others = self.others.ok + self.others.failed
        return self.ok + self.failed + self.skipped + others

    @property
    def complete(self) -> bool:
        """Whether every row has a record."""
        return self.done >= self.rows

    @property
    def routes(self) -> dict[str, Any]:
        """Rows by the profile they were sent to, and why some were asked twice."""
        return {"to": dict(self.routed), "asked_twice": dict(self.escalated)}

    def summary(self, elapsed: float, exit_code: int) -> dict[str, Any]:
        """The summary object of a batch; `cost_usd` is None when any price is unknown;
        what the provider's prompt cache did, `masked`, `routed`, `stale`, `queued` and `others` are
        there where there was something of the kind."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "cost_usd": None if self.unpriced else self.cost,
            "elapsed_s": round(elapsed, 3),
            "exit_code": exit_code,
            **(self._provider_cache if self.cache_read_tokens or self.cache_write_tokens else {}),
            **({"masked": dict(self.masked)} if self.masked else {}),
            **({"routed": self.routes} if self.routed else {}),
            **({"stale": self.stale} if self.stale else {}),
            **({"queued": self.queued} if self.queued else {}),
            **({"others": self._others} if self.others.ok or self.others.failed else {}),
        }

    @property
    def _others(self) -> dict[str, Any]:
        return {"ok": self.others.ok, "failed": self.others.failed}

    @property
    def _provider_cache(self) -> dict[str, Any]:
        return {
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "provider_cache_saved_usd": None if self.provider_unsaved else self.provider_saved,
        }
