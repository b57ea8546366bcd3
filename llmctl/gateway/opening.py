"""Opening what a worker serves, by the configuration as it is now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from llmctl.clock import Clock, SystemClock
from llmctl.config.settings import Settings
from llmctl.errors import UsageError
from llmctl.gateway.callers import Authenticator
from llmctl.gateway.introspection import Introspector
from llmctl.gateway.jwt_auth import jwt_verifier
from llmctl.gateway.listener import tls_context
from llmctl.gateway.log import log, warn
from llmctl.gateway.server_options import ServerOptions
from llmctl.gateway.service import Service, open_service
from llmctl.http import HttpClient
from llmctl.storage.virtual_keys import FILE, TokenStore
from llmctl.wiring import Surroundings


def has_authentication(settings: Settings) -> bool:
    """Whether callers have a way to say who they are: a token that is in force, or one of
    somebody else's. Raises as `TokenStore` does."""
    serve = settings.serve
    if serve.jwt is not None or serve.introspection is not None:
        return True
    tokens = TokenStore(settings.folders.state / FILE, SystemClock())
    try:
        return tokens.any_active()
    finally:
        tokens.close()


def check_reachable(settings: Settings, *, loopback: bool) -> bool:
    """Whether callers are asked who they are, as `has_authentication`. Raises `UsageError` where
    strangers would reach a gateway that asks nobody."""
    asked = has_authentication(settings)
    if not loopback and not asked:
        raise UsageError(
            f"{settings.serve.host} can be reached from other machines, and nobody would have to "
            "say who they are: make a token first (`llmctl tokens create NAME`), configure `jwt:` "
            "or `introspection:` under `serve:`, or serve this machine alone (--host 127.0.0.1)"
        )
    return asked


@asynccontextmanager
async def opened(options: ServerOptions, *, loopback: bool) -> AsyncIterator[Service]:
    """The service of the configuration as it is now. `loopback`: only this machine reaches it.
    Raises `ConfigError`, `UsageError`, `SetupError` and `DiskError`."""
    settings, clock = options.settings(), SystemClock()
    asked = check_reachable(settings, loopback=loopback)
    tls_context(settings.serve.tls)
    around = Surroundings(
        settings.folders,
        options.environ,
        clock,
        log,
        warn,
        settings.audit,
        settings.telemetry,
        settings.encrypt,
        settings.profiles,
        settings.coordinator,
    )
    async with AsyncExitStack() as stack:
        authenticate: Authenticator | None = None
        if asked:
            authenticate = _authenticator(settings, options.environ, clock, stack)
        yield await stack.enter_async_context(open_service(settings, around, authenticate))


def _authenticator(
    settings: Settings, environ: Mapping[str, str], clock: Clock, stack: AsyncExitStack
) -> Authenticator:
    """Finds callers by all that the settings name; `stack` closes what it opens."""
    serve = settings.serve
    tokens = TokenStore(settings.folders.state / FILE, clock)
    stack.callback(tokens.close)
    client = HttpClient()
    stack.push_async_callback(client.close)
    jwt = introspection = None
    if serve.jwt is not None:
        jwt = jwt_verifier(serve.jwt, environ, client, clock, warn)
    if serve.introspection is not None:
        introspection = Introspector(serve.introspection, environ, client, clock)
    return Authenticator(tokens, clock, jwt=jwt, introspection=introspection)
