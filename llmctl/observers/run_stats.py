"""What a run has come to so far: counts, tokens and dollars."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from llmctl.errors import CallError, NoAnswer
from llmctl.types import CallRecord

_COUNTS = (
    "rows", "ok", "failed", "skipped", "cached", "deduplicated", "requests", "retries",
    "input_tokens", "output_tokens",
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """Counts of calls. `rows` is what the run has before it, `skipped` what was answered
    by an earlier one; tokens and dollars are those of calls made, not of kept answers;
    `masked` counts the identifiers that were found in what was asked, by kind."""

    rows: int = 0
    skipped: int = 0
    ok: int = 0
    failed: int = 0
    cached: int = 0
    deduplicated: int = 0
    truncated: int = 0
    filtered: int = 0
    empty: int = 0
    requests: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced: int = 0
    estimated: int = 0
    uncertain: int = 0
    masked: Counter[str] = field(default_factory=Counter)
    failures: dict[str, int] = field(default_factory=dict)
    last_error: CallError | None = None

    def add(self, outcome: CallRecord) -> None:
        """Count one call."""
        result = outcome.result
        self.masked.update(outcome.request.masked.counts if outcome.request.masked else {})
        self.uncertain += outcome.uncertain
        self.requests += result.attempts
        self.retries += max(0, result.attempts - 1)
        self.unpriced += outcome.cost is None
        self.cost += outcome.cost or 0
        self.saved += outcome.saved or 0
        if isinstance(result, CallError):
            self.failed += 1
            self.failures[result.row_type] = self.failures.get(result.row_type, 0) + 1
            self.last_error = result
            self.empty += isinstance(result, NoAnswer)
        else:
            self.ok += 1
            self.truncated += result.finish == "length"
            self.filtered += result.finish == "content_filter"
            self.cached += result.cache == "hit"
            self.deduplicated += result.cache == "shared"
            if result.cache in {"hit", "shared"}:
                return
        self.estimated += outcome.usage.estimated
        self.input_tokens += outcome.usage.input
        self.output_tokens += outcome.usage.output

    @property
    def done(self) -> int:
        """Rows that have a record, from this run or an earlier one."""
        return self.ok + self.failed + self.skipped

    def summary(self, elapsed: float, exit_code: int) -> dict[str, Any]:
        """The summary object of a batch; `cost_usd` is None when any price is unknown;
        `masked` is there where there was something to mask."""
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "cost_usd": None if self.unpriced else self.cost,
            "elapsed_s": round(elapsed, 3),
            "exit_code": exit_code,
            **({"masked": dict(self.masked)} if self.masked else {}),
        }
