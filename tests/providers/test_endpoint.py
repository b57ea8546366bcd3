"""One attempt: which key it carries, and how it may end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from llmctl import redact
from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.auth.token_holder import Token, TokenHolder
from llmctl.clock import SystemClock
from llmctl.config.settings import Timeouts
from llmctl.errors import AuthFailed, BadResponse, CallError, InvalidRequest, PermissionRefused
from llmctl.http import CancelledAfterSending, HttpClient
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.registry import codec
from llmctl.types import Usage
from tests.conformance.http_peer import Line, Peer, Speak, driven
from tests.support import request

CHUNK = b'data: {"model":"m","choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Asked:
    """A key that a function gives."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask

    source = "$KEY"
    may_change = False

    @property
    def value(self) -> str:
        """The key now."""
        return self._ask()

    async def current(self) -> str:
        """The key now."""
        return self._ask()

    async def refused(self, _: str | None) -> bool:
        """There is no other one."""
        return False


@asynccontextmanager
async def opened(
    speak: Speak, key: Callable[[], str] = lambda: "sk-4711"
) -> AsyncIterator[tuple[Endpoint, Peer]]:
    """An endpoint and its provider."""
    async with Peer(speak) as peer:
        client, speaks = HttpClient(), codec("openai", "chat")
        yield (
            Endpoint(
                codec=speaks,
                http=client,
                base_url=peer.url,
                auth=KeyAuth(speaks.auth, Asked(key)),
                timeouts=Timeouts(),
                clock=SystemClock(),
                estimate=lambda _, text: Usage(output=len(text), estimated=True),
                heard=lambda _: None,
            ),
            peer,
        )
        await client.close()
        await peer.closed()


def streaming(body: bytes) -> Speak:
    """A provider that streams this and closes."""

    async def speak(line: Line) -> None:
        await line.request()
        line.say(STREAM + body)
        await line.writer.drain()

    return speak


@driven
async def test_the_key_is_looked_up_for_every_attempt() -> None:
    """A key that is rotated in the middle of a run is used by the next attempt, over the same
    connection."""
    keys, heads = iter(("sk-old", "sk-new")), list[str]()

    async def speak(line: Line) -> None:
        while True:
            heads.append((await line.request())[0])
            line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    async with opened(speak, lambda: next(keys)) as (endpoint, peer):
        for _ in range(2):
            with pytest.raises(BadResponse):
                await endpoint(request(), None)
        assert len(peer.lines) == 1
    assert ["Bearer sk-old" in heads[0], "Bearer sk-new" in heads[1]] == [True, True]
    assert "sk-old" not in heads[1]


@pytest.mark.parametrize("key", ["sk-\u20ac", "sk-\udcff", "sk-\n"])
@driven
async def test_a_key_that_cannot_be_sent(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a key is a mistake, which is told without it; nothing is sent."""
    monkeypatch.setattr(redact, "_KNOWN", set())

    async with opened(streaming(b""), lambda: key) as (endpoint, peer):
        with pytest.raises(InvalidRequest) as caught:
            await endpoint(request(), None)
        assert not caught.value.sent
        assert "sk-" not in str(caught.value)
        assert not peer.lines


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: [DONE]\n"])
@driven
async def test_a_stream_that_ends_with_its_end_mark_is_complete(end: bytes) -> None:
    """The empty line after the end mark may be missing: real servers leave it out."""
    async with opened(streaming(CHUNK + end)) as (endpoint, _):
        said: list[str] = []
        answer = await endpoint(request(), lambda piece: said.append(piece.text))
        assert (answer.text, said) == ("hi", ["hi"])


@driven
async def test_only_a_call_that_may_be_billed_says_so_when_it_is_cancelled() -> None:
    """A call that is cancelled before a byte of it has left costs nothing."""
    arrived = asyncio.Event()

    async def speak(line: Line) -> None:
        await line.request()
        arrived.set()
        await line.end()

    async with opened(speak) as (endpoint, peer):
        early = asyncio.ensure_future(endpoint(request(), None))
        await asyncio.sleep(0)
        early.cancel()
        late = asyncio.ensure_future(endpoint(request(), None))
        await arrived.wait()
        late.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await early
        assert not isinstance(caught.value, CancelledAfterSending)
        with pytest.raises(CancelledAfterSending):
            await late
        await peer.closed()


@pytest.mark.parametrize(
    ("status", "kind", "step"),
    [
        (401, AuthFailed, "see that their account belongs there, and that region and project"),
        (403, PermissionRefused, "see that their account has a role that may call the model, and"),
    ],
)
@driven
async def test_a_cloud_that_refuses_is_named(status: int, kind: type[CallError], step: str) -> None:
    """A wrong role or region: exit 4 says who refused whose credentials, and asks for no key."""

    async def speak(line: Line) -> None:
        await line.request()
        line.say(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}".encode())

    async def token() -> Token:
        return Token("token-4711", 2e9)

    async with opened(speak) as (endpoint, peer):
        holder = TokenHolder(token, SystemClock(), "Google Cloud's credentials")
        with pytest.raises(kind) as caught:
            await replace(endpoint, auth=KeyAuth(bearer, holder))(request(), None)
    assert caught.value.exit_code == 4
    where = f"asked {peer.url}/chat/completions with Google Cloud's credentials)"
    assert f"{where}; {step}" in str(caught.value)
