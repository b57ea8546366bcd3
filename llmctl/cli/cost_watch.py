"""`llmctl cost report --watch`: the report, live on a terminal."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import NoReturn

from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from llmctl.cli.cost_tables import blocks
from llmctl.cli.output import has_colour, is_tty, money, plural
from llmctl.errors import UsageError
from llmctl.reports.periods import local
from llmctl.reports.report import Report
from llmctl.storage.ledger_queries import Reading
from llmctl.storage.ledger_rows import from_pico

_PAUSE = 0.1  # seconds between two looks at the terminal's size

_RATE = 5 * 60 * 1000  # milliseconds of which the rate of spending is


class Present(Struct, frozen=True):
    """What happens now.

    Attributes:
        at: the moment, in milliseconds since the epoch.
        in_flight: calls under way; `held` dollars for them at their worst case, `unpriced` of
            them at an unknown price.
        calls, spent, unknown: of the last five minutes: calls, their dollars, and how many have an
            unknown price.

    """

    at: int
    in_flight: int
    held: Decimal
    unpriced: int
    calls: int
    spent: Decimal
    unknown: int


def present(ledger: Reading, now: int) -> Present:
    """What the ledger says of this moment."""
    holds = ledger.open_holds()
    cells = [*ledger.cells((now - _RATE, now + 1), ())]
    sums = {n: sum(cell.sums[n] for cell in cells) for n in ("calls", "cost_pico", "unpriced")}
    return Present(
        now,
        len(holds),
        from_pico(sum(hold.amount_pico or 0 for hold in holds)) or Decimal(0),
        sum(hold.amount_pico is None for hold in holds),
        sums["calls"],
        from_pico(sums["cost_pico"]) or Decimal(0),
        sums["unpriced"],
    )


def watch(look: Callable[[], tuple[Report, Present]], every: float) -> NoReturn:
    """Draw what `look` gives every so many seconds, and when the terminal's size changes, until
    Ctrl-C. Raises `UsageError` off a terminal, and what `look` does."""
    if not is_tty(sys.stdout) or os.environ.get("TERM") in {None, "", "dumb"}:
        raise UsageError(
            "--watch draws on a terminal, and stdout is none: leave it out, and run the command "
            "again for newer figures"
        )
    console = Console(no_color=not has_colour(sys.stdout), highlight=False, markup=False)
    seen = look()  # what is wrong is said before the screen is taken
    with _ends(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(*seen), refresh=True)
            _wait(console, every)
            seen = look()


def _wait(console: Console, seconds: float) -> None:
    """Return after so many seconds, or when the terminal's size changes."""
    size, until = console.size, time.monotonic() + seconds
    while time.monotonic() < until and console.size == size:
        time.sleep(_PAUSE)


@contextmanager
def _ends() -> Iterator[None]:
    """SIGTERM ends the block with exit code 143 in a way that leaves the terminal as before."""

    def end(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _screen(report: Report, now: Present) -> Group:
    zone = report.query.zone
    held = f", {money(now.held, now.unpriced)} held for them" if now.in_flight else ""
    rate = money(now.spent * 3_600_000 / _RATE, now.unknown)
    lines = Text.assemble(
        (f"{plural(now.in_flight, 'call')} in flight{held}", "bold"),
        f"; last 5 min: {plural(now.calls, 'call')}, {money(now.spent, now.unknown)}, "
        f"{rate} an hour",
    )
    at = f"{local(now.at, zone):%Y-%m-%d %H:%M:%S} ({zone}), Ctrl-C ends"
    parts: list[RenderableType] = [Text(at, "dim"), lines, Text()]
    for block in blocks(report):
        parts += [*block, Text()]
    return Group(*parts)
