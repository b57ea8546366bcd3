"""The end of the chain: one attempt at one target, over the wire and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache

import orjson
from msgspec import Struct

import llmctl
from llmctl.cancellation import CancelledAfterSending
from llmctl.clock import Clock
from llmctl.config.settings import Timeouts
from llmctl.errors import (
    BadResponse,
    CallError,
    ContentFiltered,
    Interrupted,
)
from llmctl.protocols import (
    Codec,
    Emit,
    HttpReply,
    HttpRequest,
    RateHeaders,
    StreamReader,
    Transport,
    WireRequest,
)
from llmctl.providers.replies import request_id
from llmctl.providers.sse import Reader
from llmctl.redact import redact
from llmctl.types import Answer, ProviderReply, Request, StreamChunk, Usage
from llmctl.unpacking import ACCEPT_ENCODING

_HEADERS = {
    "content-type": "application/json",
    "accept-encoding": ACCEPT_ENCODING,
    "user-agent": f"llmctl/{llmctl.__version__}",
}


class Address(Struct, frozen=True):
    """Where to send and with which key; the key never shows in a repr. `header` is the one that
    carries the key where it is not the codec's own (Azure's `api-key`)."""

    base_url: str
    key: str | None
    header: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.base_url!r})"


class Endpoint(Struct, frozen=True):
    """A `Handler` that makes one attempt.

    `address` is asked before every attempt (it may have to start a server, or find that a key
    was changed); `estimate` counts tokens when the provider does not; `heard` gets what the
    headers of every reply say of rate limits.
    """

    codec: Codec
    transport: Callable[[str], Transport]
    address: Callable[[], Awaitable[Address]]
    timeouts: Timeouts
    clock: Clock
    estimate: Callable[[Request, str], Usage]
    heard: Callable[[RateHeaders], None]

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """One attempt. Raises the mapped `CallError`; `Interrupted` once text was emitted."""
        address = await self.address()
        stream = emit is not None and request.raw is None
        wire = self.codec.encode(request, stream=stream)
        shown = False

        def show(text: str) -> None:
            nonlocal shown
            shown = True
            if emit is not None:
                emit(text)

        try:
            return await self._send(request, wire, address, None if emit is None else show)
        except CallError as error:
            _clean(error, address)
            if shown:
                raise Interrupted(error) from error
            raise
        except asyncio.CancelledError as error:
            raise CancelledAfterSending from error

    async def fetch(self, wire: WireRequest) -> bytes:
        """The body of a successful reply to something that is no question: the model list, a
        token count, a key check. One attempt; raises the mapped `CallError`."""
        address = await self.address()
        try:
            async with self.transport(address.base_url).send(
                self._outgoing(wire, address)
            ) as reply:
                body = await reply.read()
                if not 200 <= reply.status < 300:
                    raise self.codec.failure(reply.status, reply.headers, body)
                return body
        except CallError as error:
            _clean(error, address)
            raise

    def _outgoing(self, wire: WireRequest, address: Address) -> HttpRequest:
        auth: Mapping[str, str] = {}
        if address.key:
            own = address.header
            auth = {own: address.key} if own else self.codec.auth(address.key)
        return HttpRequest(
            url=join(address.base_url, wire.path),
            headers={**_HEADERS, **wire.headers, **auth},
            body=b"" if wire.body is None else orjson.dumps(wire.body),
            method=wire.method,
            timeouts=self.timeouts,
        )

    async def _send(
        self, request: Request, wire: WireRequest, address: Address, emit: Emit | None
    ) -> Answer:
        outgoing = self._outgoing(wire, address)
        started = self.clock.monotonic()
        async with self.transport(address.base_url).send(outgoing) as reply:
            self.heard(self.codec.limits(reply.headers))
            body: bytes | None = None
            if emit is not None and reply.status == 200 and _streams(reply):
                answer = await self._stream(reply, emit)
            else:
                body = await reply.read()
                answer = self.codec.decode(reply.status, reply.headers, body)
                if emit is not None:
                    emit(answer.text)
            said = request_id(reply.headers)
            return Answer(
                text=answer.text,
                usage=answer.usage or self.estimate(request, answer.text),
                target=request.target,
                finish=answer.finish,
                model=answer.model or request.target.model,
                body=body,
                latency=self.clock.monotonic() - started,
                status=reply.status,
                provider_request_id=redact(said, address.key) if said else None,
                reported_cost=answer.cost,
            )

    async def _stream(self, reply: HttpReply, emit: Emit) -> ProviderReply:
        text: list[str] = []
        last = StreamChunk()
        try:
            async for piece in _pieces(self.codec.reader(), reply):
                if piece.text:
                    text.append(piece.text)
                    emit(piece.text)
                last = _both(last, piece)
                if piece.done:
                    break
        except CallError as error:
            error.provider_request_id = error.provider_request_id or request_id(reply.headers)
            raise
        if not last.done:
            raise BadResponse(
                "the stream ended before the answer did",
                provider_request_id=request_id(reply.headers),
            )
        if last.finish == "content_filter" and not text:
            filtered = ContentFiltered("the provider's content filter stopped the answer")
            filtered.usage, filtered.cost = last.usage, last.cost
            raise filtered
        finish = last.finish or "other"
        return ProviderReply("".join(text), finish, last.model or "", last.usage, last.cost)


@lru_cache(maxsize=64)
def join(base_url: str, path: str) -> str:
    """The address of `path` below the base URL, whose query (Azure's `api-version`) goes along.
    A path that begins with `../` climbs: `https://h/v2` and `../v1/x` make `https://h/v1/x`."""
    base, _, query = base_url.partition("?")
    while path.startswith("../"):
        base, path = base.rpartition("/")[0], path[3:]
    url = base.rstrip("/") + "/" + path.lstrip("/")
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _streams(reply: HttpReply) -> bool:
    return "event-stream" in reply.headers.get("content-type", "")


def _both(before: StreamChunk, piece: StreamChunk) -> StreamChunk:
    """What is known of the answer once `piece` has come; its text is kept elsewhere."""
    return StreamChunk(
        finish=piece.finish or before.finish,
        model=piece.model or before.model,
        usage=piece.usage or before.usage,
        cost=before.cost if piece.cost is None else piece.cost,
        done=piece.done or before.done,
    )


def _clean(error: CallError, address: Address) -> None:
    """Take the key out of what the error says: a provider may have echoed it."""
    cleaned = redact(str(error), address.key)
    if cleaned != str(error):
        error.args = (cleaned,)
    if error.provider_request_id:  # a header, and stored in the ledger
        error.provider_request_id = redact(error.provider_request_id, address.key)


async def _pieces(answer: StreamReader, reply: HttpReply) -> AsyncIterator[StreamChunk]:
    reader = Reader()
    async for chunk in reply.chunks():
        try:
            events = list(reader.feed(chunk))
        except ValueError as error:
            raise BadResponse(f"the stream is not what this API sends ({error})") from error
        for event in events:
            yield answer.piece(event.name, event.data)
    yield answer.end()
