"""Callers that send slowly, or stop to: they hold nothing for long."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from llmctl.gateway import exchange
from llmctl.gateway.bounded_http import BoundedHttp
from llmctl.gateway.exchange import Exchange
from llmctl.gateway.failures import Refused

WHOLE = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HEAD_TIME = 0.2  # seconds


async def _app(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def _slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(3 * HEAD_TIME)
    await _app(scope, receive, send)


async def _sent(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch, app: Any = _app) -> bytes:
    """What comes back for the pieces, after whole ones of which the answer is waited for, until
    the server closes."""
    monkeypatch.setattr(BoundedHttp, "head_time", HEAD_TIME)
    config = uvicorn.Config(app, http=BoundedHttp, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: BoundedHttp(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        found = b""
        for piece in pieces:
            writer.write(piece)
            if piece.endswith(b"\r\n\r\n"):
                found += await reader.readuntil(b"\r\n\r\n")
        found += await reader.read()
        writer.close()
        return found


@pytest.mark.parametrize(
    ("pieces", "answers"),
    [
        ([], 0),
        ([WHOLE[:10]], 0),
        ([WHOLE[:-2]], 0),
        ([WHOLE, WHOLE[:-2]], 1),
        ([WHOLE, WHOLE, b"G"], 2),
    ],
)
def test_a_head_that_does_not_come_ends_the_connection(
    pieces: list[bytes], answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first one, and after requests that were answered."""
    found = asyncio.run(_sent(pieces, monkeypatch))
    assert found.count(b"HTTP/1.1 204") == answers


def test_a_slow_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a request is answered the beginning of the next ends nothing."""
    found = asyncio.run(_sent([WHOLE[:-2], b"\r\nGET"], monkeypatch, _slow))
    assert found.count(b"HTTP/1.1 204") == 1


def test_a_body_that_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 408, and the connection is closed."""
    monkeypatch.setattr(exchange, "BODY_TIME", 0.01)
    pieces = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> MutableMapping[str, Any]:
        if (piece := next(pieces, None)) is not None:
            return piece
        await asyncio.Event().wait()
        raise AssertionError

    async def read() -> None:
        scope = {"method": "POST", "path": "/", "raw_path": b"/", "headers": []}
        made = Exchange(scope, receive, receive, "1")  # type: ignore[arg-type]
        with pytest.raises(Refused) as refused:
            await made.body(100)
        assert refused.value.failure.status == 408
        assert made.more["connection"] == "close"

    asyncio.run(read())
