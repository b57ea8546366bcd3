"""Every attempt takes a permit of its provider's lane."""

from __future__ import annotations

from collections.abc import Callable

from llmctl.errors import CallError, Overloaded, RateLimited
from llmctl.guards.lane import Lane
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request


class Limiter:
    """Takes a permit for every attempt. `tokens` estimates what a request will use in all."""

    def __init__(self, inner: Handler, lane: Lane, tokens: Callable[[Request], int]) -> None:
        self._inner = inner
        self._lane = lane
        self._tokens = tokens

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer, once the lane lets the attempt through."""
        lane = self._lane
        estimated = self._tokens(request) if lane.counts_tokens else 0
        era = await lane.enter(estimated)
        # What ended without a word of its usage is taken to have used what was estimated.
        really = estimated
        try:
            response = await self._inner(request, emit)
            really = response.usage.input + response.usage.output if estimated else 0
            lane.answered()
        except RateLimited as error:
            really = 0
            lane.refused(era, error.retry_after)
            raise
        except Overloaded as error:
            really = 0
            if error.retry_after is None:
                lane.shrink(era)
            else:
                lane.refused(era, error.retry_after)
            raise
        except CallError as error:
            really = estimated if error.sent else 0
            if error.retry_after is not None and error.retryable and error.sent:
                lane.pause(error.retry_after)
            raise
        finally:
            lane.leave(estimated=estimated, really=really)
        return response
