"""`llmctl audit`: the log of calls checked, exported, and cut down to what is to be kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import to_builtins
from typer import Option

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import command, command_group, parsed
from llmctl.cli.output import plural, print_json, print_lines
from llmctl.errors import InputError, UsageError

if TYPE_CHECKING:
    from llmctl.storage.audit_check import Completeness, Integrity
    from llmctl.storage.audit_log import AuditLog
    from llmctl.storage.audit_upkeep import Line

app = command_group("audit", "Check, export and prune the audit log of calls.")

_SHOWN = 10  # findings, and calls, that are named


@command(app, "verify", "json")
def verify(
    context: Context,
    checkpoint: Annotated[
        Path | None, Option(metavar="FILE", help="The head as it was kept elsewhere.")
    ] = None,
) -> int:
    """Say whether the audit log is whole, and whether every call has its line; exit 1 otherwise.

    Integrity: each line is as it was written, in its place, and none is missing, at the end
    neither; the first that is not is named. A line that a crash left half written is no fault, nor
    is content that was erased. Completeness: the calls of the ledger since the log began, and those
    of the log, are the same.

    \b
    With --json, one object:
      ok
      integrity     {ok, lines, last, segments, removed_segments, torn_lines,
                    erased_lines, findings [{file, line, what}]}
      completeness  {ok, compared, without_line, killed, without_row, unsent,
                    removed}: ids of calls; killed and unsent are those that a crash
                    explains; removed is how many `cost prune` explains

    \b
    Examples:
      llmctl audit verify
      llmctl audit verify --checkpoint /mnt/elsewhere/head.json
    """
    from llmctl.keys.store_key import store_key
    from llmctl.storage import audit_check as audit
    from llmctl.storage.audit_log import FOLDER

    kept = None if checkpoint is None else audit.read_checkpoint(checkpoint)
    state = context.folders.state
    key = store_key(context.environ, "audit") if (state / FOLDER).is_dir() else b""
    read = partial(audit.check_integrity, state / FOLDER, key, kept)
    integrity, completeness = audit.check_completeness(state / "ledger.db", read)
    ok = not integrity.findings and completeness.complete
    if context.json:
        said = {"integrity": _integrity(integrity), "completeness": _completeness(completeness)}
        print_json({"ok": ok, **said})
    else:
        print_lines(*_integrity_lines(integrity), *_completeness_lines(completeness))
    return 0 if ok else 1


def _integrity(found: Integrity) -> dict[str, Any]:
    return {
        "ok": not found.findings,
        "lines": found.lines,
        "last": found.last,
        "segments": len(found.segments),
        "removed_segments": len(found.removed),
        "torn_lines": found.torn,
        "erased_lines": found.erased,
        "findings": to_builtins(found.findings),
    }


def _completeness(found: Completeness) -> dict[str, Any]:
    return {"ok": found.complete, **to_builtins(found)}


def _integrity_lines(found: Integrity) -> Iterator[str]:
    counts = [f"{plural(found.lines, 'line')} in {plural(len(found.segments), 'segment')}"]
    if found.removed:
        counts.append(f"{plural(len(found.removed), 'segment')} removed by retention")
    if found.erased:
        counts.append(f"content of {plural(found.erased, 'line')} erased")
    if found.torn:
        counts.append(f"{plural(found.torn, 'line')} half written in a crash")
    yield f"integrity: {'NOT WHOLE' if found.findings else 'whole'} ({', '.join(counts)})"
    for finding in found.findings[:_SHOWN]:
        yield f"  {finding}"
    if len(found.findings) > _SHOWN:
        yield f"  and {len(found.findings) - _SHOWN:,} more"


def _completeness_lines(found: Completeness) -> Iterator[str]:
    word = "complete" if found.complete else "NOT COMPLETE"
    yield f"completeness: {word} ({plural(found.compared, 'call')} of the ledger compared)"
    for calls, what in (
        (found.without_line, "of the ledger without a line: the audit was off, or it was removed"),
        (found.without_row, "of the audit that the ledger does not have"),
        (found.killed, "without a line, whose process was killed before it could write one"),
        (found.unsent, "without a row in the ledger, whose process was killed; nothing was sent"),
    ):
        if calls:
            more = "" if len(calls) <= _SHOWN else f" and {len(calls) - _SHOWN:,} more"
            yield f"  {plural(len(calls), 'call')} {what}: {', '.join(calls[:_SHOWN])}{more}"
    if found.removed:
        yield f"  {plural(found.removed, 'call')} of the audit removed from the ledger as too old"


@command(app, "export")
def export(
    context: Context,
    since: Annotated[
        str | None, Option(metavar="7d|DATE", help="So long ago until now. Default: all.")
    ] = None,
    last: Annotated[
        str | None, Option("--to", metavar="D", help="Until the end of this date, or a time (UTC).")
    ] = None,
    format: Annotated[Literal["jsonl", "csv"], Option(help="See below.")] = "jsonl",
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Default: stdout.")
    ] = None,
) -> int:
    """Write the lines of the audit log, the oldest first.

    \b
    --format jsonl: each line as it stands in the log.
    --format csv: a line of names, and one for each line of the log; content that was
      erased is empty, text beginning with = + - @ tab or CR gets an apostrophe in
      front.

    \b
    Examples:
      llmctl audit export --since 30d --format csv -o calls.csv
    """
    from llmctl.cli.audit_export import FORMATS, within
    from llmctl.reports import periods
    from llmctl.storage.audit_log import FOLDER
    from llmctl.storage.audit_upkeep import read_lines
    from llmctl.storage.files import replacing

    now = round(context.clock.wall() * 1000)
    start = 0 if since is None else periods.since(since, now, UTC).start
    end = periods.between(None, last, now, UTC).end
    found = within(read_lines(_folder(context, FOLDER)), start / 1000, end / 1000)
    rows = FORMATS[format](found)
    if output is None:
        sys.stdout.buffer.writelines(rows)
        return 0
    with replacing(output) as file:
        file.writelines(rows)
    return 0


@command(app, "prune", "config", "json")
def prune(
    context: Context,
    older_than: Annotated[
        str | None, Option(metavar="90d", help="Segments older than that. Default: `retain:`.")
    ] = None,
    erase_user: Annotated[
        str | None, Option(metavar="USER", help="The content of this user's calls.")
    ] = None,
    erase_call: Annotated[
        str | None, Option(metavar="ID", help="The content of this call.")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would go.")] = False,
) -> int:
    """Remove what is too old of the audit log, or erase the content of calls.

    Whole segments go, each leaving a signed stub, so that what is kept can still be verified; the
    one that is written to stays until the next day. Erasing takes prompt and answer out of the
    lines, which stay: who, when and what model; it is on record itself.

    \b
    With --json, one object: {"segments", "lines", "dry_run"}: removed segments and
    the lines in them, or erased lines and the segments they are in.

    \b
    Examples:
      llmctl audit prune --older-than 90d --dry-run
      llmctl audit prune --erase-user ann
    """
    if sum(word is not None for word in (older_than, erase_user, erase_call)) > 1:
        raise UsageError("--older-than, --erase-user and --erase-call exclude each other")
    if erase_user is None and erase_call is None:
        before = context.clock.wall() - _age(older_than, context)
        segments, lines = _remove(before, context, dry_run=dry_run)
        words = ("removed", "would remove"), "with"
    else:
        segments, lines = _erase(erase_user, erase_call, context, dry_run=dry_run)
        words = ("erased the content of", "would erase the content of"), "in"
    if context.json:
        print_json({"segments": segments, "lines": lines, "dry_run": dry_run}, compact=True)
        return 0
    (done, planned), joined = words
    counts = plural(segments, "segment"), plural(lines, "line")
    one, other = counts if joined == "with" else counts[::-1]
    print_lines(f"{planned if dry_run else done} {one} {joined} {other}")
    return 0


def _age(older_than: str | None, context: Context) -> float:
    """Seconds that lines are kept. Raises `UsageError` where nobody says it."""
    from llmctl.config.settings import parse_age

    age = parsed("--older-than", "an age with its unit such as 90d", older_than, parse_age)
    if age is None:
        settings = load_settings(context).audit
        age = None if settings is None else settings.retain
    if age is None:
        raise UsageError(
            "say what to remove: --older-than 90d, --erase-user USER or --erase-call ID; or "
            "configure `audit: {retain: 90d}`"
        )
    return age


def _remove(before: float, context: Context, *, dry_run: bool) -> tuple[int, int]:
    """How many segments, and lines in them, were removed."""
    from llmctl.storage.audit_upkeep import removable, remove

    with _opened(context) as log:
        old = removable(log, before)
        if not dry_run:
            remove(log, old)
    return len(old), sum(stub.last - stub.first + 1 for stub in old)


def _erase(
    user: str | None, call: str | None, context: Context, *, dry_run: bool
) -> tuple[int, int]:
    """In how many segments how many lines lost their content. Raises `InputError` for none."""
    from llmctl.storage.audit_upkeep import erasable, erase

    name, wanted = ("user", user) if user is not None else ("call", call or "")

    def matches(line: Line) -> bool:
        return bool(line.get(name) == wanted)

    with _opened(context) as log:
        numbers = erasable(log, matches)
        if not numbers:
            raise InputError(f"no line of {name} {wanted!r} has content: nothing was erased")
        done = erase(log, numbers, {name: wanted}, dry_run=dry_run)
    return done.segments, done.lines


@contextmanager
def _opened(context: Context) -> Iterator[AuditLog]:
    """The log, open. Raises `InputError` where there is none."""
    from llmctl.keys.store_key import store_key
    from llmctl.storage.audit_log import FOLDER, AuditLog

    folder = _folder(context, FOLDER)
    log = AuditLog(folder, store_key(context.environ, "audit"), context.clock)
    try:
        yield log
    finally:
        log.close()


def _folder(context: Context, name: str) -> Path:
    folder = context.folders.state / name
    if not folder.is_dir():
        raise InputError(
            f"there is no audit log in {folder}: `audit:` in the configuration begins one"
        )
    return folder
