"""Every seam of the program on one page.

`Handler` is the one verb: guards, endpoint, engines and commands all meet there. Text that
arrives early goes to `emit`; a handler that gets `emit=None` is asked for a plain answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct, field

from llmctl.errors import CallError
from llmctl.types import (
    JSON,
    Answer,
    CallRecord,
    Finish,
    ModelInfo,
    ProviderReply,
    Request,
    StreamChunk,
    Usage,
)

if TYPE_CHECKING:
    import httpx2

    from llmctl.behind import Write

Emit = Callable[[str], None]
"""Takes the next piece of a streamed answer."""


class Handler(Protocol):
    """Answers a request, or raises a `CallError`."""

    async def __call__(self, request: Request, emit: Emit | None, /) -> Answer:
        """The answer; pieces of it go to `emit` as they arrive."""
        ...


class Observer(Protocol):
    """Is told of every call once, when it has ended; returning means: dealt with, durably."""

    async def __call__(self, outcome: CallRecord, /) -> None:
        """Deal with the outcome."""
        ...


@runtime_checkable
class ManyObserver(Observer, Protocol):
    """An observer that deals with many outcomes for less than one by one."""

    async def many(self, outcomes: Sequence[CallRecord], /) -> None:
        """Deal with the outcomes, in their order."""
        ...


class Chain(Handler, Protocol):
    """All guards in their order. What is kept can be had from it many at a time, too: a file of
    answered questions is then limited by the disk, not by what a call costs."""

    def take(
        self, requests: Sequence[Request], /
    ) -> tuple[Sequence[CallRecord], Sequence[Request]]:
        """The outcomes of the requests whose answers are kept, and the other requests."""
        ...

    async def deal(self, outcomes: Sequence[CallRecord], /) -> None:
        """Return when all observers have dealt with what was taken."""
        ...

    async def claim(self, requests: Sequence[Request], /) -> None:
        """These requests, which `take` left over, are made next: no other process need make
        them, too."""
        ...

    async def prepare(self, requests: Sequence[Request], /) -> None:
        """These requests, which were claimed, are made next, and are more than a few: what must
        be on record before each of them is sent is put there for many of them at once."""
        ...

    async def finish(self) -> None:
        """No more requests are made: what was claimed and put on record for those that were not
        is given back, and what calls have left to be written is. Raises what kept that from being
        done."""
        ...


class WireRequest(Struct, frozen=True):
    """A codec's work: path below the base URL (`../v1/x` climbs), JSON body (None: none),
    extra headers, method."""

    path: str
    body: JSON | None
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"


class Auth(Protocol):
    """Authenticates HTTP requests. Asked for every attempt: keys may be rotated meanwhile."""

    async def sign(self, request: httpx2.Request, /) -> httpx2.Request:
        """The request with what proves who sends it. It may need the address and the body."""
        ...


class StreamReader(Protocol):
    """Reads one streamed answer; it may remember what earlier events said."""

    def piece(self, event: str, data: str) -> StreamChunk:
        """One server-sent event; raises the mapped `CallError` when it carries an error."""
        ...

    def end(self) -> StreamChunk:
        """What the end of the stream itself says: `done` where the provider has no end mark
        and everything needed has come."""
        ...


class Codec(Protocol):
    """One provider's wire format; pure."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """The request as the provider wants it. Raises `InvalidRequest` (with `sent=False`) for
        what this provider cannot take. Of a `raw` request the body goes out as it is where the
        provider speaks OpenAI's language; elsewhere `message_parts.from_chat` makes it a plain one.
        """
        ...

    def auth(self, key: str) -> Mapping[str, str]:
        """The headers that carry the key."""
        ...

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer; raises the mapped `CallError` for anything else. An error that was
        billed (a refusal) carries its `usage` and `cost`."""
        ...

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The mapped error of any reply whose status is no success."""
        ...

    def reader(self) -> StreamReader:
        """A reader for one streamed answer."""
        ...

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """What the headers say of the provider's rate limits."""
        ...

    def probe(self) -> WireRequest:
        """The cheapest free request that only a good key answers."""
        ...

    def decode_probe(self, body: bytes) -> None:
        """Raises `AuthFailed` where a successful reply says that the key is not good."""
        ...

    def models(self, after: str | None) -> WireRequest:
        """One page of the models this key may use; `after` is the token of that page."""
        ...

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The page, and the token of the next one. Raises `BadResponse`."""
        ...

    def count(self, request: Request) -> WireRequest | None:
        """Asks for the provider's own count of the request's tokens; None where it counts none.
        Raises as `encode` does."""
        ...

    def decode_count(self, body: bytes) -> int:
        """The tokens of input. Raises `BadResponse`."""
        ...


class RateHeaders(Struct, frozen=True):
    """The provider's own count: what is left of requests and tokens, of how many in all, and the
    seconds until each is full again. None: not said."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    limit_requests: int | None = None
    limit_tokens: int | None = None
    reset_requests: float | None = None
    reset_tokens: float | None = None


NO_RATE_HEADERS = RateHeaders()
"""Headers that say nothing of limits."""


class CachedAnswer(Struct, frozen=True):
    """What the cache keeps of an answer. `model` is the one that answered, `asked` the one that
    was asked for (empty once it is kept: it only serves to find answers by model)."""

    text: str
    finish: Finish
    model: str
    usage: Usage
    cost: Decimal | None
    body: bytes | None
    stored: float
    asked: str = ""


