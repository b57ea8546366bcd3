"""The end of a batch, for a person on stderr and for a script on stdout."""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec import Struct

from llmctl.cli.context import Context
from llmctl.cli.render import dollars, seconds, write_stdout
from llmctl.errors import CallError
from llmctl.observers.run_stats import Tally


class Ended(Struct, frozen=True):
    """How a batch ended. `elapsed` in seconds; `output` None: stdout; `spent` says how the
    budgets stand."""

    tally: Tally
    elapsed: float
    code: int
    input: str
    output: Path | None
    errors: Path | None
    because: CallError | None
    spent: tuple[str, ...]
    signal: int | None


def print_summary(ended: Ended, context: Context) -> None:
    """The words on stderr (not with `--quiet`), the object on stdout with `--json`.

    Where stdout carries the rows themselves the object goes to stderr.
    """
    for line in summary_lines(ended):
        context.say(line)
    if not context.json:
        return
    import orjson

    from llmctl.batch.output import dollars as number

    fields = ended.tally.summary(ended.elapsed, ended.code)
    fields["cost_usd"] = number(fields["cost_usd"])
    text = orjson.dumps(fields).decode() + "\n"
    if ended.output is None:
        sys.stderr.write(text)
    else:
        write_stdout(text)


def summary_lines(ended: Ended) -> list[str]:
    """What a person wants to know, one thing a line."""
    tally = ended.tally
    lines: list[str] = []
    if ended.signal is not None:
        lines.append("interrupted; the same command goes on where this one stopped")
    elif ended.because is not None:
        lines.append(f"stopped early: {ended.because.message}")
    lines.append(_rows(ended))
    if tally.requests:
        lines.append(_work(ended))
    lines += ended.spent
    if tally.truncated:
        n = tally.truncated
        lines.append(
            f"{n:,} {'answer was' if n == 1 else 'answers were'} cut off at the output limit "
            '("finish_reason": "length")'
        )
    if tally.uncertain:
        lines.append(
            f"{tally.uncertain:,} attempts broke off after sending and may have been billed"
        )
    if tally.failures:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(tally.failures.items()))
        where = f" → {ended.errors}" if ended.errors else ""
        lines.append(f"failed: {kinds}{where}")
        if tally.last_error is not None and ended.because is None:
            lines.append(f"last error: {tally.last_error.message}")
    return lines


def _rows(ended: Ended) -> str:
    tally = ended.tally
    words = [f"{tally.ok:,} answered", f"{tally.failed:,} failed"]
    if tally.cached:
        words.append(f"{tally.cached:,} of them from the cache")
        words[1], words[2] = words[2], words[1]
    if tally.deduplicated:
        words.append(f"{tally.deduplicated:,} answered by an identical row")
    if tally.skipped:
        words.append(f"{tally.skipped:,} answered before")
    left = tally.rows - tally.done
    if left:
        words.append(f"{left:,} not sent")
    where = f" → {ended.output}" if ended.output else ""
    return f"{tally.rows:,} rows: {', '.join(words)}{where}"


def _work(ended: Ended) -> str:
    tally = ended.tally
    words = [
        f"{tally.requests:,} requests" + (f" ({tally.retries:,} retries)" if tally.retries else ""),
        f"{tally.input_tokens:,} tokens in + {tally.output_tokens:,} out",
        dollars(None if tally.unpriced else tally.cost),
        seconds(ended.elapsed),
    ]
    if ended.elapsed > 0:
        words.append(f"{(tally.ok + tally.failed) / ended.elapsed:,.1f} rows/s")
    return " · ".join(words)
