"""Sums become figures: dollars, rates and percentiles. Pure; money is whole picodollars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from llmctl.storage.ledger_rows import from_pico


@dataclass(slots=True)
class Figures:
    """What some calls came to. The fields are those of `stores.sums.SUMS`.

    `latencies` counts calls by their latency: whole milliseconds, as text.
    """

    calls: int = 0
    errors: int = 0
    kept: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_pico: int = 0
    unpriced: int = 0
    saved_pico: int = 0
    unsaved: int = 0
    doubtful: int = 0
    doubtful_pico: int = 0
    doubtful_unpriced: int = 0
    latencies: Counter[str] = field(default_factory=Counter)

    def add(self, sums: Mapping[str, int]) -> None:
        """Add the sums of further calls."""
        for name, value in sums.items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def cost(self) -> Decimal | None:
        """What is known to have been charged, in dollars; None when of no call it is known."""
        if self.unpriced and not self.cost_pico:
            return None
        return from_pico(self.cost_pico)

    @property
    def saved(self) -> Decimal | None:
        """What kept answers would have cost; None when that is not known of any."""
        if self.unsaved and not self.saved_pico:
            return None
        return from_pico(self.saved_pico)

    @property
    def doubt(self) -> Decimal | None:
        """What may have been billed besides `cost`, at the most; None when that is unknown."""
        if self.doubtful_unpriced and not self.doubtful_pico:
            return None
        return from_pico(self.doubtful_pico)

    @property
    def conservative(self) -> Decimal:
        """All that is known to have been, or may have been, charged."""
        amount = from_pico(self.cost_pico + self.doubtful_pico)
        assert amount is not None
        return amount

    @property
    def unknown(self) -> int:
        """Calls and attempts that may have cost something nobody can name."""
        return self.unpriced + self.doubtful_unpriced

    @property
    def error_rate(self) -> float | None:
        """The share of calls that ended without an answer; calls the user gave up do not count
        as errors. None without calls."""
        return self.errors / self.calls if self.calls else None

    def share_of(self, whole: Figures) -> float | None:
        """The cost as a share of another; None when that is nothing, or not known."""
        if not whole.cost_pico or self.cost is None:
            return None
        return self.cost_pico / whole.cost_pico


def percentiles(latencies: Counter[str], shares: Iterable[int]) -> list[int | None]:
    """The nearest-rank percentiles (`shares` in per cent), exactly: the smallest latency that at
    least that share of the calls did not exceed; None without calls."""
    counts = sorted((int(text), count) for text, count in latencies.items())
    total = sum(count for _, count in counts)
    return [_nearest_rank(counts, total, share) for share in shares]


def _nearest_rank(counts: list[tuple[int, int]], total: int, share: int) -> int | None:
    passed = 0
    for value, count in counts:
        passed += count
        if passed * 100 >= share * total:
            return value
    return None
