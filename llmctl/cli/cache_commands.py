"""`llmctl cache`: what the cache holds and has saved, and how answers are removed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group, parsed
from llmctl.cli.output import (
    file_size,
    money,
    percent,
    plural,
    print_json,
    print_lines,
    print_table,
)
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.storage.answer_cache import Pruned, PruneFilter, SemanticFigures

app = command_group("cache", "Show what is kept of answers and what it saved; remove it.")

_FIELDS = ("entries", "bytes", "hits", "misses", "hit_rate")
_HEAD = ("MODEL", "ENTRIES", "SIZE", "HITS", "MISSES", "HIT RATE", "SAVED")


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
    --max-size both kinds go; --model narrows them to one model. The text is overwritten: no byte
    of it stays in the database or its WAL. With --all and --older-than damaged files that were
    set aside go, too. Expired answers stay until they are removed here or for `cache: max_size`:
    `degrade: [{stale: 24h}]` gives them while a provider is down.

    \b
    With --json, one object: {"entries", "bytes", "dry_run", "wal_emptied"}.

    \b
    Examples:
      llmctl cache prune --older-than 30d
      llmctl cache prune --max-size 500MB --dry-run
    """
    from llmctl.config.settings import parse_age, parse_size
    from llmctl.storage.answer_cache import PruneFilter, set_aside_files
    from llmctl.storage.database import LINGERS

    given = [word is not None for word in (older_than, max_size, model)]
    if not everything and not any(given):
        raise UsageError(
            "say what to remove: --older-than 7d, --max-size 500MB, --model MODEL or --all"
        )
    if everything and any(given):
        raise UsageError("--all removes everything: give it alone, or leave it out")
    age = parsed("--older-than", "a time such as 90m, 24h or 7d", older_than, parse_age)
    size = parsed("--max-size", "a size such as 500MB, 1GB or 2GiB", max_size, parse_size)
    before = None if age is None else context.clock.wall() - age
    done = _prune(PruneFilter(before, size, model), context, everything, dry_run)
    if done.lingers:
        context.warn(LINGERS)
    path = context.folders.cache / "cache.db"
    if not dry_run and set_aside_files(path):
        context.warn(
            f"the damaged files beside {path} may hold answers that were removed; "
            "`llmctl cache prune --all` removes those, too"
        )
    answers, freed = plural(done.entries, "answer"), file_size(done.bytes)
    if context.json:
        said = {"entries": done.entries, "bytes": done.bytes, "dry_run": dry_run}
        print_json({**said, "wal_emptied": not done.lingers})
    elif dry_run:
        print_lines(f"would remove {answers} and free about {freed}")
    else:
        print_lines(f"removed {answers}, {freed} freed")
    return 0


def _prune(what: PruneFilter, context: Context, everything: bool, dry_run: bool) -> Pruned:
    """Remove the answers, and with `--all` or an age damaged files that were set aside."""
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
    return storage.Pruned(done.entries, done.bytes + more, done.lingers)


@command(app, "stats", "json")
def stats(context: Context) -> int:
    """Show what the cache holds, how often it answered, and its savings.

    Models are named as they answered. HITS were answered without a call, a MISS looked here
    first and then called, since the ledger began; SAVED is what the hits first cost.

    \b
    With --json, one object:
      entries, bytes (of the answers), file_bytes (of the database and its WAL),
      hits, misses, hit_rate, saved_usd, unpriced_hits, path,
      encrypted (all answers are)
      semantic   {hits, judged, refused, audited, wrong, wrong_bound}: answers of
                 questions that mean the same; pairs put to a judge, and refused;
                 hits that were asked all the same, and how many answers differed;
                 the most that may be wrong of all hits (a share, 95% sure)
      models     [{model, entries, bytes, hits, misses, hit_rate, saved_usd,
                 unpriced_hits}]
      hit_rate is null when nothing was asked, saved_usd when no price of a hit is
      known.
    """
    from msgspec import to_builtins

    from llmctl.batch.output import dollars
    from llmctl.storage.answer_cache import SemanticFigures, cache_stats

    path = context.folders.cache / "cache.db"
    found = cache_stats(path, context.folders.state / "ledger.db")
    models = sorted(found.models.items(), key=lambda item: (-item[1].bytes, item[0]))
    rows, objects = [], []
    for name, figures in (*models, ("all", found.total)):
        known = figures.unpriced < figures.hits or not figures.hits
        saved = figures.saved if known else None
        fields = {key: getattr(figures, key) for key in _FIELDS}
        fields |= {"saved_usd": dollars(saved), "unpriced_hits": figures.unpriced}
        objects.append({"model": name, **fields})
        counts = (f"{figures.hits:,}", f"{figures.misses:,}", percent(figures.hit_rate))
        size = file_size(figures.bytes)
        rows.append((name, f"{figures.entries:,}", size, *counts, money(saved, figures.unpriced)))
    if context.json:
        total = objects.pop()
        del total["model"]
        files = {"file_bytes": found.file_bytes, "path": str(path), "encrypted": found.encrypted}
        semantic = {**to_builtins(found.semantic), "wrong_bound": found.semantic.bound}
        print_json({**total, **files, "semantic": semantic, "models": objects})
        return 0
    print_table(_HEAD, rows, right=_HEAD[1:])
    word = ", encrypted" if found.encrypted else ""
    context.info(f"{path}: {file_size(found.file_bytes)}{word}")
    if found.semantic != SemanticFigures():
        context.info(_semantic(found.semantic))
    return 0


def _semantic(found: SemanticFigures) -> str:
    """The semantic cache's figures in a sentence."""
    judged = f"{found.judged:,} judged, {found.refused:,} refused"
    if found.bound is None:
        return (
            f"semantic: {plural(found.hits, 'hit')}, {judged}; wrong answers: not measured "
            "(`judge:` and `audit:` of the profile's `cache: {semantic: …}`)"
        )
    return (
        f"semantic: {plural(found.hits, 'hit')}, {judged}; wrong answers: at most "
        f"{percent(found.bound)} (95%; {found.wrong:,} of {found.audited:,} audited)"
    )
