"""The Ray engine: a driver that reads, writes and settles, and a worker on every node.

Rows go out in lots and come back as records. The driver alone writes the output and the ledger's
rows; what nodes hold and claim is kept by the governor (`governor.py`), an actor beside the driver.
None of the actors outlives the driver. When a node dies its rows go to others under new call ids,
and what it held is lost: `unknown` in the ledger, at its full amount.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from msgspec import Raw, Struct, field
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.cluster.governor import Governor
from llmctl.cluster.messages import (
    MOST_BYTES,
    MOST_ROWS,
    Ended,
    Failure,
    Files,
    Outage,
    Pause,
    Records,
    Rows,
    Setup,
    decode,
    encode,
)
from llmctl.cluster.worker import Worker
from llmctl.errors import SetupError
from llmctl.guards.budget import RunBudget
from llmctl.guards.masking import restored, restored_error
from llmctl.protocols import Handler, Hold, Observer
from llmctl.shutdown import Stop, first_of
from llmctl.types import Answer, CallRecord, Request, Usage

_NEW_NODES = 2.0  # seconds between two looks for nodes that have joined
_FAREWELL = 10.0  # seconds that nodes get to close what they have open
_AT_ONCE = 3.0  # seconds in which records of calls that were given up still count
_TRIES = 3  # workers of one node that died without a record, after which it is left alone


class Node(Struct, eq=False):
    """A node with its worker: `name` for people, `key` for the governor.

    Attributes:
        rows: what it has, by call id.
        answered: records that came from it.
        pauses, durable: what it is still to be told of.
        told: of a stop, that is; `over`: nothing comes from it any more.
        waits: what calls wait for there.

    """

    id: str
    name: str
    key: str
    worker: Any = None
    rows: dict[str, Request] = field(default_factory=dict)
    answered: int = 0
    pauses: list[Pause | Outage] = field(default_factory=list)
    durable: list[int] = field(default_factory=list)
    told: bool = False
    over: bool = False
    waits: str | None = None


class RayEngine:
    """`Engine` on the nodes of the Ray cluster that this process has joined (`joining.py`).

    At most `most` nodes are used (None: all), and those that join later, too. `call_id` makes ids
    for rows that are sent again.
    """

    def __init__(
        self,
        setup: Setup,
        files: Files,
        budget: RunBudget,
        stop: Stop,
        clock: Clock,
        *,
        call_id: Callable[[], str],
        say: Callable[[str], None],
        warn: Callable[[str], None],
        most: int | None = None,
    ) -> None:
        self._setup, self._files, self._budget = setup, files, budget
        self._stop, self._clock, self._most = stop, clock, most
        self._call_id, self._say, self._warn = call_id, say, warn
        self._queue = deque[Request]()
        self._drawn = False  # whether no rows come beside those in the queue
        self._settling = 0  # records on their way to the disk
        self._error: BaseException | None = None  # what ends the run
        self._nodes: dict[str, Node] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starts, self._failures = Counter[str](), Counter[str]()
        self._news, self._done = asyncio.Event(), asyncio.Event()
        self.answered = Counter[str]()
        """Rows by the name of the node that answered them."""

    @property
    def where(self) -> str | None:
        """How many nodes take rows, for people; None before the first does."""
        ready = sum(node.worker is not None for node in self._nodes.values())
        return f"{ready} {'node' if ready == 1 else 'nodes'}" if ready else None

    def waits(self) -> str | None:
        """What calls wait for, on the first node that says so."""
        if self.where is None:
            return "nodes to get ready"
        return next((node.waits for node in self._nodes.values() if node.waits), None)

    async def run(
        self,
        requests: AsyncIterator[Request],
        handler: Handler,  # noqa: ARG002 - each node has its own
        sink: Observer,
    ) -> None:
        """Return when all requests are dealt with, or a stop was asked for and what was in flight
        has ended (at the latest `shutdown.DRAIN` seconds later). Raises what ends the run."""
        self._sink = sink
        overdue = asyncio.create_task(self._stop.overdue(self._clock))
        self._governor = _governor(self._files)
        try:
            self._begin(
                self._draw(requests),
                self._find_nodes(),
                self._hear_of_a_stop(),
                _opened(self._governor, "the governor of the run"),
            )
            await self._until_done(overdue)
            if overdue.done():
                await self._give_up()
            elif self._stop.asked and not self._stop.from_outside:
                await self._refuse_the_rest()
        finally:
            for task in (*self._tasks, overdue):
                task.cancel()
            await asyncio.gather(*self._tasks, overdue, return_exceptions=True)
            await self._end_actors()

    def _begin(self, *works: Coroutine[Any, Any, None]) -> None:
        """Do it beside all else; what it raises ends the run."""
        for work in works:
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self._done.set()

    async def _until_done(self, overdue: asyncio.Task[None]) -> None:
        """Return when nothing is to be waited for, or it is `overdue`. Raises what ends the run."""
        over = asyncio.create_task(self._done.wait())
        await asyncio.wait({over, overdue}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if self._error is not None:
            raise self._error

    def _is_done(self) -> bool:
        if self._stop.asked:
            return self._drawn and all(node.over for node in self._nodes.values())
        waiting = self._queue or self._settling or any(n.rows for n in self._nodes.values())
        return self._drawn and not waiting

    def _changed(self) -> None:
        """Wake up whoever waits for a change."""
        self._news.set()
        self._news = asyncio.Event()
        if self._is_done():
            self._done.set()

    async def _hear_of_a_stop(self) -> None:
        await self._stop.wait()
        self._changed()

    # Rows.

    async def _draw(self, requests: AsyncIterator[Request]) -> None:
        """Draw rows, a node's worth of them ahead."""
        while not self._stop.asked:
            if len(self._queue) >= self._capacity:
                await self._news.wait()
                continue
            request = await anext(requests, None)
            if request is None:
                break
            self._queue.append(request)
            if len(self._queue) == 1:
                self._changed()
        self._drawn = True
        self._changed()

    @property
    def _capacity(self) -> int:
        """Rows that a node has at a time: those in flight, and half as many ready to be sent."""
        return self._setup.concurrency + -(-self._setup.concurrency // 2)

    def _lot(self, node: Node) -> tuple[Raw, ...]:
        """The next rows for a node; what is repeated in the output, or masked, stays here."""
        rows, size = list[Raw](), 0
        while self._queue and len(rows) < MOST_ROWS and size < MOST_BYTES:
            if len(node.rows) >= self._capacity:
                break
            request = self._queue.popleft()
            node.rows[request.call_id] = request
            masked = request.masked and replace(request.masked, values={})
            rows.append(Raw(encode(replace(request, kept=None, masked=masked))))
            size += len(bytes(rows[-1]))
        return tuple(rows)

    async def _feed(self, node: Node) -> None:
        """Tell a node what it is to know, and give it rows as it has room."""
        while not node.over:
            pauses, node.pauses = tuple(node.pauses), []
            durable, node.durable = tuple(node.durable), []
            message = Rows((), pauses, durable)
            if not self._stop.asked:
                message = replace(message, rows=self._lot(node))
            elif not node.told:
                node.told = True
                message = replace(message, stop=Failure.of(self._stop.error()))
            if message == Rows():
                await self._news.wait()
            else:
                await _ray(node.worker.put.remote(encode(message)))
                self._changed()

    async def _collect(self, node: Node) -> None:
        """Get a node's records, until it has no more."""
        while not node.over:
            records = decode(await _ray(node.worker.take.remote()), Records)
            for note in records.notes:
                (self._warn if note.warning else self._say)(f"{node.name}: {note.text}")
            for other in self._nodes.values():
                if other is not node:
                    other.pauses.extend(records.pauses)
            if records.ended:  # the next ones are fetched while these go to the disk
                lot = [(ended, node.rows.pop(ended.row, None)) for ended in records.ended]
                self._settling += len(lot)
                self._begin(self._settle_all(node, lot))
            node.waits, node.over = records.waits, records.over
            self._queue.extend(node.rows.pop(call_id) for call_id in records.left)
            self._changed()
            if records.failure is not None:
                raise records.failure.error()

    async def _settle_all(self, node: Node, lot: Sequence[tuple[Ended, Request | None]]) -> None:
        await asyncio.gather(*(self._settle(node, ended, row) for ended, row in lot))
        self._settling -= len(lot)
        node.durable.extend(ended.number for ended, _ in lot)
        self._changed()

    async def _settle(self, node: Node, ended: Ended, row: Request | None) -> None:
        """Deal with one record, and the row that it answers; durable on return."""
        record = ended.record(row)
        request = record.request
        if ended.held is not None:
            cost, times = ended.held
            hold = Hold(request.call_id, request, Usage(), cost, ended.ledger_started, times)
            self._budget.adopt(hold, waited=ended.started != ended.ledger_started)
        if row is None:  # a call that answers no row: a summary, a profile that was asked before
            await self._budget.settle(record)
            return
        result = record.result
        own = restored(row, result) if isinstance(result, Answer) else restored_error(row, result)
        await self._sink(replace(record, result=own))
        node.answered += 1
        self.answered[node.name] += 1

    async def _refuse_the_rest(self) -> None:
        """Rows that were drawn and are not sent any more get their error, as those in flight do."""
        error, now = self._stop.error(), self._clock.wall()
        records = [
            CallRecord(request, error, Usage(), Decimal(0), None, now, 0.0, None)
            for request in self._queue
        ]
        await asyncio.gather(*map(self._sink, records))

    async def _give_up(self) -> None:
        """Give up what is in flight; what still comes of it counts."""
        order = encode(Rows(stop=Failure.of(self._stop.error()), at_once=True))
        for node in self._nodes.values():
            with suppress(Exception):
                await _ray(node.worker.put.remote(order))
        late = asyncio.create_task(self._clock.sleep(_AT_ONCE))
        await self._until_done(late)
        late.cancel()

    # Nodes.

    async def _find_nodes(self) -> None:
        """Give every node a worker, as they come."""
        while not self._stop.asked:
            for node_id, name in await asyncio.to_thread(_alive):
                room = self._most is None or len(self._nodes) < self._most
                if room and node_id not in self._nodes and self._failures[node_id] < _TRIES:
                    self._starts[node_id] += 1
                    key = f"{node_id[:12]}-{self._starts[node_id]}"
                    self._nodes[node_id] = node = Node(node_id, name, key)
                    self._begin(self._serve(node))
                    self._changed()
            if not self._nodes:
                raise SetupError("no node of the cluster can run llmctl, as the warnings above say")
            await first_of(asyncio.sleep(_NEW_NODES), self._stop.wait())

    async def _serve(self, node: Node) -> None:
        """Open a node's worker, and work with it until it is over, or dead. Raises what its worker
        says that ends the run, such as `NoKeyError`."""
        from ray.exceptions import RayError

        both: list[asyncio.Task[None]] = []
        try:
            worker = _worker(self._setup, self._governor, node)
            await _opened(worker, f"node {node.name}")
            node.worker = worker
            self._changed()
            both = [asyncio.create_task(each(node)) for each in (self._feed, self._collect)]
            await asyncio.gather(*both)
        except RayError as error:
            await self._lose(node, error)
        finally:
            for task in both:
                task.cancel()

    async def _lose(self, node: Node, error: Exception) -> None:
        """A node is dead: its rows go to the others, under new call ids."""
        if node.worker is not None:
            _kill(node.worker)
        calls = await _ray(self._governor.end_of.remote(node.key))
        self._failures[node.id] += not node.answered
        self._queue.extendleft(
            replace(row, call_id=self._call_id()) for row in reversed(node.rows.values())
        )
        why = (str(error).strip().splitlines() or [""])[0]
        self._warn(
            f"node {node.name} is lost ({why}): {len(node.rows):,} rows are sent again, and "
            f"{calls:,} calls there may have been billed (`llmctl cost report` says how much)"
        )
        if self._nodes.get(node.id) is node:
            del self._nodes[node.id]
        self._changed()

    async def _end_actors(self) -> None:
        """Let the nodes close what they have open, and end the actors."""
        ready = [node for node in self._nodes.values() if node.worker is not None]
        clean = [node for node in ready if not node.rows and self._error is None]
        closing = [_ray(node.worker.close.remote()) for node in clean]
        with suppress(TimeoutError):
            together = asyncio.gather(*closing, return_exceptions=True)
            await asyncio.wait_for(together, _FAREWELL)
        for node in ready:
            _kill(node.worker)
        for node in ready:
            if node.rows or self._error is not None:
                with suppress(Exception):
                    await asyncio.wait_for(_ray(self._governor.end_of.remote(node.key)), _FAREWELL)
        _kill(self._governor)


def _governor(files: Files) -> Any:
    """The governor of a run, on this node; no other run finds it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(Governor)
        .options(
            name=f"governor-{files.run_id}",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(encode(files))
    )


def _worker(setup: Setup, governor: Any, node: Node) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
    made = ray.remote(Worker).options(num_cpus=0, scheduling_strategy=strategy)
    return made.remote(encode(setup), governor, node.key)


async def _opened(actor: Any, name: str) -> None:
    """Let an actor open what it needs. Raises what keeps it from that, under its name."""
    if failure := await _ray(actor.open.remote()):
        said = decode(failure, Failure)
        raise replace(said, message=f"{name}: {said.message}").error()


def _alive() -> list[tuple[str, str]]:
    """Id and name of every node that lives, this one first."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]), key=lambda n: n["NodeID"] != here
    )
    return [(node["NodeID"], f"{node['NodeName']}/{node['NodeID'][:6]}") for node in nodes]


def _kill(actor: Any) -> None:
    import ray

    with suppress(Exception):  # it is dead already
        ray.kill(actor)


async def _ray(reference: Any) -> Any:
    """What an actor's method gives."""
    return await reference
