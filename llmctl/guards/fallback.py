"""Fallback: what one provider cannot serve another one is asked for."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.errors import (
    CallError,
    ContextTooLong,
    DataRefused,
    Interrupted,
    LlmctlError,
    NotFound,
    ProviderDown,
    SetupError,
)
from llmctl.guards.accounting import Stopwatch, recorded
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request

_UNAVAILABLE = 5  # the exit code of all errors of a provider that cannot serve anybody now
_LEAST_PAUSE = 1.0  # seconds between two looks at providers that are all down


class FallbackTarget(Struct, frozen=True):
    """Another profile: how a request reads there, whether it would be taken (raises a `CallError`
    when not, `SetupError` when its server does not start), and the handler that asks it."""

    name: str
    retarget: Callable[[Request], Request]
    admit: Callable[[Request], Awaitable[Request]]
    handler: Handler


class Fallback(Struct, frozen=True, kw_only=True):
    """The guard: asks `others` in their order when the inner handler is unavailable: down, out of
    quota, overloaded after all retries; or is where the call's data may not go.

    Attributes:
        on_error: settles a call that was made and failed, before another one is made: each has a
            call id of its own, and each provider its bill.
        on_fallback: hears why which profile is asked instead.
        overflow: others are asked, too, when the prompt is longer than the window.
        patient: rows wait while all providers are down; otherwise that is an error.

    """

    inner: Handler
    others: Sequence[FallbackTarget]
    clock: Clock
    on_error: Callable[[Request, CallError, Stopwatch], Awaitable[None]]
    on_fallback: Callable[[CallError, str], None] = lambda _, __: None
    overflow: bool = False
    patient: bool = False

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The first answer; it, or the error, names the request that was asked."""
        calls = _Calls(self, emit)
        while True:
            try:
                return await calls.make(self.inner, request)
            except CallError as error:
                if not self._passes_on(error):
                    raise
                first = error
            found = await self._ask_others(request, first, calls)
            if isinstance(found, Answer):
                return found
            if not (self.patient and isinstance(found, ProviderDown) and found.reached):
                raise found
            # A call has one ending: what is asked after the pause is another one.
            request = replace(request, call_id=self.others[0].retarget(request).call_id)
            with calls.as_of(request):
                await calls.settle(found)
                await self.clock.sleep(max(_LEAST_PAUSE, found.retry_after or 0.0))

    async def _ask_others(
        self, request: Request, first: CallError, calls: _Calls
    ) -> Answer | CallError:
        """An answer, or the error that the row ends with."""
        last = first
        for other in self.others:
            # For observers it is still the answer to the question that was asked.
            asked = replace(other.retarget(request), fingerprint=request.fingerprint)
            try:
                await other.admit(asked)
            except CallError as error:
                _wait_for_the_sooner(first, error)
                if isinstance(first, DataRefused):  # nothing was asked yet: what came last counts
                    first = last = error
                continue
            except SetupError as error:  # its own server does not start
                if last is first:
                    first = last = _with_note(first, error)
                continue
            except asyncio.CancelledError:
                with calls.as_of(asked):
                    await calls.settle(last)
                    raise
            with calls.as_of(asked):
                await calls.settle(last)
            self.on_fallback(last, other.name)
            try:
                return await calls.make(other.handler, asked)
            except CallError as error:
                last = error
                if not self._passes_on(error) and not _is_unusable(error):
                    return error
        return _verdict(first, last)

    def _passes_on(self, error: CallError) -> bool:
        if isinstance(error, ContextTooLong):
            return self.overflow
        gone = isinstance(error, NotFound | DataRefused)  # or a model the provider has removed
        unavailable = error.exit_code == _UNAVAILABLE and not isinstance(error, Interrupted)
        return gone or unavailable


class _Calls:
    """The calls that are made for one row, one after another; `elsewhere` counts the attempts of
    those that are on record already."""

    def __init__(self, guard: Fallback, emit: Emit | None) -> None:
        self._guard, self._emit = guard, emit
        self._watch = Stopwatch(guard.clock)
        self._elsewhere = 0

    async def make(self, handler: Handler, asked: Request) -> Answer:
        """Its answer."""
        self._watch = Stopwatch(self._guard.clock)
        with self.as_of(asked):
            answer = await handler(asked, self._emit)
        made = answer.attempts + self._elsewhere
        return replace(answer, request=asked, attempts=made, elsewhere=self._elsewhere)

    async def settle(self, error: CallError) -> None:
        """Put the call that ended so on record, if it was under way."""
        if error.held:
            self._elsewhere = error.attempts
            await recorded(self._guard.on_error(error.request, error, self._watch))

    @contextmanager
    def as_of(self, asked: Request) -> Iterator[None]:
        """What ends the block is the ending of this call, which was not sent if nobody says so."""
        try:
            yield
        except CallError as error:
            error.request, error.elsewhere = asked, self._elsewhere
            error.attempts += self._elsewhere
            raise
        except asyncio.CancelledError as stop:
            unsent = CancelledAfterSending(attempts=0, uncertain=0)
            end = stop if isinstance(stop, CancelledAfterSending) else unsent
            end.attempts += self._elsewhere
            end.elsewhere, end.request = self._elsewhere, asked
            raise end from stop.__cause__


def _is_unusable(error: CallError) -> bool:
    """The fallback itself is out of order (its key is refused): no reason to end the run."""
    return error.fatal_to_run and error.row_type != "budget"


def _wait_for_the_sooner(first: CallError, other: CallError) -> None:
    """While all are down, the one that is looked at first is waited for."""
    if isinstance(first, ProviderDown) and isinstance(other, ProviderDown) and other.reached:
        first.reached = True
        waits = [wait for wait in (first.retry_after, other.retry_after) if wait is not None]
        first.retry_after = min(waits, default=None)


def _verdict(first: CallError, last: CallError) -> CallError:
    """The last error; of a fallback that is out of order the first one, as the last call's."""
    if last is first or not _is_unusable(last):
        return last
    verdict = _with_note(first, last)
    for name in ("request", "held", "attempts", "uncertain", "limited", "elsewhere", "usage",
                 "cost", "earlier", "ambiguous"):  # fmt: skip
        setattr(verdict, name, getattr(last, name))
    return verdict


def _with_note(first: CallError, fallback: LlmctlError) -> CallError:
    """The first error, which says why the fallback is out of order."""
    noted = copy.copy(first)
    noted.args = (f"{first.message} (and the fallback failed: {fallback.message})",)
    return noted
