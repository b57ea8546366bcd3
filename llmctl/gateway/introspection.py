"""Callers by OAuth 2.0 access token: the authorisation server is asked (RFC 7662)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode

from llmctl.clock import Clock
from llmctl.config.settings import IntrospectionSettings
from llmctl.errors import CallError, ConfigError
from llmctl.gateway.callers import (
    AuthUnavailable,
    Caller,
    Unauthenticated,
    Verdict,
    Verdicts,
    caller_of,
    digest_of,
)
from llmctl.http import HttpClient, build
from llmctl.redact import remember

_LARGEST = 256 * 1024  # bytes of an answer


class Introspector:
    """A `callers.Verifier`. What the server said, good or bad, holds for the settings' `cache`
    seconds, but not longer than the token. It is asked once for any number of calls that wait.

    Raises `ConfigError` where the client's secret is not set.
    """

    def __init__(
        self,
        settings: IntrospectionSettings,
        environ: Mapping[str, str],
        client: HttpClient,
        clock: Clock,
    ) -> None:
        variable = settings.client_secret.env
        secret = environ.get(variable, "").rstrip("\r\n")
        if not secret:
            raise ConfigError(
                f"serve.introspection.client_secret: {variable} is not set; set it to the secret "
                f"of the client {settings.client_id}"
            )
        remember(secret)
        self._settings, self._client, self._clock = settings, client, clock
        login = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}".encode()
        self._headers = {
            "accept": "application/json",
            "authorization": f"Basic {base64.b64encode(login).decode()}",
            "content-type": "application/x-www-form-urlencoded",
        }
        self._verdicts = Verdicts(clock)
        self._asking: dict[bytes, asyncio.Task[Verdict]] = {}

    async def __call__(self, credential: str) -> Caller:
        """The caller. Raises `Unauthenticated` and, when the server does not say, which lets
        nobody in, `AuthUnavailable`."""
        digest = digest_of(credential)
        verdict = self._verdicts.get(digest)
        if verdict is None:
            verdict = await asyncio.shield(self._ask(credential, digest))
        if isinstance(verdict, str):
            raise Unauthenticated(verdict)
        return verdict

    def _ask(self, credential: str, digest: bytes) -> asyncio.Task[Verdict]:
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._asked(credential, digest))
            self._asking[digest] = task

            def end(ended: asyncio.Task[Verdict]) -> None:
                del self._asking[digest]
                if not ended.cancelled():
                    ended.exception()  # seen, also where all who waited have gone

            task.add_done_callback(end)
        return task

    async def _asked(self, credential: str, digest: bytes) -> Verdict:
        said = await self._said(credential)
        now = self._clock.wall()
        try:
            verdict: Verdict = self._caller(said, now)
        except Unauthenticated as error:
            verdict = error.reason
        expires = said.get("exp")
        ends = expires if isinstance(verdict, Caller) and expires is not None else float("inf")
        self._verdicts.put(digest, verdict, min(now + self._settings.cache, ends))
        return verdict

    def _caller(self, said: Mapping[str, Any], now: float) -> Caller:
        """The caller that the server's answer describes. Raises `Unauthenticated`."""
        settings = self._settings
        if said.get("active") is not True:
            raise Unauthenticated("an access token that is not active")
        expires, begins = said.get("exp"), said.get("nbf")
        if not all(each is None or type(each) in {int, float} for each in (expires, begins)):
            raise Unauthenticated("an access token whose dates are no numbers")
        if (expires is not None and expires <= now) or (begins is not None and begins > now):
            raise Unauthenticated("an access token that is not valid now")
        if settings.issuer is not None and said.get("iss") != settings.issuer:
            raise Unauthenticated("an access token of another issuer")
        audience = said.get("aud")
        meant = audience if isinstance(audience, list) else [audience]
        if settings.audience and not any(each in meant for each in settings.audience):
            raise Unauthenticated("an access token for another audience")
        return caller_of(said, settings.claims)

    async def _said(self, credential: str) -> dict[str, Any]:
        """What the server says about the token. Raises `AuthUnavailable`."""
        form = urlencode({"token": credential, "token_type_hint": "access_token"}).encode()
        where = f"serve.introspection: {self._settings.url}"
        try:
            request = build("POST", self._settings.url, self._headers, form)
            async with self._client.send(request, connect=3, first_byte=5, total=8) as reply:
                if reply.status != 200:
                    raise AuthUnavailable(f"{where} answered with HTTP {reply.status}")
                said = json.loads(await reply.read(_LARGEST))
        except CallError as error:
            raise AuthUnavailable(f"{where}: {error.message.partition(';')[0]}") from error
        except (ValueError, RecursionError) as error:
            raise AuthUnavailable(f"{where} answered with something else than JSON") from error
        if not isinstance(said, dict):
            raise AuthUnavailable(f"{where} answered with something else than an object")
        return said
