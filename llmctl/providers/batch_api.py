"""Batch interfaces of providers: one seam, answered by one file a family.

    file = await api.upload(client, part)         # None where requests go along with `create`
    batch = await api.create(client, part, file)  # its id
    status = await api.status(client, batch)      # until `ended`
    for download in status.downloads:             # each to a file, whatever the status says
        results = api.results(file)
Every verb but `line` and `results` asks the provider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, ClassVar, Protocol

from msgspec import Struct

from llmctl.errors import InvalidRequest
from llmctl.protocols import WireRequest
from llmctl.types import Request, Usage


class FileNotVisible(InvalidRequest):
    """The provider does not see a file yet that was just uploaded."""


class BatchClient(Protocol):
    """Sends what a batch interface asks for, signed, to one origin."""

    @property
    def base_url(self) -> str:
        """The profile's address."""

    async def exchange(self, wire: WireRequest, /) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of a successful reply. The path may be an address of the same origin.
        Raises the mapped `CallError`, and `BadResponse` for an address of another origin."""


class BatchLimits(Struct, frozen=True):
    """What one batch may hold: `rows`, and `size` bytes of lines with their separators. `separator`
    stands between two lines."""

    rows: int
    size: int
    separator: bytes = b"\n"


class BatchPart(Struct, frozen=True):
    """Rows that are submitted as one batch.

    Attributes:
        intent: the part's own id (a ULID), which is told to the provider where it keeps one.
        open: opens the file of its lines.
        size: bytes of the lines.
        wire_path: the path below the base URL that all rows ask (`/chat/completions`).
        model: which all rows ask.
        created: when its creation was first sent, in seconds since the epoch.
        call_ids: of some of its rows.

    """

    intent: str
    open: Callable[[], BinaryIO]
    size: int
    rows: int
    wire_path: str
    model: str
    created: float = 0.0
    call_ids: frozenset[str] = frozenset()


class BatchStatus(Struct, frozen=True):
    """What the provider says of a batch.

    Attributes:
        word: its own word.
        ended: nothing changes any more; `downloads` are complete.
        cancelled: it was ended on purpose.
        total, done, failed: rows; 0 where nothing is said yet.
        downloads: get the files of results and errors; there may be some whatever the status is.
        usage: what all rows used; None: not said.
        problem: why the whole batch was refused; "" if it was not.
        queue_full: it was refused because too many tokens are queued; `queue_limit` is how many
            may be (None: not said).

    """

    word: str
    ended: bool = False
    cancelled: bool = False
    total: int = 0
    done: int = 0
    failed: int = 0
    downloads: tuple[WireRequest, ...] = ()
    usage: Usage | None = None
    problem: str = ""
    queue_full: bool = False
    queue_limit: int | None = None


class BatchResult(Struct, frozen=True):
    """One row's result: the reply that the provider would have given to the call alone. `status` 0
    says that there is none: the batch ended before the row was asked."""

    call_id: str
    status: int
    body: bytes = b""
    request_id: str | None = None


class BatchApi(Protocol):
    """One family of batch interfaces. All verbs raise the mapped `CallError`; what is read raises
    `BadResponse` for nonsense."""

    keeps_intent: ClassVar[bool]
    """Whether the provider keeps the intent, so that a found batch is certainly the part's.
    Otherwise its results tell."""

    def limits(self, base_url: str) -> BatchLimits:
        """Those of the provider at that address."""

    def line(self, call_id: str, wire: WireRequest, request: Request) -> bytes:
        """The row's line, without its separator. Raises `InvalidRequest` for what cannot be asked
        in a batch."""

    async def upload(self, client: BatchClient, part: BatchPart) -> str | None:
        """The id of the uploaded file; None where the lines go along with `create`."""

    async def create(self, client: BatchClient, part: BatchPart, file: str | None) -> str:
        """The id of the new batch. After an error that is `ambiguous`, or a server's, there may be
        one all the same: see `find`. An uploaded file that the provider does not see yet raises
        `FileNotVisible`."""

    async def find(self, client: BatchClient, part: BatchPart) -> tuple[str, ...]:
        """The batches that may be the part's, none where certainly none was made so far. Where the
        provider keeps the intent there is at most one, and it is the part's."""

    async def status(self, client: BatchClient, batch: str) -> BatchStatus:
        """What the provider says of it now."""

    async def cancel(self, client: BatchClient, batch: str) -> None:
        """Ask to end it early; one that has ended stays as it is. Rows that were answered by then
        are billed, and among the results."""

    def results(self, file: BinaryIO) -> Iterator[BatchResult]:
        """The results in a downloaded file. Raises `BadResponse` where it was cut."""
