"""Token buckets: requests and tokens a minute as pure arithmetic, whoever keeps their state."""

from __future__ import annotations

from msgspec import Struct

NEVER = float("-inf")
_BURST_SHARE = 0.005  # of a minute's requests may go at once: late timers are made up
_TOKEN_BURST_SHARE = 1 / 12  # of a minute's tokens: one request is large against a minute
# Share of a minute that is taken at a time, 50 ms: so 30,000 requests a minute take 20 changes of
# the shared state a second, not 500, each of which costs a millisecond of processor.
_LOT_SHARE = 0.05 / 60
_LATE_LOTS = 4  # lots of the past that processes may still use without a request too many

LimitState = tuple[float, float, float]
"""What is kept of one provider's limits, in seconds of the keeper's monotonic clock: when the
allowance of requests is whole again, when that of tokens is, until when to pause."""

INITIAL_LIMITS: LimitState = (NEVER, NEVER, NEVER)


class Bucket:
    """Units a minute as pure arithmetic; `now` is in seconds.

    At most `per_minute` units pass in any 60 seconds, as long as each request is at most as large
    as `burst`; a larger one waits for a full bucket and leaves a debt. The refill is slowed by what
    the bucket holds at the start: burst and refill together never exceed n in a half-open minute.
    `late` are units used later than they were taken. Its whole state is `full_at`, when it is full
    again (the "theoretical arrival time" of the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(self, per_minute: float, burst: float, full_at: float, late: float = 0.0) -> None:
        self.burst, self.full_at = max(1.0, burst), full_at
        self.rate = (per_minute + 1 - self.burst - late) / 60

    def wait(self, units: float, now: float) -> float:
        """Seconds until `units` may go; 0 when they may go now."""
        wait = self.full_at - now - (self.burst - min(units, self.burst)) / self.rate
        return wait if wait > 1e-9 else 0.0

    def take(self, units: float, now: float) -> None:
        """Spend `units`, also below zero; negative ones are given back."""
        self.full_at = max(self.full_at, now) + units / self.rate


def request_lot(rpm: int) -> float:
    """Requests that are taken at a time, of `rpm` a minute."""
    return max(1.0, rpm * _LOT_SHARE // 1)


def token_lot(tpm: int) -> float:
    """Tokens that are taken at a time, of `tpm` a minute, where a request does not need more."""
    return tpm * _LOT_SHARE


def request_bucket(rpm: int, full_at: float = NEVER) -> Bucket:
    """The bucket of requests."""
    lot = request_lot(rpm)
    return Bucket(rpm, rpm * _BURST_SHARE, full_at, _LATE_LOTS * lot if lot > 1 else 0.0)


def token_bucket(tpm: int, full_at: float = NEVER) -> Bucket:
    """The bucket of tokens."""
    return Bucket(tpm, tpm * _TOKEN_BURST_SHARE, full_at)


class Draw(Struct, frozen=True):
    """Units taken from the limits called `lane`: `rpm` requests and `tpm` tokens a minute (None:
    not limited). `back` are requests and tokens of earlier draws that were not used (negative: used
    beyond), `pause` is for how many seconds nothing is to be sent, as far as who draws knows."""

    lane: str
    rpm: int | None = None
    tpm: int | None = None
    requests: float = 0.0
    tokens: float = 0.0
    back: tuple[float, float] = (0.0, 0.0)
    pause: float = 0.0

    def apply(self, state: LimitState, now: float) -> tuple[LimitState, float]:
        """The state afterwards, and the seconds until what was taken may be used. Negative, and
        nothing is taken: those until the end of a pause. `now` is of the clock of `state`."""
        quiet, wait = max(state[2], now + self.pause if self.pause > 0 else NEVER), 0.0
        full = list(state[:2])
        for n, (limit, bucket_of, units) in enumerate(
            ((self.rpm, request_bucket, self.requests), (self.tpm, token_bucket, self.tokens))
        ):
            if limit:
                bucket = bucket_of(limit, full[n])
                bucket.take(-self.back[n], now)
                wait = max(wait, bucket.wait(units, now))
                if quiet <= now:
                    bucket.take(units, now)
                full[n] = bucket.full_at
        return (full[0], full[1], quiet), now - quiet if quiet > now else wait
