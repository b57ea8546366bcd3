"""Prometheus metrics of the ledger: what all processes have written, and what goes on in them.

Counters only rise while the ledger lives: what may fall again, such as calls of unknown end, is a
gauge. Needs the extra `metrics`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Sums
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmctl.reports.report import percentiles
from llmctl.reports.targets import PERCENTILES
from llmctl.storage.ledger_queries import HOUR, Activity, Latencies, Reading, Total, UnknownEnds
from llmctl.storage.ledger_rows import dollars

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_MODELS = 500
"""Models that have series of their own: callers of a gateway can make names up. Later ones are
`other`, each with its profile."""

_FRESH = 1.0  # seconds that figures of the ledger may be old
_FOREVER = 1 << 40  # hours since the epoch
_KIND = ["profile", "provider", "model"]
_TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached_input": "cached_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}

Kind = tuple[str, str, str]
"""Profile, provider and model."""


class History(Struct, frozen=True):
    """Sums of the hours before `end` (`HOUR`s since the epoch)."""

    end: int
    totals: Sequence[Total]
    unknown: Sequence[UnknownEnds]
    error_types: Mapping[str, int]


class Snapshot(Struct, frozen=True):
    """The ledger at one moment: sums of all time, in parts; latencies and first tokens
    (milliseconds) of the calls of the last `window` seconds; and what goes on."""

    window: float
    history: Sequence[History]
    latencies: Sequence[Latencies]
    first_tokens: Sequence[Latencies]
    activity: Activity


def history(ledger: Reading, start: int = 0, end: int = _FOREVER) -> History:
    """The sums of the hours from `start` to before `end`."""
    return History(
        end=end,
        totals=ledger.totals(start, end),
        unknown=ledger.unknown_ends(start, end),
        error_types=ledger.error_types(start * HOUR, end * HOUR),
    )


def snapshot(ledger: Reading, now: int, window: float, past: History | None = None) -> Snapshot:
    """The ledger at `now` (milliseconds since the epoch); its `past`, where that is given, as it
    was then."""
    edges = (now - round(window * 1000), now + 1)
    return Snapshot(
        window=window,
        history=[history(ledger)] if past is None else [past, history(ledger, past.end)],
        latencies=[*ledger.latencies(edges, _KIND)],
        first_tokens=[*ledger.first_tokens(edges, _KIND)],
        activity=ledger.activity(now),
    )


def text(found: Snapshot) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector(lambda: found))
    return generate_latest(registry)


class LedgerCollector(Collector):
    """What `read` gives, as metrics. They are the same in every process, and outlive all of them.

    `read` is asked at most once a second; None, where there is no ledger yet, makes no metrics. May
    be collected by any thread.
    """

    def __init__(self, read: Callable[[], Snapshot | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._found: tuple[float, Snapshot | None] | None = None

    def _fresh(self) -> Snapshot | None:
        with self._lock:
            now = time.monotonic()
            if self._found is None or now - self._found[0] >= _FRESH:
                self._found = now, self._read()
            return self._found[1]

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        found = self._fresh()
        if found is None:
            return
        kinds = _kinds(found)
        yield from _sums(found, kinds)
        yield _errors(found)
        yield _times(
            "llmctl_latency_seconds",
            "Time of the attempts that providers answered: percentiles of the calls that began in "
            f"the last {found.window:.0f} s. Healthy: 0.95 below 3 s.",
            found.latencies,
            kinds,
        )
        yield _times(
            "llmctl_first_token_seconds",
            "Time until the first token of streamed answers: percentiles of the calls that began "
            f"in the last {found.window:.0f} s.",
            found.first_tokens,
            kinds,
        )
        yield from _activity(found.activity, {(kind[1], kind[0]) for kind in kinds})


def _kinds(found: Snapshot) -> Mapping[Kind, Kind]:
    """Each model's labels, in the order the models came, which does not change."""
    totals = [total for part in found.history for total in part.totals]
    kinds = dict.fromkeys((total.profile, total.provider, total.model) for total in totals)
    return {
        kind: kind if number < MOST_MODELS else (*kind[:2], "other")
        for number, kind in enumerate(kinds)
    }


