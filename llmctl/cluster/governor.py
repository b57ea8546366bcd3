"""The governor: the coordinator of a run on many nodes, an actor over the driver's own files.

Nodes ask in lots (`GovernorClient`): a call takes 1.5 ms, whatever is in it. Ray starts the actor
again when it dies and repeats what was asked, so nothing that must not be forgotten is in memory.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from msgspec import Raw

from llmctl.clock import SystemClock
from llmctl.cluster.messages import (
    MOST_BYTES,
    MOST_ROWS,
    VERBS,
    Failure,
    Files,
    Granted,
    Question,
    Reply,
    decode,
    encode,
)
from llmctl.coordination.sqlite import SqliteCoordinator
from llmctl.errors import CoordinatorError, LlmctlError
from llmctl.protocols import (
    IDLE,
    BudgetDenied,
    BudgetUsage,
    BudgetWarning,
    BudgetWindow,
    CachedAnswer,
    Claim,
    Lease,
    ProcessStatus,
    Quota,
)
from llmctl.storage.answer_cache import SqliteCache
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.ledger import Ledger, open_ledger
from llmctl.storage.rate_limits import RateLimitStore
from llmctl.types import CallRecord

_AT_ONCE = 4  # lots on their way at a time: while one waits for the disk, the next is collected


class Governor:
    """The actor. What a node holds and claims is that of a part of the driver's process, under the
    node's name: it outlives the governor, and ends with the driver, or with `end_of`."""

    def __init__(self, setup: bytes) -> None:
        self._files = decode(setup, Files)
        self._nodes: dict[str, tuple[Ledger, SqliteCache, SqliteCoordinator]] = {}
        self._ended: set[str] = set()

    @cached_property
    def _opened(self) -> tuple[Ledger, RateLimitStore, SqliteCache]:
        files, clock = self._files, SystemClock()
        ledger = open_ledger(files.ledger, files.run_id, files.user)
        store = StoreCipher(os.environ, on=files.encrypt)
        # Nobody would hear a warning: the driver, which has the cache open, too, says it.
        answers = SqliteCache(files.cache, lambda _: None, clock, files.size, store)
        return ledger, RateLimitStore(files.limits, clock), answers

    async def open(self) -> bytes:
        """Open the files; a `Failure` where that cannot be, nothing of it where it can."""
        try:
            _ = self._opened
        except LlmctlError as error:
            return encode(Failure.of(error))
        return b""

    async def answer(self, node: str, lot: bytes) -> bytes:
        """The replies to a node's questions, in their order."""
        questions = decode(lot, tuple[Question, ...])
        return encode(await asyncio.gather(*(self._reply(node, each) for each in questions)))

    async def end_of(self, node: str) -> int:
        """The node is dead: its claims go, and what it holds is lost; of how many calls."""
        ledger, answers, _ = self._node(node)
        self._ended.add(node)
        await answers.end_claims()
        return await ledger.end_of(self._files.driver.part(node))

    def _node(self, node: str) -> tuple[Ledger, SqliteCache, SqliteCoordinator]:
        if node not in self._nodes:
            files, owner = self._files, self._files.driver.part(node)
            opened, limits, cache = self._opened
            ledger = Ledger(opened.database, files.run_id, files.user, owner)
            answers = cache.on_behalf_of(owner)
            coordinator = SqliteCoordinator(ledger, limits, answers)
            self._nodes[node] = ledger, answers, coordinator
        return self._nodes[node]

    async def _reply(self, node: str, question: Question) -> Reply:
        try:
            if node in self._ended:
                raise CoordinatorError("this node counts as dead: nothing is sent from it")
            arguments = decode(question.arguments, VERBS[question.verb][0])
            value = await getattr(self._node(node)[2], question.verb)(*arguments)
        except LlmctlError as error:
            return Reply(failure=Failure.of(error))
        if isinstance(value, Quota):
            value = Granted(quota=value)
        elif isinstance(value, BudgetDenied):
            value = Granted(denied=value)
        elif question.verb == "lease":
            value = Granted(value)
        return Reply(Raw(encode(value)))


class GovernorClient:
    """The `Coordinator` as a node asks it: `call` takes a lot of questions to the governor. Raises
    `CoordinatorError` for whatever keeps it from an answer: nothing is sent without one."""

    def __init__(self, call: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._call = call
        self._waiting = deque[tuple[bytes, asyncio.Future[Reply]]]()
        self._lots: set[asyncio.Task[None]] = set()

    async def lease(self, lease: Lease) -> float | Quota | BudgetDenied:
        """As `Coordinator.lease`."""
        granted: Granted = await self._ask("lease", lease)
        if granted.wait is not None:
            return granted.wait
        refused = granted.quota or granted.denied
        assert refused is not None
        return refused

    async def settle(self, record: CallRecord) -> Sequence[BudgetWarning]:
        """Not asked: the driver gets every record, and settles it."""
        raise CoordinatorError(f"the driver settles {record.request.call_id}, not the governor")

    async def extend(self, status: ProcessStatus = IDLE) -> None:
        """As `Coordinator.extend`."""
        await self._ask("extend", status)

    async def report(self, lane: str, pause: float) -> None:
        """As `Coordinator.report`."""
        await self._ask("report", lane, pause)

    async def usage(self, window: BudgetWindow) -> BudgetUsage:
        """As `Coordinator.usage`."""
        usage: BudgetUsage = await self._ask("usage", window)
        return usage

    async def used(self, name: str, window: int) -> int:
        """As `Coordinator.used`."""
        used: int = await self._ask("used", name, window)
        return used

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, CachedAnswer]:
        """As `Coordinator.get_many`."""
        found: Mapping[str, CachedAnswer] = await self._ask("get_many", tuple(keys))
        return found

    async def put(self, key: str, answer: CachedAnswer) -> None:
        """As `Coordinator.put`."""
        await self._ask("put", key, answer)

    async def claim(self, key: str) -> Claim:
        """As `Coordinator.claim`."""
        claim: Claim = await self._ask("claim", key)
        return claim

    async def release(self, key: str) -> None:
        """As `Coordinator.release`."""
        await self._ask("release", key)

    async def _ask(self, verb: str, *arguments: object) -> Any:
        question = Question(verb, Raw(encode(arguments)))
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((encode(question), reply))
        if len(self._lots) < _AT_ONCE:
            task = asyncio.create_task(self._send())
            self._lots.add(task)
            task.add_done_callback(self._lots.discard)
        found = await reply
        if found.failure is not None:
            raise CoordinatorError(found.failure.message)
        return decode(found.value, VERBS[verb][1])

    async def _send(self) -> None:
        """Send what waits, in lots."""
        while self._waiting:
            lot, size = list[tuple[bytes, asyncio.Future[Reply]]](), 0
            while self._waiting and len(lot) < MOST_ROWS and size < MOST_BYTES:
                lot.append(self._waiting.popleft())
                size += len(lot[-1][0])
            try:
                data = await self._call(encode([Raw(question) for question, _ in lot]))
                replies = decode(data, tuple[Reply, ...])
            except Exception as error:  # noqa: BLE001 - Ray's own, which are of many kinds
                why = f"the governor of the run cannot be asked ({type(error).__name__})"
                failure = Failure.of(CoordinatorError(why))
                replies = (Reply(failure=failure),) * len(lot)
            for (_, waiting), reply in zip(lot, replies, strict=True):
                if not waiting.done():
                    waiting.set_result(reply)
