"""Wiring: a profile → its endpoint, limits, circuit breaker and key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Folders, Profile
from llmctl.guards.circuit_breaker import Circuit, ProviderHealth
from llmctl.guards.context_window import WindowCheck
from llmctl.guards.rate_limit import ProviderLimits
from llmctl.guards.retry import RetryBudget
from llmctl.http import HttpClient
from llmctl.keys.keyring_store import stored_slots
from llmctl.keys.resolver import KeyResolver, RotatingKey
from llmctl.protocols import Auth, RateHeaders, SharedLimits
from llmctl.providers.endpoint import Endpoint, KeyAuth
from llmctl.providers.registry import LOCAL, codec
from llmctl.shutdown import Stop
from llmctl.tokens import Counter, max_output
from llmctl.types import Request, Usage


class Surroundings(Struct, frozen=True):
    """What opening a profile needs of the command that runs.

    Attributes:
        folders: where the program keeps things.
        environ: the environment's variables.
        clock: time.
        say: gets a sentence for the user.
        warn: gets a warning for the user.
        ask: gets a hidden answer from a person (the password of an encrypted keyring file), None
            where nobody can be asked.

    """

    folders: Folders
    environ: Mapping[str, str]
    clock: Clock
    say: Callable[[str], None]
    warn: Callable[[str], None]
    ask: Callable[[str], str] | None = None


class Route(Struct, frozen=True):
    """One profile's way to its provider, open."""

    profile: Profile
    limits: ProviderLimits
    health: ProviderHealth
    window: WindowCheck
    endpoint: Endpoint
    base_url: Callable[[], Awaitable[str]]
    key: RotatingKey | None
    counter: Counter

    @property
    def longest(self) -> float:
        """The longest that a call with these settings takes, in seconds, rate limits of our own
        aside."""
        profile = self.profile
        return profile.retry.attempts * (profile.timeout.total + profile.retry.max_wait)

    def retry_budget(self, *, patient: bool) -> RetryBudget:
        """How long a call is tried."""
        return RetryBudget(self.profile.retry, self.longest, patient=patient)

    async def admit(self, request: Request) -> Request:
        """The request as it may be sent: its provider is not down, it fits the model's window (cut
        if the profile wants that), and the local model's server is up.

        Raises `ProviderDown`, `SetupError` or `ContextTooLong`.
        """
        self.health.check()
        request = await self.window.fit(request)
        await self.base_url()
        return request

    def tokens(self, request: Request) -> int:
        """What the request will use at the most, as an estimate for the rate limits."""
        return self.counter.count(request).tokens + (max_output(request) or 0)


async def open_route(
    profile: Profile,
    around: Surroundings,
    stack: AsyncExitStack,
    counter: Counter,
    *,
    shared: SharedLimits,
    stop: Stop,
    patient: bool,
    many: bool,
) -> Route:
    """Open it; `stack` closes it. Nothing is sent, and no server is started.

    `shared` keeps the rate limits together with other processes; `patient` makes calls wait for a
    provider that is down, but not past `stop`; `many` chooses the transport for many calls at a
    time. Raises `NoKeyError` and `SetupError`.
    """
    clock = around.clock
    base_url, auth, key = await _open_address(profile, around, stack)
    # The limits are those of the place that the profile leads to.
    name = f"{profile.name} {profile.base_url}"
    limits = ProviderLimits(profile.limits, clock, shared, name, around.warn, stop)
    circuit = Circuit(profile.breaker)
    return Route(
        profile=profile,
        limits=limits,
        health=ProviderHealth(circuit, stop.clock(clock), profile.name, patient=patient),
        window=WindowCheck(counter, truncate=profile.on_overflow == "truncate"),
        endpoint=_endpoint(
            profile, base_url, auth, counter, clock, stack, limits.update_from_headers, many=many
        ),
        base_url=base_url,
        key=key,
        counter=counter,
    )


