"""A call through the gateway: a caller's body becomes a request, its answer the caller's reply."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson
from msgspec.structs import replace

from llmctl.config.data_rules import TAGS
from llmctl.config.settings import Profile
from llmctl.errors import CallError, DataRefused, InvalidRequest
from llmctl.gateway import bounds, caps
from llmctl.gateway.body import EMBEDDINGS, Body
from llmctl.gateway.callers import Caller
from llmctl.gateway.caps import Scope, Spending
from llmctl.gateway.dialect import Asked, Dialect
from llmctl.gateway.exchange import EVENTS, JSON_TYPE, Disconnected, Exchange
from llmctl.gateway.failures import failure_of, refused
from llmctl.gateway.messages import count_body, read_count
from llmctl.gateway.screen import screened
from llmctl.gateway.service import Offer, Service, Way, place
from llmctl.guards.masking import refuse
from llmctl.http import CancelledAfterSending
from llmctl.observers.otel import traceparent
from llmctl.protocols import Emit, Handler
from llmctl.providers.models_api import count_tokens
from llmctl.providers.registry import speaks
from llmctl.request import Question, compose
from llmctl.types import JSON, Answer, Request, StreamChunk, Usage, fingerprint

T = TypeVar("T")


class Call:
    """One call, of `caller`, over the `service` that was current when it came."""

    def __init__(
        self, exchange: Exchange, service: Service, caller: Caller, dialect: Dialect
    ) -> None:
        self._exchange, self._service, self._caller = exchange, service, caller
        self._dialect, self._clock = dialect, service.run.clock

    async def answer(self) -> None:
        """Read the question, ask, and reply. Raises `Refused`, `CallError` and the errors of
        opening a profile while nothing of the reply is sent; `Disconnected`."""
        traceparent.set(self._exchange.headers.get("traceparent", ""))
        asked = await self._read()
        offer = self._service.offer(self._caller, asked.model)
        way = await self._service.way(offer, self._dialect.path)
        scopes = self._service.scopes(self._caller)
        with self._service.counted(self._exchange.own_id, scopes):
            request = self._composed(asked, offer, way, scopes)
            self._queue(way, request)
            tokens = await self._tokens(way, request, scopes)
            spent = await self._spend(scopes, tokens)
            handler = partial(self._asked, way.handler, spent, tokens)
            work = self._streamed if asked.stream else self._whole
            await unless_gone(self._exchange, work(asked, handler, request))

    async def _asked(
        self,
        handler: Handler,
        spent: Sequence[Spending],
        tokens: int,
        request: Request,
        emit: Emit | None,
    ) -> Answer:
        """Ask; caps of tokens, of which so many are `spent`, get back what was not used."""
        used = 0
        try:
            answer = await handler(request, emit)
            if answer.cache in {"miss", "bypass"}:
                used = answer.usage.input + answer.usage.output
        except CallError as error:
            billed = error.usage or Usage()
            used = tokens if error.ambiguous else billed.input + billed.output
            raise
        except CancelledAfterSending:
            used = tokens
            raise
        finally:
            if more := caps.corrected(spent, tokens, used):
                await self._service.run.shared.limits.spend(more)
        return answer

    async def count(self) -> None:
        """Reply with the tokens of a question of Anthropic's dialect: the provider's own count
        where it speaks that, else ours. It counts towards caps of requests."""
        body = await self._json()
        asked = read_count(body, self._exchange.headers)
        offer = self._service.offer(self._caller, asked.model)
        way = await self._service.way(offer, self._dialect.path)
        scopes = self._service.scopes(self._caller)
        await self._spend(scopes, 0)
        request = self._composed(asked, offer, way, scopes)
        if (masker := way.runner.masker) is not None:
            request = await asyncio.to_thread(masker, request)
            refuse(request)
        way.runner.placed(request)
        tokens = None
        if Body(asked, self._dialect, way.profile).passes:
            tokens = await count_tokens(way.runner.routes[0].endpoint, request)
        if tokens is None:
            tokens = (await self._service.run.counter.count_async(request)).tokens
        await self._exchange.reply(200, count_body(tokens))

    async def _json(self) -> JSON:
        """The body, bounded and screened."""
        limits = self._service.serve.limits
        # Of other types a web page may send a body without being asked for a preflight.
        kind = self._exchange.headers.get("content-type", "").partition(";")[0]
        if kind.strip().lower() != JSON_TYPE:
            raise refused(
                415,
                "invalid_request",
                "the body must be JSON: send `content-type: application/json`",
            )
        raw = await self._exchange.body(limits.body)
        bounds.check_depth(raw, limits)
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"the body is no JSON ({error})", sent=False) from None
        if not isinstance(body, dict):
            raise InvalidRequest("the body must be a JSON object", sent=False)
        bounds.check(body, limits)
        found, _ = screened(body, self._service.serve.screen)
        return found

    async def _read(self) -> Asked:
        return self._dialect.read(await self._json(), self._exchange.headers)

    def _composed(self, asked: Asked, offer: Offer, way: Way, scopes: Sequence[Scope]) -> Request:
        """The request, with what its profile and the gateway say where the body does not."""
        masked = way.runner.masker is not None
        body = Body(asked, self._dialect, way.profile, masked)
        dialect, caller = self._dialect, self._caller
        codec = way.runner.routes[0].endpoint.codec
        tags = {"token": caller.token, "team": caller.team, "organisation": caller.organisation}
        tags |= _data_tags(self._exchange.headers, way.profile)
        made = compose(
            Question(
                messages=(),
                raw=body.raw(offer.model, [route.profile for route in way.runner.others]),
                tags={name: value for name, value in tags.items() if value},
            ),
            way.profile,
            id=self._exchange.own_id,
            cache_mode=body.cache_mode(self._exchange.headers.get("cache-control", "")),
            call_id=way.runner.call_id(),
        )
        made = replace(made, user=caller.user, weight=caller.weight)
        assert made.raw is not None
        if dialect.path == EMBEDDINGS:
            return made
        most = [self._service.serve.limits.max_tokens]
        if caps.counts_tokens(scopes) or way.runner.budget.windows_of(made):
            # Something must bound what it may use.
            most.append(way.profile.default_max_tokens)
        complete = body.completed(made.raw, made.target, codec, [m for m in most if m is not None])
        if complete is made.raw:
            return made
        made = replace(made, raw=complete)
        return replace(made, fingerprint=fingerprint(made))

    def _queue(self, way: Way, request: Request) -> None:
        """Tell the caller its place, where it has to wait. Raises `Refused` where too many do."""
        limits = way.runner.routes[0].limits.of(request.target.model)
        position, seconds = limits.queued(request.user, request.weight)
        if not position:
            return
        where = place(position, seconds)
        self._exchange.more["x-llmctl-queue"] = where
        if position > self._service.serve.limits.queue:
            raise refused(
                429, "rate_limited", f"too many calls wait already ({where})", retry_after=seconds
            )

    async def _tokens(self, way: Way, request: Request, scopes: Sequence[Scope]) -> int:
        """The most tokens that the call may use, where a cap counts them."""
        if not caps.counts_tokens(scopes):
            return 0
        counter = self._service.run.counter
        counted = await counter.count_async(request)
        output = counter.output_bound(request, counted)
        return counted.tokens + (way.profile.default_max_tokens if output is None else output)

    async def _spend(self, scopes: Sequence[Scope], tokens: int) -> list[Spending]:
        """Spend of the caps of requests and tokens. Raises `Refused` (429; 400 for a call that no
        cap would ever let through), and nothing is spent."""
        now = self._clock.wall()
        spent = caps.spendings(scopes, now, tokens)
        if not spent:
            return spent
        denied = await self._service.run.shared.limits.spend([one.quota for one in spent])
        if denied is None:
            return spent
        one = next(one for one in spent if one.quota == denied)
        cap = f"{one.rate.amount:,} {one.what} a {one.rate.period} ({one.scope.name})"
        if one.quota.units > one.rate.amount:
            raise refused(
                400,
                "rate_limited",
                f"the call may use {one.quota.units:,} {one.what}, more than the cap of {cap}: "
                "lower max_tokens, or send less",
            )
        wait = max(1.0, one.ends - now)
        raise refused(
            429,
            "rate_limited",
            f"the cap of {cap} is used up: it begins anew in {wait:.0f} s",
            retry_after=wait,
        )

    async def _whole(self, asked: Asked, handler: Handler, request: Request) -> None:
        answer = await handler(request, None)
        target = answer.target
        own = speaks(target.adapter, target.api, self._dialect.path)
        if own and answer.body is not None:
            body = answer.body
        else:
            body = self._dialect.answer(asked, answer, request.call_id)
        await self._exchange.reply(200, body, self._told(request, answer))

    async def _streamed(self, asked: Asked, handler: Handler, request: Request) -> None:
        """Relay the pieces as they come; the reply begins with the first one, so that an error
        before it has a status."""
        exchange = self._exchange
        pieces: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
        writer = self._dialect.writer(asked, request.call_id)

        async def ask() -> Answer:
            try:
                return await handler(request, pieces.put_nowait)
            finally:
                pieces.put_nowait(None)

        async def write(text: bytes, *, last: bool = False) -> None:
            if not exchange.status:
                await exchange.start(200, {**EVENTS, **self._told(request, None)})
            if text or last:
                await exchange.write(text, last=last)

        call = asyncio.ensure_future(ask())
        try:
            while (piece := await pieces.get()) is not None:
                exchange.more |= _degraded(piece.degraded)
                if text := writer.piece(piece):
                    await write(text)
            answer = await call
            await write(writer.end(answer), last=True)
        except CallError as error:
            if exchange.status:
                failure = failure_of(error, self._clock.wall())
                await write(writer.error(failure), last=True)
            raise
        finally:
            if not call.done():
                call.cancel()
                await asyncio.wait((call,))

    def _told(self, request: Request, answer: Answer | None) -> dict[str, str]:
        """Headers that tell of the call; of a stream only what is known before its end."""
        said = {"x-llmctl-call": request.call_id}
        if answer is not None:
            said["x-llmctl-cache"] = answer.cache
            said |= _degraded(answer.degraded)
            if answer.age is not None:
                said["age"] = f"{answer.age:.0f}"
            said["x-llmctl-profile"] = answer.target.profile
        return said


def _degraded(mark: str) -> dict[str, str]:
    """The header that says that it is no new answer of the provider's."""
    return {"x-llmctl-degraded": mark} if mark else {}


def _data_tags(headers: Mapping[str, str], profile: Profile) -> dict[str, str]:
    """What the caller asks of the place that its data goes to, as tags; each a header such as
    `x-llmctl-data-class`. Raises `DataRefused` for what the profile asks otherwise."""
    found = {}
    for tag in TAGS:
        if value := headers.get(f"x-llmctl-{tag.replace('.', '-')}", "").strip():
            if profile.tags.get(tag, value) != value:
                why = f"not sent: the profile {profile.name} asks for another {tag}"
                raise DataRefused(why, tag)
            found[tag] = value
    return found


async def unless_gone(exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Raises `Disconnected` when the caller hangs up before: the work is
    cancelled, and puts on record what it may have cost."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(exchange.gone())
    gone.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if gone.done():
            raise Disconnected from None
        raise
    finally:
        gone.cancel()
