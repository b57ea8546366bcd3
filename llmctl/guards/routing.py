"""Routing: a cheaper profile is asked where the strong one is not needed.

Beside fallback, around it: what cannot be had elsewhere the strong profile is asked for, and what
that one cannot serve its fallbacks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.route import Check as CheckSettings
from llmctl.config.settings import Profile
from llmctl.errors import (
    BudgetRefused,
    CallError,
    Cancelled,
    ConnectionFailed,
    Interrupted,
    SetupError,
)
from llmctl.guards.accounting import Stopwatch
from llmctl.guards.fallback import FallbackTarget
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler
from llmctl.routing.check_command import CheckCommand
from llmctl.routing.checks import agrees, is_json, refuses
from llmctl.routing.router import Choice, Router, question_text, wants_json
from llmctl.routing.scorer_file import ScorerFile, read_scorer
from llmctl.tokens import Counter
from llmctl.types import Answer, Request, RouteDecision, StreamChunk, Target

_SAMPLES = 1 << 16  # numbers of samples that one row may have of its own


class Check(Protocol):
    """What is checked of an answer that the cheap profile gave."""

    @property
    def name(self) -> str:
        """What rows that fail it say."""

    async def passes(self, request: Request, answer: Answer, more: Samples, /) -> bool:
        """Whether it is good enough; `more` gets the texts of that many further answers."""


Samples = Callable[[int], Awaitable[list[str]]]
Settle = Callable[[Request, "Answer | CallError", Stopwatch], Awaitable[Decimal | None]]
"""Puts a call that has ended on record, before another one is made; gives its cost."""


class Routing(Struct, frozen=True, kw_only=True):
    """The guard: asks a profile of `targets` for what `router` sends there, and the inner handler
    for the rest, and for what fails a check or cannot be had there.

    Attributes:
        checks: what is checked of an answer, where the choice says so, in this order.
        settle: of a call that does not give the row's answer. Each call has an id of its own;
            all of a row that may have several have its first one as their `parent`.
        call_id: a new call's id.
        is_long: whether a prompt takes a while to count.
        on_fallback: hears why the strong profile is asked instead.

    """

    inner: Handler
    targets: Mapping[str, FallbackTarget]
    router: Router
    checks: Sequence[Check]
    clock: Clock
    settle: Settle
    call_id: Callable[[], str]
    is_long: Callable[[Request], bool]
    on_fallback: Callable[[CallError, str], None] = lambda _, __: None

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The answer, with its `route`; so has an error. Nothing of an answer that is checked is
        shown before it has passed."""
        long = self.is_long(request)
        choose = self.router.choose
        choice = await asyncio.to_thread(choose, request) if long else choose(request)
        target = self.targets.get(choice.to)
        legs = _Legs(self, request, choice, target)
        if target is None:
            with legs.as_of(request):
                return legs.signed(await self.inner(request, emit), request)
        answer = await legs.elsewhere(target, emit)
        return answer or await legs.strong(emit)


