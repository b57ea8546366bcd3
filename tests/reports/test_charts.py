"""Charts: axes that people can read, and marks where the figures are."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.reports.charts import Slot, bars, gauge, lines, part, ticks


def drawn(markup: str) -> ET.Element:
    """The elements of a chart."""
    return ET.fromstring(markup)


def slots(*values: tuple[float | None, ...]) -> list[Slot]:
    """A slot for each."""
    return [Slot(f"{n} Nov", each, f"on {n}", f"all on {n}") for n, each in enumerate(values)]


def per_cent(element: ET.Element, name: str) -> float:
    """An attribute that is a per cent."""
    return float(element.attrib[name].removesuffix("%"))


@pytest.mark.parametrize(
    ("most", "axis"),
    [
        (4.1, [0, 1, 2, 3, 4, 5]),
        (5, [0, 1, 2, 3, 4, 5]),
        (206, [0, 50, 100, 150, 200, 250]),
        (0.011, [0, 0.0025, 0.005, 0.0075, 0.01, 0.0125]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, [0, 1]),
    ],
)
def test_ticks(most: float, axis: list[float]) -> None:
    """An axis counts in round numbers."""
    assert ticks(most) == pytest.approx(axis)


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_ticks_reach_the_most(most: float) -> None:
    """Whatever the most is, the axis reaches it, by few lines, and is less than twice as high."""
    axis = ticks(most)
    assert axis[-1] >= most * (1 - 1e-6)
    assert axis[-1] <= 2 * most
    assert 2 <= len(axis) <= 7


def test_bars_stand_on_each_other() -> None:
    """A bar of 30 and one of 20 on it, on an axis to 50: they fill it; nothing is drawn for 0."""
    chart = drawn(bars(slots((30.0, 20.0), (0.0, None)), "Spend", "{:g}".format))
    marks = [rect for rect in chart.iter("rect") if rect.attrib["class"] != "hit"]
    assert [(r.attrib["class"], per_cent(r, "y"), per_cent(r, "height")) for r in marks] == [
        ("s0", 40, 60),
        ("s1", 0, 40),
    ]


def test_lines_are_interrupted() -> None:
    """Where there was no call there is no point, and no line that hides it."""
    chart = drawn(lines(slots((1.0,), (2.0,), (None,), (2.0,)), "Latency", "{:g}".format))
    paths = [line.attrib["points"] for line in chart.iter("polyline")]
    assert paths == ["0.5,50 1.5,0", "3.5,0"]
    assert len([*chart.iter("circle")]) == 3


@pytest.mark.parametrize("count", [1, 2, 7, 31, 92, 104, 365])
def test_the_last_day_has_a_label(count: int) -> None:
    """However many days there are, the last is named, few are in all, and fewer on a phone."""
    chart = drawn(bars(slots(*[(1.0,)] * count), "Spend", "{:g}".format))
    labels = [text for text in chart.iter("text") if "day" in text.attrib["class"].split()]
    assert labels[-1].text == f"{count - 1} Nov"
    assert len(labels) <= 14
    assert len([text for text in labels if text.attrib["class"] == "day"]) <= 4


def test_a_gauge_beyond_its_limit() -> None:
    """Twice the limit: all is filled, and the limit has its mark in the middle."""
    chart = drawn(gauge(2.0, [0.5], "exceeded", "team"))
    fill = next(rect for rect in chart.iter("rect") if rect.attrib["class"] == "exceeded")
    assert per_cent(fill, "width") == 100
    assert [per_cent(line, "x1") for line in chart.iter("line")] == [25, 50]


def test_text_is_escaped() -> None:
    """Titles, labels and what is said of a slot are text, whatever is in them."""
    evil = '"><script>alert(1)</script>&'
    slot = Slot(evil, (1.0,), evil, evil)
    for markup in (
        bars([slot], evil, lambda _: evil),
        lines([slot], evil, lambda _: evil),
        gauge(0.5, [], evil, evil),
    ):
        assert not [*drawn(markup).iter("script")]
        assert "<script" not in markup
    assert not re.search("style=|on[a-z]+=", bars([slot], "x", "{:g}".format))
    assert not part(None)
