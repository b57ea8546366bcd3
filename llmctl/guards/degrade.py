"""Degradation: what is done when the provider and all fallbacks are down.

Of an outage alone: what the provider refused, what no budget lets through and what may not be sent
is nothing that an old answer, or a later moment, would mend.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.degrade import degrade_step, keeps_for_later
from llmctl.config.settings import DegradeSteps
from llmctl.errors import (
    CallError,
    CallTimeout,
    ConnectionFailed,
    LlmctlError,
    Overloaded,
    ProviderDown,
    Queued,
    QuotaExhausted,
    ServerFailed,
    Unavailable,
)
from llmctl.guards.accounting import Stopwatch, recorded
from llmctl.guards.cache import answer_of
from llmctl.guards.queueing import Queueing
from llmctl.protocols import AnswerCache, Emit, Handler
from llmctl.types import Answer, Request, StreamChunk, Usage


def is_outage(error: CallError) -> bool:
    """Whether the provider is down: it fails, cannot be reached, or is not asked for these reasons.
    After a timeout it may still be at work; an account without credit is no outage."""
    if isinstance(error, ProviderDown):
        return not isinstance(error.cause, QuotaExhausted)
    if isinstance(error, CallTimeout):
        return not error.ambiguous
    return isinstance(error, ServerFailed | Overloaded | ConnectionFailed)


class Degrade(Struct, frozen=True, kw_only=True):
    """The guard: in an outage the steps of a profile, in their order: an answer that has expired,
    a text, or a place in the queue. With a place in the queue the text is given meanwhile.

    A stale answer is not kept again, so it grows old in spite of being given. The failed call is on
    record by itself (`on_error` settles it); what takes its place is another one, which is free.

    Attributes:
        text: a static text is an answer to whoever asks (it is none to a row).
        call_id: a new call's id.
        store: the answers that are kept.
        queueing: puts calls into the queue; None where nobody would fetch their answers.

    """

    inner: Handler
    steps: DegradeSteps
    text: bool
    store: AnswerCache
    clock: Clock
    call_id: Callable[[], str]
    on_error: Callable[[Request, CallError, Stopwatch], Awaitable[None]]
    queueing: Queueing | None = None

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The answer. Raises `Queued`, `Unavailable`, or the outage where no step helps."""
        watch = Stopwatch(self.clock)
        try:
            return await self.inner(request, emit)
        except CallError as error:
            if not is_outage(error):
                raise
            outage = error
        answer = await self._stale(request)
        if answer is None:
            later = await self._queued(request, outage)
            if isinstance(later, Queued):
                raise later
            answer = self._static(request, later)
            if answer is None:
                raise later
        made = outage.attempts
        answer = replace(answer, attempts=made, elsewhere=made)
        if outage.held:
            await recorded(self.on_error(outage.request or request, outage, watch))
            # A call has one ending: what is given instead is another one.
            answer = replace(answer, request=replace(request, call_id=self.call_id()))
        if emit is not None:
            emit(StreamChunk(degraded=answer.degraded))
            emit(StreamChunk(answer.text))
        return answer

    async def _stale(self, request: Request) -> Answer | None:
        oldest = degrade_step(self.steps, "stale")
        if oldest is None or request.cache_mode == "bypass":
            return None
        try:
            kept = await self.store.get(request.answer_key)
        except LlmctlError:  # the cache's guard meets it too, and warns
            return None
        now = self.clock.wall()
        found = answer_of(request, kept, now, oldest)
        if found is None or kept is None:
            return None
        return replace(found, cache="stale", age=max(0.0, now - kept.stored))

    async def _queued(self, request: Request, outage: CallError) -> CallError:
        """What is raised: that the call is queued, or the outage, with the reason why not."""
        if self.queueing is None or not keeps_for_later(self.steps):
            return outage
        static = self._text(request) if self.text else None
        kept = await self.queueing.keep(request, outage, static or "")
        if isinstance(kept, Queued):
            return kept
        if static is not None:
            self.queueing.warn(kept)
        return Unavailable(f"{outage.message}; {kept}", outage)

    def _text(self, request: Request) -> str | None:
        text: str | None = degrade_step(self.steps, "static")
        return None if _has_form(request) else text

    def _static(self, request: Request, outage: CallError) -> Answer | None:
        text = self._text(request)
        if text is None:
            return None
        if not self.text:
            raise Unavailable(
                f"{outage.message}; the static text of `degrade:` is no answer to a row: run the "
                "same command again when the provider is back",
                outage,
            )
        target = request.target
        return Answer(text, Usage(), target, "other", target.model, cache="static", attempts=0)


def _has_form(request: Request) -> bool:
    """Whether the answer must have a form that a text of any kind has not."""
    if request.schema is not None or request.raw is None:
        return request.schema is not None
    body = request.raw.body
    shaped = body.get("response_format") or body.get("text") or body.get("output_config")
    return request.raw.path == "/embeddings" or bool(shaped)
