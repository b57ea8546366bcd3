"""What a person sees while a batch runs: a bar on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, TextIO

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.observers.run_stats import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

PLAIN_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""

BAR_EVERY = 0.2
"""Seconds between two drawings of the bar."""

_WINDOW = 60.0


@dataclass(slots=True)
class Pace:
    """Rows a second, tokens a minute and the time left, over the last minute. `budget` gives what
    is spent of the budget in use, and its limit, in US dollars."""

    tally: Tally
    clock: Clock
    tokens_per_minute: int | None = None
    waits: Callable[[], str | None] = lambda: None
    budget: Callable[[], Awaitable[tuple[Decimal, Decimal] | None]] | None = None
    _marks: deque[tuple[float, int, int]] = field(default_factory=deque)
    _spent: tuple[Decimal, Decimal] | None = None

    async def mark(self) -> None:
        """Remember where the run stands now."""
        if self.budget is not None:
            self._spent = await self.budget()
        now = self.clock.monotonic()
        done = self.tally.ok + self.tally.failed
        self._marks.append((now, done, self.tally.input_tokens + self.tally.output_tokens))
        while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
            self._marks.popleft()

    def _over(self) -> tuple[float, int, int]:
        first, last = self._marks[0], self._marks[-1]
        return last[0] - first[0], last[1] - first[1], last[2] - first[2]

    @property
    def rows_per_second(self) -> float:
        """Rows dealt with a second."""
        seconds, rows, _ = self._over()
        return rows / seconds if seconds > 0 else 0.0

    @property
    def tokens(self) -> int:
        """Tokens a minute."""
        seconds, _, tokens = self._over()
        return round(tokens / seconds * 60) if seconds > 0 else 0

    @property
    def left(self) -> float | None:
        """Seconds until the last row, at this pace; None when nothing moves."""
        pace = self.rows_per_second
        return (self.tally.rows - self.tally.done) / pace if pace > 0 else None

    def _dollars(self) -> str:
        """What the run has cost, or what is spent against its budget."""
        if self._spent is not None:
            spent, limit = self._spent
            return f"${spent:,.2f}/${limit:,.2f}"
        return "$?" if self.tally.unpriced else f"${self.tally.cost:,.2f}"

    def parts(self) -> list[str]:
        """The figures as words, the most important first."""
        tally, words = self.tally, [f"{self.tally.ok:,} ok", f"{self.tally.failed:,} failed"]
        if tally.skipped:
            words.append(f"{tally.skipped:,} from before")
        if tally.cached + tally.deduplicated:
            words.append(f"{tally.cached + tally.deduplicated:,} cached")
        words.append(f"{self.rows_per_second:.1f} rows/s")
        limit = f"/{self.tokens_per_minute:,}" if self.tokens_per_minute else ""
        words.append(f"{self.tokens:,}{limit} tokens/min")
        words.append(self._dollars())
        wait = self.waits()
        if wait is not None:  # first, where a narrow terminal does not cut it off
            words.insert(0, f"waiting: {wait}")
        return words


def clock_face(seconds: float | None) -> str:
    """`0:05`, `12:30`, `1:02:03`; `-:--` for unknown."""
    if seconds is None:
        return "-:--"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Display(Protocol):
    """Shows a pace, again and again, until it is cancelled."""

    async def run(self, pace: Pace) -> None:
        """Show, sleep, show."""
        ...


class PlainLines(Struct, frozen=True):
    """A line on `stream` every 30 s: for logs."""

    stream: TextIO
    clock: Clock

    async def run(self, pace: Pace) -> None:
        """Print until cancelled."""
        await pace.mark()
        while True:
            await self.clock.sleep(PLAIN_EVERY)
            await pace.mark()
            done, rows = pace.tally.done, pace.tally.rows
            share = f"{done * 100 // rows}%" if rows else "-"
            words = ", ".join((*pace.parts(), f"{clock_face(pace.left)} left"))
            print(f"{done:,}/{rows:,} rows ({share}), {words}", file=self.stream, flush=True)


class Bar(Struct, frozen=True):
    """Two lines at the foot of a terminal, drawn with rich."""

    stream: TextIO
    clock: Clock
    colour: bool

    async def run(self, pace: Pace) -> None:
        """Draw until cancelled, and once more at the end."""
        with self._live() as draw:
            await pace.mark()
            try:
                while True:
                    draw(self._lines(pace))
                    await self.clock.sleep(BAR_EVERY)
                    await pace.mark()
            finally:
                draw(self._lines(pace))

    @contextmanager
    def _live(self) -> Iterator[Callable[[RenderableType], None]]:
        from rich.console import Console
        from rich.live import Live

        # Without colours the bar's empty part must be blank, which rich does only when it
        # knows of no colours at all.
        console = Console(
            file=self.stream,
            color_system="auto" if self.colour else None,
            force_terminal=True,
            highlight=False,
        )
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda lines: live.update(lines, refresh=True)

    def _lines(self, pace: Pace) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done, rows = pace.tally.done, pace.tally.rows
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        top.add_column(no_wrap=True, justify="right")
        figures = f"{done:,}/{rows:,}  {done * 100 // max(rows, 1)}%  {clock_face(pace.left)} left"
        top.add_row(ProgressBar(total=max(rows, 1), completed=done), figures)
        words = " · ".join(pace.parts())
        return Group(top, Text(words, style="dim", overflow="ellipsis", no_wrap=True))
