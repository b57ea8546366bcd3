"""`llmctl cache`: what the cache holds and has saved, and how answers are removed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import EPILOG, JsonOption, QuietOption, VerboseOption, command_group, parsed
from llmctl.cli.output import file_size, money, percent, plural, print_json, print_table
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.storage.answer_cache import CacheFigures as Figures

app = command_group("Show what is kept of answers and what it saved; remove it.")


class PruneOptions(Struct, frozen=True):
    """Options of `cache prune`: seconds, bytes, a model; `everything` excludes them."""

    older_than: float | None = None
    max_size: int | None = None
    model: str | None = None
    everything: bool = False
    dry_run: bool = False


@app.command("prune", epilog=EPILOG)
def prune_command(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="7d", help="Answers stored longer ago: 90m, 24h, 7d, 2w."
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="500MB",
            help="The answers used least recently, until the cache takes no more than this: "
            "MB is a million bytes, MiB is 1,048,576.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Answers of this model only, by the name it was asked by or the dated one it "
            "answered with.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All answers.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go; remove nothing.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Remove answers from the cache; say how many, and the bytes freed.

    At least one of --older-than, --max-size, --model and --all is needed. With --older-than and
    --max-size both kinds go; --model narrows them to one model.

    The text that goes is overwritten: no byte of it stays in the database or its WAL. Other
    llmctl may work meanwhile. If one of them keeps the WAL from being emptied, a warning says
    so: run the same command again when it has ended. With --all and --older-than damaged
    files that were set aside go, too.

    \b
    With --json, one object: {"entries", "bytes", "dry_run", "wal_emptied"}.

    \b
    Examples:
      llmctl cache prune --older-than 30d
      llmctl cache prune --max-size 500MB --dry-run
      llmctl cache prune --model gpt-5-mini
    """
    context = Context(json=json, quiet=quiet, verbose=verbose)

    def work() -> int:
        from llmctl.config.settings import parse_duration, parse_size

        given = (older_than, max_size, model)
        if not everything and all(word is None for word in given):
            raise UsageError(
                "say what to remove: --older-than 7d, --max-size 500MB, --model MODEL or --all"
            )
        if everything and any(word is not None for word in given):
            raise UsageError("--all removes everything: give it alone, or leave it out")
        options = PruneOptions(
            parsed("--older-than", "a time such as 90m, 24h or 7d", older_than, parse_duration),
            parsed("--max-size", "a size such as 500MB, 1GB or 2GiB", max_size, parse_size),
            model,
            everything,
            dry_run,
        )
        return run_prune(options, context)

    exit_with(work, context)


@app.command("stats", epilog=EPILOG)
def stats_command(
    *, json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0
) -> None:
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
    context = Context(json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_stats(context), context)


def run_prune(options: PruneOptions, context: Context) -> int:
    """Remove, or say what would go; print entries and bytes."""
    from llmctl.storage.answer_cache import (
        Pruned,
        PruneFilter,
        prune,
        remove_files,
        set_aside,
        set_aside_files,
    )
    from llmctl.storage.database import DamagedError, OldFormatError

    path = context.folders.cache / "cache.db"
    now = context.clock.wall()
    before = None if options.older_than is None else now - options.older_than
    what = PruneFilter(before, options.max_size, options.model)
    try:
        done = prune(path, what, dry_run=options.dry_run)
    except (DamagedError, OldFormatError):
        if not options.everything:
            raise
        if not options.dry_run:
            set_aside(path, now)
        done = Pruned(bytes=path.stat().st_size if options.dry_run else 0)
    size = done.bytes
    files = set_aside_files(path, before) if options.everything or before is not None else []
    if options.dry_run:
        size += sum(file.stat().st_size for file in files)
    else:
        size += remove_files(files)
    if done.lingers:
        context.warn(
            "another llmctl keeps reading, so the WAL could not be emptied and may still hold "
            "text that was removed; run the same command again when that one has ended"
        )
    if context.json:
        print_json({
            "entries": done.entries, "bytes": size, "dry_run": options.dry_run,
            "wal_emptied": not done.lingers,
        })  # fmt: skip
        return 0
    left = [] if files else set_aside_files(path)
    if left:
        context.info(f"{len(left)} damaged files that were set aside stay; --all removes them")
    answers = plural(done.entries, "answer")
    if options.dry_run:
        print(f"would remove {answers} and free about {file_size(size)}")
    else:
        print(f"removed {answers}, {file_size(size)} freed")
    return 0


def run_stats(context: Context) -> int:
    """Print the figures of the cache and of the ledger."""
    from llmctl.storage.answer_cache import cache_stats

    folders = context.folders
    path = folders.cache / "cache.db"
    stats = cache_stats(path, folders.state / "ledger.db")
    total = stats.total
    models = sorted(stats.models.items(), key=lambda item: (-item[1].bytes, item[0]))
    if context.json:
        print_json({
            **_fields(total), "file_bytes": stats.file_bytes, "path": str(path),
            "models": [{"model": name, **_fields(figures)} for name, figures in models],
        })  # fmt: skip
        return 0
    head = ("MODEL", "ENTRIES", "SIZE", "HITS", "MISSES", "HIT RATE", "SAVED")
    rows = [(name, *_cells(figures)) for name, figures in (*models, ("all", total))]
    print_table(head, rows, right=head[1:])
    context.info(f"{path}: {file_size(stats.file_bytes)}")
    return 0


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.entries:,}",
        file_size(figures.bytes),
        f"{figures.hits:,}",
        f"{figures.misses:,}",
        percent(figures.hit_rate),
        money(figures.saved if _known(figures) else None, figures.unpriced),
    )


def _fields(figures: Figures) -> dict[str, Any]:
    from llmctl.batch.output import dollars

    return {
        "entries": figures.entries,
        "bytes": figures.bytes,
        "hits": figures.hits,
        "misses": figures.misses,
        "hit_rate": figures.hit_rate,
        "saved_usd": dollars(figures.saved if _known(figures) else None),
        "unpriced_hits": figures.unpriced,
    }


def _known(figures: Figures) -> bool:
    """Whether the price of at least one hit is known, or there was none."""
    return figures.unpriced < figures.hits or not figures.hits
