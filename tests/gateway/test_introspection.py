"""Callers by access token: the authorisation server decides, and its silence lets nobody in."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import pytest
from msgspec.structs import replace

from llmctl.config.settings import IntrospectionSettings, Secret
from llmctl.errors import ConfigError
from llmctl.gateway.callers import AuthUnavailable, Caller, Unauthenticated
from llmctl.gateway.introspection import Introspector
from llmctl.http import HttpClient
from tests.conformance.http_peer import driven
from tests.gateway.issuer import Issuer
from tests.support import FakeClock

SETTINGS = IntrospectionSettings("http://127.0.0.1:1/", "gate way", Secret("CLIENT_SECRET"))
ENVIRON = {"CLIENT_SECRET": "s:3cret/4711\n"}


class Desk:
    """An introspector, the server that it asks, and the clock."""

    def __init__(self, settings: IntrospectionSettings, issuer: Issuer, client: HttpClient) -> None:
        self.clock, self.issuer = FakeClock(), issuer
        settings = replace(settings, url=issuer.url)
        self.verify = Introspector(settings, ENVIRON, client, self.clock)

    def says(self, **said: Any) -> None:
        """What the server answers from now on."""
        self.issuer.body = json.dumps(said).encode()

    async def refusal(self, token: str = "opaque") -> str:
        """The reason why nobody is let in."""
        with pytest.raises(Unauthenticated) as caught:
            await self.verify(token)
        return caught.value.reason


@asynccontextmanager
async def desk(settings: IntrospectionSettings = SETTINGS) -> AsyncIterator[Desk]:
    """All of it, while it is open; the server knows `ann`."""
    issuer = Issuer()
    async with issuer.serving() as client:
        at = Desk(settings, issuer, client)
        at.says(active=True, sub="ann")
        yield at


@driven
async def test_the_server_is_asked_as_the_standard_says() -> None:
    """A form by POST with the client's login; what it says of the token is the caller."""
    async with desk() as at:
        at.says(active=True, sub="ann", team="backend", profiles="fast claude", scope="x")
        token = "opaque&token=+x"
        assert await at.verify(token) == Caller(
            "ann", team="backend", profiles=frozenset({"fast", "claude"})
        )
        ((head, body),) = at.issuer.requests
        assert head.startswith("POST /v1 HTTP/1.1\r\n")
        assert "content-type: application/x-www-form-urlencoded" in head.lower()
        login = base64.b64encode(b"gate+way:s%3A3cret%2F4711").decode()
        assert f"basic {login}".lower() in head.lower()
        assert parse_qs(body.decode()) == {"token": [token], "token_type_hint": ["access_token"]}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"active": False}, "not active"),
        ({"sub": "ann"}, "not active"),
        ({"active": "true", "sub": "ann"}, "not active"),
        ({"active": 1, "sub": "ann"}, "not active"),
        ({"active": True}, "sub is missing"),
        ({"active": True, "sub": "ann", "exp": 1_799_999_999}, "not valid now"),
        ({"active": True, "sub": "ann", "nbf": 1_800_000_100}, "not valid now"),
        ({"active": True, "sub": "ann", "exp": "soon"}, "dates"),
        ({"active": True, "sub": "ann", "exp": True}, "dates"),
        ({"active": True, "sub": "ann", "budget": 5}, "budget"),
    ],
)
@driven
async def test_who_is_refused(said: dict[str, Any], reason: str) -> None:
    """Everybody who is not plainly active, and known, now."""
    async with desk() as at:
        at.says(**said)
        assert reason in await at.refusal()


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        ({"iss": "https://id.example", "aud": "llmctl"}, ""),
        ({"iss": "https://id.example", "aud": ["x", "other"]}, ""),
        ({"iss": "https://evil.example", "aud": "llmctl"}, "issuer"),
        ({"aud": "llmctl"}, "issuer"),
        ({"iss": "https://id.example", "aud": "llmctl2"}, "audience"),
        ({"iss": "https://id.example", "aud": {"llmctl": 1}}, "audience"),
        ({"iss": "https://id.example"}, "audience"),
    ],
)
@driven
async def test_issuer_and_audience_where_they_are_set(said: dict[str, Any], refused: str) -> None:
    """A token that was made for another service is good there, not here."""
    settings = replace(SETTINGS, issuer="https://id.example", audience=("llmctl", "other"))
    async with desk(settings) as at:
        at.says(active=True, sub="ann", **said)
        if refused:
            assert refused in await at.refusal()
        else:
            assert await at.verify("opaque") == Caller("ann")


@driven
async def test_an_answer_holds_for_a_while() -> None:
    """Good and bad ones for `cache` seconds; a good one not longer than its token, whose end is
    the caller's even where nobody withdraws it."""
    async with desk() as at:
        at.says(active=True, sub="ann", exp=at.clock.wall() + 40)
        await at.verify("good")
        at.says(active=False)
        await at.refusal("bad")
        at.clock.now += 29
        assert await at.verify("good") == Caller("ann")
        await at.refusal("bad")
        assert len(at.issuer.requests) == 2
        at.says(active=True, sub="ann", exp=at.clock.wall() + 11)
        at.clock.now += 1
        assert await at.verify("bad") == Caller("ann")
        await at.verify("good")
        assert len(at.issuer.requests) == 4
        at.clock.now += 10
        assert "not valid now" in await at.refusal("good")


@driven
async def test_many_calls_ask_once() -> None:
    """Also where the first of them hangs up; without a cache each moment asks anew."""
    async with desk(replace(SETTINGS, cache=0.0)) as at:
        calls = [asyncio.ensure_future(at.verify("opaque")) for _ in range(20)]
        await asyncio.sleep(0)
        calls[0].cancel()
        assert set(await asyncio.gather(*calls[1:])) == {Caller("ann")}
        assert len(at.issuer.requests) == 1
        await at.verify("opaque")
        assert len(at.issuer.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b'{"active": true, "sub": "ann"}', "HTTP 500"),
        (401, b"{}", "HTTP 401"),
        (302, b"", "HTTP 302"),
        (200, b"<html>", "something else than JSON"),
        (200, b"[" * 100_000, "something else than JSON"),
        (200, b'["active"]', "something else than an object"),
    ],
)
@driven
async def test_a_server_that_does_not_say_lets_nobody_in(
    status: int, body: bytes, said: str
) -> None:
    """That is not the caller's fault, nor remembered; the log says where to look."""
    async with desk() as at:
        at.issuer.status, at.issuer.body = status, body
        with pytest.raises(AuthUnavailable, match="try again") as caught:
            await at.verify("opaque")
        assert said in caught.value.reason
        assert at.issuer.url in caught.value.reason
        assert "opaque" not in caught.value.reason
        at.issuer.status = 200
        at.says(active=True, sub="ann")
        assert await at.verify("opaque") == Caller("ann")


@driven
async def test_a_server_that_is_down_lets_nobody_in() -> None:
    """Nor does a call that nobody waits for leave a trace."""
    client = HttpClient()
    verify = Introspector(SETTINGS, ENVIRON, client, FakeClock())
    waiting = asyncio.ensure_future(verify("other"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(AuthUnavailable) as caught:
        await verify("opaque")
    assert "no connection to 127.0.0.1:1" in caught.value.reason
    await asyncio.gather(*verify._asking.values(), return_exceptions=True)
    await client.close()


def test_a_secret_that_is_not_set() -> None:
    """Is a mistake of the configuration, which names the variable."""
    with pytest.raises(ConfigError, match="CLIENT_SECRET is not set"):
        Introspector(SETTINGS, {}, HttpClient(), FakeClock())