def _sums(found: Snapshot, kinds: Mapping[Kind, Kind]) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "llmctl_calls",
        "Calls by how they ended: answered (or given up by the caller), cached, failed, refused "
        "here before sending. Healthy: failed below 0.1%, cached above 40% of those not refused.",
        labels=[*_KIND, "outcome"],
    )
    unknown = GaugeMetricFamily(
        "llmctl_unknown_calls",
        "Calls that ended nobody knows how, in no outcome of llmctl_calls_total until somebody "
        "does; reports count them as errors.",
        labels=_KIND,
    )
    tokens = CounterMetricFamily(
        "llmctl_tokens",
        "Tokens used; input includes cached_input and cache_write, output includes reasoning.",
        labels=[*_KIND, "kind"],
    )
    cost = CounterMetricFamily(
        "llmctl_cost_usd", "US dollars that calls cost, as far as it is known.", labels=_KIND
    )
    unpriced = CounterMetricFamily(
        "llmctl_unpriced_calls",
        "Calls whose cost nobody knows: llmctl_cost_usd_total leaves them out.",
        labels=_KIND,
    )
    doubtful = GaugeMetricFamily(
        "llmctl_doubtful_cost_usd",
        "US dollars that calls of unknown end may have cost beyond that, at most.",
        labels=_KIND,
    )
    saved = CounterMetricFamily(
        "llmctl_saved_usd",
        "US dollars saved: by kept answers (cache), and by providers' batches (batch).",
        labels=[*_KIND, "by"],
    )
    retries = CounterMetricFamily(
        "llmctl_retries", "Attempts beyond the first of a call.", labels=_KIND
    )
    limited = CounterMetricFamily(
        "llmctl_rate_limit_hits",
        "Attempts that met a provider's rate limit (429). Healthy: below 1% of all attempts.",
        labels=_KIND,
    )
    sums: dict[Kind, Sums[str]] = {}
    for part in found.history:
        for total in part.totals:
            kind = kinds[total.profile, total.provider, total.model]
            sums.setdefault(kind, Sums()).update(total.sums)
        for one in part.unknown:
            sums[kinds[one.profile, one.provider, one.model]]["unknown"] += one.calls
    for kind, of in sums.items():
        ended = {"cached": of["kept"], "failed": of["errors"] - of["unknown"]}
        ended["refused"] = of["refused"]
        ended["answered"] = of["calls"] - of["unknown"] - sum(ended.values())
        for outcome, count in ended.items():
            calls.add_metric([*kind, outcome], count)
        for name, column in _TOKENS.items():
            tokens.add_metric([*kind, name], of[column])
        for by, column in (("cache", "saved_pico"), ("batch", "batch_saved_pico")):
            saved.add_metric([*kind, by], _usd(of[column]))
        unknown.add_metric(kind, of["unknown"])
        cost.add_metric(kind, _usd(of["cost_pico"]))
        unpriced.add_metric(kind, of["unpriced"])
        doubtful.add_metric(kind, _usd(of["doubtful_pico"]))
        retries.add_metric(kind, of["retries"])
        limited.add_metric(kind, of["rate_limits"])
    yield from (calls, unknown, tokens, cost, unpriced, doubtful, saved, retries, limited)


def _errors(found: Snapshot) -> Metric:
    errors = CounterMetricFamily(
        "llmctl_errors",
        "Calls that failed, by the type of their error, of all models; those of unknown end "
        "(llmctl_unknown_calls) not yet.",
        labels=["type"],
    )
    types = Sums[str]()
    for part in found.history:
        types.update(part.error_types)
        for one in part.unknown:
            types[one.type] -= one.calls
    for name, count in types.items():
        errors.add_metric([name], count)
    return errors


def _times(name: str, what: str, found: Sequence[Latencies], kinds: Mapping[Kind, Kind]) -> Metric:
    """A summary of percentiles alone: no count and sum, which would fall as the window moves."""
    times: dict[Kind, Sums[str]] = {}
    for one in found:
        # Of a new model the sums of the past may not know yet.
        if kind := kinds.get((one.profile, one.provider, one.model)):
            times.setdefault(kind, Sums()).update(one.times)
    summary = Metric(name, what, "summary")
    for kind, of in times.items():
        for share, value in zip(PERCENTILES, percentiles(of, PERCENTILES), strict=True):
            labels = {**dict(zip(_KIND, kind, strict=True)), "quantile": f"{share / 100:g}"}
            summary.add_sample(name, labels, (value or 0) / 1000)
    return summary


def _activity(activity: Activity, places: Collection[tuple[str, str]]) -> Iterator[Metric]:
    """What goes on, at these providers and profiles also where that is nothing."""
    in_flight = GaugeMetricFamily(
        "llmctl_calls_in_flight",
        "Calls under way in all living processes, also those that wait for their turn at a rate "
        "limit or a provider.",
        labels=["profile", "provider"],
    )
    batched = GaugeMetricFamily(
        "llmctl_rows_in_batches",
        "Rows in providers' batches, or in ones that are being made.",
        labels=["profile", "provider"],
    )
    for family, of in ((in_flight, activity.in_flight), (batched, activity.in_batches)):
        for provider, profile in sorted({*places, *of}):
            family.add_metric([profile, provider], of.get((provider, profile), 0))
    queue = GaugeMetricFamily(
        "llmctl_queue_depth",
        "Calls of all living processes that wait for their turn: at a rate limit, for a provider "
        "that is down, or for what others leave of a budget. As processes say every 10 s; rows "
        "that a batch has not read yet are not among them.",
        value=activity.waiting,
    )
    circuits = GaugeMetricFamily(
        "llmctl_circuits",
        "Living processes in which the circuit breaker of a profile is open (nothing is sent), or "
        "half-open (the next call finds out); 0: closed in all.",
        labels=["profile", "provider", "state"],
    )
    lanes = {f"{provider}/{profile}": (provider, profile) for provider, profile in places}
    for lane, _ in activity.circuits:
        provider, _, profile = lane.partition("/")
        lanes.setdefault(lane, (provider, profile))
    for lane, (provider, profile) in sorted(lanes.items()):
        for state in ("open", "half-open"):
            count = activity.circuits.get((lane, state), 0)
            circuits.add_metric([profile, provider, state], count)
    yield from (in_flight, batched, queue, circuits)


def _usd(pico: int) -> float:
    return float(dollars(pico))
