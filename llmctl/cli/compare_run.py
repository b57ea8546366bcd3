"""Use case `compare`: a batch for each profile, in one run, and what they said side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct
from msgspec.structs import replace

from llmctl.batch.job import Batch, Job, nothing_to_send, open_batch
from llmctl.batch.job import run as run_batch
from llmctl.batch.output import STDOUT, default_output, dollars, errors_path
from llmctl.batch.rows import RowReader
from llmctl.batch.semantic_check import require_known_fields, semantic_policies
from llmctl.cli.batch_run import Ending, exit_code, progress, workers
from llmctl.cli.compare import CompareOptions
from llmctl.cli.context import Context, Selection, select_profile, surroundings
from llmctl.cli.options import (
    BUDGET_FLAG,
    budget_lines,
    budget_tags,
    budget_windows,
    cache_mode,
    parse_dollars,
    read_schema,
    system_prompt,
)
from llmctl.cli.output import money, plural, print_json, print_table, say
from llmctl.cli.queue_file import for_rows
from llmctl.cli.report import check_target, write_page
from llmctl.engines.local import LocalEngine
from llmctl.errors import CallError, InputError, UsageError
from llmctl.guards.data_place import first_place
from llmctl.guards.masking import open_masker
from llmctl.guards.retry import RetryDetails
from llmctl.observers.run_stats import Tally
from llmctl.protocols import Emit, Handler, Observer
from llmctl.reports import comparison
from llmctl.reports.amounts import percent
from llmctl.request import target_for
from llmctl.runner import Runner, open_run, user_name
from llmctl.shutdown import Stop, handle_signals
from llmctl.storage.files import disk, replacing
from llmctl.types import Answer, Request


class Side(Struct, frozen=True):
    """One of the profiles, with its batch. `stop` ends its rows, not those of the others."""

    selection: Selection
    batch: Batch
    stop: Stop

    @property
    def name(self) -> str:
        """The profile's."""
        return self.selection.profile.name


def run(options: CompareOptions, context: Context) -> int:
    """Ask, write the comparison and return the exit code. Raises `LlmctlError`."""
    names, output = _names(options), _output(options)
    if options.report is not None:
        check_target(options.report)
    budget = parse_dollars(BUDGET_FLAG, options.budget)
    selections = [select_profile(replace(context, profile=name)) for name in names]
    with ExitStack() as stack:
        sides = []
        for selection in selections:
            alone = replace(selection, fallbacks=())
            batch = stack.enter_context(open_batch(_job(options, alone, output, context)))
            require_known_fields(batch, (alone.profile, *alone.routed), in_batch=False)
            sides.append(Side(alone, batch, Stop()))
        if not sides[0].batch.rows:
            raise InputError(f"{options.input} has no rows: nothing was sent")
        tally = Tally(
            rows=sum(side.batch.rows for side in sides),
            skipped=sum(side.batch.skipped for side in sides),
        )
        ending = Ending()
        try:
            asyncio.run(_send(sides, tally, ending, budget, context))
        finally:
            count, figures = _combine(output, sides)
    code = exit_code(tally, ending)
    _tell(output, count, figures, ending, code, context)
    if options.report is not None:
        page = comparison.html(options.input, figures, _lines(output), count)
        write_page(options.report, page.encode())
        context.info(f"page → {options.report}")
    return code