class _Legs:
    """The calls of one row, one after another: what those before the last cost, and how many
    attempts they took, which are on record."""

    def __init__(
        self, guard: Routing, request: Request, choice: Choice, target: FallbackTarget | None
    ) -> None:
        self._guard, self._choice = guard, choice
        self._first = request if target is None else replace(request, parent=request.call_id)
        self._cost: Decimal | None = Decimal(0)
        self._attempts = 0
        self._settled: set[str] = set()
        self._to, self._checked = choice.to, ""
        self._strong: Target | None = None if target is None else request.target

    async def elsewhere(self, target: FallbackTarget, emit: Emit | None) -> Answer | None:
        """The other profile's answer; None where the strong one is to be asked."""
        guard, checked = self._guard, self._choice.checked
        asked = replace(target.retarget(self._first), call_id=self._first.call_id)
        held: list[StreamChunk] = []
        watch = Stopwatch(guard.clock, held.append if checked else emit)
        # For observers it is still the answer to the question that was asked.
        known = replace(asked, fingerprint=self._first.fingerprint)
        with self.as_of(known):
            try:
                answer = await _asked(target, asked, None if emit is None else watch)
            except CallError as error:
                if not _passes_on(error, shown=watch.first is not None and not checked):
                    raise
                if error.held:
                    await self._settle(asked, error, watch)
                self._fail(error.row_type)
                guard.on_fallback(error, guard.router.strong)
                return None
            try:
                failed = await self._failed_check(asked, answer, target) if checked else ""
            except BaseException:  # the answer was paid for
                await self._settle(asked, answer, watch)
                raise
            if failed:
                await self._settle(asked, answer, watch)
                self._fail(failed)
                return None
            self._checked = "passed" if checked else ""
            for piece in held:
                if emit is not None:
                    emit(piece)
            return self.signed(answer, known)

    async def strong(self, emit: Emit | None) -> Answer:
        """The strong profile's answer, or a fallback's."""
        asked = self._first
        if asked.call_id in self._settled:
            asked = replace(asked, call_id=self._guard.call_id())
        with self.as_of(asked):
            return self.signed(await self._guard.inner(asked, emit), asked)

    def signed(self, answer: Answer, asked: Request) -> Answer:
        """The answer, as that of the row."""
        made, elsewhere = answer.attempts + self._attempts, answer.elsewhere + self._attempts
        return replace(
            answer,
            request=answer.request or asked,
            attempts=made,
            elsewhere=elsewhere,
            route=self._decision(),
        )

    @contextmanager
    def as_of(self, asked: Request) -> Iterator[None]:
        """What ends the block is the ending of this call, unless another one is named."""
        try:
            yield
        except CallError as error:
            self._mark(error, asked)
            raise
        except asyncio.CancelledError as stop:
            unsent = CancelledAfterSending(attempts=0, uncertain=0)
            end = stop if isinstance(stop, CancelledAfterSending) else unsent
            self._mark(end, asked)
            raise end from stop.__cause__

    def _mark(self, end: CallError | CancelledAfterSending, asked: Request) -> None:
        if asked.call_id in self._settled:  # it ended between two calls: none is under way
            asked = replace(asked, call_id=self._guard.call_id())
        own = end.request is not None and end.request.call_id not in self._settled
        end.request = end.request if own else asked
        end.attempts += self._attempts
        end.elsewhere += self._attempts
        end.route = self._decision()

    def _decision(self) -> RouteDecision:
        choice, first = self._choice, self._first
        strong = self._strong if self._to != self._guard.router.strong else None
        return RouteDecision(
            self._to, choice.by, choice.score, self._checked, self._cost, strong, first.parent
        )

    def _fail(self, why: str) -> None:
        self._checked, self._to = why, self._guard.router.strong

    async def _settle(self, asked: Request, result: Answer | CallError, watch: Stopwatch) -> None:
        """Put a call on record, also when the row is cancelled meanwhile."""
        self._settled.add(asked.call_id)
        self._attempts += result.attempts
        work = asyncio.ensure_future(self._guard.settle(asked, result, watch))
        try:
            await asyncio.shield(work)
        finally:
            if not work.done():
                await asyncio.wait((work,))
            cost = work.result()
            known = self._cost is not None and cost is not None
            self._cost = (self._cost or Decimal(0)) + (cost or Decimal(0)) if known else None

    async def _failed_check(self, asked: Request, answer: Answer, target: FallbackTarget) -> str:
        """The name of the first check that the answer fails; empty where it passes all. A tool
        call without text is not held to them."""
        if answer.tool_calls and not answer.text.strip():
            return ""

        async def more(count: int) -> list[str]:
            return [await self._sample(asked, target, number) for number in range(1, count + 1)]

        for check in self._guard.checks:
            if not await check.passes(asked, answer, more):
                return check.name
        return ""

    async def _sample(self, asked: Request, target: FallbackTarget, number: int) -> str:
        """One more answer to the same question; empty where there is none."""
        sample = (asked.sample + 1) * _SAMPLES + number
        another = replace(asked, call_id=self._guard.call_id(), sample=sample)
        watch = Stopwatch(self._guard.clock)
        try:
            answer = await _asked(target, another, None)
        except BudgetRefused:
            raise
        except CallError as error:
            if error.held:
                await self._settle(another, error, watch)
            return ""
        await self._settle(another, answer, watch)
        return answer.text


async def _asked(target: FallbackTarget, asked: Request, emit: Emit | None) -> Answer:
    """Its answer. Raises `CallError` also where its own server does not start."""
    try:
        await target.admit(asked)
    except SetupError as error:
        raise ConnectionFailed(error.message, sent=False) from error
    return await target.handler(asked, emit)


