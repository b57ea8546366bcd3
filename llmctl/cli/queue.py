"""`llmctl queue`: calls that wait for a provider that was down: listed, sent and removed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Struct
from typer import Argument, Option

from llmctl.cli.context import Context, known_profiles, load_settings
from llmctl.cli.options import BudgetOption, command, command_group, parsed
from llmctl.cli.output import age, is_tty, plural, print_json, print_lines, print_table
from llmctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from llmctl.config.settings import Settings
    from llmctl.storage.call_queue import QueuedCall

app = command_group("queue", "Send, list and remove calls that wait for a provider.")

_HEAD = ("ID", "AGE", "MODEL", "FROM", "STATE", "TRIES", "ERROR")
_MODEL, _FROM = _HEAD.index("MODEL"), _HEAD.index("FROM")

ProfileOption = Annotated[
    str | None,
    Option(
        "--profile", "-p", metavar="NAME", help="Only its calls.", autocompletion=known_profiles
    ),
]


class QueueRunOptions(Struct, frozen=True, kw_only=True):
    """Send what waits, and bring the answers to where they belong.

    Calls are queued in an outage where a profile says `degrade: [queue]`. One call of each profile
    finds out whether its provider is back; then the others go out within the profile's limits, and
    the budgets of the configuration are held again. A call that meets an outage again stays queued.
    It is sent with the profile's present key, but to no other address than it was queued for.

    The answer of a row is appended to the OUTPUT of its batch, its failure to the errors file. The
    answer of `ask` goes to stdout, and into the conversations that `ask -c` continues. Whatever
    kills the command, no answer is lost or written twice: the next one goes on.

    \b
    Exit code 6: calls are still queued.
    With --json: the row of each answer, or failure, of ask on stdout, as `ask
    --json` has it, with the call's ID as its id; and on stderr, last,
    {"answered", "failed", "queued", "cost_usd", "exit_code"}.

    \b
    Examples:
      llmctl queue run
      llmctl queue run --watch -p claude --budget 5
    """

    profile: ProfileOption = None
    watch: Annotated[
        bool, Option("--watch", help="Wait for providers that are down, until nothing is queued.")
    ] = False
    limit: Annotated[int | None, Option(min=1, metavar="N", help="Send N calls at most.")] = None
    budget: BudgetOption = None


@command(app, "list", "json")
def list_calls(context: Context, profile: ProfileOption = None) -> int:
    """List the calls that wait, in the order in which they are sent.

    No key is needed, and what they ask is not shown. On a terminal IDs are cut to what tells them
    apart, and long names in their middle.

    \b
    With --json: [{id, at, profile, model, command, output, row, state, attempts,
    error}]; at is UTC, state is waiting, sending or answered (and not yet in
    OUTPUT), attempts are those of `queue run`, error the last one's type.
    """
    calls = _calls(context)
    found = [call for call in calls if profile in (None, call.profile)]
    nothing = "" if found else nothing_queued(calls, profile, lambda: load_settings(context))
    if context.json:
        print_json([_fields(call) for call in found])
        return 0
    if nothing:
        context.info(nothing)
        return 0
    now, folder = context.clock.wall(), context.cwd().resolve()
    shown = _id_length(calls) if is_tty(sys.stdout) else None
    rows: list[tuple[str, ...]] = [
        (
            call.id[:shown], age(now - call.at), f"{call.profile}/{call.model}",
            _source(call, folder), _state(call), str(call.attempts), call.error,
        )
        for call in found
    ]  # fmt: skip
    if is_tty(sys.stdout):
        rows = _fitted(rows, get_terminal_size((80, 24)).columns)
    print_table(_HEAD, rows, ("AGE", "TRIES"), ("ID",))
    return 0


@command(app, "remove", "json")
def remove(
    context: Context,
    ids: Annotated[
        list[str] | None, Argument(metavar="ID", help="Their first characters do.")
    ] = None,
    older_than: Annotated[
        str | None, Option(metavar="7d", help="Those queued longer ago: 24h, 7d, 2w.")
    ] = None,
    everything: Annotated[bool, Option("--all", help="All calls.")] = False,
) -> int:
    """Remove calls from the queue; they are not sent.

    No byte of them is left in the file or its WAL. Those that are being sent stay. A row that is
    removed is sent again by the next `batch` of its INPUT.

    \b
    With --json, one object: {"removed", "sending", "wal_emptied"}.
    """
    from llmctl.config.settings import parse_age
    from llmctl.storage.database import LINGERS

    ways = sum((bool(ids), older_than is not None, everything))
    if ways != 1:
        what = "choose one of them" if ways else "say what to remove"
        raise UsageError(f"{what}: an ID (see `llmctl queue list`), --older-than 7d or --all")
    oldest = parsed("--older-than", "a time with its unit such as 24h or 7d", older_than, parse_age)
    found = _calls(context)
    if ids:
        found = [_find(found, name) for name in ids]
    elif oldest is not None:
        found = [call for call in found if call.at < context.clock.wall() - oldest]
    chosen = list({call.id for call in found if not call.in_hand})
    sending = sum(call.in_hand for call in found)
    removed, emptied = _remove(chosen, context) if chosen else (0, True)
    if not emptied:
        context.warn(LINGERS)
    if sending:
        context.warn(f"{plural(sending, 'call')} being sent now: not removed")
    if context.json:
        fields = {"removed": removed, "sending": sending, "wal_emptied": emptied}
        print_json(fields, compact=True)
    else:
        print_lines(f"removed {plural(removed, 'call')}")
    return 0


def nothing_queued(
    calls: Collection[QueuedCall], profile: str | None, settings: Callable[[], Settings]
) -> str:
    """What to say where none of the calls is the profile's, or there is none. Raises `ConfigError`
    for a profile that is not configured."""
    from collections import Counter

    from llmctl.config.profiles import named

    if profile is not None:
        named(settings(), profile)
    if not calls:
        return "nothing is queued"
    others = Counter(call.profile for call in calls)
    counts = ", ".join(f"{number:,} of {name}" for name, number in sorted(others.items()))
    return f"nothing of {profile} is queued ({counts})"


def short_path(path: str, folder: Path) -> str:
    """The path as it is seen from the working folder, where it is in it."""
    from pathlib import Path

    where = Path(path)
    return str(where.relative_to(folder)) if where.is_relative_to(folder) else path


def _id_length(calls: Iterable[QueuedCall]) -> int:
    """How many of their first characters tell the ids apart: at least the ten that are the time."""
    from itertools import count

    ids = {call.id for call in calls}
    return next(length for length in count(10) if len({each[:length] for each in ids}) == len(ids))


def _fitted(rows: Sequence[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """The rows of the table with MODEL and FROM cut to what the other columns leave of a line."""
    from llmctl.redact import printable

    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    models, sources = widths[_MODEL], widths[_FROM]
    room = width - sum(widths) - 2 * (len(widths) - 1) + models + sources
    model = max(min(models, max(room - sources, room // 3)), len("MODEL"))
    source = max(room - model, len("FROM"))
    return [
        (
            *row[:_MODEL],
            _cut(printable(row[_MODEL]), model),
            _cut(printable(row[_FROM]), source),
            *row[_FROM + 1 :],
        )
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    """The text without its middle where it is longer; more is kept of its end."""
    start = (width - 1) // 3
    return text if len(text) <= width else f"{text[:start]}…{text[start + 1 - width :]}"


def _calls(context: Context) -> list[QueuedCall]:
    from llmctl.cli.queue_file import queue_path
    from llmctl.storage.call_queue import CallQueuePeek

    with CallQueuePeek(queue_path(context.folders)) as queue:
        return queue.calls()


def _remove(ids: list[str], context: Context) -> tuple[int, bool]:
    """How many were removed, and whether nothing of them is left on the disk."""
    import asyncio

    from llmctl.cli.queue_file import opened_queue
    from llmctl.storage.cipher import StoreCipher

    queue = opened_queue(context.folders, StoreCipher(context.environ), context)
    try:
        return asyncio.run(queue.remove(ids)), queue.tidy()
    finally:
        queue.close()


def _find(calls: list[QueuedCall], id: str) -> QueuedCall:
    """The one that begins so. Raises `InputError` for none or several."""
    fitting = [call for call in calls if call.id.startswith(id.upper())] if id else []
    if len(fitting) != 1:
        how = "several calls begin" if fitting else "no call begins"
        raise InputError(f"{how} with the ID {id!r}; `llmctl queue list` shows them")
    return fitting[0]


def _state(call: QueuedCall) -> str:
    return "answered" if call.answered else "sending" if call.in_hand else "waiting"


def _source(call: QueuedCall, folder: Path) -> str:
    output = call.origin.output
    return f"{short_path(output, folder)}, row {call.row}" if output else "ask"


def _fields(call: QueuedCall) -> dict[str, Any]:
    from datetime import UTC

    from llmctl.reports.periods import iso

    return {
        "id": call.id,
        "at": iso(int(call.at) * 1000, UTC),
        "profile": call.profile,
        "model": call.model,
        "command": "batch" if call.origin.output else "ask",
        "output": call.origin.output or None,
        "row": call.row or None,
        "state": _state(call),
        "attempts": call.attempts,
        "error": call.error,
    }
