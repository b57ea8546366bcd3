"""The end of the chain: one attempt at one target, over the wire and back."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
)
from functools import lru_cache, partial
from typing import TYPE_CHECKING, BinaryIO

import orjson
from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Timeouts
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    Interrupted,
    LlmctlError,
    NoAnswer,
    NotFound,
    PermissionRefused,
    QuotaExhausted,
)
from llmctl.http import HttpClient, HttpReply, build
from llmctl.protocols import (
    NO_RATE_HEADERS,
    Auth,
    Codec,
    Emit,
    Event,
    EventStream,
    RateHeaders,
    WireRequest,
)
from llmctl.providers.replies import (
    BLANK,
    EVENT_FIELD,
    answered,
    completed,
    content_filtered,
    request_id,
    strict_json,
)
from llmctl.redact import redact_known_keys
from llmctl.types import Answer, ProviderReply, Request, StreamChunk, Target, Usage, origin_of

if TYPE_CHECKING:
    pass

_JSON = {"content-type": "application/json"}
_VERSIONED = re.compile(r"/v[0-9]").search
_STEPS: dict[type[CallError], str] = {
    AuthFailed: "try the key with `llmctl keys check`, and put a good one in its place",
    PermissionRefused: "see on the provider's page what the key may do, or choose another model",
    NotFound: "`llmctl models -p {profile}` lists the models that there are",
    QuotaExhausted: "see the account on the provider's page, or choose another profile with -p",
}
"""The next step after an error that another address, key, model or account mends."""
_CREDENTIAL_STEPS: dict[type[CallError], str] = {
    AuthFailed: "see that their account belongs there, and that region and project are right",
    PermissionRefused: "see that their account has a role that may call the model, and that the "
    "region has it",
}
"""As `_STEPS`, of a call with a cloud's credentials instead of a key."""
_BEDROCK_RUNTIME = re.compile(
    r"^https://bedrock-runtime((?:-fips)?\.[a-z0-9-]+\.(?:amazonaws\.com(?:\.cn)?|api\.aws)/?)$"
)
MAX_ERROR = 64 * 1024  # bytes of the body of an error that are read


