"""Where a profile's requests go: its key, its connections, its server on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Folders, Profile
from llmctl.http import HttpClient
from llmctl.keys.key import Slot
from llmctl.keys.live import LiveKey
from llmctl.keys.resolver import Finder
from llmctl.protocols import Auth, RateHeaders
from llmctl.providers.endpoint import Endpoint, KeyAuth
from llmctl.providers.registry import LOCAL, codec
from llmctl.tokens import Counter
from llmctl.types import Request, Usage

if TYPE_CHECKING:
    from llmctl.providers.embedded import Embedded


def estimate(counter: Counter, request: Request, text: str) -> Usage:
    """What a call used that nobody reported: the prompt, and the text that came back."""
    return Usage(
        input=counter.count(request).tokens,
        output=counter.count_text(request.target, text),
        estimated=True,
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

    `ask` is as in `open_runner`. Raises `NoKeyError` and `SetupError`.
    """
    async with AsyncExitStack() as stack:
        base_url, auth, _ = await open_address(
            profile, folders, environ, clock, stack, say, warn, ask
        )
        yield connect(profile, base_url, auth, Counter(), clock, stack)


async def open_address(
    profile: Profile,
    folders: Folders,
    environ: Mapping[str, str],
    clock: Clock,
    stack: AsyncExitStack,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    ask: Callable[[str], str] | None,
) -> tuple[Callable[[], Awaitable[str]], Auth, LiveKey | None]:
    """The profile's base URL, how its requests are signed, and its key (None for the local model).

    `ask` is as in `open_runner`. Raises `NoKeyError` and `SetupError`.
    """
    if profile.provider == LOCAL:
        return *_local_address(profile, folders, clock, stack, say), None
    key = await _open_key(profile, folders, environ, warn, ask)
    headers = codec(profile.adapter, profile.api).auth
    return partial(_url, profile), KeyAuth(headers, partial(_value, key), profile.key_header), key


def connect(
    profile: Profile,
    base_url: Callable[[], Awaitable[str]],
    auth: Auth,
    counter: Counter,
    clock: Clock,
    stack: AsyncExitStack,
    heard: Callable[[RateHeaders], None] = lambda _: None,
    *,
    many: bool = False,
) -> Endpoint:
    """The endpoint that speaks to the profile's provider; `stack` closes its connections, `heard`
    gets what replies say of rate limits. `many`: there are many calls at a time."""
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
        heard=heard,
    )


def _local_address(
    profile: Profile,
    folders: Folders,
    clock: Clock,
    stack: AsyncExitStack,
    say: Callable[[str], None],
) -> tuple[Callable[[], Awaitable[str]], Auth]:
    """The base URL of a local model, and how its requests are signed. The model is looked for now;
    its server is started by the first request: a kept answer needs none."""
    from llmctl.providers.embedded import Embedded
    from llmctl.providers.embedded_model import resolve

    server = Embedded(
        resolve(profile, folders),
        context=profile.context or 2048,
        parallel=profile.parallel,
        alias=profile.model,
        clock=clock,
        say=say,
    )
    stack.push_async_callback(server.close)
    headers = codec(profile.adapter, profile.api).auth
    return partial(_started, server, asyncio.Lock()), KeyAuth(headers, partial(_token, server))


async def _open_key(
    profile: Profile,
    folders: Folders,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    ask: Callable[[str], str] | None = None,
) -> LiveKey:
    """The profile's key, found now. Raises `NoKeyError`."""
    from llmctl.storage import keyindex

    stored = frozenset(Slot(*pair) for pair in keyindex.read(folders.state))
    finder = Finder(environ, stored=stored, ask=ask)
    found = await asyncio.to_thread(finder.require, profile)
    if not found and (elsewhere := finder.elsewhere(profile)):
        warn(
            f"the profile {profile.name} is called without a key: the stored key "
            f"{elsewhere[0].name} belongs to {elsewhere[0].where} and is sent nowhere else"
        )
    return LiveKey(finder, profile, found[0] if found else None, warn)


async def _url(profile: Profile) -> str:
    return profile.url


async def _value(key: LiveKey) -> str | None:
    """The key as it is now."""
    return key.value


async def _started(server: Embedded, starting: asyncio.Lock) -> str:
    async with starting:
        await server.start()
    return server.base_url


async def _token(server: Embedded) -> str | None:
    return server.token


def located(profile: Profile, folders: Folders) -> Profile:
    """The profile with an address that identifies what answers.

    The port of a local model is another one every time, and says nothing; its file does.
    Raises `SetupError` when there is no such file.
    """
    if profile.provider != LOCAL:
        return profile
    from llmctl.providers.embedded_model import resolve

    path = resolve(profile, folders)
    return replace(profile, base_url=f"local://model/{path.name}?size={path.stat().st_size}")
