"""Ledger rows, money in picodollars, and which calls count towards a budget; pure."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from llmctl.errors import Cancelled, Interrupted
from llmctl.protocols import BudgetUsage, Hold
from llmctl.redact import redact_known_keys
from llmctl.types import Answer, CallRecord, Request, Usage

Status = Literal["ok", "error", "interrupted", "cancelled", "unknown"]
"""How a call ended. `unknown`: it may have been billed, up to the amount in its row."""

UNSENT = "unsent"
"""The `job` of a hold whose row is to go into a provider's batch that is not made yet."""

MOST = (1 << 63) - 1  # picodollars that SQLite can hold: a call can only cost more by mistake

_PICO = Decimal(10) ** 12
_STEPS: list[int] = [step * 10**power for power in range(18) for step in (1, 2, 5)]
_EXACT = Context(prec=40)
_LATEST = "-latest"
_VERSION = re.compile(r"(-latest|-[0-9]{3,}(-.*)?)?", re.DOTALL)
"""What providers put behind a model's name to name a version of it: `-2026-05-01`, `-20250929`,
`-0613`, `-002`. Two digits are another model's name (`-5-mini`)."""


@lru_cache(maxsize=1024)
def to_pico(dollars: Decimal | None) -> int | None:
    """US dollars in whole picodollars (1e-12 USD), half to even: a millionth of a published price
    per million tokens has at most 12 decimals. None, the unknown, stays None."""
    if not dollars:
        return None if dollars is None else 0
    exact = _EXACT.multiply(dollars, _PICO)
    return min(MOST, int(exact.to_integral_value(rounding=ROUND_HALF_EVEN, context=_EXACT)))


def dollars(pico: int) -> Decimal:
    """Picodollars in US dollars, exactly."""
    return Decimal(pico).scaleb(-12, context=_EXACT)


def from_pico(pico: int | None) -> Decimal | None:
    """Picodollars in US dollars, exactly; None stays None."""
    return None if pico is None else dollars(pico)


class CallKind(Struct, frozen=True):
    """What budgets and reports tell calls apart by. `tags` is a JSON object; `run_id` is empty
    where runs are not told apart, `asked_model` where it is not on record."""

    profile: str
    provider: str
    asked_model: str
    model: str
    user: str
    tags: str
    run_id: str = ""


def kind_of(request: Request, run_id: str, user: str) -> CallKind:
    """The kind of a call that is about to be made; `user` is the run's."""
    target, tags = request.target, tags_as_json(request.tags)
    whose = request.user or user
    model = target.model
    return CallKind(target.profile, target.provider, model, model, whose, tags, run_id)


def matches(match: Mapping[str, str], kind: Labels) -> bool:
    """Whether calls of a kind count towards the budget that matches by `match`: a value each by
    `run`, `profile`, `provider`, `model`, `user` or `tag:NAME`, of which a call has all.

    A model's dated versions count as the model. A call counts by the name that was asked for, and
    by the one that the provider answered with.
    """
    for name, wanted in match.items():
        if name == "model":
            found = same_model(wanted, kind.model) or same_model(wanted, kind.asked_model)
        elif name.startswith("tag:"):
            found = read_tags(kind.tags).get(name.removeprefix("tag:")) == wanted
        else:
            found = getattr(kind, "run_id" if name == "run" else name) == wanted
        if not found:
            return False
    return True


@lru_cache(maxsize=1024)
def same_model(wanted: str, model: str) -> bool:
    """Whether `model` is the wanted one, or a dated version of it: a provider that is asked for
    `gpt-5-mini` says that `gpt-5-mini-2026-05-01` has answered."""
    stem = wanted.removesuffix(_LATEST)
    return model.startswith(stem) and _VERSION.fullmatch(model, len(stem)) is not None


@lru_cache(maxsize=4096)
def read_tags(text: str) -> Mapping[str, str]:
    """The tags of a call, out of its row; none where the text is not what the program wrote."""
    try:
        tags = json.loads(text) if text else {}
    except ValueError:
        return {}
    return tags if isinstance(tags, dict) else {}


def tags_as_json(tags: Mapping[str, str]) -> str:
    """The tags as a row has them."""
    return _tags_as_json(tuple(sorted(tags.items()))) if tags else "{}"


@lru_cache(maxsize=4096)
def _tags_as_json(tags: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(tags), separators=(",", ":"))


def counts_as_json(counts: Mapping[str, int]) -> str:
    """Numbers by kind as a row has them: empty without any."""
    return json.dumps(dict(counts), sort_keys=True, separators=(",", ":")) if counts else ""