class Endpoint(Struct, frozen=True):
    """A `Handler` that makes one attempt.

    Attributes:
        base_url: a function is asked before every attempt; it may have to start a server.
        auth: signs every attempt.
        timeouts: of one attempt.
        estimate: counts tokens when the provider does not.
        headers: go along with every request, of the user's own.
        heard: gets what the headers of every reply say of rate limits.

    """

    codec: Codec
    http: HttpClient
    base_url: str | Callable[[], Awaitable[str]]
    auth: Auth
    timeouts: Timeouts
    clock: Clock
    estimate: Callable[[Request, str], Usage]
    heard: Callable[[RateHeaders], None]
    headers: Mapping[str, str] = {}

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """One attempt. Raises the mapped `CallError`; `Interrupted` where it broke off after text
        was emitted. What is more than one text is not streamed."""
        wire = self.codec.encode(request, stream=emit is not None and not request.wants_body)
        shown = False

        def show(piece: StreamChunk) -> None:
            nonlocal shown
            shown = True
            if emit is not None:
                emit(piece)

        try:
            return await self._attempt(request, wire, None if emit is None else show)
        except CallError as error:
            self.locate(error, request.target, wire)
            _clean(error)
            if shown and not isinstance(error, NoAnswer):
                broken = Interrupted(error)
                broken.usage, broken.cost = error.usage, error.cost
                raise broken from error
            if shown:  # trying again would say it twice
                error.retryable, error.text = False, None
            raise

    def locate(self, error: CallError, target: Target, wire: WireRequest) -> None:
        """Say where it was asked, with which key, and the next step, where the place may be wrong:
        the profile, its address, its key or its account."""
        step, base = _STEPS.get(type(error)), self.base_url
        if step is None or not error.sent or not isinstance(base, str):
            return
        address, source = base.partition("?")[0], self.auth.source
        if isinstance(error, NotFound) and target.adapter == "openai" and not _VERSIONED(address):
            step = "most servers want /v1 in base_url"
        proof = f" with {'the key of ' if self.auth.is_key else ''}{source}" if source else ""
        if isinstance(error, NotFound):
            proof = ""
        elif not self.auth.is_key:
            step = _CREDENTIAL_STEPS.get(type(error), step)
        where = f"profile {target.profile}, asked {join(address, wire.path)}{proof}"
        said = str(error).rstrip(". ")
        error.args = (f"{said} ({where}); {step.format(profile=target.profile)}",)

    async def fetch(self, wire: WireRequest) -> bytes:
        """The body of a successful reply to something that is no question: the model list, a
        token count, a key check. One attempt; raises the mapped `CallError`."""
        return (await self.exchange(wire))[1]

    async def exchange(self, wire: WireRequest) -> tuple[Mapping[str, str], bytes]:
        """As `fetch`, with the headers of the reply. The path may be a whole address: raises
        `BadResponse` where that is of another origin than the profile's, which the key is for."""
        async with self._reply(wire) as reply:
            return reply.headers, await reply.read()

    async def download(self, wire: WireRequest, create: Callable[[], BinaryIO], most: int) -> None:
        """Write the body of a successful reply to a new file, at most so many bytes of it. Raises
        as `exchange` does, and `OSError`."""
        with create() as file:
            async with self._reply(wire) as reply:
                async for chunk in reply.chunks(most):
                    file.write(chunk)

    @asynccontextmanager
    async def _reply(self, wire: WireRequest) -> AsyncGenerator[HttpReply]:
        """A successful reply, open; one attempt. Raises the mapped `CallError`."""
        try:
            async with await self._send(wire) as reply:
                if not 200 <= reply.status < 300:
                    raise self._failure(reply, await reply.read(MAX_ERROR))
                yield reply
        except CallError as error:
            _clean(error)
            raise

    def _failure(self, reply: HttpReply, body: bytes) -> CallError:
        with _reading():
            error = self.codec.failure(reply.status, reply.headers, body)
        error.server_time = reply.server_time
        return error

    async def _send(self, wire: WireRequest) -> AbstractAsyncContextManager[HttpReply]:
        base = self.base_url
        url = join(base if isinstance(base, str) else await base(), wire.path)
        body = wire.file or (b"" if wire.body is None else orjson.dumps(wire.body))
        request = build(wire.method, url, {**_JSON, **wire.headers, **self.headers}, body)
        request, limits = await self.auth.sign(request), self.timeouts
        return self.http.send(
            request, connect=limits.connect, first_byte=limits.first_byte, total=limits.total
        )

    async def _attempt(self, request: Request, wire: WireRequest, emit: Emit | None) -> Answer:
        sending = await self._send(wire)
        started = self.clock.monotonic()
        async with sending as reply:
            named = request_id(reply.headers)
            try:
                with _reading():
                    limits = self.codec.limits(reply.headers)
                if limits is not NO_RATE_HEADERS:
                    self.heard(replace(limits, model=request.target.model))
                if reply.status != 200:
                    raise self._failure(reply, await reply.read(MAX_ERROR))
                relayed = request.raw is not None and request.raw.streamed == "events"
                found, body = await self._read(reply, emit, relayed=relayed)
                answer = self._answer(request, found, body, named)
                if emit is not None and body is not None:
                    emit(StreamChunk(answer.text))
            except CallError as error:
                error.provider_request_id = error.provider_request_id or named
                raise
            return replace(answer, latency=self.clock.monotonic() - started)

    def read(self, request: Request, status: int, body: bytes, named: str | None) -> Answer:
        """The answer in a reply that came in another way: a row of a batch's results. Raises as a
        call does; `named` is the provider's id of it."""
        try:
            with _reading():
                if status != 200:
                    raise self.codec.failure(status, {}, body)
                found = self.codec.decode(status, {}, body)
            return self._answer(request, found, strict_json(body), named)
        except CallError as error:
            error.provider_request_id = error.provider_request_id or named
            _clean(error)
            raise

    def _answer(
        self, request: Request, found: ProviderReply, body: bytes | None, named: str | None
    ) -> Answer:
        """What a complete reply says is held to what counts as an answer. Raises `NoAnswer`."""
        wrote = bool(found.text or found.tool_calls)
        used = completed(found.usage, partial(self.estimate, request, found.text), wrote=wrote)
        found = answered(replace(found, usage=used), request)
        return Answer(
            text=found.text,
            usage=used,
            target=request.target,
            finish=found.finish,
            model=redact_known_keys(found.model or request.target.model),
            body=body,
            provider_request_id=redact_known_keys(named) if named else None,
            reported_cost=found.cost,
            tool_calls=found.tool_calls,
            citations=found.citations,
            beyond_text=found.beyond_text,
        )

    async def _read(
        self, reply: HttpReply, emit: Emit | None, *, relayed: bool
    ) -> tuple[ProviderReply, bytes | None]:
        """A reply of status 200, and its body where it is no stream: its first bytes show it."""
        async with aclosing(reply.chunks()) as chunks:
            start = b""
            async for chunk in chunks:
                start += chunk
                if len(start.lstrip(BLANK)) >= EVENT_FIELD:
                    break
            events = self.codec.events(start, reply.headers.get("content-type", ""))
            if events is not None:
                pieces = self._pieces(events, _after(start, chunks), relayed=relayed)
                return await _stream(pieces, emit or (lambda _: None)), None
            body = start + b"".join([chunk async for chunk in chunks])
        with _reading():
            return self.codec.decode(200, reply.headers, body), strict_json(body)

    async def _pieces(
        self, events: EventStream, chunks: AsyncGenerator[bytes], *, relayed: bool
    ) -> AsyncGenerator[StreamChunk]:
        """The events, each as the codec reads it; with the event itself where it is `relayed`."""
        answer, last = self.codec.reader(), StreamChunk()
        try:
            async for chunk in chunks:
                for event in events.feed(chunk):
                    with _reading():
                        piece = answer.piece(event.name, event.data)
                    last = _later(last, piece)
                    yield _with_event(piece, event) if relayed else piece
            if (rest := events.end()) is not None:
                with _reading():
                    piece = answer.piece(rest.name, rest.data)
                yield _with_event(piece, rest) if relayed else piece
            yield answer.end()
        except CallError as error:  # what was read of the bill before it goes along
            if error.usage is None:
                error.usage, error.cost = last.usage, last.cost
            raise


