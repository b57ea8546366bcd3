"""`llmctl cache`: what the cache holds and has saved, and how answers are removed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group, parsed
from llmctl.cli.output import file_size, money, percent, plural, print_json, print_table
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from decimal import Decimal

    from llmctl.storage.answer_cache import CacheFigures as Figures
    from llmctl.storage.answer_cache import PruneFilter

app = command_group("Show what is kept of answers and what it saved; remove it.")


@command(app, "prune", "json")
def prune(
    context: Context,
    older_than: Annotated[
        str | None, Option(metavar="7d", help="Answers stored longer ago: 90m, 24h, 7d, 2w.")
    ] = None,
    max_size: Annotated[
        str | None, Option(metavar="500MB", help="The least recently used, down to this size.")
    ] = None,
    model: Annotated[
        str | None, Option("--model", "-m", help="Answers of this model only.")
    ] = None,
    everything: Annotated[bool, Option("--all", help="All answers.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would go.")] = False,
) -> int:
    """Remove answers from the cache; say how many, and the bytes freed.

    At least one of --older-than, --max-size, --model and --all is needed. With --older-than and
    --max-size both kinds go; --model narrows them to one model, by the name it was asked by or
    the dated one it answered with. MB is a million bytes, MiB is 1,048,576.

    The text that goes is overwritten: no byte of it stays in the database or its WAL. If another
    llmctl keeps the WAL from being emptied, a warning says so: run the same command again when it
    has ended. With --all and --older-than damaged files that were set aside go, too.

    \b
    With --json, one object: {"entries", "bytes", "dry_run", "wal_emptied"}.

    \b
    Examples:
      llmctl cache prune --older-than 30d
      llmctl cache prune --max-size 500MB --dry-run
    """
    from llmctl.config.settings import parse_duration, parse_size
    from llmctl.storage.answer_cache import PruneFilter

    given = [word is not None for word in (older_than, max_size, model)]
    if not everything and not any(given):
        raise UsageError(
            "say what to remove: --older-than 7d, --max-size 500MB, --model MODEL or --all"
        )
    if everything and any(given):
        raise UsageError("--all removes everything: give it alone, or leave it out")
    age = parsed("--older-than", "a time such as 90m, 24h or 7d", older_than, parse_duration)
    size = parsed("--max-size", "a size such as 500MB, 1GB or 2GiB", max_size, parse_size)
    before = None if age is None else context.clock.wall() - age
    what = PruneFilter(before, size, model)
    return run_prune(what, context, everything=everything, dry_run=dry_run)


@command(app, "stats", "json")
def stats(context: Context) -> int:
    """Show what the cache holds, how often it answered, and its savings.

    Models are named as they answered. Hits, misses and dollars are those of the ledger, since it
    began: HITS were answered without a call (identical rows in flight among them), a MISS looked
    here first and then called. Dollars are what the hits cost when they were first made; $? is
    a price that nobody knows.

    \b
    With --json, one object:
      entries, bytes (of the answers), file_bytes (of the database and its WAL), hits, misses,
      hit_rate, saved_usd, unpriced_hits, path
      models     [{model, entries, bytes, hits, misses, hit_rate, saved_usd, unpriced_hits}]
      hit_rate is null when nothing was asked, saved_usd when no price of a hit is known.
    """
    from llmctl.storage.answer_cache import cache_stats

    path = context.folders.cache / "cache.db"
    found = cache_stats(path, context.folders.state / "ledger.db")
    models = sorted(found.models.items(), key=lambda item: (-item[1].bytes, item[0]))
    if context.json:
        print_json({
            **_fields(found.total), "file_bytes": found.file_bytes, "path": str(path),
            "models": [{"model": name, **_fields(figures)} for name, figures in models],
        })  # fmt: skip
        return 0
    head = ("MODEL", "ENTRIES", "SIZE", "HITS", "MISSES", "HIT RATE", "SAVED")
    rows = [(name, *_cells(figures)) for name, figures in (*models, ("all", found.total))]
    print_table(head, rows, right=head[1:])
    context.info(f"{path}: {file_size(found.file_bytes)}")
    return 0


def run_prune(what: PruneFilter, context: Context, *, everything: bool, dry_run: bool) -> int:
    """Remove, or say what would go; print entries and bytes."""
    from llmctl.storage import answer_cache as storage
    from llmctl.storage.database import DamagedError, OldFormatError

    path = context.folders.cache / "cache.db"
    try:
        done = storage.prune(path, what, dry_run=dry_run)
    except (DamagedError, OldFormatError):
        if not everything:
            raise
        done = storage.Pruned(bytes=path.stat().st_size if dry_run else 0)
        if not dry_run:
            storage.set_aside(path, context.clock.wall())
    aside = everything or what.before is not None
    files = storage.set_aside_files(path, what.before) if aside else []
    more = sum(file.stat().st_size for file in files) if dry_run else storage.remove_files(files)
    size = done.bytes + more
    if done.lingers:
        context.warn(
            "another llmctl keeps reading, so the WAL could not be emptied and may still hold "
            "text that was removed; run the same command again when that one has ended"
        )
    if context.json:
        print_json({
            "entries": done.entries, "bytes": size, "dry_run": dry_run,
            "wal_emptied": not done.lingers,
        })  # fmt: skip
        return 0
    left = [] if files else storage.set_aside_files(path)
    if left:
        context.info(f"{len(left)} damaged files that were set aside stay; --all removes them")
    answers = plural(done.entries, "answer")
    if dry_run:
        print(f"would remove {answers} and free about {file_size(size)}")
    else:
        print(f"removed {answers}, {file_size(size)} freed")
    return 0


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.entries:,}",
        file_size(figures.bytes),
        f"{figures.hits:,}",
        f"{figures.misses:,}",
        percent(figures.hit_rate),
        money(_saved(figures), figures.unpriced),
    )


def _fields(figures: Figures) -> dict[str, Any]:
    from llmctl.batch.output import dollars

    names = ("entries", "bytes", "hits", "misses", "hit_rate")
    return {
        **{name: getattr(figures, name) for name in names},
        "saved_usd": dollars(_saved(figures)),
        "unpriced_hits": figures.unpriced,
    }


def _saved(figures: Figures) -> Decimal | None:
    """Dollars saved; None when there were hits and the price of none is known."""
    return figures.saved if figures.unpriced < figures.hits or not figures.hits else None
