"""The seams of the program: every protocol that more than one room answers or asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, Protocol

from msgspec import Struct, field

from llmctl.errors import CallError
from llmctl.token_bucket import Draw
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

Emit = Callable[[StreamChunk], None]
"""Takes the next piece of a streamed answer."""


class Handler(Protocol):
    """Answers a request, or raises a `CallError`. With `emit` the answer is streamed: it goes to
    `emit` piece by piece."""

    async def __call__(self, request: Request, emit: Emit | None, /) -> Answer:
        """The whole answer, when its last piece has arrived."""


class Observer(Protocol):
    """Gets the record of every call once, when the call has ended."""

    async def __call__(self, record: CallRecord, /) -> None:
        """Return when the record is dealt with, durably. Raises `DiskError`, which ends the run."""


class Engine(Protocol):
    """Puts many requests through one handler."""

    async def run(self, requests: AsyncIterator[Request], handler: Handler, sink: Observer) -> None:
        """Return when every request has been dealt with, or the engine was told to stop.

        `handler` hands the record of every call to `sink` itself; an engine that gets records in
        another way (a provider's batch) does so. A `CallError` concerns its request only; any
        other error ends the run and is raised.
        """


class FileBody(Struct, frozen=True):
    """A body that is read from the disk while it is sent: `head`, the `size` bytes of the file that
    `open` opens, `tail`."""

    head: bytes
    open: Callable[[], BinaryIO]
    size: int
    tail: bytes = b""


class WireRequest(Struct, frozen=True):
    """A codec's work: path below the base URL (`../v1/x` climbs), JSON body (or a `file`, whose
    type the headers say), extra headers."""

    path: str
    body: JSON | None
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    file: FileBody | None = None


class BodyFields(Struct, frozen=True):
    """What a provider calls things in its bodies: the `limits` of an answer's tokens, the fields
    made of the `conversation`, and objects whose fields count as the body's own (`nested`)."""

    limits: tuple[str, ...]
    conversation: tuple[str, ...]
    nested: tuple[str, ...] = ()


class Auth(Protocol):
    """Authenticates HTTP requests. Asked for every attempt: keys may be rotated meanwhile."""

    @property
    def source(self) -> str | None:
        """Where its key was found (`$NAME`, `keyring`, `command`…), or whose credentials it uses,
        for errors, which name it; None without one."""

    @property
    def is_key(self) -> bool:
        """Whether it is by a key, which another one may take the place of."""

    @property
    def mark(self) -> str | None:
        """The key or token in use now, for `refused`; None: none yet, or none at all."""

    @property
    def may_change(self) -> bool:
        """Whether there may be another one during a run."""

    async def sign(self, request: httpx2.Request, /) -> httpx2.Request:
        """The request with what proves who sends it. It may need the address and the body. Raises
        `CallError` where that cannot be had now."""

    async def refused(self, mark: str | None, error: CallError, /) -> bool:
        """The provider refused what `mark` stands for, with this error: whether there is something
        else to use now. Many calls may report it at once. Ends: each is tried once."""


class Event(Struct, frozen=True):
    """One event of a stream: its name (`message` where none was given) and its data."""

    name: str
    data: str


