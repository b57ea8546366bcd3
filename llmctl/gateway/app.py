"""The gateway as an ASGI application.

Every request goes one way: address → origin → who → page or call (`call.py`: body → bounds →
screen → caps → the pipeline). Whatever befalls it, the caller hears in its own dialect.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from llmctl.clock import SystemClock
from llmctl.errors import CallError, DiskError, LlmctlError
from llmctl.gateway import chat, messages, network
from llmctl.gateway.call import Call
from llmctl.gateway.callers import AuthUnavailable, Caller, Unauthenticated, anonymous
from llmctl.gateway.chat import Chat, Embeddings, ModelEntry
from llmctl.gateway.dialect import Dialect, Failure
from llmctl.gateway.exchange import (
    ASGIMessage,
    ASGIScope,
    Disconnected,
    Exchange,
    Receive,
    Send,
)
from llmctl.gateway.failures import Refused, failure_of, refused
from llmctl.gateway.log import one_line, warn
from llmctl.gateway.messages import Messages
from llmctl.gateway.responses import Responses
from llmctl.gateway.service import Service
from llmctl.request import ulid
from llmctl.runner import user_name
from llmctl.types import ModelInfo

Page = Callable[[ASGIScope, Receive, Send], Awaitable[None]]
Log = Callable[[str], None]

_CHAT, _MESSAGES = Chat(), Messages()
DIALECTS: Mapping[str, Dialect] = {
    f"/v1{dialect.path}": dialect for dialect in (_CHAT, Responses(), Embeddings(), _MESSAGES)
}
"""The languages, by the path at which each is spoken."""
COUNT = "/v1/messages/count_tokens"
MODELS = "/v1/models"
OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that need no authentication: they say only whether the gateway serves."""

_KEEP_OUT = "you may not connect from there"
_REOPEN = 5.0  # seconds between two tries to open what has broken


class Refusals:
    """What the log is told: one line a refused or failed request, and with `calls` one for every
    call. Never a token, a prompt or an answer."""

    def __init__(self, say: Log, *, calls: bool = False) -> None:
        self._say, self._calls = say, calls

    def __call__(self, exchange: Exchange, address: str, caller: Caller | None, why: str) -> None:
        """One request that has ended, with the reason where it was refused."""
        if not why and not self._calls:
            return
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        who = (caller.token or caller.user) if caller else "-"
        line = f"{at} {exchange.status} {exchange.method} {exchange.target} {address} {who}"
        line += f" {exchange.id} {exchange.more.get('x-llmctl-call', '')}".rstrip()
        self._say(f"{line}: {why}" if why else line)


