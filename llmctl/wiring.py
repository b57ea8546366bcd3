"""Wiring: a profile → its endpoint, limits, circuit breaker and key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.auth.clouds import open_auth
from llmctl.auth.key_auth import FixedKey, KeyAuth
from llmctl.clock import Clock
from llmctl.config.settings import Audit, Folders, Profile, RedisSettings, Telemetry
from llmctl.errors import NoKeyError, SetupError
from llmctl.guards.circuit_breaker import ProviderHealth
from llmctl.guards.context_window import Admission
from llmctl.guards.load_balancer import LoadBalancer
from llmctl.guards.pipeline import Route
from llmctl.guards.rate_limit import ProviderLimits
from llmctl.http import HttpClient
from llmctl.keys.key import slot_of
from llmctl.keys.keyring_store import stored_slots
from llmctl.keys.resolver import KeyResolver, RotatingKey
from llmctl.protocols import Auth, Codec, RateHeaders, SharedLimits
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.model_ends import model_end
from llmctl.providers.registry import LOCAL, codec
from llmctl.providers.tiers import day_zone
from llmctl.redact import remember
from llmctl.request import left_out
from llmctl.shutdown import Stop
from llmctl.tokens import Counter
from llmctl.types import origin_of


class Surroundings(Struct, frozen=True):
    """What opening a profile needs of the command that runs; `say` and `warn` get a sentence for
    the user. `audit`: every call gets a line in the audit log, `telemetry`: a span; `encrypt`: what
    is kept of questions and answers is encrypted; `profiles` are all there are; `coordinator`: what
    machines share is there. `sends`: calls are made from here; where they are not, no key is looked
    for."""

    folders: Folders
    environ: Mapping[str, str]
    clock: Clock
    say: Callable[[str], None]
    warn: Callable[[str], None]
    audit: Audit | None = None
    telemetry: Telemetry | None = None
    encrypt: bool = False
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    coordinator: RedisSettings | None = None
    sends: bool = True


async def open_route(
    profile: Profile,
    around: Surroundings,
    stack: AsyncExitStack,
    counter: Counter,
    shared: SharedLimits,
    stop: Stop,
    lost: Callable[[], float],
    on_circuit: Callable[[], None],
    *,
    patient: bool,
    many: bool,
) -> Route:
    """Open it; `stack` closes it. Nothing is sent, and no server is started. `lost` is as in
    `HttpClient`; `on_circuit` hears that the circuit has changed.

    `shared` keeps the rate limits together with other processes; `patient` makes calls wait for a
    provider that is down, but not past `stop`; `many` chooses the transport for many calls at a
    time. Raises `NoKeyError` and `SetupError`.
    """
    clock = around.clock
    if names := " and ".join(left_out(profile)):
        around.warn(
            f"{profile.model} refuses {names}: the profile {profile.name} asks without; take it "
            "out of `params:`"
        )
    if end := model_end(profile.provider, profile.base_url, profile.model):
        around.warn(end.sentence(profile.name, datetime.fromtimestamp(clock.wall(), UTC).date()))
    # The limits are those of the place that the profile leads to.
    name = f"{profile.name} {profile.base_url}"
    zone = day_zone(profile.provider)
    limits = ProviderLimits(profile.limits, clock, shared, name, around.warn, stop, zone)
    health = ProviderHealth(
        profile.breaker, stop.clock(clock), profile.name, patient=patient, on_change=on_circuit
    )
    endpoint = await _open(
        profile, around, stack, counter, limits.update_from_headers, lost, many=many
    )
    start = None if isinstance(endpoint.base_url, str) else endpoint.base_url
    truncate = profile.on_overflow == "truncate"
    admission = Admission(counter, health, start, truncate=truncate)
    attempt = endpoint if len(profile.urls) == 1 else _balanced(profile, endpoint, around)
    return Route(profile, endpoint, attempt, limits, health, admission)


@asynccontextmanager
async def open_endpoint(profile: Profile, around: Surroundings) -> AsyncIterator[Endpoint]:
    """The profile's endpoint alone, for questions that are no calls: no ledger, no cache.

    Raises `NoKeyError` and `SetupError`.
    """
    async with AsyncExitStack() as stack:
        yield await _open(profile, around, stack, Counter(), lambda _: None, many=False)


def located(profile: Profile, folders: Folders) -> Profile:
    """The profile with an address that identifies what answers: the port of a local model is
    another one every time, its file is not. Raises `SetupError` when there is no such file."""
    if profile.provider != LOCAL:
        return profile
    from llmctl.providers.local_model_files import model_file

    path = model_file(profile, folders)
    return replace(profile, base_url=f"local://model/{path.name}?size={path.stat().st_size}")


def located_fallbacks(
    profile: Profile,
    profiles: Mapping[str, Profile],
    folders: Folders,
    warn: Callable[[str], None],
) -> tuple[Profile, ...]:
    """The profile's fallbacks, `located`; one whose model is not there is left out, with a
    warning."""
    found = []
    for name in profile.fallback:
        try:
            found.append(located(profiles[name], folders))
        except SetupError as error:
            warn(f"the fallback {name} is left out: {error.message}")
    return tuple(found)


def located_routes(
    profile: Profile, profiles: Mapping[str, Profile], folders: Folders
) -> tuple[Profile, ...]:
    """The profiles that the profile's route leads to, `located`. Raises as that: what was to be
    cheap must not be dear because a file is missing."""
    names = () if profile.route is None else profile.route.names
    return tuple(located(profiles[name], folders) for name in names if name != profile.name)


async def _open(
    profile: Profile,
    around: Surroundings,
    stack: AsyncExitStack,
    counter: Counter,
    on_headers: Callable[[RateHeaders], None],
    lost: Callable[[], float] = lambda: 0.0,
    *,
    many: bool,
) -> Endpoint:
    """The endpoint that speaks to the profile's provider."""
    base_url: str | Callable[[], Awaitable[str]] = profile.url
    speaks = codec(profile.adapter, profile.api)
    auth: Auth
    if not around.sends:
        auth = KeyAuth(speaks.auth, FixedKey(None))
    elif profile.provider == LOCAL:
        base_url, local_key = _local_server(profile, around, stack)
        auth = KeyAuth(speaks.auth, local_key)
    else:
        auth = await _auth(profile, around, speaks)
    for name, value in profile.query.items():
        if "version" not in name.lower() and len(value) >= 8:
            remember(value)  # a gateway's code or token, which an error may repeat
    many = many and profile.http != "standard"
    client = HttpClient(many=many, proxy=profile.proxy, lost=lost)
    stack.push_async_callback(client.close)
    return Endpoint(
        codec=speaks,
        http=client,
        base_url=base_url,
        auth=auth,
        timeouts=profile.timeout,
        clock=around.clock,
        estimate=counter.usage,
        heard=on_headers,
        headers={name.lower(): value for name, value in profile.headers.items()},
    )


