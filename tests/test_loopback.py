"""The provider that speed is measured against takes as long as it says."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from tests.bench.loopback import ANSWER, Caller, served, stamped

_BODY = b'{"model":"gpt-5-mini"}'
_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_BODY),
    _BODY,
)
_WAIT = 30.0


@contextmanager
def _connected(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), _WAIT) as connection:
        yield connection


def _answer(connection: socket.socket) -> bytes:
    """The body of one reply."""
    with HTTPResponse(connection) as reply:
        reply.begin()
        assert (reply.version, reply.status, reply.reason) == (11, 200, "OK")
        return reply.read()


def test_no_answer_comes_before_the_latency() -> None:
    """Whatever is measured against it is not flattered: of twenty at once no answer is early."""
    with served("tests.bench.loopback", "50") as url, ExitStack() as stack:
        connections = [stack.enter_context(_connected(url)) for _ in range(20)]
        for _ in range(3):
            begun = []
            for connection in connections:
                begun.append(time.time())
                connection.sendall(_REQUEST)
            for connection, since in zip(connections, begun, strict=True):
                assert _answer(connection) == ANSWER
                assert time.time() - since >= 0.05


def test_a_request_may_come_in_pieces_and_another_may_follow() -> None:
    """A head cut anywhere, a body that comes later, three on one connection: an answer each."""
    with served("tests.bench.loopback") as url, _connected(url) as connection:
        for cut in (5, _REQUEST.index(b"\r\n\r\n") + 2, len(_REQUEST) - 3):
            connection.sendall(_REQUEST[:cut])
            connection.sendall(_REQUEST[cut:])
            assert _answer(connection) == ANSWER


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when something came")
def test_the_latency_counts_from_when_the_request_was_there() -> None:
    """A server kept from its processor by its client is no slower for that: a request that lay
    for a while came when it was sent, and not when it is read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stamped(listener)
        with _connected(f"http://127.0.0.1:{listener.getsockname()[1]}") as connection:
            caller = Caller(listener.accept()[0])
            with caller.connection:
                # The system begins to look at the clock some milliseconds after it is asked to.
                assert any(_told(connection, caller) for _ in range(200))


def _told(connection: socket.socket, caller: Caller) -> bool:
    """Whether a request that lies for a while before it is read is said to have come before."""
    before = time.time()
    connection.sendall(_REQUEST)
    assert select.select([caller.connection], (), (), _WAIT)[0]
    after = time.time()
    time.sleep(0.005)
    came = caller.asked()
    assert came is not None
    return before <= came <= after
