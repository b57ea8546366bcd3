"""Queueing: what becomes of a call that nobody can answer in an outage, until it can be sent."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from llmctl.errors import CallError, LlmctlError, Queued
from llmctl.storage.call_queue import CallQueue, Origin
from llmctl.types import Request


class Queueing(Struct, frozen=True):
    """Puts the calls of one command into the queue.

    Attributes:
        queue: opens it, when the first call is put in.
        origin: where the answers go.
        encrypted: what is kept there is.
        warn: gets a sentence where a call is not put in, and a text is given instead.
        private: why nothing of the questions may be kept in clear; empty: it may.

    """

    queue: Callable[[], CallQueue]
    origin: Origin
    encrypted: bool
    warn: Callable[[str], None]
    private: str = ""

    async def keep(self, request: Request, outage: CallError, static: str) -> Queued | str:
        """Put the call in, durably; why it is not, where it may not or cannot be."""
        if not self.encrypted and (why := self.private or _in_clear(request)):
            return (
                f"it is not queued: {why}, and the queue would hold it in clear "
                "(`store: {encrypt: true}` encrypts it)"
            )
        try:
            await self.queue().put(request, self.origin, outage.row_type)
        except (TypeError, ValueError) as error:  # half a surrogate pair, or NaN
            return f"it is not queued: it cannot be written as JSON ({error})"
        except LlmctlError as error:
            return f"it is not queued: {error.message}"
        return Queued(
            f"queued as {request.call_id}: {outage.message}; `llmctl queue run` sends it when the "
            "provider is back",
            outage,
            request.call_id,
            static,
        )


def _in_clear(request: Request) -> str:
    """Why the request must not be kept in clear: it holds what is masked in it, to be restored in
    its answer or repeated in its output row."""
    masked = request.masked
    if masked is None or not masked.digest:
        return ""
    holds = masked.values or request.kept is not None or request.parts is not None
    return "identifiers are masked in it" if holds else ""
