"""`llmctl history`: the conversations of `ask` that are kept: shown, searched and removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group, parsed
from llmctl.cli.output import plural, print_json, print_lines, print_table
from llmctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from llmctl.storage.history import Conversation, History

app = command_group("history", "Show, search and remove the conversations of ask.")

_EXCERPT = 60  # characters of a turn in a list

IdArgument = Annotated[str | None, Argument(metavar="ID", help="Its first characters do.")]
LimitOption = Annotated[int, Option(min=1, metavar="N", help="The newest N at most.")]


@command(app, "list", "json")
def list_conversations(context: Context, limit: LimitOption = 20) -> int:
    """List conversations, the newest first.

    \b
    With --json: [{id, at, profile, model, encrypted, turns, excerpt}]; at is UTC.
    """
    with _history(context) as history:
        _print(_conversations(history, context)[:limit], context)
    return 0


@command(app, "show", "json")
def show(context: Context, id: IdArgument = None) -> int:
    """Show one conversation, by default the last.

    \b
    With --json: {id, at, profile, model, encrypted, messages: [{role, content}]}.
    """
    with _history(context) as history:
        found = _conversations(history, context)
    if id is None and not found:
        raise InputError("no conversation is kept: `llmctl ask` begins one")
    chosen = found[0].id if id is None else _find([one.id for one in found], id)
    one = next(each for each in found if each.id == chosen)
    if context.json:
        messages = [message.as_json() for message in one.messages]
        print_json({**_fields(one), "messages": messages})
        return 0
    print_lines(f"# {one.id} · {_time(one.at)} · {one.profile}/{one.model}")
    for message in one.messages:
        print_lines("", f"[{message.role}]", message.text)
    return 0


@command(app, "search", "json")
def search(
    context: Context,
    words: Annotated[list[str], Argument(metavar="WORD", help="All must occur, in any case.")],
    limit: LimitOption = 20,
) -> int:
    """List the conversations that hold all words.

    The newest comes first. Exit 1 when there is none.

    \b
    With --json as `history list`; the excerpt is of the first turn with the first
    word.
    """
    wanted = [word.casefold() for word in words]

    def holds(one: Conversation) -> bool:
        text = "\n".join(message.text for message in one.messages).casefold()
        return all(word in text for word in wanted)

    with _history(context) as history:
        found = [one for one in _conversations(history, context) if holds(one)]
    _print(found[:limit], context, wanted[0])
    return 0 if found else 1


@command(app, "remove", "json")
def remove(
    context: Context,
    ids: Annotated[
        list[str] | None, Argument(metavar="ID", help="Their first characters do.")
    ] = None,
    older_than: Annotated[
        str | None, Option(metavar="7d", help="Those last continued longer ago: 24h, 7d, 2w.")
    ] = None,
    everything: Annotated[bool, Option("--all", help="All conversations.")] = False,
) -> int:
    """Remove conversations.

    No byte of them is left in the file or its WAL. Encrypted ones go without the store key, too.

    \b
    With --json, one object: {"removed", "wal_emptied"}.
    """
    import asyncio

    from llmctl.config.settings import parse_age
    from llmctl.storage.database import LINGERS

    if sum((bool(ids), older_than is not None, everything)) != 1:
        raise UsageError(
            "say what to remove: an ID (see `llmctl history list`), --older-than 7d or --all"
        )
    age = parsed("--older-than", "a time with its unit such as 24h or 7d", older_than, parse_age)
    emptied = True
    with _history(context) as history:
        if ids:
            found = [] if history is None else history.ids(since=_oldest(context))
            chosen = list({_find(found, name): None for name in ids})
        else:
            before = float("inf") if age is None else context.clock.wall() - age
            chosen = [] if history is None else history.ids(before=before)
        if history is not None:
            emptied = asyncio.run(history.remove(chosen))
    if not emptied:
        context.warn(LINGERS)
    if context.json:
        print_json({"removed": len(chosen), "wal_emptied": emptied}, compact=True)
    else:
        print_lines(f"removed {plural(len(chosen), 'conversation')}")
    return 0


@contextmanager
def _history(context: Context) -> Iterator[History | None]:
    """The history, open; None where nothing was kept yet."""
    path = context.folders.state / "history.db"
    if not path.exists():
        yield None
        return
    from llmctl.storage.cipher import StoreCipher
    from llmctl.storage.history import open_history

    history = open_history(path, StoreCipher(context.environ))
    try:
        yield history
    finally:
        history.close()


def _conversations(history: History | None, context: Context) -> list[Conversation]:
    """Those that are not too old, the newest first."""
    return [] if history is None else history.all(since=_oldest(context))


def _oldest(context: Context) -> float:
    from llmctl.storage.history import KEEP

    return context.clock.wall() - KEEP


def _find(ids: list[str], id: str) -> str:
    """The one that begins so. Raises `InputError` for none or several."""
    fitting = [one for one in ids if one.startswith(id.upper())] if id else []
    if len(fitting) != 1:
        how = "several conversations begin" if fitting else "no conversation begins"
        raise InputError(f"{how} with the ID {id!r}; `llmctl history list` shows them")
    return fitting[0]


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _fields(one: Conversation) -> dict[str, Any]:
    from llmctl.reports.periods import iso

    return {
        "id": one.id,
        "at": iso(int(one.at) * 1000, UTC),
        "profile": one.profile,
        "model": one.model,
        "encrypted": one.encrypted,
    }


def _print(found: list[Conversation], context: Context, word: str = "") -> None:
    """A line for each conversation, with an excerpt of the first question or of what was found."""
    rows = []
    for one in found:
        said = [m.text for m in one.messages if word or m.role == "user"]
        text = next((each for each in said if word in each.casefold()), "")
        start = max(0, text.casefold().find(word) - _EXCERPT // 3)
        excerpt = " ".join(text[start : start + _EXCERPT].split())
        rows.append({**_fields(one), "turns": len(one.messages), "excerpt": excerpt})
    if context.json:
        print_json(rows)
        return
    if not rows:
        context.info("no conversation is kept" if not word else "no conversation holds that")
        return
    table = [
        (row["id"], _time(one.at), f"{one.profile}/{one.model}", str(row["turns"]), row["excerpt"])
        for row, one in zip(rows, found, strict=True)
    ]
    print_table(("ID", "LAST (UTC)", "MODEL", "TURNS", "ABOUT"), table, ("TURNS",), ("ID",))
    if all(one.encrypted for one in found):
        context.info("encrypted on this disk")
