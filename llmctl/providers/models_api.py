"""Free questions to a provider: its list of models, its count of tokens, whether a key is good."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from msgspec.structs import replace

from llmctl.auth.key_auth import FixedKey, KeyAuth
from llmctl.clock import Clock
from llmctl.config.settings import Profile
from llmctl.errors import BadResponse, ConnectionFailed, NotFound, PermissionRefused
from llmctl.protocols import Auth, Codec
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.registry import PRESETS, codec
from llmctl.types import Message, ModelInfo, Request, Target, Usage

T = TypeVar("T")

_LONGEST_PROBE = 30.0  # seconds: listing models takes a provider less than one
_MOST_PAGES = 100  # more than any provider has: a listing without end must not hang the program

_KEY_PAGES = {
    "openai": "https://platform.openai.com/api-keys",
    "anthropic": "https://platform.claude.com/settings/keys",
    "gemini": "https://aistudio.google.com/apikey",
    "cohere": "https://dashboard.cohere.com/api-keys",
    "mistral": "https://console.mistral.ai/api-keys",
    "openrouter": "https://openrouter.ai/settings/keys",
    "groq": "https://console.groq.com/keys",
}
"""Where each provider's keys are made and revoked."""

_MAY_NOT_LIST = re.compile(
    r"(?i:missing scopes?:[^;]*\bmodel\.read)|is not authorized to perform: bedrock:List"
)
"""What OpenAI says of a restricted key, and Amazon of one it knows, who may answer but not list
models."""


async def list_models(endpoint: Endpoint) -> list[ModelInfo]:
    """All models this key may use, by id. Raises the mapped `CallError`."""
    found: dict[str, ModelInfo] = {}
    after: str | None = None
    for _ in range(_MOST_PAGES):
        body = await endpoint.fetch(endpoint.codec.models(after))
        page, following = endpoint.codec.decode_models(body)
        found |= {model.id: model for model in page}
        if not following or following == after:
            return [found[name] for name in sorted(found)]
        after = following
    raise BadResponse("the provider's list of models has no end", retryable=False)


async def count_tokens(endpoint: Endpoint, request: Request) -> int | None:
    """The provider's own count of the request's input; None where it counts none. Raises the
    mapped `CallError`, and `InvalidRequest` as `Codec.encode` does."""
    wire = endpoint.codec.count(request)
    return None if wire is None else endpoint.codec.decode_count(await endpoint.fetch(wire))


def key_page(profile: Profile) -> str:
    """Where the key can be revoked: the provider's own page, or the server of the profile."""
    preset = PRESETS.get(profile.provider)
    at_home = preset is not None and profile.base_url.startswith(preset.base_url)
    return _KEY_PAGES.get(profile.provider, profile.base_url) if at_home else profile.base_url


@asynccontextmanager
async def endpoint_of(profile: Profile, auth: Auth, clock: Clock) -> AsyncGenerator[Endpoint]:
    """The profile's endpoint for free questions, by this `auth` instead of the profile's own; no
    limits are kept to. Closed at the end."""
    from llmctl.http import HttpClient

    client = HttpClient(proxy=profile.proxy)
    try:
        yield Endpoint(
            codec=codec(profile.adapter, profile.api),
            http=client,
            base_url=profile.url,
            auth=auth,
            timeouts=profile.timeout,
            clock=clock,
            estimate=lambda _request, _text: Usage(),
            heard=lambda _: None,
            headers={name.lower(): value for name, value in profile.headers.items()},
        )
    finally:
        await client.close()


async def ask_first(profile: Profile, ask: Callable[[Profile], Awaitable[T]]) -> T:
    """What `ask` gets of the first of the profile's servers that can be reached. Raises what the
    last one of them raises."""
    servers = profile.servers or (profile.base_url,)
    for server in servers:
        try:
            return await ask(replace(profile, base_url=server, servers=()))
        except ConnectionFailed:  # nothing that is asked here is paid for
            if server == servers[-1]:
                raise
    raise AssertionError("a profile has a server")


async def probe(profile: Profile, proof: str | Auth, clock: Clock) -> None:
    """Returns when the provider, or the first of its servers that is there, accepts the key, or
    what else proves who asks. Raises the mapped
    `CallError`: `AuthFailed` when it does not, `PermissionRefused` when it may not be used here,
    `ConnectionFailed`, `CallTimeout`… when that cannot be known."""
    spoken, auth = codec(profile.adapter, profile.api), proof
    if isinstance(auth, str):
        auth = KeyAuth(spoken.auth, FixedKey(auth), profile.key_header)
    within = replace(profile.timeout, total=min(profile.timeout.total, _LONGEST_PROBE))
    await ask_first(
        replace(profile, timeout=within), lambda server: _probe(server, spoken, auth, clock)
    )


async def _probe(profile: Profile, spoken: Codec, auth: Auth, clock: Clock) -> None:
    async with endpoint_of(profile, auth, clock) as endpoint:
        try:
            spoken.decode_probe(await endpoint.fetch(spoken.probe()))
        except PermissionRefused as error:
            if not _MAY_NOT_LIST.search(error.message):
                raise
        except NotFound:
            if profile.adapter != "anthropic":
                raise
            # Claude on Azure lists no models (its SDK has none), but counts tokens for nothing.
            await count_tokens(endpoint, _question(profile))


def _question(profile: Profile) -> Request:
    target = Target(profile.name, profile.provider, profile.adapter, profile.url, profile.model)
    return Request(id="", target=target, messages=(Message("user", "Hello"),))