class App:
    """The application. `open_service` opens what is served, by the configuration as it is then;
    `pages` answer what is no call; `seen` hears how every request has ended: path, status, seconds.

    A `reload` opens another service and closes the old one when its last request has ended, so no
    call is dropped. Once nothing can be put on record (a full disk) it is opened anew until it can.
    """

    def __init__(
        self,
        open_service: Callable[[], AbstractAsyncContextManager[Service]],
        pages: Page,
        log: Refusals,
        seen: Callable[[str, int, float], None] = lambda _path, _status, _seconds: None,
    ) -> None:
        self._open, self._pages, self._log, self._seen = open_service, pages, log, seen
        self._service: Service | None = None
        self._held: dict[Service, AsyncExitStack] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._reopening: asyncio.Task[None] | None = None
        self.draining = False
        self.same_user = network.SameUser(SystemClock())

    @property
    def service(self) -> Service:
        """What is served now."""
        assert self._service is not None
        return self._service

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return sum(service.in_flight for service in self._held)

    async def reload(self) -> None:
        """Serve by the configuration as it is now. Raises `LlmctlError`, and what was served goes
        on."""
        async with self._reloading:
            stack = AsyncExitStack()
            service = await stack.enter_async_context(self._open())
            old, self._service = self._service, service
            self._held[service] = stack
        if old is not None:
            task = asyncio.create_task(self._close(old))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Return when every call has ended, and everything is closed."""
        if self._reopening is not None:
            self._reopening.cancel()
        for service in list(self._held):
            await self._close(service)

    async def _close(self, service: Service) -> None:
        stack = self._held[service]
        await service.idle()
        if self._held.pop(service, None) is not None:
            await stack.aclose()

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """One event of ASGI's: the start, a request, or the end."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # a web socket: nothing here speaks it
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.reload()
        except LlmctlError as error:
            await send({"type": "lifespan.startup.failed", "message": error.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        service, started = self.service, time.monotonic()
        clock = service.run.clock
        exchange = Exchange(scope, receive, send, ulid(clock))
        request = _Request(self, service, exchange)
        service.enter()
        why = ""
        try:
            try:
                await request.serve(self._pages)
            except Refused as error:
                why = one_line(error.message)
                await request.fail(error.failure)
            except CallError as error:
                why = one_line(error.message)
                await request.fail(failure_of(error, clock.wall()))
            except LlmctlError as error:
                why = one_line(error.message)
                if isinstance(error, DiskError):
                    service.broken = why
                sentence = "the gateway cannot serve this now: tell whoever runs it"
                await request.fail(Failure(503, "internal", sentence, _REOPEN))
            except Disconnected:
                why = "the caller hung up"
            except Exception as error:  # noqa: BLE001 - one request must not end the others
                why = f"a mistake in llmctl, {type(error).__name__}\n{traceback.format_exc()}"
                await request.fail(Failure(500, "internal", "a mistake in the gateway"))
        finally:
            service.leave()
            self._seen(exchange.path, exchange.status, time.monotonic() - started)
            self._log(exchange, request.address, request.caller, why)
            if service.broken and self._reopening is None and not self.draining:
                self._reopening = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        """Open what has broken, until it can be used again."""
        while True:
            try:
                await self.reload()
                break
            except LlmctlError as error:
                warn(f"no call is served, none could be put on record: {error.message}")
            await asyncio.sleep(_REOPEN)
        self._reopening = None


class _Request:
    """One request on its way through the gateway; `address` is the client's."""

    def __init__(self, app: App, service: Service, exchange: Exchange) -> None:
        self._app, self._service, self._exchange = app, service, exchange
        self.address = exchange.peer[0]
        self.caller: Caller | None = None

    async def serve(self, pages: Page) -> None:
        """Let in, and hand on. Raises `Refused`, `LlmctlError` and `Disconnected`."""
        exchange = self._exchange
        path, method = exchange.path, exchange.method
        if path in OPEN:
            await self._page(pages)
            return
        self._check_address()
        if await self._is_preflight():
            return
        self.caller = caller = await self._authenticated()
        dialect = DIALECTS.get(path)
        if path == COUNT:
            dialect = _MESSAGES
        if dialect is not None:
            if method != "POST":
                exchange.more["allow"] = "POST"
                raise refused(405, "invalid_request", f"{path} takes POST")
            call = Call(exchange, self._service, caller, dialect)
            await (call.count() if path == COUNT else call.answer())
        elif path == MODELS or path.startswith(f"{MODELS}/"):
            await self._models(caller, path.removeprefix(MODELS).removeprefix("/"))
        else:
            await self._page(pages)

    async def fail(self, failure: Failure) -> None:
        """Reply with the error in the caller's dialect, where the reply has not begun."""
        exchange = self._exchange
        if exchange.status:
            if not exchange.replied:
                await exchange.write(b"", last=True)
            return
        headers = {}
        if failure.retry_after is not None:
            headers["retry-after"] = f"{max(1, round(failure.retry_after))}"
        if failure.status == 401:
            headers["www-authenticate"] = "Bearer"
        await exchange.reply(failure.status, self._dialect().failure(failure), headers)

    def _dialect(self) -> Dialect:
        """The language in which the caller hears of errors."""
        path, headers = self._exchange.path, self._exchange.headers
        if path.startswith(f"/v1{_MESSAGES.path}"):
            return _MESSAGES
        if path.startswith(MODELS) and "anthropic-version" in headers:
            return _MESSAGES
        return DIALECTS.get(path, _CHAT)

    def _check_address(self) -> None:
        """Raises `Refused` (403) for an address that may not connect."""
        exchange, ip = self._exchange, self._service.serve.ip
        client = network.client_address(
            exchange.peer[0], exchange.headers.get("x-forwarded-for"), ip.trusted_proxies
        )
        self.address = "unknown" if client is None else str(client)
        if not network.is_allowed(client, ip.allow):
            why = f"{self.address} is not among `serve: ip: allow:`"
            raise refused(403, "permission", _KEEP_OUT, reason=why)

    async def _is_preflight(self) -> bool:
        """Whether a browser asked what its page may do, and has been told. Raises `Refused` for a
        page that may do nothing."""
        exchange, origins = self._exchange, self._service.serve.cors
        exchange.more.update(network.cors_headers(exchange.headers, origins))
        if exchange.method != "OPTIONS":
            return False
        told = network.preflight(exchange.headers, origins)
        if told is None:
            why = "the page's origin is not among `serve: cors:`"
            raise refused(403, "permission", _KEEP_OUT, reason=why)
        await exchange.reply(204, b"", told)
        return True

    async def _authenticated(self) -> Caller:
        """Raises `Refused` (401, 403)."""
        exchange, authenticate = self._exchange, self._service.authenticate
        if authenticate is None:
            self._check_own_user()
            return anonymous(user_name())
        try:
            return await authenticate(exchange.headers)
        except Unauthenticated as error:
            raise refused(401, "auth", error.message, reason=error.reason) from None
        except AuthUnavailable as error:
            wait = error.retry_after
            raise refused(
                503, "server", error.message, retry_after=wait, reason=error.reason
            ) from None

    def _check_own_user(self) -> None:
        """Raises `Refused` (403) for another user of this machine, and for a web page."""
        exchange = self._exchange
        if network.is_foreign_page(exchange.headers, self._service.serve.cors):
            raise refused(403, "permission", _KEEP_OUT, reason="a web page, or a foreign Host")
        if not self._app.same_user(exchange.peer, exchange.server):
            why = "another user of this machine: make tokens (`llmctl tokens create NAME`)"
            raise refused(403, "permission", _KEEP_OUT, reason=why)

    async def _models(self, caller: Caller, name: str) -> None:
        """The list of models that the caller may ask for, or one of them."""
        if self._exchange.method not in ("GET", "HEAD"):
            self._exchange.more["allow"] = "GET"
            raise refused(405, "invalid_request", f"{MODELS} takes GET")
        offered = [self._service.offer(caller, name)] if name else self._service.offered(caller)
        if "anthropic-version" in self._exchange.headers:
            infos = [ModelInfo(offer.name) for offer in offered]
            body = messages.model_body(infos[0]) if name else messages.models_body(infos)
        else:
            entries = [ModelEntry(offer.name, offer.profile) for offer in offered]
            body = chat.model_body(entries[0]) if name else chat.models_body(entries)
        await self._exchange.reply(200, body)

    async def _page(self, pages: Page) -> None:
        """Hand the request to the pages, which find the caller and the application in its scope."""
        exchange = self._exchange
        scope = {**exchange.scope, "llmctl.app": self._app, "llmctl.caller": self.caller}

        async def send(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                more = [
                    (n.encode(), v.encode("latin-1", "replace")) for n, v in exchange.more.items()
                ]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await exchange.send(message)

        await pages(scope, exchange.receive, send)
        exchange.replied = True
