"""Drawing with characters: bars, gauges and columns for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from unicodedata import east_asian_width

from msgspec import Struct

_EIGHTHS_RIGHT = " ▏▎▍▌▋▊▉█"
_EIGHTHS_UP = " ▁▂▃▄▅▆▇█"

CODES = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36",
}  # fmt: skip


class Pen(Struct, frozen=True):
    """What a stream can show: colours, and more than ASCII."""

    colour: bool
    unicode: bool

    def __call__(self, text: str, *styles: str) -> str:
        """The text in these styles."""
        if not self.colour or not text or not styles:
            return text
        return f"\x1b[{';'.join(CODES[style] for style in styles)}m{text}\x1b[0m"

    def bar(self, share: float, width: int) -> str:
        """A bar of at most `width` characters, padded; anything above nothing shows."""
        share = min(max(share, 0.0), 1.0)
        if not self.unicode:
            filled = round(share * width) or (1 if share else 0)
            return "#" * filled + " " * (width - filled)
        eighths = round(share * width * 8) or (1 if share else 0)
        full, rest = divmod(eighths, 8)
        text = "█" * full + (_EIGHTHS_RIGHT[rest] if rest else "")
        return text.ljust(width)

    def gauge(self, share: float, width: int, style: str, marks: Sequence[float] = ()) -> str:
        """A bar over its whole length, with marks; beyond 1 it is full."""
        line, empty = ("━", "─") if self.unicode else ("=", "-")
        filled = min(width, round(min(max(share, 0.0), 1.0) * width) or (1 if share > 0 else 0))
        at = {min(width - 1, int(mark * width)) for mark in marks if mark < 1}
        mark = "┃" if self.unicode else "|"
        cells = [mark if n in at else line if n < filled else empty for n in range(width)]
        return self("".join(cells[:filled]), style) + self("".join(cells[filled:]), "dim")

    def columns(
        self, values: Sequence[float], labels: tuple[str, str], *, width: int, ticks: Sequence[str]
    ) -> list[str]:
        """A column chart `width` wide, a line for each of `ticks` (the scale, top first, the
        last for 0). `values` are shares of the top; `labels` stand below both ends."""
        margin = max(map(len, ticks)) + 2
        room = width - margin
        each = max(1, min(room // len(values), 7))
        gap = 1 if each > 1 else 0
        height = len(ticks) - 1
        corner, side, floor = ("┤", "│", "─") if self.unicode else ("|", "|", "-")
        lines: list[str] = []
        for row in range(height):
            cells = [self._cell(value, height - 1 - row, height) for value in values]
            body = "".join(cell * (each - gap) + " " * gap for cell in cells).rstrip()
            scale = f"{ticks[row]:>{margin - 2}} {corner if ticks[row] else side}"
            lines.append(self(scale, "dim") + self(body, "cyan"))
        used = len(values) * each - gap
        foot = "└" if self.unicode else "+"
        lines.append(self(f"{ticks[-1]:>{margin - 2}} {foot}{floor * used}", "dim"))
        first, last = labels
        between = max(1, used - len(first) - len(last))
        text = first if used < len(first) + len(last) + 1 else first + " " * between + last
        lines.append(self(" " * margin + text, "dim"))
        return lines

    def _cell(self, value: float, row: int, height: int) -> str:
        """What a column shows in one row, counted from below."""
        if not self.unicode:
            return "#" if value * height >= row + 0.5 or (row == 0 and value > 0) else " "
        eighths = round(value * height * 8) - row * 8
        if row == 0 and value > 0:
            eighths = max(eighths, 1)
        return _EIGHTHS_UP[min(max(eighths, 0), 8)]


def scale(most: Decimal, lines: int) -> tuple[Decimal, list[Decimal | None]]:
    """A round top for a chart of so many lines, and what stands at each: a figure or nothing."""
    power = Decimal(10) ** most.adjusted()
    steps = (Decimal(step) * power / 10 for step in (10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100))
    top = next(step for step in steps if step >= most)
    middle = lines // 2
    return top, [top, *(top / 2 if row == middle else None for row in range(1, lines)), Decimal(0)]


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def fitted(text: str, width: int) -> str:
    """The text in exactly `width` columns: padded, or cut with an ellipsis."""
    size = cells(text)
    if size <= width:
        return text + " " * (width - size)
    while text and cells(text) > width - 1:
        text = text[:-1]
    return f"{text}…" + " " * (width - 1 - cells(text))


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, all but the first indented by two."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        both = f"{line} {word}" if line else word
        if cells(both) <= width:
            line = both
            continue
        rest = word
        if line:
            lines.append(line)
            rest = f"  {word}"
        while cells(rest) > width:
            size = next(n for n in range(len(rest), 0, -1) if cells(rest[:n]) <= width)
            lines.append(rest[:size])
            rest = f"  {rest[size:]}"
        line = rest
    return [*lines, line]