def _names(options: CompareOptions) -> list[str]:
    """The profiles that are compared. Raises `UsageError`."""
    if not options.input:
        raise UsageError("missing argument 'FILE' (see `llmctl compare -h`)")
    names = [name.strip() for name in options.profiles.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError("-p wants two or more different profiles, such as -p small,large")
    return names


def _output(options: CompareOptions) -> Path:
    """Where the comparison goes. Raises `UsageError` and `InputError`."""
    if options.input == STDOUT:
        raise UsageError("compare reads FILE once a profile: put the rows into a file, not stdin")
    if options.output is None:
        default = default_output(options.input).removesuffix(".out.jsonl")
        output = Path(f"{default}.compare.jsonl")
    else:
        output = Path(options.output)
    if output.suffix.lower() != ".jsonl":
        raise UsageError(f"-o wants a file that ends in .jsonl, not {options.output!r}")
    if output.exists():
        with disk("read", output), output.open("rb") as file:
            first = file.readline(200)
        if first and not (first.startswith(b'{"id":') and b'"answers":{' in first):
            raise UsageError(f"{output} is no comparison of llmctl's: name another file with -o")
    return output


def _job(options: CompareOptions, selection: Selection, output: Path, context: Context) -> Job:
    """The batch of one profile."""
    profile, template = selection.profile, None
    if options.template is not None:
        from llmctl.batch.template import Template

        template = Template(options.template)
    system = system_prompt(options.system)
    return Job(
        input=options.input,
        output=str(output.with_suffix(f".{profile.name}.jsonl")),
        reader=RowReader(
            template=template,
            id_field=options.id_field,
            system=profile.system if system is None else system,
            schema=read_schema(options.schema),
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            options={},
            keep=(),
            fixed_tags=budget_tags(selection.settings.budgets),
            mask=open_masker((profile,), context.environ),
            parts=bool(semantic_policies((profile, *selection.routed))),
        ),
        profile=profile,
        limit=options.limit,
        ordered=True,
        restart=options.restart,
        cache_mode=cache_mode(no_cache=options.no_cache, refresh=False),
    )


async def _send(
    sides: list[Side], tally: Tally, ending: Ending, budget: Decimal | None, context: Context
) -> None:
    """Send what has no answer yet, to all profiles at a time. Raises as `job.run`."""
    waiting = [side for side in sides if side.batch.skipped < side.batch.rows]
    for side in sides:
        if side in waiting:
            first_place((side.selection.profile,), {})
        else:
            nothing_to_send(side.batch)
    if not waiting:
        return
    stop, selection = Stop(), sides[0].selection

    def on_signal(number: int) -> None:
        ending.signals.append(number)
        again = len(ending.signals) > 1
        for each in (stop, *(side.stop for side in waiting)):
            (each.at_once if again else each.ask)()
        if not again:
            context.info(
                "stopping: waiting up to 30 s for the rows in flight; again to stop at once"
            )

    with handle_signals(on_signal):
        async with open_run(
            surroundings(selection, context),
            cache_size=selection.settings.cache_size,
            patient=True,
            many=True,
            stop=stop,
        ) as live:
            windows = budget_windows(budget, selection.settings.budgets, live.run_id, user_name())
            live.budget.limit(windows, lambda: stop.asked)
            # What one of them lacks shows before the first paid call of another.
            runners = [
                await live.runner(for_rows(side.selection.profile, STDOUT)) for side in waiting
            ]
            first = dict[int, str]()
            async with progress(tally, runners[0], context, None):
                works = [
                    _ask(side, runner, tally, first, context)
                    for side, runner in zip(waiting, runners, strict=True)
                ]
                ended = await _all(works, [side.stop for side in waiting])
            ending.because = next(filter(None, ended), None)
            ending.budgets += await budget_lines(live.budget)


async def _all(
    works: Sequence[Coroutine[Any, Any, CallError | None]], stops: Sequence[Stop]
) -> list[CallError | None]:
    """What the works give. Where one raises, the rows in flight of the others end first."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    if not all(task.done() for task in tasks):
        for stop in stops:
            stop.ask()
        await asyncio.wait(tasks)
    return [task.result() for task in tasks]


async def _ask(
    side: Side, runner: Runner, tally: Tally, first: dict[int, str], context: Context
) -> CallError | None:
    """Send the rows of one profile; gives the error that ended them early, if one did. `first` are
    the ids of the first call of each row, of any profile, by its index."""

    def on_retry(retry: RetryDetails) -> None:
        what = f"{side.name}, row {retry.request.id}: {retry.error.message}"
        context.info(f"{what}; trying again in {retry.wait:.1f} s")

    def make_handler(sink: Observer) -> Handler:
        handler = runner.handler(sink, exact=True, on_retry=on_retry)

        async def ask(request: Request, emit: Emit | None) -> Answer:
            parent = first.setdefault(request.index, request.call_id)
            return await handler(replace(request, parent=parent), emit)

        return ask

    return await run_batch(
        side.batch,
        LocalEngine(workers(side.selection, context), side.stop, context.clock),
        make_handler,
        settle=runner.budget.settle,
        stats=tally,
        stop=side.stop,
        clock=context.clock,
        call_id=runner.call_id,
        cached=runner.kept_records,
        check=runner.check,
        prepare=lambda: runner.counter.load(target_for(runner.profile)),
    )


def _combine(output: Path, sides: list[Side]) -> tuple[int, list[comparison.Side]]:
    """Write a line for every row that a profile was asked, in the order of the input, atomically;
    gives how many, and the profiles' figures. Raises `DiskError`."""
    figures = [comparison.Side(side.name) for side in sides]
    with ExitStack() as stack:
        found = {side.name: _Records(side, stack) for side in sides}
        indexes = sorted(set().union(*(records.places for records in found.values())))
        if not indexes and not output.exists():
            return 0, figures
        with replacing(output) as file:
            for index in indexes:
                said = {name: records.read(index) for name, records in found.items()}
                name = next(record["id"] for record in said.values() if record)
                row = comparison.line(name, index, said)
                comparison.add(figures, row)
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return len(indexes), figures


class _Records:
    """The lines of a profile's batch by row: where each begins, answers and errors."""

    def __init__(self, side: Side, stack: ExitStack) -> None:
        job = side.batch.job
        assert job.output is not None
        answers = Path(job.output)
        self.places: dict[int, tuple[Any, int]] = {}
        for path in (answers, errors_path(answers)):  # what failed in this run has no answer
            if not path.exists():
                continue
            with disk("read", path):
                file, start = stack.enter_context(path.open("rb")), 0
                for line in file:
                    if line.endswith(b"\n") and not line.isspace():
                        index = orjson.loads(line)["index"]
                        if index < side.batch.rows:
                            self.places[index] = file, start
                    start += len(line)

    def read(self, index: int) -> Mapping[str, Any] | None:
        """The row's line; None where it has none yet."""
        if index not in self.places:
            return None
        file, start = self.places[index]
        file.seek(start)
        record: Mapping[str, Any] = orjson.loads(file.readline())
        return record


def _lines(output: Path) -> Iterator[Mapping[str, Any]]:
    with disk("read", output), output.open("rb") as file:
        yield from map(orjson.loads, file)


def _tell(
    output: Path,
    count: int,
    figures: list[comparison.Side],
    ending: Ending,
    code: int,
    context: Context,
) -> None:
    """The table on stdout, or with `--json` the object."""
    if ending.signals:
        say("stopped early: interrupted; the same command goes on where this one stopped")
    elif ending.because is not None:
        say(f"stopped early: {ending.because.message.removeprefix('not sent: ')}")
    context.info("\n".join([f"{plural(count, 'row')} → {output}", *ending.budgets]))
    if context.json:
        print_json(
            {
                "rows": count,
                "profiles": [_as_json(side) for side in figures],
                "exit_code": code,
            }
        )
        return
    head = ("profile", "answers", "errors", "cost", "p50", "p95", f"as {figures[0].name}", "words")
    rows = [
        (
            side.name,
            f"{side.answers:,}",
            f"{side.errors:,}",
            money(side.cost, side.unpriced),
            comparison.milliseconds(side.percentile(50)),
            comparison.milliseconds(side.percentile(95)),
            percent(side.agreed),
            percent(side.shared),
        )
        for side in figures
    ]
    print_table(head, rows, right=head[1:])


def _as_json(side: comparison.Side) -> dict[str, Any]:
    return {
        "profile": side.name,
        "answers": side.answers,
        "errors": side.errors,
        "cost_usd": None if side.unpriced else dollars(side.cost),
        "p50_ms": side.percentile(50),
        "p95_ms": side.percentile(95),
        "agreement": side.agreed,
        "overlap": side.shared,
    }