def _passes_on(error: CallError, *, shown: bool) -> bool:
    """Whether the strong profile is asked for what another one failed at. Not after something was
    `shown`, nor for what a budget, or the user, refused."""
    own = isinstance(error, BudgetRefused | Cancelled)
    return not own and not (shown and isinstance(error, Interrupted))


class SchemaCheck(Struct, frozen=True):
    """JSON, where JSON was asked for."""

    name: str = "schema"

    async def passes(self, request: Request, answer: Answer, _: Samples) -> bool:
        """Whether it is."""
        return not wants_json(request) or is_json(answer.text)


class RefusalCheck(Struct, frozen=True):
    """No refusal, and not empty."""

    name: str = "refusal"

    async def passes(self, _: Request, answer: Answer, __: Samples) -> bool:
        """Whether it is none."""
        return answer.finish != "content_filter" and not refuses(answer.text)


class PatternCheck(Struct, frozen=True):
    """A regular expression that is found in the text."""

    pattern: str
    name: str = "matches"

    async def passes(self, _: Request, answer: Answer, __: Samples) -> bool:
        """Whether it is."""
        return re.search(self.pattern, answer.text) is not None


class CommandCheck(Struct, frozen=True):
    """A program of the user's."""

    command: CheckCommand
    name: str = "command"

    async def passes(self, _: Request, answer: Answer, __: Samples) -> bool:
        """Whether it says so."""
        return await self.command.passes(answer.text)


class AgreementCheck(Struct, frozen=True):
    """So many answers, of which more than half say the same."""

    answers: int
    name: str = "agree"

    async def passes(self, _: Request, answer: Answer, more: Samples) -> bool:
        """Whether they do."""
        return agrees([answer.text, *await more(self.answers - 1)])


class ScorerCheck(Struct, frozen=True):
    """A scorer that has seen which answers were wrong."""

    scorer: ScorerFile
    name: str = "scorer"

    async def passes(self, request: Request, answer: Answer, _: Samples) -> bool:
        """Whether it expects no more of the strong model."""
        scorer = self.scorer
        return scorer.score(question_text(request), answer.text) < scorer.threshold


class Opened(Struct, frozen=True):
    """A route, ready: where questions go, and the checks of its cascade."""

    router: Router
    checks: Sequence[Check] = ()


def open_router(
    profile: Profile,
    routed: Sequence[Profile],
    counter: Counter,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
) -> Opened | None:
    """The route of a profile, the strong one; None where it has none. `routed` are the profiles it
    leads to.

    A scorer that was trained for other models than the profiles have is void, and so is a cascade
    with such a check: the strong one is asked instead, and `warn` hears it. Raises `ConfigError`
    for a file that is no scorer's, `SetupError` for a command that is not there.
    """
    settings = profile.route
    if settings is None:
        return None
    cheap = next(one for one in routed if one.name == settings.cheap)

    def scorer(path: Path, *, answers: bool) -> ScorerFile | None:
        found = read_scorer(path, answers=answers)
        if why := found.void(cheap.model, profile.model):
            part = "cascade" if answers else "scorer"
            warn(
                f"the {part} of profile {profile.name} is not used: {why}; train it again, {path} "
                "(llmctl route train)"
            )
            return None
        return found

    first = None if settings.scorer is None else scorer(settings.scorer, answers=False)
    checks: list[Check] = []
    for check in settings.cascade.check if settings.cascade else ():
        made = _open_check(check, environ, partial(scorer, answers=True))
        if made is None:
            settings, checks = replace(settings, cascade=None), []
            break
        checks.append(made)
    router = Router(
        strong=profile.name,
        model=profile.model,
        settings=settings,
        scorer=first,
        tokens=lambda request: counter.count(request).tokens,
        bound=counter.upper_bound,
    )
    return Opened(router, checks)


def _open_check(
    check: CheckSettings,
    environ: Mapping[str, str],
    scorer: Callable[[Path], ScorerFile | None],
) -> Check | None:
    """The check; None for a scorer that is void."""
    if check.schema is not None:
        return SchemaCheck()
    if check.refusal is not None:
        return RefusalCheck()
    if check.matches is not None:
        return PatternCheck(check.matches)
    if check.command is not None:
        return CommandCheck(CheckCommand(check.command, environ))
    if check.agree is not None:
        return AgreementCheck(check.agree)
    assert check.scorer is not None
    found = scorer(check.scorer)
    return None if found is None else ScorerCheck(found)
