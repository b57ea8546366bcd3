"""Use case `ask`: prompt → configuration → runner → answer on stdout, or the plan of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import closing, suppress
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from llmctl import attachments
from llmctl.batch.output import dollars, record
from llmctl.cli.ask import AskOptions
from llmctl.cli.context import Context, Selection, runner_for, select_profile
from llmctl.cli.options import (
    BUDGET_FLAG,
    budget_windows,
    cache_mode,
    pairs,
    params,
    parse_dollars,
    read_schema,
    system_prompt,
)
from llmctl.cli.output import (
    AnswerPrinter,
    Waiting,
    age,
    is_tty,
    money,
    print_json,
    print_lines,
    say,
    usage_line,
)
from llmctl.cli.queue_file import queueing_for
from llmctl.cli.streams import require_stream, stdin_pieces
from llmctl.config.settings import Profile
from llmctl.errors import (
    CallError,
    DiskError,
    InputError,
    InvalidRequest,
    ProviderDown,
    Queued,
    UsageError,
)
from llmctl.guards.budget import held_by
from llmctl.guards.data_place import first_place
from llmctl.guards.masking import refuse
from llmctl.guards.queueing import Queueing
from llmctl.protocols import BudgetDenied, TokenCount
from llmctl.redact import printable
from llmctl.request import Question, compose, retarget, ulid
from llmctl.runner import Runner, user_name
from llmctl.shutdown import handle_signals
from llmctl.storage.call_queue import Origin
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.history import Conversation, open_history
from llmctl.types import Answer, CallRecord, Masked, Message, Request, StreamChunk


def run(options: AskOptions, context: Context) -> int:
    """Ask, print, and return the exit code. Raises `LlmctlError`."""
    if options.exact and not options.dry_run:
        raise UsageError("--exact belongs to --dry-run; a call reports its tokens itself (-u)")
    budget = parse_dollars(BUDGET_FLAG, options.budget)
    schema = read_schema(options.schema)
    require_stream(1, "stdout")
    prompt = _full_prompt(options.prompt, stdin=not options.no_stdin)
    before = _last_conversation(context) if options.resume else None
    selection = select_profile(
        context,
        profile=context.profile or (before.profile if before else None),
        model=context.model or (before.model if before and not context.profile else None),
    )
    messages = before.messages if before else ()
    system = system_prompt(options.system)
    if system is None and before is None:
        system = selection.profile.system
    if system is not None:
        rest = (message for message in messages if message.role != "system")
        messages = (Message("system", system), *rest)
    question = Question(
        messages=(*messages, attachments.message(prompt, tuple(options.attach or ()))),
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        options=params(options.param),
        schema=schema,
    )
    mode = cache_mode(no_cache=options.no_cache, refresh=options.refresh)
    tags = {**selection.profile.tags, **pairs("--tag", options.tag)}
    selection = replace(selection, profile=replace(selection.profile, tags=tags))
    request = compose(question, selection.profile, id="ask", cache_mode=mode)
    return asyncio.run(_run(request, budget, options, context, selection, before))


def _full_prompt(argument: str | None, *, stdin: bool) -> str:
    """Stdin, when it is no terminal, then the argument. Raises `InputError` for nothing."""
    piped = ""
    if stdin and sys.stdin is not None and not is_tty(sys.stdin):
        note = "reading the prompt from stdin … (--no-stdin leaves it alone)"
        try:
            piped = b"".join(stdin_pieces(note)).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"stdin cannot be read as UTF-8 text ({error}); convert it, for example with "
                "`iconv -t UTF-8`"
            ) from error
    prompt = "\n\n".join(part for part in (piped.rstrip("\r\n"), argument or "") if part.strip())
    if not prompt:
        raise InputError('the prompt is empty; try `llmctl ask "…"` or `cat FILE | llmctl ask "…"`')
    return prompt


async def _run(
    request: Request,
    budget: Decimal | None,
    options: AskOptions,
    context: Context,
    selection: Selection,
    before: Conversation | None,
) -> int:
    def waiting(denied: BudgetDenied) -> None:
        name, held = denied.window.name, held_by(denied)
        who = f" ({held})" if held else ""
        context.info(f"waiting: other calls under way may come to all of budget {name}{who}")

    opened = selection
    if options.dry_run and not options.exact:  # nobody is asked: no key is needed
        cache = replace(selection.profile.cache, semantic=None)
        opened = replace(
            selection,
            profile=replace(selection.profile, key=None, cache=cache),
            fallbacks=(),
            routed=tuple(replace(one, key=None) for one in selection.routed),
        )
    async with runner_for(opened, context) as live:
        windows = budget_windows(budget, selection.settings.budgets, live.run_id, user_name())
        live.budget.limit(windows, on_wait=waiting)
        if options.dry_run:
            places = selection.profile, *selection.fallbacks
            asked = request if live.masker is None else live.masker(request)
            return await _plan(asked, live, budget, options, context, places)
        remembered = not options.no_history and selection.profile.history
        origin = Origin(conversation=before.id if before else "", remembered=remembered)
        private = "nothing of it is to be kept (--no-history)" if options.no_history else ""
        queueing = queueing_for(live, selection, context, origin, private=private)
        code, answer = await _ask(live.stamp(request), live, options, context, queueing)
    told = answer is not None and answer.cache != "static"
    if answer is not None and told and remembered:
        await remember(request, answer.text, context, origin.conversation, live.store)
    return code


async def _ask(
    request: Request,
    live: Runner,
    options: AskOptions,
    context: Context,
    queueing: Queueing | None,
) -> tuple[int, Answer | None]:
    """Ask and print; the exit code, and the answer if there is one."""
    records: list[CallRecord] = []
    printer = AnswerPrinter(markdown=options.markdown)
    streams = options.stream if options.stream is not None else is_tty(sys.stdout)
    target = request.target
    waiting = Waiting(f"waiting for {target.profile}/{target.model}", quiet=context.quiet)

    def emit(piece: StreamChunk) -> None:
        waiting.stop()
        printer(piece.text)

    streamed = streams and not context.json

    async def sink(call: CallRecord) -> None:
        await live.budget.settle(call)
        records.append(call)

    handler = live.handler(
        sink,
        exact=False,
        on_retry=lambda retry: context.info(
            f"{retry.error.message}; trying again in {retry.wait:.1f} s"
        ),
        on_fallback=lambda error, name: context.info(f"{error.message}; asking {name} instead"),
        schema_retries=options.schema_retries,
        queueing=queueing,
    )
    signals: list[int] = []
    answer, queued = None, 0
    try:
        answer = await _until_signal(handler(request, emit if streamed else None), signals)
        waiting.stop()
        if answer is not None and context.json:
            printer.write_json(record(records[0], "llmctl").decode())
        elif answer is not None and not streamed:
            printer(answer.text)
        printer.end()
    except Queued as later:
        waiting.stop()
        _end_queued(printer, later, records[0], context)
        queued = later.exit_code
    except CallError as error:
        waiting.stop()
        if context.json and records and not printer.closed:
            error.reported = True
            with suppress(CallError):  # what stdout has to say about it stands in the printer
                printer.write_json(record(records[0], "llmctl").decode())
        _end_failed(printer, error)
    finally:
        waiting.stop()
    _say_notes(request, answer, records, printer, options, context)
    degraded = ProviderDown.exit_code if options.strict and answer and answer.degraded else 0
    return (128 + signals[0] if signals else queued or degraded), answer


def _say_notes(
    request: Request,
    answer: Answer | None,
    records: Sequence[CallRecord],
    printer: AnswerPrinter,
    options: AskOptions,
    context: Context,
) -> None:
    """What is to be known of the answer, and what the call used, on stderr."""
    if answer is not None and (note := _note(request, answer)):
        printer.fresh_line()
        context.warn(note)
    if records and (options.usage or (is_tty(sys.stderr) and not context.quiet)):
        printer.fresh_line()
        say(usage_line(records[0]), dim=True)


def _end_queued(printer: AnswerPrinter, later: Queued, call: CallRecord, context: Context) -> None:
    """Say that the answer comes later, and the text that is given meanwhile. Raises `DiskError`."""
    with suppress(CallError):  # what stdout has to say about it stands in the printer
        if context.json:
            printer.write_json(record(call, "llmctl").decode())
        else:
            printer(later.static)
            printer.end()
    if printer.failure is not None:
        raise printer.failure from None
    printer.fresh_line()
    say(later.message)


def _end_failed(printer: AnswerPrinter, error: CallError) -> None:
    """Raise the error, or what stdout has to say; nothing where its reader has gone."""
    with suppress(CallError):  # what stdout has to say about it stands in the printer
        printer.end()
    if printer.failure is not None:
        raise printer.failure from None
    if not printer.closed:
        printer.fresh_line()
        if error.text:  # it was paid for
            say(printable(error.text))
        raise error


def _note(request: Request, answer: Answer) -> str | None:
    """What is to be known of an answer that is not whole, or is no text."""
    asked = answer.request or request
    if answer.degraded:
        old = f"this answer is {age(answer.age)} old" if answer.age is not None else ""
        return f"the provider is down: {old or 'this text is no answer of a model'}"
    if answer.finish == "length":
        of_claude = asked.target.adapter in ("anthropic", "vertex-claude")
        own = of_claude and asked.max_tokens is None
        if own and "max_tokens" not in asked.parameters:
            from llmctl.providers.anthropic import default_limit

            limit = f"{default_limit(asked):,} tokens"
            return f"the answer was cut at {limit}, llmctl's own limit: raise --max-tokens"
        return "the answer was cut at the output limit: raise --max-tokens"
    cut = {
        "content_filter": "the answer was cut by the provider's content filter",
        "other": "the model stopped before its answer ended",
    }
    if answer.finish in cut:
        return cut[answer.finish]
    if answer.tool_calls and not answer.text.strip():
        made = (call["function"] for call in answer.tool_calls)
        calls = ", ".join(f"{each['name']}({each['arguments']})" for each in made)
        return f"the answer is a tool call, which --json shows: {calls}"
    return None


async def _until_signal(work: Awaitable[Answer], signals: list[int]) -> Answer | None:
    """The answer; None when SIGINT or SIGTERM, noted in `signals`, cancelled the call."""
    task = asyncio.ensure_future(work)

    def stop(number: int) -> None:
        signals.append(number)
        task.cancel()

    with handle_signals(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not signals:
                raise
            return None


async def _route(request: Request, live: Runner) -> dict[str, Any] | None:
    """Where the question goes first, by what, and what it costs there at most; None without a
    route."""
    if live.route is None:
        return None
    choice = live.route.router.choose(request)
    there = next((way.profile for way in live.routed if way.profile.name == choice.to), None)
    asked = request if there is None else retarget(request, there, "")
    _, worst = await live.costs.worst(asked)
    return {
        "to": choice.to,
        "by": choice.by,
        "score": choice.score,
        "checked": choice.checked,
        "worst_case_usd": worst,
    }


def _route_json(route: Mapping[str, Any] | None) -> dict[str, Any]:
    if route is None:
        return {}
    return {"routed": {**route, "worst_case_usd": dollars(route["worst_case_usd"])}}


def _route_lines(route: Mapping[str, Any] | None) -> list[str]:
    """Where it goes, for a person."""
    if route is None:
        return []
    score = "" if route["score"] is None else f" {route['score']:.3f}"
    checked = ", and the answer is checked" if route["checked"] else ""
    where = f"route    {route['to']}, by {route['by']}{score}{checked}"
    return [where, f"         {money(route['worst_case_usd'])} at most there"]


async def _plan(
    request: Request,
    live: Runner,
    budget: Decimal | None,
    options: AskOptions,
    context: Context,
    places: Sequence[Profile],
) -> int:
    """Print what the call would take (`--dry-run`); 3 when that may be above the budget. `places`
    are the profile and its fallbacks.

    Raises `InvalidRequest` and `DataRefused` for what would not be sent to the provider.
    """
    refuse(request)
    target, found = request.target, request.masked or Masked()
    live.routes[0].endpoint.codec.encode(request, stream=False)
    counted = live.counter.count(request)
    if options.exact:
        from llmctl.providers.models_api import count_tokens

        live.placed(request)
        tokens = await count_tokens(live.routes[0].endpoint, request)
        if tokens is None:
            raise InvalidRequest(
                f"{target.provider} counts no tokens for others: leave --exact out", sent=False
            )
        counted = TokenCount(tokens, exact=True, encoding=f"counted by {target.provider}")
    if windows := live.budget.windows_of(request):  # as the call would be sent and held
        limit = await live.costs.limit_to_add(request, live.profile.default_max_tokens)
        if limit is not None:
            request = await live.budget.limit_output(request, limit, windows, live.costs.worst)
    _, worst = await live.costs.worst(request, counted)
    route = await _route(request, live)
    window = live.counter.context_window(target)
    kept = await live.cache.get(request.fingerprint) if request.cache_mode == "use" else None
    if kept is None:
        place = first_place(places, request.tags, target.model)
        if place is not places[0]:
            context.info(f"by the rules of where data may go, {place.name} is asked instead")
    fits = budget is None or kept is not None or (worst is not None and worst <= budget)
    code = 0 if fits else 3
    if context.json:
        plan: dict[str, Any] = {
            "profile": target.profile,
            "model": target.model,
            "input_tokens": counted.tokens,
            "input_tokens_exact": counted.exact,
            "max_tokens": request.max_tokens,
            "context_window": window,
            "worst_case_usd": dollars(worst),
            "cached": kept is not None,
            "budget_usd": dollars(budget),
            **({"masked": dict(found.counts)} if found.counts else {}),
            **_route_json(route),
        }
        print_json(plan, compact=True)
        return code
    about = "" if counted.exact else "about "
    most = f"{request.max_tokens:,} out at most" if request.max_tokens else "output not limited"
    room = f", window {window:,}" if window else ""
    print_lines(
        f"target   {target.profile}/{target.model}",
        f"tokens   {about}{counted.tokens:,} in ({counted.encoding}), {most}{room}",
        f"price    {money(worst)} at most",
        f"cache    {'hit: nothing would be sent' if kept else 'miss'}",
        *_route_lines(route),
    )
    if found.counts:
        print_lines(f"found    {found.said}")
    if budget is not None:
        print_lines(f"budget   {money(budget)}: {'enough' if fits else 'NOT ENOUGH'}")
    return code


def _last_conversation(context: Context) -> Conversation:
    """The conversation to continue. Raises `InputError` when there is none."""
    path, found = context.folders.state / "history.db", None
    if path.exists():
        with closing(open_history(path, StoreCipher(context.environ))) as history:
            found = history.last(now=context.clock.wall())
    if found is None:
        raise InputError(
            "there is no conversation to continue (they are kept for 30 days); ask without -c"
        )
    return found


async def remember(
    request: Request, text: str, context: Context, conversation: str, store: StoreCipher
) -> None:
    """Keep the turn for `-c`, with the others of the conversation of that id, or of a new one. The
    answer has been printed: a full disk is only a warning now."""
    asked = request.messages[-1:] if conversation else request.messages
    try:
        path = context.folders.state / "history.db"
        with closing(open_history(path, store)) as history:
            if history.lingers:
                context.warn(
                    f"conversations were encrypted in {path}, but another llmctl keeps reading it: "
                    "its WAL may hold them in clear until that one has ended"
                )
            await history.append(
                conversation or ulid(context.clock),
                (*asked, Message("assistant", text)),
                profile=request.target.profile,
                model=request.target.model,
                at=context.clock.wall(),
            )
    except DiskError as error:
        context.warn(f"the conversation was not kept: {error.message}")
