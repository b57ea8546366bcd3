"""Free questions to a provider: its list of models, its count of tokens, whether a key is good."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Profile
from llmctl.errors import BadResponse, CallError
from llmctl.providers.endpoint import Endpoint, FixedKey, KeyAuth
from llmctl.providers.registry import PRESETS, codec
from llmctl.redact import redact
from llmctl.types import ModelInfo, Request, Usage

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


async def probe(profile: Profile, key: str | None, clock: Clock) -> None:
    """Returns when the provider accepts the key. Raises the mapped `CallError`: `AuthFailed` when
    it does not, `ConnectionFailed`, `CallTimeout`… when that cannot be known."""
    from llmctl.http import HttpClient

    spoken, client = codec(profile.adapter, profile.api), HttpClient(proxy=profile.proxy)
    endpoint = Endpoint(
        codec=spoken,
        http=client,
        base_url=profile.url,
        auth=KeyAuth(spoken.auth, FixedKey(key), profile.key_header),
        timeouts=replace(profile.timeout, total=min(profile.timeout.total, _LONGEST_PROBE)),
        clock=clock,
        estimate=lambda _request, _text: Usage(),
        heard=lambda _: None,
        headers={name.lower(): value for name, value in profile.headers.items()},
    )
    try:
        spoken.decode_probe(await endpoint.fetch(spoken.probe()))
    except CallError as error:
        error.args = (redact(error.message, key),)
        raise
    finally:
        await client.close()