def _balanced(profile: Profile, endpoint: Endpoint, around: Surroundings) -> LoadBalancer:
    """The profile's servers, each asked as the first one is."""
    return LoadBalancer(
        {url: replace(endpoint, base_url=url) for url in profile.urls},
        profile.breaker,
        around.clock,
        lambda sentence: around.warn(f"profile {profile.name}: {sentence}"),
    )


async def _auth(profile: Profile, around: Surroundings, speaks: Codec) -> Auth:
    """What proves to the profile's provider who asks. Raises `NoKeyError` and `SetupError`."""
    if profile.auth is not None:
        return open_auth(profile, around.environ, around.clock)
    resolver = KeyResolver(around.environ, stored_slots(around.folders.state))
    found = await resolver.require(profile)
    if not found and (elsewhere := resolver.elsewhere(profile)):
        around.warn(
            f"the profile {profile.name} is called without a key: the stored key "
            f"{elsewhere[0].name} belongs to {elsewhere[0].where} and is sent nowhere else"
        )
    slot = slot_of(profile)
    others = {origin_of(url) for url in profile.servers} - {slot.origin}
    if found and found.source == "keyring" and others:
        raise NoKeyError(
            f"no key for the profile {profile.name}: the stored key {slot.name} belongs to "
            f"{slot.where} and is not sent to the other servers of `base_url`, such as "
            f"{min(others)}; name a key for all of them by `key: {{env: NAME}}`"
        )
    key = RotatingKey(resolver, profile, found, around.warn, around.clock)
    return KeyAuth(speaks.auth, key, profile.key_header)


def _local_server(
    profile: Profile, around: Surroundings, stack: AsyncExitStack
) -> tuple[Callable[[], Awaitable[str]], FixedKey]:
    """Base URL and token of a local model. Its file is looked for now, its server is started by
    the first request: a kept answer needs none."""
    from llmctl.providers.local_model import LocalModelServer
    from llmctl.providers.local_model_files import model_file

    server = LocalModelServer(
        model_file(profile, around.folders),
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

    return base_url, FixedKey(server.token)
