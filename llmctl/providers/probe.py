"""One free call that tells whether a provider accepts a key."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Profile
from llmctl.errors import CallError
from llmctl.http import HttpClient
from llmctl.providers.endpoint import Endpoint, KeyAuth
from llmctl.providers.registry import PRESETS, codec
from llmctl.redact import redact
from llmctl.types import Request, Usage

_LONGEST = 30.0
"""Seconds: listing models takes a provider less than one."""

_PAGES = {
    "openai": "https://platform.openai.com/api-keys",
    "anthropic": "https://platform.claude.com/settings/keys",
    "gemini": "https://aistudio.google.com/apikey",
    "cohere": "https://dashboard.cohere.com/api-keys",
    "mistral": "https://console.mistral.ai/api-keys",
    "openrouter": "https://openrouter.ai/settings/keys",
    "groq": "https://console.groq.com/keys",
}
"""Where each provider's keys are made and revoked."""


def page(profile: Profile) -> str:
    """Where the key can be revoked: the provider's own page, or the server of the profile."""
    preset = PRESETS.get(profile.provider)
    at_home = preset is not None and profile.base_url.startswith(preset.base_url)
    return _PAGES.get(profile.provider, profile.base_url) if at_home else profile.base_url


async def probe(profile: Profile, key: str | None, clock: Clock) -> None:
    """Returns when the provider accepts the key. Raises the mapped `CallError`: `AuthFailed` when
    it does not, `ConnectionFailed`, `CallTimeout`… when that cannot be known."""
    speaks = codec(profile.adapter, profile.api)
    times = profile.timeout
    client = HttpClient()

    async def base_url() -> str:
        return profile.url

    async def checked() -> str | None:
        return key

    endpoint = Endpoint(
        codec=speaks,
        http=client,
        base_url=base_url,
        auth=KeyAuth(speaks.auth, checked, profile.key_header),
        timeouts=replace(times, total=min(times.total, _LONGEST)),
        clock=clock,
        estimate=_nothing,
        heard=lambda _: None,
    )
    try:
        body = await endpoint.fetch(speaks.probe())
        speaks.decode_probe(body)
    except CallError as error:
        error.args = (redact(error.message, key),)
        raise
    finally:
        await client.close()


def _nothing(request: Request, text: str) -> Usage:
    """A probe asks no model: there are no tokens to estimate."""
    del request, text
    return Usage()
