"""The pipeline: the order of the guards, in one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from llmctl.protocols import Handler

Guard = Callable[[Handler], Handler]
"""Wraps a handler."""


class TargetGuards(Struct, frozen=True):
    """The guards of one target, and its endpoint. None leaves a guard out."""

    endpoint: Handler
    rate_limit: Guard
    circuit_breaker: Guard
    retry: Guard
    key_failover: Guard | None
    budget: Guard
    context_window: Guard
    schema: Guard
    cache: Guard


def pipeline(
    targets: Sequence[TargetGuards],
    fallback: Callable[[Handler, Sequence[Handler]], Handler],
    accounting: Guard,
) -> Handler:
    """Accounting → fallback → for each target, the first one being the one asked for: cache →
    schema → context window → budget → key failover → retry → circuit breaker → rate limit →
    endpoint."""
    handlers: list[Handler] = []
    for target in targets:
        handler = target.endpoint
        for guard in (  # innermost first
            # Inside the breaker: what is not to be sent takes no permit.
            target.rate_limit,
            # Inside retry, as the rate limit: every attempt asks both and is counted.
            target.circuit_breaker,
            # Inside key failover: a refused key is no trouble that waiting mends, and the other
            # key gets the same chances.
            target.retry,
            # Inside budget: a call that needs the second key is still one call.
            target.key_failover,
            # Inside context window: what is refused unsent was never under way.
            target.budget,
            # Inside schema and cache: a prompt that was cut has the identity of the whole one.
            target.context_window,
            # Inside the cache: an answer that does not fit its schema is not kept. Outside retry:
            # it was billed, and the next one may be no better.
            target.schema,
            # Outside the budget: a kept answer is free and holds nothing.
            target.cache,
        ):
            if guard is not None:
                handler = guard(handler)
        handlers.append(handler)
    first, *others = handlers
    # Outside the caches: an answer is kept as that of the provider that gave it. Inside
    # accounting: a row has one ending, whichever provider answers it.
    return accounting(fallback(first, others) if others else first)
