"""Questions about the provider rather than to a model: its models, its token count, the key."""

from __future__ import annotations

from llmctl.errors import BadResponse
from llmctl.providers.endpoint import Endpoint
from llmctl.types import ModelInfo, Request

_PAGES = 100
"""More pages than any provider has: a listing without end must not hang the program."""


async def list_models(endpoint: Endpoint) -> list[ModelInfo]:
    """All models this key may use, by id. Raises the mapped `CallError`."""
    found: dict[str, ModelInfo] = {}
    after: str | None = None
    for _ in range(_PAGES):
        body = await endpoint.fetch(endpoint.codec.models(after))
        page, following = endpoint.codec.decode_models(body)
        found |= {model.id: model for model in page}
        if not following or following == after:
            return [found[name] for name in sorted(found)]
        after = following
    raise BadResponse("the provider's list of models has no end", retryable=False)


async def count_tokens(endpoint: Endpoint, request: Request) -> int | None:
    """The provider's own count of the request's input; None where it counts none.

    Raises the mapped `CallError`, and `InvalidRequest` as `Codec.encode` does.
    """
    wire = endpoint.codec.count(request)
    if wire is None:
        return None
    return endpoint.codec.decode_count(await endpoint.fetch(wire))
