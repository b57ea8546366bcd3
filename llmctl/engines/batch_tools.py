"""What the provider engine works with: the provider's place, the guards, the records, the files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.errors import AuthFailed, CallError, NotFound
from llmctl.guards.accounting import CostCalculator
from llmctl.guards.budget import RunBudget
from llmctl.protocols import Handler, Observer, WireRequest
from llmctl.providers.batch_api import BatchApi
from llmctl.providers.endpoint import Endpoint
from llmctl.redact import last_chars
from llmctl.shutdown import Stop
from llmctl.storage.batch_jobs import BatchJobs
from llmctl.storage.cipher import StoreCipher, create_file, open_file
from llmctl.types import Request, Target

T = TypeVar("T")

MOST = 8 << 30  # bytes of a downloaded file


class BatchEndpoint:
    """The `BatchClient` of a profile: goes on with the key that a refused one was replaced by."""

    def __init__(self, endpoint: Endpoint, target: Target) -> None:
        assert isinstance(endpoint.base_url, str)
        self.endpoint, self.base_url = endpoint, endpoint.base_url
        self._target = target
        self.reached = False  # whether the provider has replied

    @property
    def key(self) -> str:
        """The last characters of the key in use, which belongs to a project, and its batches."""
        return last_chars(self.endpoint.auth.mark) if self.endpoint.auth.mark else ""

    async def exchange(self, wire: WireRequest) -> tuple[Mapping[str, str], bytes]:
        """See `BatchClient`."""
        return await self._signed(wire, lambda: self.endpoint.exchange(wire))

    async def download(self, wire: WireRequest, create: Callable[[], BinaryIO]) -> None:
        """Write the body of a reply to a new file. Raises as `exchange` does, and `OSError`."""
        await self._signed(wire, lambda: self.endpoint.download(wire, create, MOST))

    async def _signed(self, wire: WireRequest, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            auth = self.endpoint.auth
            using = auth.mark
            try:
                found = await work()
            except CallError as error:
                self.reached = self.reached or error.http_status is not None
                if isinstance(error, AuthFailed) and await auth.refused(using, error):
                    continue
                if not isinstance(error, NotFound):  # a batch that is gone says more
                    self.endpoint.locate(error, self._target, wire)
                raise
            self.reached = True
            return found


class BatchTools(Struct, frozen=True):
    """What the provider engine works with.

    Attributes:
        jobs: the batches on record, `folder` their files.
        output, input: the file that the answers go to, as a real path; the input as it was named.
        admission: the guards before a call is sent, around a handler that takes it.
        settling: the guards of an answer, around a handler that has it; gets the sink of records.
        costs: at the provider's price of batches.
        tokens: of a request's input.
        say: gets what happens, for people.
        store: encrypts the files.
        private: what was masked in requests is not to be on the disk in clear.

    """

    api: BatchApi
    client: BatchEndpoint
    jobs: BatchJobs
    folder: Path
    output: str
    input: str
    run_id: str
    target: Target
    admission: Callable[[Handler], Handler]
    settling: Callable[[Handler, Observer], Handler]
    costs: CostCalculator
    budget: RunBudget
    tokens: Callable[[Request], int]
    clock: Clock
    stop: Stop
    call_id: Callable[[], str]
    say: Callable[[str], None]
    store: StoreCipher
    private: bool = False

    def lines(self, intent: str) -> Path:
        """The file of a batch's lines."""
        return self.folder / intent / "lines.jsonl"

    def create(self, path: Path) -> BinaryIO:
        """A new file of a batch. Raises `OSError`."""
        return create_file(path, self.store)

    def open(self, path: Path) -> BinaryIO:
        """A file of a batch, from its start. Raises as `cipher.open_file`."""
        return open_file(path, self.store)

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return round(self.clock.wall() * 1000)


def rows_of(number: int) -> str:
    """`1 row`, `50,000 rows`."""
    return "1 row" if number == 1 else f"{number:,} rows"
