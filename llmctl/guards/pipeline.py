"""The pipeline: the order of the guards, in one function.

masking → accounting → restoring → degradation → routing → fallback → for each target: cache →
semantic cache → data place → prompt cache → schema → context window → budget → key failover → retry
→ circuit breaker → rate limit → load balancer → endpoint
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from llmctl.config.settings import Profile
from llmctl.guards.circuit_breaker import ProviderHealth, circuit_breaker
from llmctl.guards.context_window import Admission, context_window
from llmctl.guards.key_failover import key_failover
from llmctl.guards.rate_limit import ProviderLimits, rate_limit
from llmctl.protocols import Handler
from llmctl.providers.endpoint import Endpoint
from llmctl.types import Request

if TYPE_CHECKING:
    from llmctl.guards.summarise import Summariser

Guard = Callable[[Handler], Handler]
"""Wraps a handler."""


class Route(Struct, frozen=True):
    """One profile's way to its provider, open. `attempt` makes one attempt: it is the endpoint, or
    what shares calls among several servers, of which the endpoint is the first's."""

    profile: Profile
    endpoint: Endpoint
    attempt: Handler
    limits: ProviderLimits
    health: ProviderHealth
    admission: Admission


def target_handler(
    route: Route,
    tokens: Callable[[Request], int],
    retry: Guard,
    budget: Guard,
    schema: Guard,
    place: Guard,
    cache: Guard,
    prefix: Guard,
    summariser: Summariser | None = None,
) -> Handler:
    """The guards of one target around its endpoint, innermost first. `Fallback` is around targets:
    outside the caches, because an answer is kept as that of the provider that gave it; and inside
    accounting, because a row has one ending, whichever answers it. `Routing` is around that: what
    the strong target cannot serve its fallbacks do, and what another cannot the strong one does.
    `Degrade` is around both: an outage is one when no fallback answered, and what is given instead
    is no provider's answer."""
    # Inside the breaker: what is not to be sent takes no permit. Around the load balancer: servers
    # that share calls share their limits, and one that is down is no outage of the profile's.
    handler = rate_limit(route.attempt, route.limits, tokens)
    # Inside retry, as the rate limit: every attempt asks both and is counted.
    handler = circuit_breaker(handler, route.health)
    # Inside key failover: a refused key is no trouble that waiting mends, and the other key gets
    # the same chances.
    handler = retry(handler)
    # Inside budget: a call that needs the second key is still one call.
    if route.endpoint.auth.may_change:
        handler = key_failover(handler, route.endpoint.auth)
    # Inside context window: what is refused unsent was never under way.
    handler = budget(handler)
    # Inside schema and cache: a prompt that was cut, or summarised, has the identity of the whole
    # one. Outside the budget: summaries have holds of their own.
    handler = context_window(handler, route.admission, summariser)
    # Inside the cache: an answer that does not fit its schema is not kept. Outside the budget: it
    # was billed, and asking again is another question, with a hold of its own.
    handler = schema(handler)
    # Outside schema: asking again is no reason to wait. Inside the cache: a kept answer warms
    # nothing.
    handler = prefix(handler)
    # Inside the cache, which is on this machine: to give a kept answer again sends nothing.
    handler = place(handler)
    # Outside the budget: a kept answer is free and holds nothing. The semantic cache is inside the
    # exact one: most questions come again in the same words, and what it finds is not kept again.
    return cache(handler)
