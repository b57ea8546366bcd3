"""The order of the guards, in one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmctl.guards.cache import Cache
from llmctl.guards.fitting import Fitting
from llmctl.guards.hold import Holding
from llmctl.guards.limiter import Limiter
from llmctl.guards.observe import Kept, Observe
from llmctl.guards.rekey import Rekey
from llmctl.guards.retry import Retry
from llmctl.guards.tokens import Tokens
from llmctl.protocols import Chain, Handler


@dataclass(frozen=True, slots=True)
class Guards:
    """One constructor a guard, each waiting for the handler it wraps; None leaves a guard out."""

    observe: Callable[[Handler, Kept | None], Observe]
    cache: Callable[[Handler], Cache] | None
    fitting: Callable[[Handler], Fitting]
    tokens: Callable[[Handler], Tokens]
    hold: Callable[[Handler], Holding]
    rekey: Callable[[Handler], Rekey] | None
    retry: Callable[[Handler], Retry]
    limiter: Callable[[Handler], Limiter]


def chain(endpoint: Handler, guards: Guards) -> Chain:
    """Compose them: observe → cache → fitting → tokens → hold → rekey → retry → limiter →
    endpoint.

    - cache before hold: a kept answer is free and holds nothing;
    - fitting inside the cache: an answer that does not fit its schema is not kept; outside
      retry: it was billed, and the next one may be no better;
    - tokens before hold: what is refused unsent was never under way;
    - rekey inside hold: a call that needs the second key is still one call; outside retry: a
      refused key is not tried again;
    - retry around the limiter: every attempt takes a permit and is counted.
    """
    handler: Handler = endpoint
    for wrap in (
        guards.limiter,
        guards.retry,
        guards.rekey,
        guards.hold,
        guards.tokens,
        guards.fitting,
    ):
        if wrap is not None:
            handler = wrap(handler)
    if guards.cache is None:
        return guards.observe(handler, None)
    cache = guards.cache(handler)
    return guards.observe(cache, cache.kept)
