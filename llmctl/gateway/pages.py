"""Pages of the gateway: all that is no call.

The application has let in whoever asks: `scope["llmctl.app"]` is it, `scope["llmctl.caller"]` the
caller (None at `/healthz` and `/readyz`, which anybody may ask).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import llmctl
from llmctl.gateway.log import warn
from llmctl.gateway.metrics import Metrics
from llmctl.gateway.openapi import document
from llmctl.reports import page
from llmctl.reports.metrics import CONTENT_TYPE
from llmctl.reports.periods import since
from llmctl.storage.ledger_queries import LedgerPeek, Reading

if TYPE_CHECKING:
    from llmctl.gateway.app import App
    from llmctl.gateway.callers import Caller
    from llmctl.gateway.service import Service

_FRESH = 15.0  # seconds that the report may be old: a large ledger takes some to add up
_REPORT_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "vary": "accept",
    "content-security-policy": f"{page.policy()}; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_LINKS = {
    "health": "/healthz",
    "ready": "/readyz",
    "usage": "/usage",
    "metrics": "/metrics",
    "openapi": "/openapi.json",
    "models": "/v1/models",
    "chat_completions": "/v1/chat/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
    "count_tokens": "/v1/messages/count_tokens",
}


def pages(metrics: Metrics) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
    """The pages as an ASGI application, which goes by the path alone, never by an address made of
    the `Host` header: it sends nobody elsewhere. What a page raises is the caller's to tell."""

    async def show_metrics(request: Request) -> Response:
        if not _caller(request).admin:
            raise HTTPException(403, "the metrics are for tokens made with --admin")
        waiting = _app(request).service.waiting()
        text = await asyncio.to_thread(metrics.text, waiting)
        return Response(text, media_type=CONTENT_TYPE)

    routes: Mapping[str, Callable[[Request], Awaitable[Response]]] = {
        "/": _Root(),
        "/healthz": _health,
        "/readyz": _ready,
        "/usage": _usage,
        "/openapi.json": _openapi,
        "/metrics": show_metrics,
    }

    async def answer(request: Request) -> Response:
        page = routes.get(request.scope["path"])
        if page is None:
            raise HTTPException(404)
        if request.method not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"allow": "GET"})
        return await page(request)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await answer(Request(scope, receive))
        except HTTPException as error:
            reply = _refusal(error)
        await reply(scope, receive, send)

    return app


class _Root:
    """The page at `/`: that of `llmctl report`, over the last 30 days in UTC, for who accepts HTML,
    and the links for others. The report is made in a thread, at most once in `_FRESH` seconds."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._text = ""
        self._made: tuple[Service, float] | None = None

    async def __call__(self, request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            about = {"name": "llmctl", "version": llmctl.__version__, "links": _LINKS}
            return _json(about, headers={"vary": "accept"})
        if not _caller(request).admin:
            raise HTTPException(403, "the report is for tokens made with --admin; yours is /usage")
        return Response(await self._fresh(_app(request).service), headers=_REPORT_HEADERS)

    async def _fresh(self, service: Service) -> str:
        async with self._lock:
            now = time.monotonic()
            if self._made is None or self._made[0] is not service or now >= self._made[1] + _FRESH:
                self._text = await asyncio.to_thread(_report, service)
                self._made = service, now
            return self._text


def _report(service: Service) -> str:
    settings, now = service.settings, round(service.run.clock.wall() * 1000)

    def read(connection: sqlite3.Connection) -> page.PageData:
        connection.execute("BEGIN")  # all of it at one moment
        return page.read(Reading(connection), since("30d", now, UTC), UTC, now, settings.budgets)

    with LedgerPeek(settings.folders.state / "ledger.db") as ledger:
        data = ledger.ask(read)
    if data is None:
        raise HTTPException(503, "the ledger cannot be read at the moment: try again")
    return page.html(data)


def _app(request: Request) -> App:
    app: App = request.scope["llmctl.app"]
    return app


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope["llmctl.caller"]
    return caller


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = orjson.dumps(value, default=float)
    return Response(text, status, headers, media_type="application/json")


def _refusal(error: HTTPException) -> Response:
    """An error in the shape of OpenAI's, as callers at no dialect's path hear of all of them."""
    kinds = {403: "permission", 404: "not_found", 405: "invalid_request", 503: "server"}
    said = {404: "there is no such page; / names those that there are", 405: "pages take GET"}
    message = said.get(error.status_code, error.detail)
    kind = kinds.get(error.status_code, "invalid_request")
    return _json(
        {"error": {"message": message, "type": kind, "param": None, "code": kind}},
        error.status_code,
        error.headers,
    )


async def _health(_: Request) -> Response:
    """The process lives."""
    return _json({"status": "ok"})


async def _ready(request: Request) -> Response:
    """Whether calls can be served now. Anybody may ask, a web page too: why not is in the log."""
    app = _app(request)
    if app.draining:
        return _json({"status": "draining"}, 503)
    if reasons := app.service.ready():
        warn(f"not ready: {'; '.join(reasons)}")
        return _json({"status": "not ready"}, 503)
    return _json({"status": "ready"})


async def _usage(request: Request) -> Response:
    """What the caller has used; an admin sees everybody's."""
    return _json(await _app(request).service.usage(_caller(request)))


async def _openapi(_: Request) -> Response:
    return _json(document())