@asynccontextmanager
async def open_endpoint(
    profile: Profile,
    folders: Folders,
    environ: Mapping[str, str],
    clock: Clock,
    *,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    ask: Callable[[str], str] | None = None,
) -> AsyncIterator[Endpoint]:
    """The profile's endpoint alone, for questions that are no calls: no ledger, no cache.

    Arguments are those of `Surroundings`. Raises `NoKeyError` and `SetupError`.
    """
    around = Surroundings(folders, environ, clock, say, warn, ask)
    async with AsyncExitStack() as stack:
        base_url, auth, _ = await _open_address(profile, around, stack)
        yield _endpoint(
            profile, base_url, auth, Counter(), clock, stack, lambda _: None, many=False
        )


def estimate(counter: Counter, request: Request, text: str) -> Usage:
    """What a call used that nobody reported: the prompt, and the text that came back."""
    return Usage(
        input=counter.count(request).tokens,
        output=counter.count_text(request.target, text),
        estimated=True,
    )


def located(profile: Profile, folders: Folders) -> Profile:
    """The profile with an address that identifies what answers: the port of a local model is
    another one every time, its file is not. Raises `SetupError` when there is no such file."""
    if profile.provider != LOCAL:
        return profile
    path = _local_model(profile, folders)
    return replace(profile, base_url=f"local://model/{path.name}?size={path.stat().st_size}")


async def _open_address(
    profile: Profile, around: Surroundings, stack: AsyncExitStack
) -> tuple[Callable[[], Awaitable[str]], Auth, RotatingKey | None]:
    """The profile's base URL, how its requests are signed, and its key (None: a local model)."""
    headers = codec(profile.adapter, profile.api).auth
    if profile.provider == LOCAL:
        base_url, token = _local_server(profile, around, stack)
        return base_url, KeyAuth(headers, token), None
    rotating, url = await _open_key(profile, around), profile.url

    async def fixed_url() -> str:
        return url

    async def key() -> str | None:
        return rotating.value

    return fixed_url, KeyAuth(headers, key, profile.key_header), rotating


def _endpoint(
    profile: Profile,
    base_url: Callable[[], Awaitable[str]],
    auth: Auth,
    counter: Counter,
    clock: Clock,
    stack: AsyncExitStack,
    on_headers: Callable[[RateHeaders], None],
    *,
    many: bool,
) -> Endpoint:
    """The endpoint that speaks to the profile's provider; `stack` closes its connections."""
    client = HttpClient(many=many and profile.http != "standard")
    stack.push_async_callback(client.close)
    return Endpoint(
        codec=codec(profile.adapter, profile.api),
        http=client,
        base_url=base_url,
        auth=auth,
        timeouts=profile.timeout,
        clock=clock,
        estimate=partial(estimate, counter),
        heard=on_headers,
    )


async def _open_key(profile: Profile, around: Surroundings) -> RotatingKey:
    """The profile's key, found now. Raises `NoKeyError`."""
    stored = stored_slots(around.folders.state)
    resolver = KeyResolver(around.environ, stored=stored, ask=around.ask)
    found = await resolver.require(profile)
    if not found and (elsewhere := resolver.elsewhere(profile)):
        around.warn(
            f"the profile {profile.name} is called without a key: the stored key "
            f"{elsewhere[0].name} belongs to {elsewhere[0].where} and is sent nowhere else"
        )
    return RotatingKey(resolver, profile, found, around.warn)


def _local_model(profile: Profile, folders: Folders) -> Path:
    from llmctl.providers.local_model_files import model_file

    return model_file(profile, folders)


def _local_server(
    profile: Profile, around: Surroundings, stack: AsyncExitStack
) -> tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[str | None]]]:
    """Base URL and token of a local model. Its file is looked for now, its server is started by
    the first request: a kept answer needs none."""
    from llmctl.providers.local_model import LocalModelServer

    server = LocalModelServer(
        _local_model(profile, around.folders),
        context=profile.context or 2048,
        parallel=profile.parallel,
        alias=profile.model,
        clock=around.clock,
        say=around.say,
    )
    stack.push_async_callback(server.close)
    starting = asyncio.Lock()

    async def base_url() -> str:
        async with starting:
            await server.start()
        return server.base_url

    async def token() -> str | None:
        return server.token

    return base_url, token
