"""Callers that hang up: the provider hears of it at once, and the ledger has every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.conftest import ledger
from tests.gateway.conftest import Serve
from tests.gateway.crowd import (
    CHAT,
    MESSAGES,
    Caller,
    Question,
    ask_at_once,
    billed,
    crowded,
    in_flight,
    spent,
)
from tests.gateway.serving import Gateway
from tests.gateway.test_server import until
from tests.simulator.faults import Hang
from tests.simulator.server import Simulator

AT_ONCE = 25
SOON = 1.0  # seconds in which a provider hears that nobody waits any more


def abandoned(sim: Simulator, calls: int) -> None:
    """Return when the callers of so many calls have left the provider."""
    sim.wait_until(lambda: sim.record.outcomes["abandoned"] >= calls)


def hang_up(
    gateway: Gateway, sim: Simulator, questions: list[Question], words: bytes = b""
) -> None:
    """Ask all at once, and hang up in groups once the provider has the calls and each caller has
    read `words`: by turns an end of the connection and a break. The provider's connections of a
    group end within a second, before the next one hangs up."""

    async def work() -> None:
        before = len(sim.calls)
        callers = [await Caller.asking(gateway, question) for question in questions]
        await asyncio.to_thread(sim.wait_for_calls, before + len(callers), 60)
        await asyncio.gather(*(caller.reads(words) for caller in callers if words))
        seconds: list[float] = []
        while callers:
            group, callers = callers[:AT_ONCE], callers[AT_ONCE:]
            ended = sim.record.outcomes["abandoned"] + len(group)
            began = time.monotonic()
            for number, caller in enumerate(group):
                caller.hang_up(reset=number % 2 == 0)
            await asyncio.to_thread(abandoned, sim, ended)
            seconds.append(time.monotonic() - began)
        late = sum(one > SOON for one in seconds)
        assert late <= len(seconds) // 20, seconds  # a crowded machine stalls now and then

    asyncio.run(work())


def test_a_thousand_hang_up_in_the_middle_of_an_answer(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """Each upstream connection ends within a second; each call is on the ledger as cancelled, at
    no less than the provider billed for it."""
    crowded(home, sim)
    secret = token("web", "--budget", "100/month")
    gateway = serve()
    sim.fault, sim.reply = Hang(pieces=3, billed=True), lambda _: "word " * 50
    questions = [Question(secret, f"row {n}", body={"stream": True}) for n in range(1000)]
    hang_up(gateway, sim, questions, b"word")
    assert gateway.stop() == 0
    rows = ledger(home)
    assert {(row["status"], row["uncertain"], row["attempts"]) for row in rows} == {
        ("cancelled", 1, 1)
    }
    assert len(rows) == len(questions) == len(sim.calls)
    assert min(map(spent, rows)) >= billed(sim) / len(rows)
    assert sum("the caller hung up" in line for line in gateway.lines) == len(rows)
    assert not [line for line in gateway.lines if "Traceback" in line or "never" in line]


def test_a_long_prompt_that_is_given_up_holds_up_nobody(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """What callers with prompts of 1.4 MB may have cost is counted after their providers have
    heard that nobody waits, and while others are served."""
    crowded(home, sim)
    secret = token("web", "--budget", "100/month")
    gateway = serve()
    sim.fault, sim.reply = Hang(pieces=3, billed=True), lambda _: "word " * 50
    long = [f"{n} {'some words ' * 130_000}" for n in range(20)]
    hang_up(gateway, sim, [Question(secret, text, body={"stream": True}) for text in long], b"word")
    assert gateway.stop() == 0
    assert [row["status"] for row in ledger(home)] == ["cancelled"] * len(long)


@pytest.mark.parametrize(("path", "model"), [(CHAT, "sim"), (MESSAGES, "claude"), (CHAT, "google")])
def test_callers_of_plain_answers_hang_up(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path, path: str, model: str
) -> None:
    """Whatever the languages at both ends: the provider that still thinks hears of it within a
    second, and the call may have cost all that it was held at."""
    secret = token("web", "--budget", "100/month")
    gateway = serve()
    sim.hold()
    body = {"model": model}
    hang_up(gateway, sim, [Question(secret, f"row {n}", path, body=body) for n in range(5)])
    assert gateway.stop() == 0
    rows = ledger(home)
    assert [row["status"] for row in rows] == ["unknown"] * 5
    assert all(spent(row) >= Decimal(1000 * 2) / 10**6 for row in rows)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("why", ["budget", "requests a minute", "calls at a time"])
def test_who_waits_may_hang_up_for_nothing(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path, why: str, *, stream: bool
) -> None:
    """Calls that wait for their turn are not sent once nobody waits for them: they cost nothing,
    and what they held of caps is free for the next call."""
    limits = {"requests a minute": "rpm: 1", "calls at a time": "concurrency: 1"}
    crowded(home, sim, "serve: {limits: {wait: 60s}}\n", limits.get(why, "concurrency: 9"))
    money = ("--budget", "0.003/month") if why == "budget" else ("--tokens", "3100/month")
    secret = token("web", "--admin", *money)
    gateway = serve()
    body = {"stream": stream}
    sim.hold()

    async def work() -> None:
        first = await Caller.asking(gateway, Question(secret, "first", body=body))
        await asyncio.to_thread(sim.wait_for_calls, 1)
        others = [
            await Caller.asking(gateway, Question(secret, f"row {n}", body=body)) for n in range(2)
        ]
        await asyncio.to_thread(until, lambda: in_flight(gateway, secret) == 3)
        for other in others:
            other.hang_up()
        await asyncio.to_thread(until, lambda: in_flight(gateway, secret) == 1)
        sim.release()
        assert (await first.reply()).status == 200

    asyncio.run(work())
    if why != "requests a minute":  # else there is none left for minutes
        last = [Question(secret, f"last {n}") for n in range(2)]
        assert [reply.status for reply in ask_at_once(gateway, last)] == [200, 200]
    assert gateway.stop() == 0
    assert [call.prompt for call in sim.calls if call.prompt.startswith("row")] == []
    rows = [row for row in ledger(home) if row["status"] != "ok"]
    assert [(row["status"], row["cost_pico"], row["uncertain"]) for row in rows] == [
        ("cancelled", 0, 0)
    ] * 2