class CacheStore(Protocol):
    """Answers by fingerprint, and who is finding out which."""

    def get(self, key: str) -> CachedAnswer | None:
        """The answer, or None."""
        ...

    def get_all(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """The answers to those of the keys that have one."""
        ...

    def put(self, key: str, answer: CachedAnswer) -> Write[None]:
        """Begin to keep the answer, instead of an older one; when that is done it need not be
        found out any more. Nobody is thought to wait for it, so it may take a moment longer."""
        ...

    def hurry(self) -> None:
        """Somebody waits now for what was put."""
        ...

    async def claim(self, key: str) -> bool:
        """True when the caller's process is to find out the answer, and says `put` or `release`
        in the end; False while another process is at it."""
        ...

    async def claim_all(self, keys: Sequence[str]) -> set[str]:
        """Claim many at once: those of which no answer is kept and that no other process is at.
        The others are claimed one by one, when it is their turn."""
        ...

    def release(self, key: str) -> None:
        """The answer was not found out."""
        ...

    def beat(self) -> None:
        """The caller's process lives, and still tries to find out what it has claimed."""
        ...


class Hold(Struct, frozen=True):
    """A call about to be sent: on record, durably, before its first byte leaves. `cost` is the
    worst case of one attempt in US dollars, None when it is unknown; `times` how many attempts
    may have to be paid for."""

    call_id: str
    request: Request
    estimate: Usage
    cost: Decimal | None
    at: float
    times: int = 1


class BudgetWindow(Struct, frozen=True):
    """At most `limit` US dollars for the calls from `start` to before `end` (milliseconds since
    the epoch) that have all of `match`: a value by `run`, `profile`, `provider`, `model`, `user`
    or `tag:NAME`. `key` names the window, in all processes alike and whatever the limit; `name`
    is for people. `warn_at` are shares of the limit, ascending."""

    key: str
    name: str
    limit: Decimal
    start: int
    end: int
    match: Mapping[str, str] = field(default_factory=dict)
    warn_at: tuple[Decimal, ...] = ()


class BudgetUsage(Struct, frozen=True):
    """What counts against a cap, in US dollars: `spent` is what ended calls cost, or may have
    cost, `held` what those under way can come to."""

    spent: Decimal
    held: Decimal


class BudgetDenied(Struct, frozen=True):
    """A hold that did not fit under `cap`, which stood so without it. `never`: what is spent
    alone leaves too little, so waiting for calls under way does not help."""

    cap: BudgetWindow
    standing: BudgetUsage
    never: bool


class BudgetWarning(Struct, frozen=True):
    """`spent` US dollars have reached `share` of the cap's limit."""

    cap: BudgetWindow
    share: Decimal
    spent: Decimal


class LedgerStore(Protocol):
    """Every call ever made, and those under way."""

    async def hold(self, hold: Hold, caps: Sequence[BudgetWindow] = ()) -> BudgetDenied | None:
        """Put the call on record, if what is spent and held then stays within all `caps`, which
        must be those that the call counts towards; durable when this returns None. A refused
        hold leaves nothing behind. A second hold of one call takes the place of the first."""
        ...

    async def hold_all(self, holds: Sequence[tuple[Hold, Sequence[BudgetWindow]]]) -> bool:
        """Put many calls on record, each with the caps that it counts towards, as `hold` does;
        durable when this returns. False, and none is on record, where they do not all fit."""
        ...

    async def give_back(self, call_ids: Sequence[str]) -> None:
        """End the holds of calls that were not made and are not going to be: nothing of them
        stays on record."""
        ...

    def settle(
        self, outcome: CallRecord, caps: Sequence[BudgetWindow] = (), *, lazily: bool = False
    ) -> Write[Sequence[BudgetWarning]]:
        """Begin to write the call's row and to end its hold; durable when that is done. Gives the
        highest share of each of `caps` to warn at, where it is reached and nobody has been told
        yet. `lazily`: nobody waits for it, so it may take a moment longer."""
        ...

    def hurry(self) -> None:
        """Somebody waits now for what was settled lazily."""
        ...

    async def settle_kept(self, outcomes: Sequence[CallRecord]) -> None:
        """Write the rows of answers that took no call, and so have no hold."""
        ...

    def standing(self, cap: BudgetWindow) -> BudgetUsage | None:
        """What counts against the cap now; None where no hold has met it yet."""
        ...

    def check(self) -> None:
        """Raises what has kept a call from being put on record, where it would every other one;
        known before any task hears of it."""
        ...


LaneState = tuple[float, float, float]
"""What processes share of a provider's lane, in seconds of the machine's monotonic clock: when
its bucket of requests is full again, when that of tokens is, and until when the provider wants
peace."""

UNUSED_LANE: LaneState = (float("-inf"), float("-inf"), float("-inf"))
"""The state of a lane nobody knows anything of."""

LaneChange = Callable[[LaneState], tuple[LaneState, float]]
"""From the state to the next one, and a number of seconds for who makes the change."""


class Source(Protocol):
    """Requests, drawn one by one by many."""

    async def draw(self) -> Request | None:
        """The next request; None when there is none left."""
        ...


class Engine(Protocol):
    """Drives many requests through one handler."""

    async def run(self, requests: Iterable[Request] | Source, handler: Handler) -> None:
        """Returns when every request has been dealt with, or the engine was told to stop."""
        ...


class TokenCount(Struct, frozen=True):
    """`tokens` of input; `exact` when the model's own vocabulary counted them, otherwise an
    estimate that leans upward. `encoding` names what counted."""

    tokens: int
    exact: bool
    encoding: str
