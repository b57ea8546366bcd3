"""What the ledger keeps of a call, and how an outcome becomes that; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from llmctl.errors import Cancelled, Interrupted
from llmctl.protocols import Hold
from llmctl.types import Answer, CallRecord, Usage

Status = Literal["ok", "error", "interrupted", "cancelled", "unknown"]
"""How a call ended. `unknown`: it may have been billed, up to the amount in its row."""

_PICO = Decimal(10) ** 12
_EXACT = Context(prec=40)
_MOST = (1 << 63) - 1
"""What SQLite can hold, 9.2 million dollars: a call can only cost more by a price misread."""


@lru_cache(maxsize=1024)
def to_pico(dollars: Decimal | None) -> int | None:
    """US dollars in whole picodollars (1e-12 USD); None, the unknown, stays None.

    A millionth of a published price per million tokens has at most 12 decimals, so no price is
    rounded; anything finer is, half to even. Amounts come again and again in a batch.
    """
    if not dollars:
        return None if dollars is None else 0
    exact = _EXACT.multiply(dollars, _PICO)
    return min(_MOST, int(exact.to_integral_value(rounding=ROUND_HALF_EVEN, context=_EXACT)))


def from_pico(pico: int | None) -> Decimal | None:
    """Picodollars in US dollars, exactly; None stays None."""
    return None if pico is None else Decimal(pico).scaleb(-12, context=_EXACT)


class HeldCall(Struct, frozen=True):
    """A call under way. The tokens and the cost are the worst case of one attempt, of which
    `times` may have to be paid; `tags` is a JSON object."""

    call_id: str
    run_id: str
    at_ms: int
    profile: str
    provider: str
    model: str
    tags: str
    user: str
    input_tokens: int
    output_tokens: int
    cost_pico: int | None
    times: int = 1

    @property
    def cost(self) -> Decimal | None:
        """The worst case of one attempt in US dollars; None when the price is unknown."""
        return from_pico(self.cost_pico)

    @property
    def amount_pico(self) -> int | None:
        """What is held: the worst case of all attempts."""
        return None if self.cost_pico is None else min(_MOST, self.cost_pico * self.times)


class CallRow(Struct, frozen=True):
    """A call that has ended, in the order of the table's columns.

    Times in milliseconds: `started_ms` since the epoch (UTC), `latency_ms` of the attempt that
    answered, `elapsed_ms` of the whole call with its waits and retries. Money in picodollars,
    None when the price is unknown; `saved_pico` is what a cached answer would have cost.
    `uncertain` counts attempts, besides the one that `cost_pico` may stand for, that may have
    been billed; `uncertain_pico` is what they cost at the most.
    `input_tokens` includes cached ones, `output_tokens` reasoning; `estimated` marks tokens the
    provider did not report. `model` is the one that answered; `tags` is a JSON object.
    """

    call_id: str
    run_id: str
    started_ms: int
    profile: str
    provider: str
    model: str
    tags: str
    user: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost_pico: int | None
    saved_pico: int | None
    uncertain: int
    uncertain_pico: int | None
    latency_ms: int | None
    elapsed_ms: int | None
    first_token_ms: int | None
    attempts: int | None
    status: Status
    error_type: str | None
    cache: str | None
    http_status: int | None
    provider_request_id: str | None

    @property
    def cost(self) -> Decimal | None:
        """The cost in US dollars; None when the price is unknown."""
        return from_pico(self.cost_pico)

    @property
    def saved(self) -> Decimal | None:
        """What the cache saved, in US dollars; None when nothing, or an unknown amount."""
        return from_pico(self.saved_pico)


def held_call(hold: Hold, run_id: str, user: str) -> HeldCall:
    """What to keep of a call about to be sent."""
    target = hold.request.target
    return HeldCall(
        call_id=hold.call_id,
        run_id=run_id,
        at_ms=_ms(hold.at),
        profile=target.profile,
        provider=target.provider,
        model=target.model,
        tags=_tags(hold.request.tags),
        user=user,
        input_tokens=hold.estimate.input,
        output_tokens=hold.estimate.output,
        cost_pico=to_pico(hold.cost),
        times=hold.times,
    )


def call_row(outcome: CallRecord, held: HeldCall | None, run_id: str, user: str) -> CallRow:
    """The row of a call that has ended; `held` is its hold, if it had one.

    A failure after which the provider may have done the work is not free: without figures of
    its own the row takes those of the hold, and where it is not even known how the call ended
    it always does, with status `unknown`.
    """
    result, request = outcome.result, outcome.request
    answer = result if isinstance(result, Answer) else None
    error = None if isinstance(result, Answer) else result
    status = _status(outcome)
    usage, cost = outcome.usage, to_pico(outcome.cost)
    in_doubt = error is not None and error.ambiguous and error.sent
    if held is not None and (status == "unknown" or (in_doubt and usage == Usage())):
        usage = Usage(held.input_tokens, held.output_tokens, estimated=True)
        cost = held.cost_pico
    # The row's own amount already stands for one of the attempts that came to nothing.
    uncertain = outcome.uncertain - (outcome.uncertain > 0 and in_doubt)
    # The answer may come from a fallback, which is then the one to be paid.
    target = answer.target if answer is not None else request.target
    return CallRow(
        call_id=request.call_id,
        run_id=run_id,
        started_ms=_ms(outcome.started),
        profile=target.profile,
        provider=target.provider,
        model=answer.model if answer is not None else target.model,
        tags=_tags(request.tags),
        user=user,
        input_tokens=usage.input,
        output_tokens=usage.output,
        cached_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        reasoning_tokens=usage.reasoning,
        estimated=usage.estimated,
        cost_pico=cost,
        saved_pico=to_pico(outcome.saved),
        uncertain=uncertain,
        uncertain_pico=_times(uncertain, held),
        latency_ms=_ms(answer.latency) if answer is not None else None,
        elapsed_ms=_ms(outcome.elapsed),
        first_token_ms=None if outcome.first_token is None else _ms(outcome.first_token),
        attempts=result.attempts,
        status=status,
        error_type=None if error is None else error.row_type,
        cache=None if answer is None else answer.cache,
        http_status=answer.status if answer is not None else error.http_status if error else None,
        provider_request_id=result.provider_request_id,
    )


def answered_call(outcome: CallRecord, run_id: str, user: str) -> tuple[object, ...]:
    """The values of `call_row`, in the order of its fields, for an answer before which nothing
    was billed: nearly all rows are such, thousands in a second."""
    request, answer, usage = outcome.request, outcome.result, outcome.usage
    assert isinstance(answer, Answer)
    target, first = answer.target, outcome.first_token
    return (
        request.call_id, run_id, _ms(outcome.started), target.profile, target.provider,
        answer.model, _tags(request.tags), user, usage.input, usage.output, usage.cached_input,
        usage.cache_write, usage.reasoning, usage.estimated, to_pico(outcome.cost),
        to_pico(outcome.saved), 0, 0, _ms(answer.latency), _ms(outcome.elapsed),
        None if first is None else _ms(first), answer.attempts, "ok", None, answer.cache,
        answer.status, answer.provider_request_id,
    )  # fmt: skip


def lost_call(held: HeldCall) -> CallRow:
    """The row of a call whose process died: nobody knows how it ended, so it counts in full."""
    return CallRow(
        call_id=held.call_id,
        run_id=held.run_id,
        started_ms=held.at_ms,
        profile=held.profile,
        provider=held.provider,
        model=held.model,
        tags=held.tags,
        user=held.user,
        input_tokens=held.input_tokens,
        output_tokens=held.output_tokens,
        cached_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        estimated=True,
        cost_pico=held.amount_pico,
        saved_pico=None,
        uncertain=0,
        uncertain_pico=0,
        latency_ms=None,
        elapsed_ms=None,
        first_token_ms=None,
        attempts=None,
        status="unknown",
        error_type=None,
        cache=None,
        http_status=None,
        provider_request_id=None,
    )


def _times(uncertain: int, held: HeldCall | None) -> int | None:
    """The full amount for every attempt that may have been billed and whose bill nobody saw."""
    if not uncertain:
        return 0
    return None if held is None or held.cost_pico is None else uncertain * held.cost_pico


def _status(outcome: CallRecord) -> Status:
    error = outcome.result
    if isinstance(error, Answer):
        return "ok"
    if isinstance(error, Interrupted):
        return "interrupted"
    if isinstance(error, Cancelled) and not (error.ambiguous and outcome.first_token is None):
        return "cancelled"  # of a stream something is known; of any other call nothing
    return "unknown" if error.ambiguous and error.sent else "error"


def _tags(tags: Mapping[str, str]) -> str:
    if not tags:
        return "{}"
    return json.dumps(dict(tags), sort_keys=True, separators=(",", ":"))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
