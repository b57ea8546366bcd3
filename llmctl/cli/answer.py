"""How `ask` travels: question → configuration → runner → answer on stdout."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path

from llmctl import attachments
from llmctl.cli.ask import AskOptions
from llmctl.cli.chosen import Chosen, choose
from llmctl.cli.context import Context
from llmctl.cli.printing import Printer
from llmctl.cli.render import is_tty, usage_line
from llmctl.cli.secret import asker
from llmctl.cli.signals import caught
from llmctl.cli.spending import caps
from llmctl.config.overrides import Overrides
from llmctl.config.paths import find_folders
from llmctl.errors import CallError, DiskError, InputError
from llmctl.guards.retry import RetryDetails
from llmctl.ids import ulid
from llmctl.observers.ledger_observer import InOrder, LedgerObserver
from llmctl.request import Question, compose
from llmctl.runner import Runner, open_runner, user_name
from llmctl.storage.history import Conversation, History, open_history
from llmctl.types import Answer, CallRecord, Message, Request


def answer(prompt: str, options: AskOptions, context: Context) -> int:
    """Ask the prompt and return the exit code; raises `LlmctlError`."""
    before = _last(context) if options.resume else None
    overrides = Overrides(
        profile=context.profile or (before.profile if before else None),
        model=context.model or (before.model if before and not context.profile else None),
        max_tokens=options.max_tokens,
        temperature=options.temperature,
    )
    chosen = choose(context, overrides)
    request = _request(prompt, options, chosen, before)
    return asyncio.run(_run(request, options, context, chosen, before))


def _request(
    prompt: str, options: AskOptions, chosen: Chosen, before: Conversation | None
) -> Request:
    said = before.messages if before else ()
    if options.system is not None:
        said = (Message("system", options.system), *(m for m in said if m.role != "system"))
    question = Question(
        messages=(*said, attachments.message(prompt, options.attach)),
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        options=options.options,
        tags=options.tags,
        schema=options.schema,
    )
    return compose(question, chosen.profile, id="ask", cache_mode=options.cache_mode)


def _history_file(context: Context) -> Path:
    return find_folders(context.environ, context.cwd()).state / "history.db"


def _last(context: Context) -> Conversation:
    """The conversation to continue. Raises `InputError` when there is none."""
    path = _history_file(context)
    found = None
    if path.exists():
        history = open_history(path)
        try:
            found = history.last(now=context.clock.wall())
        finally:
            history.close()
    if found is None:
        raise InputError(
            "there is no conversation to continue (they are kept for 30 days); ask without -c"
        )
    return found


async def _run(
    request: Request,
    options: AskOptions,
    context: Context,
    chosen: Chosen,
    before: Conversation | None,
) -> int:
    async with open_runner(
        chosen.profile,
        chosen.folders,
        context.environ,
        context.clock,
        say=context.say,
        warn=context.warn,
        ask=asker(),
        cache_size=chosen.cache_size,
        fallbacks=chosen.fallbacks,
    ) as live:
        if options.dry_run:
            from llmctl.cli.ask_plan import exactly, plan

            exact = await exactly(request, live) if options.exact else None
            return await plan(request, live, context, exact, options.budget)
        live.budget.limit(
            caps(options.budget, chosen.budgets, live.run_id, user_name()),
            on_wait=lambda denied: context.say(
                f"waiting: other calls under way may come to all of budget {denied.window.name}"
            ),
        )
        code, response = await _ask(live.stamp(request), live, options, context)
    if response is not None and options.history and chosen.profile.history:
        await _remember(request, response, context, before)
    return code


async def _ask(
    request: Request, live: Runner, options: AskOptions, context: Context
) -> tuple[int, Answer | None]:
    """Ask and print: the exit code, and the answer if there is one."""
    ended: list[CallRecord] = []
    printer = Printer(markdown=options.markdown)
    streams = options.stream if options.stream is not None else is_tty(sys.stdout)
    emit = printer if streams and not context.json else None

    async def remember(outcome: CallRecord) -> None:
        ended.append(outcome)

    def on_retry(details: RetryDetails) -> None:
        context.say(f"{details.error.message}; trying again in {details.wait:.1f} s")

    def on_fallback(error: CallError, name: str) -> None:
        context.say(f"{error.message}; asking {name} instead")

    sink = InOrder(LedgerObserver(live.budget.settle), remember)
    handler = live.handler(sink, exact=False, on_retry=on_retry, on_fallback=on_fallback)
    stopped: list[int] = []
    response = None
    try:
        response = await _until_signal(handler(request, emit), stopped)
        if response is not None and context.json:
            from llmctl.batch.output import record

            printer.write(record(ended[0], "llmctl").decode())
        elif response is not None and emit is None:
            printer(response.text)
    except CallError:
        printer.end()
        if printer.failure is not None:
            raise printer.failure from None
        if not printer.closed:
            raise
    printer.end()
    if ended and (options.usage or (is_tty(sys.stderr) and not context.quiet)):
        print(usage_line(ended[0]), file=sys.stderr)
    return (128 + stopped[0] if stopped else 0), response


async def _until_signal(work: Awaitable[Answer], stopped: list[int]) -> Answer | None:
    """The answer; None when SIGINT or SIGTERM, noted in `stopped`, cancelled the call."""
    task = asyncio.ensure_future(work)

    def stop(number: int) -> None:
        stopped.append(number)
        task.cancel()

    with caught(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not stopped:
                raise
            return None


async def _remember(
    request: Request, response: Answer, context: Context, before: Conversation | None
) -> None:
    """Keep the turn for `-c`. The answer has been printed: a full disk is only a warning now."""
    asked = request.messages[-1:] if before else request.messages
    try:
        history: History = open_history(_history_file(context))
        try:
            await history.append(
                before.id if before else ulid(context.clock),
                (*asked, Message("assistant", response.text)),
                profile=request.target.profile,
                model=request.target.model,
                at=context.clock.wall(),
            )
        finally:
            history.close()
    except DiskError as error:
        context.warn(f"the conversation was not kept: {error.message}")
