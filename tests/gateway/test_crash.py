"""What ends a gateway, or a part of it: nothing that was billed is forgotten, nothing is dropped
that could be finished."""

from __future__ import annotations

import asyncio
import resource
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from tests.conftest import ledger
from tests.gateway.conftest import Serve
from tests.gateway.crowd import (
    CHAT,
    MESSAGES,
    Caller,
    Question,
    Reply,
    ask,
    ask_at_once,
    billed,
    crowded,
    spent,
)
from tests.gateway.serving import Gateway
from tests.gateway.test_server import until, workers_of
from tests.simulator.server import Simulator


def questions(secret: str, number: int) -> list[Question]:
    """So many, every other one streamed."""
    return [Question(secret, f"row {n}", body={"stream": n % 2 == 0}) for n in range(number)]


def while_under_way(
    gateway: Gateway, asked: list[Question], work: Callable[[], Coroutine[None, None, None]]
) -> list[Reply]:
    """Ask all at once, do the work, and give the replies."""

    async def do() -> list[Reply]:
        callers = [await Caller.asking(gateway, question) for question in asked]
        await work()
        return await asyncio.gather(*(caller.reply() for caller in callers))

    return asyncio.run(do())


def held(home: Path) -> list[Decimal]:
    """What each call under way is held at, by the ledger."""
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        rows = db.execute("SELECT cost_pico * times FROM holds").fetchall()
    return [Decimal(pico) / 10**12 for (pico,) in rows]


def test_a_crash_forgets_no_call(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """After `kill -9` of all processes at 200 in flight, all of them billed, the holds are in the
    ledger. Started again, it serves at once, and those calls count in full against the cap."""
    crowded(home, sim)
    secret = token("web", "--budget", "0.50/day")
    gateway = serve("--workers", "2")
    sim.hold("billed")

    async def crash() -> None:
        await asyncio.to_thread(sim.wait_until, lambda: sim.billed.requests == 200, 60)
        process = psutil.Process(gateway.process.pid)
        for one in (process, *process.children(recursive=True)):
            one.kill()

    replies = while_under_way(gateway, questions(secret, 200), crash)
    assert {reply.status for reply in replies} == {0}
    invoice = billed(sim)
    amounts = held(home)
    assert len(amounts) == 200
    assert sum(amounts) > invoice
    sim.release()

    again = serve("--workers", "2")
    (small,) = ask_at_once(again, [Question(secret, "small")])
    (large,) = ask_at_once(again, [Question(secret, "large", most=60_000)])
    assert (small.status, large.status) == (200, 402)
    assert "$0.50 (a day for token web) is used up" in large.error["message"]
    lost = [row for row in ledger(home) if row["status"] == "unknown"]
    assert len(lost) == 200
    assert sum(map(spent, lost)) == sum(amounts)


def test_a_killed_worker_takes_only_its_own_calls(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """After `kill -9` of one of two workers the calls of the other get their answers; those of the
    dead one are in the ledger, at what they may have cost."""
    crowded(home, sim)
    secret = token("web", "--budget", "9/day")
    gateway = serve("--workers", "2")
    sim.hold("billed")

    async def kill() -> None:
        await asyncio.to_thread(sim.wait_until, lambda: sim.billed.requests == 60, 60)
        workers_of(gateway)[0].kill()
        await asyncio.to_thread(gateway.wait_for, "started again")
        sim.release()

    statuses = Counter(
        reply.status for reply in while_under_way(gateway, questions(secret, 60), kill)
    )
    assert set(statuses) <= {0, 200}
    until(lambda: not held(home))
    kinds = Counter(row["status"] for row in ledger(home))
    assert kinds == {"unknown": statuses[0], "ok": statuses[200]}
    assert sum(map(spent, ledger(home))) >= billed(sim)
    assert gateway.stop() == 0


@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_streams_end_whole(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path, flags: tuple[str, ...]
) -> None:
    """SIGTERM while 40 answers are streamed: each comes to its end, then the exit is 0."""
    crowded(home, sim)
    secret = token("web", "--budget", "9/day")
    gateway = serve(*flags)
    sim.reply, sim.stream_interval = lambda _: "a word " * 10, 0.1
    asked = [
        Question(secret, f"row {n}", path, body={"stream": True, "model": model})
        for n in range(20)
        for path, model in [(CHAT, "sim"), (MESSAGES, "claude")]
    ]

    async def stop() -> None:
        await asyncio.to_thread(sim.wait_for_calls, len(asked), 60)
        gateway.process.send_signal(signal.SIGTERM)

    replies = while_under_way(gateway, asked, stop)
    assert {reply.status for reply in replies} == {200}
    assert all(b"[DONE]" in reply.body for reply in replies[::2])
    assert all(b"message_stop" in reply.body for reply in replies[1::2])
    assert gateway.process.wait(30) == 0
    assert [row["status"] for row in ledger(home)] == ["ok"] * len(asked)


def test_a_reload_drops_no_call(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """SIGHUP at 100 in flight over two workers: new callers are served by the new configuration,
    and the 100 get their answers by the old one."""
    crowded(home, sim)
    secret = token("web", "--budget", "9/day")
    gateway = serve("--workers", "2")
    sim.hold()

    async def reload() -> None:
        await asyncio.to_thread(sim.wait_for_calls, 100, 60)
        crowded(home, sim, "serve: {models: {fast: sim}}\n")
        gateway.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            await asyncio.to_thread(gateway.wait_for, "the configuration was read again")
        later = asyncio.create_task(ask(gateway, Question(secret, "new", body={"model": "fast"})))
        await asyncio.to_thread(sim.wait_for_calls, 101)
        sim.release()
        assert (await later).status == 200

    replies = while_under_way(gateway, questions(secret, 100), reload)
    assert [reply.status for reply in replies] == [200] * 100
    assert gateway.stop() == 0
    assert [row["status"] for row in ledger(home)] == ["ok"] * 101


@contextmanager
def full_disk(gateway: Gateway) -> Iterator[None]:
    """While open, the disk takes nothing of the gateway's."""
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits: Linux")
def test_a_full_disk_is_503_until_there_is_room(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """What cannot be put on record is not sent: 503 for callers, in their languages, and at
    /readyz for as long as the disk is full; with room again both are 200 without a start."""
    crowded(home, sim)
    secret = token("web", "--budget", "9/day")
    gateway = serve()
    asked = [
        Question(secret, "first"),
        Question(secret, "first", MESSAGES, body={"model": "claude"}),
    ]
    assert [reply.status for reply in ask_at_once(gateway, asked)] == [200, 200]
    before = len(sim.calls)
    with full_disk(gateway), gateway.client() as client:
        replies = ask_at_once(gateway, [replace(question, text="second") for question in asked])
        assert [reply.status for reply in replies] == [503, 503]
        assert int(replies[0].headers["retry-after"]) <= 10
        assert str(home) not in replies[0].error["message"]
        gateway.wait_for("the disk refused")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        gateway.wait_for("no call is served")
        assert client.get("/readyz").status_code == 503
    assert len(sim.calls) == before
    with gateway.client() as client:
        until(lambda: client.get("/readyz").status_code == 200, 30)
    (reply,) = ask_at_once(gateway, [Question(secret, "last")])
    assert reply.status == 200
