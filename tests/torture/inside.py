"""The program's own chain of guards, opened in this process for an arena: for runs that cancel
single calls or move a clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from llmctl.cli.context import Context, select_profile
from llmctl.clock import Clock, SystemClock
from llmctl.request import Question, compose
from llmctl.runner import open_runner
from llmctl.types import Answer, Message
from llmctl.wiring import Surroundings
from tests.torture.judge import Arena


def _silent(_: object) -> None:
    pass


@asynccontextmanager
async def inside(
    world: Arena, clock: Clock | None = None
) -> AsyncIterator[Callable[[str], Awaitable[Answer]]]:
    """What answers a question as a row of a batch, its output aside."""
    context = Context(environ=world.environ, clock=clock or SystemClock())
    chosen = select_profile(context)
    around = Surroundings(
        chosen.settings.folders, context.environ, context.clock, say=_silent, warn=_silent
    )
    async with open_runner(chosen.profile, around) as live:
        handler = live.handler(live.budget.settle, exact=True, on_retry=_silent)

        async def ask(text: str) -> Answer:
            question = Question(messages=(Message("user", text),))
            return await handler(live.stamp(compose(question, live.profile, id=text)), None)

        yield ask
