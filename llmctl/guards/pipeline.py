"""The order of the guards, in one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from llmctl.guards.accounting import Observe
from llmctl.guards.breaker import Breaker
from llmctl.guards.cache import Cache
from llmctl.guards.context_window import Tokens
from llmctl.guards.fallback import Fallback
from llmctl.guards.hold import Holding
from llmctl.guards.key_failover import Rekey
from llmctl.guards.limiter import Limiter
from llmctl.guards.retry import Retry
from llmctl.guards.schema import Fitting
from llmctl.guards.sending import Sending
from llmctl.protocols import Chain, Handler


class Guards(Struct, frozen=True):
    """What stands before one target: one constructor a guard, each waiting for the handler it
    wraps; None leaves a guard out."""

    cache: Callable[[Handler], Cache] | None
    fitting: Callable[[Handler], Fitting]
    tokens: Callable[[Handler], Tokens]
    hold: Callable[[Handler], Holding]
    sending: Callable[[Handler], Sending] | None
    rekey: Callable[[Handler], Rekey] | None
    retry: Callable[[Handler], Retry]
    breaker: Callable[[Handler], Breaker]
    limiter: Callable[[Handler], Limiter]


def chain(
    targets: Sequence[tuple[Handler, Guards]],
    fallback: Callable[[Handler, Sequence[Handler]], Fallback],
    observe: Callable[[Handler, Cache | None], Observe],
) -> Chain:
    """Compose them: observe → fallback → for each target, the first one being the one asked for:
    cache → fitting → tokens → hold → sending → rekey → retry → breaker → limiter → endpoint.

    - fallback inside observe: a row has one ending, whoever answers it; outside the cache: an
      answer is kept as that of whoever gave it;
    - cache before hold: a kept answer is free and holds nothing;
    - fitting inside the cache: an answer that does not fit its schema is not kept; outside
      retry: it was billed, and the next one may be no better;
    - tokens before hold: what is refused unsent was never under way;
    - sending inside hold: a row gets ready, durably, while others are under way; outside all that
      is repeated: a row keeps its place until it is dealt with;
    - rekey inside hold: a call that needs the second key is still one call; outside retry: a
      refused key is not tried again;
    - retry around breaker and limiter: every attempt asks both, takes a permit and is counted;
    - breaker before limiter: what is not to be sent takes no permit.
    """
    handlers = [_guarded(endpoint, guards) for endpoint, guards in targets]
    first, *others = handlers
    cache = first if isinstance(first, Cache) else None
    return observe(fallback(first, others) if others else first, cache)


def _guarded(endpoint: Handler, guards: Guards) -> Handler:
    handler = endpoint
    for wrap in (
        guards.limiter,
        guards.breaker,
        guards.retry,
        guards.rekey,
        guards.sending,
        guards.hold,
        guards.tokens,
        guards.fitting,
        guards.cache,
    ):
        if wrap is not None:
            handler = wrap(handler)
    return handler
