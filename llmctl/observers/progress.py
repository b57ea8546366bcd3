"""What a person sees while a batch runs: a bar on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TextIO

from llmctl.clock import Clock
from llmctl.observers.run_stats import Tally

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_EVERY = 30.0  # seconds between two lines where there is no terminal
BAR_EVERY = 0.2  # seconds between two drawings of the bar
_WINDOW = 60.0  # seconds that the pace is an average of


@dataclass(slots=True)
class Pace:
    """Rows a second, tokens a minute and the time left, over the last minute. `money` writes US
    dollars; `budget` gives what
    is spent of the budget in use, and its limit, in US dollars; `today` how many requests of how
    many a day are used; `where` on how many machines rows are answered, where those are not one;
    `followed`: when all rows have their records, more may come."""

    tally: Tally
    clock: Clock
    money: Callable[[Decimal | None], str]
    tokens_per_minute: int | None = None
    waits: Callable[[], str | None] = lambda: None
    budget: Callable[[], Awaitable[tuple[Decimal, Decimal] | None]] | None = None
    today: Callable[[], tuple[int, int] | None] = lambda: None
    where: Callable[[], str | None] = lambda: None
    followed: bool = False
    _marks: deque[tuple[float, int, int]] = field(default_factory=deque)
    _spent: tuple[Decimal, Decimal] | None = None

    async def mark(self) -> None:
        """Remember where the run stands now."""
        if self.budget is not None:
            self._spent = await self.budget()
        now, tally = self.clock.monotonic(), self.tally
        tokens = tally.input_tokens + tally.output_tokens
        self._marks.append((now, tally.ok + tally.failed, tokens))
        while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
            self._marks.popleft()

    def _per_second(self, which: int) -> float:
        first, last = self._marks[0], self._marks[-1]
        return (last[which] - first[which]) / ((last[0] - first[0]) or 1)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way: the run waits for rows."""
        return self.followed and self.tally.complete

    def figures(self) -> tuple[str, str, str]:
        """`12/40`, `30%`, and the time until the last row at this pace: `0:01:23 left`; for a run
        that waits for rows that instead."""
        done, rows, pace = self.tally.done, self.tally.rows, self._per_second(1)
        if self.idle:
            return f"{done:,}/{rows:,}", "100%", "waiting for rows"
        left = timedelta(seconds=round((rows - done) / pace)) if pace > 0 else "-:--"
        return f"{done:,}/{rows:,}", f"{done * 100 // max(rows, 1)}%", f"{left} left"

    def parts(self) -> list[str]:
        """The rest as words, the most important first."""
        tally, words = self.tally, [f"{self.tally.ok:,} ok", f"{self.tally.failed:,} failed"]
        if tally.skipped:
            words.append(f"{tally.skipped:,} from before")
        if cached := tally.cached + tally.deduplicated:
            words.append(f"{cached:,} cached")
        limit = f"/{self.tokens_per_minute:,}" if self.tokens_per_minute else ""
        words.append(f"{self._per_second(1):.1f} rows/s")
        words.append(f"{self._per_second(2) * 60:,.0f}{limit} tokens/min")
        if self._spent is not None:
            words.append("/".join(map(self.money, self._spent)))
        else:
            words.append(self.money(None if tally.unpriced else tally.cost))
        if today := self.today():
            words.append("{:,}/{:,} requests today".format(*today))
        if where := self.where():
            words.append(where)
        if wait := self.waits():
            words.insert(0, f"waiting: {wait}")
        return words


async def plain_lines(stream: TextIO, pace: Pace) -> None:
    """Print a line every 30 s, until cancelled: for logs. While a run waits for rows there is none
    after the first."""
    await pace.mark()
    said: tuple[int, int] | None = None  # rows and records of the last line of a run that waits
    while True:
        await pace.clock.sleep(PLAIN_EVERY)
        await pace.mark()
        now = (pace.tally.rows, pace.tally.done) if pace.idle else None
        if now is not None and now == said:
            continue
        said = now
        rows, share, left = pace.figures()
        words = ", ".join((*pace.parts(), left))
        print(f"{rows} rows ({share}), {words}", file=stream, flush=True)


async def bar(stream: TextIO, pace: Pace, *, colour: bool) -> None:
    """Draw a bar and a line of words at the foot of a terminal, until cancelled."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    class Lines(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            words = " · ".join(pace.parts())
            yield Text(words, style="dim")

    # Without colours the bar's empty part must be blank, which rich does only when it knows of no
    # colours at all.
    console = Console(
        file=stream,
        color_system="auto" if colour else None,
        force_terminal=True,
        highlight=False,
    )
    await pace.mark()
    columns = BarColumn(bar_width=None), TextColumn("{task.description}")
    with Lines(*columns, console=console, auto_refresh=False, transient=True, expand=True) as lines:
        task = lines.add_task("", total=max(pace.tally.rows, 1))
        while True:
            figures = "  ".join(pace.figures())
            done, rows = pace.tally.done, max(pace.tally.rows, 1)
            lines.update(task, completed=done, total=rows, description=figures, refresh=True)
            await pace.clock.sleep(BAR_EVERY)
            await pace.mark()