async def _stream(pieces: AsyncGenerator[StreamChunk], emit: Emit) -> ProviderReply:
    """What the pieces say together; those with text, or with the provider's own event, go to
    `emit`."""
    text: list[str] = []
    last = StreamChunk()
    async with aclosing(pieces):
        async for piece in pieces:
            if piece.text:
                text.append(piece.text)
            if piece.text or piece.data:
                emit(piece)
            last = StreamChunk(
                finish=piece.finish or last.finish,
                model=piece.model or last.model,
                usage=piece.usage or last.usage,
                cost=last.cost if piece.cost is None else piece.cost,
                done=piece.done or last.done,
                reason=piece.reason or last.reason,
                tool_calls=piece.tool_calls or last.tool_calls,
                citations=piece.citations or last.citations,
            )
            if last.done:
                break
    if not last.done:
        raise BadResponse("the stream ended before the answer did")
    if last.finish == "content_filter" and not text:
        sentence = "the provider's content filter stopped the answer"
        raise content_filtered(sentence, None, last.usage, last.cost)
    return ProviderReply(
        "".join(text), last.finish or "other", last.model or "", last.usage, last.cost,
        reason=last.reason, tool_calls=last.tool_calls, citations=last.citations,
    )  # fmt: skip


async def _after(start: bytes, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield start
    async for chunk in chunks:
        yield chunk


def _later(last: StreamChunk, piece: StreamChunk) -> StreamChunk:
    """The one that tells of the bill."""
    return last if piece.usage is None else piece


def _with_event(piece: StreamChunk, event: Event) -> StreamChunk:
    return replace(piece, event=event.name, data=event.data)


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever goes wrong while a codec reads a reply is `BadResponse`: it ends one row."""
    try:
        yield
    except LlmctlError:
        raise
    except Exception as error:
        raise BadResponse(f"the answer cannot be read ({type(error).__name__})") from error


@lru_cache(maxsize=64)
def join(base_url: str, path: str) -> str:
    """The address of `path` below the base URL, whose query (Azure's `api-version`) goes along.
    A path that begins with `../` climbs: `https://h/v2` and `../v1/x` make `https://h/v1/x`.
    Azure lists models above its deployments (learn.microsoft.com/rest/api/azureopenai/models),
    Amazon at another host (docs.aws.amazon.com/general/latest/gr/bedrock.html).
    A whole address stays one; raises `BadResponse` where it is of another origin."""
    if "://" in path:
        if origin_of(path) != origin_of(base_url):
            raise BadResponse(
                "the provider sends to another server for it, which the key is not for",
                retryable=False,
            )
        return path
    base, _, query = base_url.partition("?")
    if path == "/models" and base.rstrip("/").rpartition("/")[0].endswith("/openai/deployments"):
        path = "../../models"
    if path.startswith(("/foundation-models", "/inference-profiles")):
        base = _BEDROCK_RUNTIME.sub(r"https://bedrock\1", base)
    while path.startswith("../"):
        base, path = base.rstrip("/").rpartition("/")[0], path[3:]
    url = base.rstrip("/") + "/" + path.lstrip("/")
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def _clean(error: CallError) -> None:
    """Take keys out of what the error says: a provider may have echoed one."""
    error.args = (redact_known_keys(str(error)),)
    if error.provider_request_id:  # a header, and stored in the ledger
        error.provider_request_id = redact_known_keys(error.provider_request_id)
