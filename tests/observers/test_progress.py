"""What a person sees while a batch runs."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Coroutine
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from llmctl.cli.output import money
from llmctl.errors import ServerFailed
from llmctl.observers.progress import Pace, bar, plain_lines
from llmctl.observers.run_stats import Tally
from llmctl.types import Answer, CallRecord, Usage
from tests.support import FakeClock, request, response


def outcome(result: Answer | ServerFailed, cost: Decimal | None = Decimal("0.01")) -> CallRecord:
    """How a call of 90 + 10 tokens ended."""
    usage = Usage(input=90, output=10) if isinstance(result, Answer) else Usage()
    return CallRecord(request(), result, usage, cost, None, 0.0, 1.0, None)


def watch(display: Coroutine[Any, Any, None], pace: Pace, seconds: int, rows_a_second: int) -> None:
    """Let a run go on for so long under the eyes of a display."""
    clock = pace.clock
    assert isinstance(clock, FakeClock)

    async def run() -> None:
        showing = asyncio.ensure_future(display)
        for _ in range(seconds):
            await clock.sleep(1)
            for _ in range(rows_a_second):
                pace.tally.add(outcome(response()))
        await clock.sleep(0.5)
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing

    clock.run(run())


def test_without_a_terminal_there_is_a_line_every_30_seconds() -> None:
    """65 seconds of a run leave two lines, with counts, pace, tokens, dollars and time left."""
    clock, stream = FakeClock(), io.StringIO()
    pace = Pace(Tally(rows=1000), clock, money, tokens_per_minute=50_000)
    watch(plain_lines(stream, pace), pace, 65, 2)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "58/1,000 rows (5%), 58 ok, 0 failed, 1.9 rows/s" in lines[0]
    assert "/50,000 tokens/min" in lines[1]
    assert "$1.18" in lines[1]
    assert lines[1].endswith("left")


def test_a_run_that_waits_for_rows_says_so_once() -> None:
    """It does not look finished, and leaves no further line until there are rows again."""
    clock, stream = FakeClock(), io.StringIO()
    pace = Pace(Tally(rows=2), clock, money, followed=True)
    for _ in range(2):
        pace.tally.add(outcome(response()))
    watch(plain_lines(stream, pace), pace, 125, 0)
    [line] = stream.getvalue().splitlines()
    assert line.startswith("2/2 rows (100%), 2 ok")
    assert line.endswith("waiting for rows")
    pace.tally.rows += 100
    watch(plain_lines(stream, pace), pace, 65, 2)
    assert [" left" in line for line in stream.getvalue().splitlines()] == [False, True, False]


def test_dollars_are_shown_against_the_budget() -> None:
    """What is spent of it, by whomever, and its limit, with two digits however little; without one
    what the run has cost."""
    tally = Tally(rows=10, unpriced=1)
    for budget, shown in (
        ((Decimal("0.42"), Decimal(5)), "$0.42/$5.00"),
        ((Decimal("0.000021"), Decimal("0.005")), "$0.000021/$0.0050"),
        (None, "$?"),
    ):

        async def spent(said: tuple[Decimal, Decimal] | None = budget) -> Any:
            return said

        pace = Pace(tally, FakeClock(), money, budget=spent)
        asyncio.run(pace.mark())
        assert shown in pace.parts()


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """No line of the bar is wider than the terminal, and without colours it writes none."""
    monkeypatch.setenv("COLUMNS", columns)
    clock, stream = FakeClock(), io.StringIO()
    waits = "rate limit, 100 s".__str__
    pace = Pace(Tally(rows=1_000_000), clock, money, 200_000, waits, today=lambda: (1200, 1500))
    watch(bar(stream, pace, colour=False), pace, 3, 5)
    text = stream.getvalue()
    assert "15/1,000,000" in text
    assert columns == "80" or "1,200/1,500 requests today" in text
    assert "\x1b[3" not in text
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert max(len(line) for line in seen.splitlines()) <= int(columns)


def test_an_unknown_price_is_not_shown_as_dollars() -> None:
    """One call without a price makes the sum unknown."""
    tally = Tally(rows=2)
    tally.add(outcome(response(), None))
    tally.add(outcome(response()))
    pace = Pace(tally, FakeClock(), money)
    asyncio.run(pace.mark())
    assert "$?" in pace.parts()
    assert tally.summary(1.0, 0)["cost_usd"] is None


def test_a_tally_counts_each_call_once() -> None:
    """Answers, kept answers, shared ones and failures each go to their own count."""
    tally = Tally(rows=5)
    failed = ServerFailed("x")
    failed.attempts = 4
    for result in (
        response(attempts=3),
        response(cache="hit", attempts=0),
        response(cache="shared", attempts=0),
        response(finish="length"),
        failed,
    ):
        tally.add(outcome(result))
    counts = tally.summary(2.0, 1)
    assert (counts["ok"], counts["failed"]) == (4, 1)
    assert (counts["cached"], counts["deduplicated"]) == (1, 1)
    assert (counts["requests"], counts["retries"]) == (8, 5)
    assert counts["input_tokens"] == 180
    assert (tally.truncated, tally.failures) == (1, {"server": 1})