def rounded(ms: int) -> int:
    """The time with two digits, from 20 on to an even one and from 50 on to 0 or 5: off by at most
    5%, and few times differ. Below 20 it is exact."""
    step = _STEPS[max(0, bisect_right(_STEPS, ms // 10) - 1)]
    return (ms + step // 2) // step * step


def usage_of(spent_pico: int, held_pico: int) -> BudgetUsage:
    """Picodollars of a window in dollars."""
    return BudgetUsage(dollars(spent_pico), dollars(held_pico))


class HeldCall(Struct, frozen=True):
    """A call under way, in the order of the columns of `holds`. The tokens and the cost are the
    worst case of one attempt, of which `times` may have to be paid; `tags` is a JSON object,
    `windows` a JSON list of the keys of the budget windows that hold the amount. `job` is the
    provider's batch that the call is part of: its end is known when that one's is, whatever becomes
    of the process. `parent` is as in `CallRow`."""

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
    windows: str = "[]"
    job: str = ""
    parent: str = ""

    @property
    def asked_model(self) -> str:
        """The model that was asked; nobody knows yet which one will answer."""
        return self.model

    @property
    def amount_pico(self) -> int | None:
        """What is held: the worst case of all attempts."""
        return None if self.cost_pico is None else min(MOST, self.cost_pico * self.times)


class CallRow(Struct, frozen=True):
    """A call that has ended, in the order of the columns of `calls`.

    Times in milliseconds: `started_ms` since the epoch (UTC), `latency_ms` of the attempt that
    answered, `elapsed_ms` of the whole call with its waits and retries. Money in picodollars,
    None when the price is unknown; `saved_pico` is what a cached answer would have cost.
    `attempts` is None where others wrote the row than the process of the call, thought dead.
    `uncertain` counts attempts that may have been billed, or billed at more than is known of them,
    besides one that `cost_pico` stands for; `uncertain_pico` is what they cost at the most.
    `input_tokens` includes cached ones, `output_tokens` reasoning; `estimated` marks tokens the
    provider did not report; `rate_limits` counts attempts that met one. `asked_model` was asked
    (empty in rows of version 0.1.0), `model` answered; `tags` is a JSON object, `windows` a JSON
    list of the keys of the budget windows that the call counts towards; `job` the provider's batch
    that it was part of, where `saved_pico` is what the usual price would have cost more; `masked`
    counts, as a JSON object, what was masked by kind (empty: nothing). `parent` is the call id that
    a row of a batch, or a question, began with, in all its calls where it may have several;
    `routed_saved_pico` what the strong model would have cost more than all those (below 0: less).
    `provider_saved_pico` is what the provider's prompt cache saved, below 0 where it cost more.
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
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cost_pico: int | None = None
    saved_pico: int | None = None
    uncertain: int = 0
    uncertain_pico: int | None = 0
    latency_ms: int | None = None
    elapsed_ms: int | None = None
    first_token_ms: int | None = None
    attempts: int | None = None
    status: Status = "ok"
    error_type: str | None = None
    cache: str | None = None
    http_status: int | None = None
    provider_request_id: str | None = None
    asked_model: str = ""
    windows: str = "[]"
    rate_limits: int = 0
    job: str = ""
    masked: str = ""
    parent: str = ""
    routed_saved_pico: int | None = None
    provider_saved_pico: int | None = 0

    @property
    def answered(self) -> bool:
        """Whether its times say something of the provider; as `ANSWERED` in SQL."""
        return self.status == "ok" and self.cache in {"miss", "bypass"}

    @property
    def spent_pico(self) -> int:
        """What counts against budgets: what was, or may have been, billed at a known price."""
        return min(MOST, (self.cost_pico or 0) + (self.uncertain_pico or 0))


Labels = CallKind | HeldCall | CallRow
"""Calls, or kinds of them, that budgets and reports tell apart."""


def held_call(hold: Hold, run_id: str, user: str) -> HeldCall:
    """The row of a call about to be sent, towards no window yet; `user` is the run's."""
    target = hold.request.target
    return HeldCall(
        call_id=hold.call_id,
        run_id=run_id,
        at_ms=_ms(hold.at),
        profile=target.profile,
        provider=target.provider,
        model=redact_known_keys(target.model),  # somebody may have pasted a key there
        tags=tags_as_json(hold.request.tags),
        user=hold.request.user or user,
        input_tokens=_within(hold.estimate.input),
        output_tokens=_within(hold.estimate.output),
        # A hold below 0 would make room for others.
        cost_pico=None if hold.cost is None else _within(to_pico(hold.cost) or 0),
        times=hold.times,
        job=UNSENT if hold.in_batch else "",
        parent=hold.request.parent,
    )


def _within(number: int) -> int:
    return min(MOST, max(0, number))


def call_row(record: CallRecord, held: HeldCall | None, run_id: str, user: str) -> CallRow:
    """The row of a call that has ended; `held` is its hold, if it had one: the call belongs to the
    moment of that. `user` is the run's.

    A failure after which the provider may have done the work is not free: without figures of
    its own the row takes those of the hold, and where it is not even known how the call ended
    it always does, with status `unknown`. Of a stream that was cut what is known is counted, and
    the rest of its hold stays in doubt: nobody saw what the model thought before it spoke.
    """
    result, request = record.result, record.request
    answer = result if isinstance(result, Answer) else None
    error = None if isinstance(result, Answer) else result
    status = _status(record)
    usage, cost = record.usage, to_pico(record.cost)
    in_doubt = error is not None and error.ambiguous and error.sent
    if held is not None and (status == "unknown" or (in_doubt and usage == Usage())):
        usage = Usage(held.input_tokens, held.output_tokens, estimated=True)
        cost = held.cost_pico
    cut = in_doubt and status in {"interrupted", "cancelled"}
    # The row's own amount already stands for one of the attempts that came to nothing, of a cut
    # stream in part. Any other that may have been billed counts in full: nobody saw its bill.
    uncertain = record.uncertain - (record.uncertain > 0 and in_doubt and not cut)
    each = to_pico(record.worst) if held is None or held.cost_pico is None else held.cost_pico
    seen = cost or 0 if cut and not result.earlier else 0
    doubt = 0 if not uncertain else None if each is None else _within(uncertain * each - seen)
    # The answer may come from a fallback, which is then the one to be paid.
    target = answer.target if answer is not None else request.target
    return CallRow(
        call_id=request.call_id,
        run_id=run_id if held is None else held.run_id,
        started_ms=_ms(record.started) if held is None else held.at_ms,
        profile=target.profile,
        provider=target.provider,
        model=redact_known_keys(answer.model if answer is not None else target.model),
        tags=tags_as_json(request.tags),
        user=request.user or user,
        input_tokens=usage.input,
        output_tokens=usage.output,
        cached_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        reasoning_tokens=usage.reasoning,
        estimated=usage.estimated,
        cost_pico=cost,
        saved_pico=to_pico(record.saved),
        uncertain=uncertain,
        uncertain_pico=doubt,
        # That of a batch says nothing of the provider.
        latency_ms=_ms(answer.latency) if answer is not None and not record.in_batch else None,
        elapsed_ms=_ms(record.elapsed),
        first_token_ms=None if record.first_token is None else _ms(record.first_token),
        attempts=result.attempts - result.elsewhere,
        status=status,
        error_type=None if error is None else error.row_type,
        cache=None if answer is None else answer.cache,
        http_status=answer.status if answer is not None else error.http_status if error else None,
        provider_request_id=result.provider_request_id,
        asked_model=redact_known_keys(target.model),
        windows="[]" if held is None else held.windows,
        rate_limits=result.limited,
        job="" if held is None else held.job,
        masked=counts_as_json(request.masked.counts if request.masked else {}),
        # Each chunk of a summary is a call, too.
        parent=request.parent or (request.call_id if result.summary is not None else ""),
        routed_saved_pico=to_pico(record.routed_saved),
        provider_saved_pico=to_pico(record.provider_saved),
    )


def lost_call(held: HeldCall) -> CallRow:
    """The row of a call whose process died: nobody knows how it ended, so it counts in full."""
    same = ("call_id", "run_id", "profile", "provider", "model", "asked_model", "tags", "user",
            "input_tokens", "output_tokens", "windows", "job", "parent")  # fmt: skip
    return CallRow(
        **{name: getattr(held, name) for name in same},
        started_ms=held.at_ms,
        estimated=True,
        cost_pico=held.amount_pico,
        status="unknown",
    )


def held_before(row: CallRow) -> HeldCall:
    """The hold of a call whose process was thought dead."""
    same = set(HeldCall.__struct_fields__) & set(CallRow.__struct_fields__)
    return HeldCall(**{name: getattr(row, name) for name in same}, at_ms=row.started_ms)


def _status(record: CallRecord) -> Status:
    error = record.result
    if isinstance(error, Answer):
        return "ok"
    if isinstance(error, Interrupted):
        return "interrupted"
    if isinstance(error, Cancelled) and not (error.ambiguous and record.first_token is None):
        return "cancelled"  # of a stream something is known; of any other call nothing
    return "unknown" if error.ambiguous and error.sent else "error"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
