"""The order of the guards, in one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmctl.guards.cache import Cache
from llmctl.guards.hold import Holding
from llmctl.guards.limiter import Limiter
from llmctl.guards.observe import Observe
from llmctl.guards.retry import Retry
from llmctl.guards.tokens import Tokens
from llmctl.protocols import Handler


@dataclass(frozen=True, slots=True)
class Guards:
    """One constructor a guard, each waiting for the handler it wraps; None leaves a guard out."""

    observe: Callable[[Handler], Observe]
    cache: Callable[[Handler], Cache] | None
    tokens: Callable[[Handler], Tokens]
    hold: Callable[[Handler], Holding]
    retry: Callable[[Handler], Retry]
    limiter: Callable[[Handler], Limiter]


def chain(endpoint: Handler, guards: Guards) -> Handler:
    """Compose them: observe → cache → tokens → hold → retry → limiter → endpoint.

    - cache before hold: a kept answer is free and holds nothing;
    - tokens before hold: what is refused unsent was never under way;
    - retry around the limiter: every attempt takes a permit and is counted.
    """
    handler: Handler = endpoint
    for wrap in (guards.limiter, guards.retry, guards.hold, guards.tokens, guards.cache):
        if wrap is not None:
            handler = wrap(handler)
    return guards.observe(handler)
