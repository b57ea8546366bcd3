"""Connections between two calls: used again where that is safe, closed where it is not."""

from __future__ import annotations

import asyncio
import time
from random import Random

import pytest

from llmctl.config.settings import Timeouts
from llmctl.errors import CallTimeout, ConnectionFailed
from llmctl.transport import HttpTransport
from llmctl.wire import pool as module
from llmctl.wire.connection import Connection
from tests.wire.peer import OK, Line, always, answer, asked, once, opened, run, until


def test_the_same_one() -> None:
    """One call after the other uses one connection; two at a time use two."""

    async def body() -> None:
        async with opened(always) as (client, peer):
            for _ in range(3):
                assert await answer(client, asked(peer.url)) == b"ok"
            assert len(peer.lines) == 1
            for _ in range(3):
                await asyncio.gather(*(answer(client, asked(peer.url)) for _ in range(2)))
            assert len(peer.lines) == 2

    run(body())


def test_the_one_used_last() -> None:
    """The connection that was in use last is taken first: what is not needed grows old."""

    async def speak(line: Line) -> None:
        for _ in range(3):
            await line.request()
            line.say(OK.replace(b"ok", b"%02d" % line.number))
        await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            async with (
                client.send(asked(peer.url)) as first,
                client.send(asked(peer.url)) as second,
            ):
                assert (await first.read(), await second.read()) == (b"00", b"01")
            assert await answer(client, asked(peer.url)) == b"00"

    run(body())


def test_idle_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is idle for `KEEP_ALIVE` seconds is closed without anybody asking for it, and what was
    in use since is not."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.3)

    async def body() -> None:
        async with opened(always) as (client, peer):
            await asyncio.gather(*(answer(client, asked(peer.url)) for _ in range(3)))
            assert len(peer.lines) == 3
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                await answer(client, asked(peer.url))
                await asyncio.sleep(0.01)
            assert (len(peer.lines), peer.open) == (3, 1)
            await peer.closed()
            assert not client.pool()._all
            await answer(client, asked(peer.url))
            assert len(peer.lines) == 4

    run(body())


def test_old_although_the_loop_had_no_time_to_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that outlived `KEEP_ALIVE` while the event loop stood still is not used."""
    monkeypatch.setattr(module, "KEEP_ALIVE", 0.2)

    async def body() -> None:
        async with opened(always) as (client, peer):
            await answer(client, asked(peer.url))
            time.sleep(0.3)  # noqa: ASYNC251  (it is to stand still)
            await answer(client, asked(peer.url))
            assert len(peer.lines) == 2

    run(body())


@pytest.mark.parametrize("said", [b"", OK, b"\r\n", b"HTTP/1.1 408 Too slow\r\n\r\n"])
def test_what_nobody_asked_for(said: bytes) -> None:
    """A server that closes an idle connection, or says something on it, has ended it: what it
    said is not the next call's answer, and that one is not lost."""
    goes_on = asyncio.Event()

    async def speak(line: Line) -> None:
        await line.request()
        line.say(OK)
        if not line.number:
            await goes_on.wait()
            line.say(said)
        else:
            await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            assert await answer(client, asked(peer.url)) == b"ok"
            assert len(client.pool()._all) == 1
            goes_on.set()
            await until(lambda: not client.pool()._all)
            assert not client.pool()._idle
            assert await answer(client, asked(peer.url)) == b"ok"
            assert len(peer.lines) == 2

    run(body())


def test_closed_while_the_loop_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose end lies unread when a call needs one is found out in time: the call
    takes another, and is not lost."""
    monkeypatch.setattr(module, "_FRESH", 0.0)

    async def speak(line: Line) -> None:
        await line.request()
        line.say(OK)
        if line.number:
            await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            async with client.send(asked(peer.url)) as reply:
                await reply.read()
                (connection,) = client.pool()._all
                # The server's end arrives, and nobody is there to see it.
                connection._transport.pause_reading()
                await peer.closed()
                connection._transport.resume_reading()
            assert connection.usable
            assert await answer(client, asked(peer.url)) == b"ok"
            assert len(peer.lines) == 2

    run(body())


def test_given_up_at_any_moment() -> None:
    """200 calls at a time, a third of them cancelled at random moments of their lives: whoever is
    answered gets his own answer, and nothing stays open that is not idle."""
    dice, answered, given_up = Random(4711), 0, 0

    async def speak(line: Line) -> None:
        while True:
            _, body = await line.request()
            await asyncio.sleep(dice.random() * 0.01)
            line.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            line.say(b"%x\r\n%s\r\n" % (len(body), body))
            await asyncio.sleep(dice.random() * 0.01)
            line.say(b"0\r\n\r\n")

    async def work(client: HttpTransport, url: str, name: int) -> None:
        nonlocal answered, given_up
        for number in range(12):
            text = b"%d-%d" % (name, number)
            call = asyncio.ensure_future(answer(client, asked(url, text)))
            if dice.random() < 0.33:
                await asyncio.wait({call}, timeout=dice.random() ** 2 * 0.03)
                call.cancel()
            try:
                assert await call == text
                answered += 1
            except asyncio.CancelledError:
                given_up += 1

    async def body() -> None:
        async with opened(speak) as (client, peer):
            await asyncio.gather(*(work(client, peer.url, name) for name in range(200)))
            pool = client.pool()
            await until(lambda: len(pool._all) == len(pool._idle))
            await peer.closed(len(pool._idle))
            assert all(connection.usable for connection in pool._idle)
        assert answered > 1000
        assert given_up > 200

    run(body())


@pytest.mark.parametrize("whole", [True, False], ids=["complete", "under way"])
def test_a_call_that_is_given_up(*, whole: bool) -> None:
    """A cancelled call closes its connection at once; where the answer was complete already there
    is nothing to stop, and the connection is kept."""
    reply = OK if whole else OK[:-1]

    async def body() -> None:
        async with opened(once(reply)) as (client, peer):

            async def call() -> None:
                async with client.send(asked(peer.url)):
                    begun.set()
                    await asyncio.Event().wait()

            begun = asyncio.Event()
            task = asyncio.ensure_future(call())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(client.pool()._idle) == whole
            await peer.closed(int(whole))

    run(body())


def test_closing() -> None:
    """Closing ends calls under way, as broken, and all connections; afterwards the client may be
    used again."""

    async def speak(line: Line) -> None:
        await line.request()
        await line.end()

    async def body() -> None:
        async with opened(speak) as (client, peer):
            call = asyncio.ensure_future(answer(client, asked(peer.url)))
            await until(lambda: peer.open == 1)
            await client.close()
            with pytest.raises(ConnectionFailed) as caught:
                await call
            assert caught.value.ambiguous
            await peer.closed()
            with pytest.raises(CallTimeout):
                await answer(client, asked(peer.url, timeouts=Timeouts(first_byte=0.1)))

    run(body())


def test_two_clients_share_nothing() -> None:
    """A connection's end is told to its own pool."""

    async def body() -> None:
        async with opened(always) as (one, first), opened(always) as (two, second):
            await answer(one, asked(first.url))
            await answer(two, asked(second.url))
            await one.close()
            (connection,) = two.pool()._idle
            assert isinstance(connection, Connection)
            assert connection.usable

    run(body())
