"""Charts as inline SVG: bars and lines along time, gauges, shares; pure.

No script, and no style attribute, which the page's policy refuses: places are per cent of a chart's
width and height, so that it is as wide as its column while its text keeps its size; colours are
classes of `page.css`. Every text that is handed in is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from markupsafe import Markup
from msgspec import Struct

_STEPS = (1, 2, 2.5, 5, 10)  # what people count in
_LINES = 5  # most grid lines above the axis
_LABELS = (
    14  # most labels of the time axis in a wide chart; half in a narrow one, a quarter on a phone
)
_FEW = 45  # points of a line that are each marked
_WIDEST = 8.0  # per cent of the chart that a bar takes at most


class Slot(Struct, frozen=True):
    """A place on the time axis, such as a day.

    Attributes:
        label: its name on the axis.
        values: one for each series; None where there is nothing to show.
        summary: what is said beside the chart while the pointer is there.
        details: the same in full, with the value of each series.

    """

    label: str
    values: tuple[float | None, ...]
    summary: str
    details: str


def ticks(most: float) -> list[float]:
    """Round numbers for an axis, from 0 to the first that is not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most / _LINES))
    step = next(s * power for s in (*_STEPS, 20.0) if s * power * _LINES >= most * (1 - 1e-9))
    return [step * n for n in range(math.ceil(most / step - 1e-9) + 1)]


def bars(slots: Sequence[Slot], title: str, tick: Callable[[float], str]) -> Markup:
    """Stacked bars, the first series at the bottom. `title` says for those who cannot see it what
    the chart shows, `tick` how a number stands at its axis."""
    axis = ticks(max((sum(v or 0 for v in slot.values) for slot in slots), default=0))
    top, width = axis[-1], 100 / max(1, len(slots))
    wide = min(0.74 * width, _WIDEST)

    def column(at: int, slot: Slot) -> Markup:
        drawn, below = Markup(), 0.0
        for series, value in enumerate(slot.values):
            if value:
                below += value
                drawn += Markup(
                    '<rect class="s{}" x="{}%" y="{}%" width="{}%" height="{}%"/>'
                ).format(
                    series,
                    _short(at * width + (width - wide) / 2),
                    _short(100 - 100 * below / top),
                    _short(wide),
                    _short(100 * value / top),
                )
        return drawn

    return _chart("bars", slots, title, axis, tick, Markup(), column)


def lines(slots: Sequence[Slot], title: str, tick: Callable[[float], str]) -> Markup:
    """A line for each series, interrupted where it has no value; arguments as of `bars`."""
    values = [value for slot in slots for value in slot.values if value is not None]
    axis = ticks(max(values, default=0))
    top, count = axis[-1], max(1, len(slots))
    drawn = Markup()
    for series in range(len(slots[0].values) if slots else 0):
        points = [(at + 0.5, slot.values[series]) for at, slot in enumerate(slots)]
        for there, run in groupby(points, key=lambda point: point[1] is not None):
            if there:
                path = " ".join(f"{_short(x)},{_short(100 - 100 * (y or 0) / top)}" for x, y in run)
                drawn += Markup('<polyline class="s{}" points="{}"/>').format(series, path)
    # The one part in units of its own: a line's points cannot be given in per cent.
    drawn = Markup(
        '<svg viewBox="0 0 {} 100" width="100%" height="100%" preserveAspectRatio="none">{}</svg>'
    ).format(count, drawn)

    def dots(at: int, slot: Slot) -> Markup:
        found = Markup()
        for series, value in enumerate(slot.values):
            if value is not None:
                found += Markup('<circle class="s{}{}" cx="{}%" cy="{}%" r="0.22em"/>').format(
                    series,
                    "" if count <= _FEW else " quiet",
                    _short((at + 0.5) * 100 / count),
                    _short(100 - 100 * value / top),
                )
        return found

    return _chart("lines", slots, title, axis, tick, drawn, dots)


def _chart(
    kind: str,
    slots: Sequence[Slot],
    title: str,
    axis: Sequence[float],
    tick: Callable[[float], str],
    under: Markup,
    marks: Callable[[int, Slot], Markup],
) -> Markup:
    """Grid and axes, what lies `under` the slots, and the slots with their `marks`."""
    grid = Markup().join(
        Markup(
            '<line class="{}" x2="100%" y1="{y}%" y2="{y}%"/>'
            '<text class="tick" x="-0.7em" y="{y}%" dy="0.32em">{}</text>'
        ).format("grid" if value else "axis", tick(value), y=_short(100 - 100 * value / axis[-1]))
        for value in axis
    )
    count = max(1, len(slots))
    width = 100 / count
    step = -(-count // _LABELS)
    names, places = Markup(), Markup()
    for at, slot in enumerate(slots):
        back = count - 1 - at  # the last slot has a label, and is the one people look for
        if back % step == 0:
            rank = "" if back % (4 * step) == 0 else " mid" if back % (2 * step) == 0 else " wide"
            names += Markup('<text class="day{}" x="{}%" y="100%" dy="1.6em">{}</text>').format(
                rank, _short((at + 0.5) * width), slot.label
            )
        places += Markup(
            '<g class="slot"><title>{}</title>'
            '<rect class="hit" x="{}%" width="{}%" height="100%"/>{}'
            '<text class="said" x="100%" y="-0.9em">{}</text></g>'
        ).format(slot.details, _short(at * width), _short(width), marks(at, slot), slot.summary)
    return Markup(
        '<div class="chart"><svg class="plot {}" role="img" aria-label="{}">{}{}{}{}</svg></div>'
    ).format(kind, title, grid, names, under, places)


def gauge(share: float, marks: Iterable[float], state: str, title: str) -> Markup:
    """How much of a limit is used: `share` may exceed 1, and then the limit has a mark of its own.
    `state` names the colour; `marks` are the shares at which somebody is warned."""
    whole = max(1.0, share)
    limits = sorted({*(mark for mark in marks if mark < whole), *([1.0] if share > 1 else [])})
    drawn = Markup().join(
        Markup('<line class="mark" x1="{x}%" x2="{x}%" y2="100%"/>').format(
            x=_short(100 * at / whole)
        )
        for at in limits
    )
    return Markup(
        '<svg class="gauge" role="img" aria-label="{}"><title>{}</title>'
        '<rect class="track" width="100%" height="100%"/>'
        '<rect class="{}" width="{}%" height="100%"/>{}</svg>'
    ).format(title, title, state, _short(100 * share / whole), drawn)


def part(share: float | None) -> Markup:
    """A share as a thin bar; beside its number, which those hear who cannot see it."""
    if not share:
        return Markup()
    return Markup(
        '<svg class="part" aria-hidden="true"><rect width="{}%" height="100%"/></svg>'
    ).format(_short(100 * min(share, 1.0)))


def _short(number: float) -> str:
    """The number to a hundredth, without what adds nothing."""
    return f"{number:.2f}".rstrip("0").rstrip(".")
