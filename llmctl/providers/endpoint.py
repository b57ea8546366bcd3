"""The end of the chain: one attempt at one target, over the wire and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import orjson

import llmctl
from llmctl.cancellation import CancelledAfterSending
from llmctl.clock import Clock
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
from llmctl.providers.failures import request_id
from llmctl.providers.sse import Reader
from llmctl.redact import redact
from llmctl.settings import Timeouts
from llmctl.types import Piece, Reply, Request, Response, Usage

_HEADERS = {
    "content-type": "application/json",
    "accept-encoding": "gzip, deflate",
    "user-agent": f"llmctl/{llmctl.__version__}",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where to send and with which key; the key never shows in a repr."""

    base_url: str
    key: str | None

    def __repr__(self) -> str:
        return f"Address({self.base_url!r})"


@dataclass(frozen=True, slots=True)
class Endpoint:
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

    async def __call__(self, request: Request, emit: Emit | None) -> Response:
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
            return await self._send(request, wire, address, show if emit is not None else None)
        except CallError as error:
            cleaned = redact(str(error), address.key)
            if cleaned != str(error):
                error.args = (cleaned,)
            if shown:
                raise Interrupted(error) from error
            raise
        except asyncio.CancelledError as error:
            raise CancelledAfterSending from error

    async def _send(
        self, request: Request, wire: WireRequest, address: Address, emit: Emit | None
    ) -> Response:
        auth = self.codec.auth(address.key) if address.key else {}
        outgoing = HttpRequest(
            url=address.base_url + wire.path,
            headers={**_HEADERS, **wire.headers, **auth},
            body=b"" if wire.body is None else orjson.dumps(wire.body),
            method=wire.method,
            timeouts=self.timeouts,
        )
        started = self.clock.monotonic()
        async with self.transport(address.base_url).send(outgoing) as reply:
            self.heard(self.codec.limits(reply.headers))
            body: bytes | None = None
            if emit is not None and "event-stream" in reply.headers.get("content-type", ""):
                answer = await self._stream(reply, emit)
            else:
                body = await reply.read()
                answer = self.codec.decode(reply.status, reply.headers, body)
                if emit is not None:
                    emit(answer.text)
            return Response(
                text=answer.text,
                usage=answer.usage or self.estimate(request, answer.text),
                target=request.target,
                finish=answer.finish,
                model=answer.model or request.target.model,
                body=body,
                latency=self.clock.monotonic() - started,
                status=reply.status,
                provider_request_id=request_id(reply.headers),
                reported_cost=answer.cost,
            )

    async def _stream(self, reply: HttpReply, emit: Emit) -> Reply:
        text: list[str] = []
        last = Piece()
        async for piece in _pieces(self.codec.reader(), reply):
            if piece.text:
                text.append(piece.text)
                emit(piece.text)
            last = Piece(
                finish=piece.finish or last.finish,
                model=piece.model or last.model,
                usage=piece.usage or last.usage,
                done=piece.done or last.done,
            )
            if piece.done:
                break
        if not last.done:
            raise BadResponse("the stream ended before the answer did")
        if last.finish == "content_filter" and not text:
            raise ContentFiltered("the provider's content filter stopped the answer")
        return Reply("".join(text), last.finish or "other", last.model or "", last.usage)


async def _pieces(answer: StreamReader, reply: HttpReply) -> AsyncIterator[Piece]:
    reader = Reader()
    async for chunk in reply.chunks():
        try:
            events = list(reader.feed(chunk))
        except ValueError as error:
            raise BadResponse(f"the stream is not what this API sends ({error})") from error
        for event in events:
            yield answer.piece(event.name, event.data)
    yield answer.end()
