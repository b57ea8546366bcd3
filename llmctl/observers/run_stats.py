"""What a run has come to so far: counts, tokens and dollars."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from llmctl.errors import CallError
from llmctl.types import CallRecord


@dataclass(slots=True)
class Tally:
    """Counts of calls. `rows` is what the run has before it, `skipped` what was answered
    by an earlier one; tokens and dollars are those of calls made, not of kept answers."""

    rows: int = 0
    skipped: int = 0
    ok: int = 0
    failed: int = 0
    cached: int = 0
    deduplicated: int = 0
    truncated: int = 0
    requests: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced: int = 0
    uncertain: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    last_error: CallError | None = None

    def add(self, outcome: CallRecord) -> None:
        """Count one call."""
        result = outcome.result
        self.uncertain += outcome.uncertain
        self.requests += result.attempts
        self.retries += max(0, result.attempts - 1)
        if outcome.cost is None:
            self.unpriced += 1
        else:
            self.cost += outcome.cost
        self.saved += outcome.saved or 0
        if isinstance(result, CallError):
            self.failed += 1
            self.failures[result.row_type] = self.failures.get(result.row_type, 0) + 1
            self.last_error = result
            self.input_tokens += outcome.usage.input
            self.output_tokens += outcome.usage.output
            return
        self.ok += 1
        self.truncated += result.finish == "length"
        if result.cache == "hit":
            self.cached += 1
        elif result.cache == "shared":
            self.deduplicated += 1
        else:
            self.input_tokens += outcome.usage.input
            self.output_tokens += outcome.usage.output

    @property
    def done(self) -> int:
        """Rows that have a record, from this run or an earlier one."""
        return self.ok + self.failed + self.skipped

    def summary(self, elapsed: float, exit_code: int) -> dict[str, Any]:
        """The summary object of a batch; `cost_usd` is None when any price is unknown."""
        return {
            "rows": self.rows,
            "ok": self.ok,
            "failed": self.failed,
            "skipped": self.skipped,
            "cached": self.cached,
            "deduplicated": self.deduplicated,
            "requests": self.requests,
            "retries": self.retries,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": None if self.unpriced else self.cost,
            "elapsed_s": round(elapsed, 3),
            "exit_code": exit_code,
        }