class EventStream(Protocol):
    """Cuts the bytes of one stream into events, wherever they come apart."""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Raises `BadResponse` for bytes that are none."""

    def end(self) -> Event | None:
        """The event that the end of the bytes completes."""


class StreamReader(Protocol):
    """Reads one streamed answer; it may remember what earlier events said."""

    def piece(self, event: str, data: str) -> StreamChunk:
        """One event; raises the mapped `CallError` when it carries an error."""

    def end(self) -> StreamChunk:
        """What the end of the stream says: `done` where there is no end mark, and all has come."""


class Codec(Protocol):
    """One provider's wire format; pure. What is decoded raises the mapped `CallError`, for nonsense
    `BadResponse`. `fields` tell what the body says of what a call may use."""

    fields: ClassVar[BodyFields]

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """The request as the provider wants it. Raises `InvalidRequest` (with `sent=False`) for
        what this provider cannot take. The body of a `raw` request goes out as it is where the
        provider speaks OpenAI's language."""

    def auth(self, key: str) -> Mapping[str, str]:
        """The headers that carry the key."""

    def decode(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderReply:
        """A complete answer. An error that was billed carries its `usage` and `cost`."""

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The mapped error of any reply whose status is no success."""

    def events(self, start: bytes, content_type: str) -> EventStream | None:
        """What cuts a reply into events whose body begins so; None where it is no stream. Nothing
        of `start` is read yet."""

    def reader(self) -> StreamReader:
        """A reader for one streamed answer."""

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """What the headers say of the provider's rate limits."""

    def probe(self) -> WireRequest:
        """The cheapest free request that only a good key answers."""

    def decode_probe(self, body: bytes) -> None:
        """Raises `AuthFailed` where a successful reply says that the key is not good."""

    def models(self, after: str | None) -> WireRequest:
        """One page of the models this key may use; `after` is the token of that page."""

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The page, and the token of the next one."""

    def count(self, request: Request) -> WireRequest | None:
        """Asks for the provider's own count of the request's tokens; None where it counts none.
        Raises as `encode` does."""

    def decode_count(self, body: bytes) -> int:
        """The tokens of input."""


class RateHeaders(Struct, frozen=True):
    """The provider's own count; `reset` is seconds until all is there again. None: not said.
    `model` was asked."""

    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    limit_requests: int | None = None
    limit_tokens: int | None = None
    reset_requests: float | None = None
    reset_tokens: float | None = None
    model: str = ""


NO_RATE_HEADERS = RateHeaders()


class CachedAnswer(Struct, frozen=True):
    """What the cache keeps of an answer. `model` answered, `asked` was asked for (empty once it is
    kept: it only serves to find answers by model)."""

    text: str
    finish: Finish
    model: str
    usage: Usage
    cost: Decimal | None
    body: bytes | None
    stored: float
    asked: str = ""
    tool_calls: tuple[JSON, ...] = ()
    citations: tuple[Any, ...] = ()
    beyond_text: bool = False


Claim = Literal["ours", "kept", "theirs"]
"""Who is to get an answer: this process; this one, but an answer is kept by now; or another living
one."""


class Claims(Protocol):
    """Which process does what, by a key in hex. Raises `DiskError`; nothing is claimed then."""

    async def claim(self, key: str, /) -> Claim:
        """Whether this process is to do it, and says `release` in the end."""

    async def release(self, key: str, /) -> None:
        """End this process's claim."""

    async def beat(self) -> None:
        """Renew this process's claims: it is alive."""


class AnswerCache(Protocol):
    """Answers by fingerprint, and which process is getting which. Raises `DiskError`."""

    async def get(self, key: str, /) -> CachedAnswer | None:
        """The answer, or None."""

    async def get_many(self, keys: Sequence[str], /) -> Mapping[str, CachedAnswer]:
        """The answers of those keys that have one: a page of a batch's rows, and nothing else."""

    async def put(self, key: str, answer: CachedAnswer, /) -> None:
        """Keep the answer instead of an older one and end the claim on it; on disk on return."""

    async def claim(self, key: str, /) -> Claim:
        """Whether this process is to get the answer, and says `put` or `release` in the end."""

    async def release(self, key: str, /) -> None:
        """End this process's claim without an answer."""

    async def beat(self) -> None:
        """Renew this process's claims: it is alive."""


class Hold(Struct, frozen=True):
    """A call about to be sent, at `at` (seconds since the epoch). `cost` is the worst case of one
    attempt in US dollars (None: unknown); `times` how many may have to be paid for. `in_batch`: it
    will go into a provider's batch, and nothing is sent before that is made."""

    call_id: str
    request: Request
    estimate: Usage
    cost: Decimal | None
    at: float
    times: int = 1
    in_batch: bool = False


class BudgetWindow(Struct, frozen=True):
    """One period of a budget: at most `limit` US dollars for the calls from `start` to before `end`
    (milliseconds since the epoch) that have all of `match`: a value by `run`, `profile`,
    `provider`, `model`, `user` or `tag:NAME`. `key` names the window in all processes, whatever
    the limit; `name` is for people. `warn_at` are shares of the limit, ascending."""

    key: str
    name: str
    limit: Decimal
    start: int
    end: int
    match: Mapping[str, str] = field(default_factory=dict)
    warn_at: tuple[Decimal, ...] = ()


class BudgetUsage(Struct, frozen=True):
    """US dollars that count against a window: `spent` by ended calls, `held` by those under way."""

    spent: Decimal
    held: Decimal


class Holder(Struct, frozen=True):
    """Another run that holds `amount` US dollars of a window; `beat`: its last sign of life, in
    milliseconds since the epoch; `in_batch`: in a provider's batch, which needs none."""

    run_id: str
    amount: Decimal
    beat: int
    in_batch: bool = False


class BudgetDenied(Struct, frozen=True):
    """A hold that does not fit into `window`, of which `usage` counted without it: of other runs
    what `holders` hold. `never`: waiting for calls under way does not help."""

    window: BudgetWindow
    usage: BudgetUsage
    never: bool
    holders: tuple[Holder, ...] = ()


class BudgetWarning(Struct, frozen=True):
    """`spent` US dollars have reached `share` of the window's limit."""

    window: BudgetWindow
    share: Decimal
    spent: Decimal


class ProcessStatus(Struct, frozen=True):
    """What a process says with a sign of life: how many calls wait for their turn in it, and which
    circuits are not closed, `open` or `half-open` by the name of what they lead to."""

    waiting: int = 0
    circuits: Mapping[str, str] = field(default_factory=dict)


IDLE = ProcessStatus()


class Budget(Protocol):
    """The ledger as calls spend from it. Raises `DiskError`."""

    async def hold(
        self, hold: Hold, windows: Sequence[BudgetWindow] = (), /
    ) -> BudgetDenied | None:
        """Put the call on record where its worst case fits into all `windows`, which are those
        that it counts towards and are stored with it; durable when this returns None. A second
        hold of one call takes the place of the first."""

    async def settle(self, record: CallRecord, /) -> Sequence[BudgetWarning]:
        """Write the call's row, end its hold, where it has one, and charge the windows stored with
        it; durable on return. Gives the shares of `warn_at` reached for the first time anywhere."""

    async def beat(self, status: ProcessStatus = IDLE, /) -> None:
        """Renew this process's holds: it is alive. `status` takes the place of what it said
        before."""

    async def usage(self, window: BudgetWindow, /) -> BudgetUsage:
        """What counts against the window now."""


class Quota(Struct, frozen=True):
    """`units` to be spent of the `most` that `name` has in a window of time, which is the
    `window`-th of its length since 1970. Negative units are given back."""

    name: str
    window: int
    units: int
    most: int

    def spent(self, window: int, used: int) -> tuple[int, int] | None:
        """The window and what is used of it, after `used` of `window`; None without room. A window
        that has begun by the clock of another process counts, too: clocks are asked a moment before
        they are written of."""
        if self.units < 0:
            return window, max(0, used + self.units) if window == self.window else used
        late = window - self.window in {0, 1}
        total = (used if late else 0) + self.units
        return None if total > self.most else (window if late else self.window, total)


class SharedLimits(Protocol):
    """Rate limits that the processes of this machine share (`storage/rate_limits.py`), or those of
    many (`distributed`): then a pause is told at once, and looked for."""

    @property
    def distributed(self) -> bool:
        """Whether other machines share them."""

    def open(self) -> None:
        """Open what they are kept in before it is needed; what is wrong with it is for the first
        use. Raises `SetupError` where the system allows no thread for it."""

    async def draw(self, draw: Draw, /) -> float:
        """Take units of a minute while no other process does: the seconds until they may be used.
        Negative, and nothing is taken: those until the end of a pause. Raises `DiskError`."""

    async def spend(self, quotas: Sequence[Quota], /) -> Quota | None:
        """Spend all the quotas, or none: the first that has no room. What is given back never fails
        and never goes below 0. Raises `DiskError`."""

    async def used(self, name: str, window: int, /) -> int:
        """What was spent of `name` in the window. Raises `DiskError`."""


class Lease(Struct, frozen=True):
    """What a process asks for before it sends calls, all of it or nothing: units of a minute
    (`draw`), units of longer windows (`quotas`), and dollars of all `windows` (`hold`, whose
    request needs no content). The same `id` asked for twice is one lease."""

    id: str
    draw: Draw | None = None
    quotas: tuple[Quota, ...] = ()
    hold: Hold | None = None
    windows: tuple[BudgetWindow, ...] = ()


class Coordinator(Protocol):
    """What processes share that have no disk in common: limits, budgets, answers.

    `coordination/shared.py` makes the `SharedLimits`, the `Budget` and the `AnswerCache` of it. All
    verbs may be repeated. Raises `CoordinatorError` where it cannot be asked, and nothing may be
    sent then. A lease of dollars expires without `extend`, and counts as spent until it is settled.
    """

    async def lease(self, lease: Lease, /) -> float | Quota | BudgetDenied:
        """The seconds until the calls may be sent, negative as those of `SharedLimits.draw`; or the
        quota or the window that has no room."""

    async def settle(self, record: CallRecord, /) -> Sequence[BudgetWarning]:
        """End the call's lease of dollars and charge what it cost; as `Budget.settle`."""

    async def extend(self, status: ProcessStatus = IDLE, /) -> None:
        """Renew this process's leases and claims: it is alive, and its `status` is this."""

    async def report(self, lane: str, pause: float, /) -> None:
        """Let nobody send anything over the lane for so many seconds."""

    async def usage(self, window: BudgetWindow, /) -> BudgetUsage:
        """What counts against the window now."""

    async def used(self, name: str, window: int, /) -> int:
        """What was spent of a quota in the window."""

    async def get_many(self, keys: Sequence[str], /) -> Mapping[str, CachedAnswer]:
        """The kept answers of those keys that have one."""

    async def put(self, key: str, answer: CachedAnswer, /) -> None:
        """Keep the answer instead of an older one and end the claim on it."""

    async def claim(self, key: str, /) -> Claim:
        """Who is to get the answer; as `AnswerCache.claim`."""

    async def release(self, key: str, /) -> None:
        """End this process's claim without an answer."""


class TokenCount(Struct, frozen=True):
    """`tokens` of input; `exact` when the model's own vocabulary counted them, otherwise leaning
    upward. `encoding` names what counted."""

    tokens: int
    exact: bool
    encoding: str
