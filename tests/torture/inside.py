"""The program's own chain of guards, opened in this process for an arena: for runs that cancel
single calls or move a clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llmctl.cli.context import Context, select_profile
from llmctl.clock import Clock, SystemClock
from llmctl.guards.retry import RetryDetails
from llmctl.protocols import Handler
from llmctl.request import Question, compose
from llmctl.runner import Runner, open_runner
from llmctl.types import CacheMode, Message, Request
from llmctl.wiring import Surroundings
from tests.torture.judge import Arena


@dataclass(frozen=True, slots=True)
class Inside:
    """An open runner, and the chain that a batch drives its rows through (its output aside)."""

    live: Runner
    handler: Handler

    def request(self, text: str, cache_mode: CacheMode = "use") -> Request:
        """A row that asks `text`."""
        question = Question(messages=(Message("user", text),))
        made = compose(question, self.live.profile, id=text, cache_mode=cache_mode)
        return self.live.stamp(made)


@asynccontextmanager
async def inside(
    world: Arena,
    clock: Clock | None = None,
    on_retry: Callable[[RetryDetails], None] = lambda _: None,
) -> AsyncIterator[Inside]:
    """Open it with the arena's configuration and folders."""
    context = Context(environ=world.environ, clock=clock or SystemClock())
    chosen = select_profile(context)
    around = Surroundings(
        chosen.folders, context.environ, context.clock, say=lambda _: None, warn=lambda _: None
    )
    async with open_runner(chosen.profile, around) as live:
        yield Inside(live, live.handler(live.budget.settle, exact=True, on_retry=on_retry))
