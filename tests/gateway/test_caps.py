"""What callers may use: to the cent, to the request, to the token, over several workers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import pytest

from tests.conftest import ledger
from tests.gateway.conftest import Serve
from tests.gateway.crowd import (
    CHAT,
    MESSAGES,
    Caller,
    Question,
    Reply,
    ask,
    ask_at_once,
    billed,
    crowded,
    in_flight,
    spent,
)
from tests.gateway.test_server import until
from tests.simulator.call import Call
from tests.simulator.reply import Reply as Said
from tests.simulator.reply import Usage
from tests.simulator.server import Simulator

T = TypeVar("T")

CENT = Decimal("0.01")
TOKENS = 10_000  # of an answer that costs 2 cents


def dear(call: Call) -> Said:
    """An answer that costs what was held for it, but for the margin of the prompt."""
    most = call.ask.max_tokens if call.ask else None
    return Said("done", usage=Usage(5, most or 0))


def within_one(seconds: int, work: Callable[[int], T]) -> T:
    """What `work` gives, at the number of its try: a second one where a minute, or a day, ended
    meanwhile, so that half of it counted towards another one."""
    before = time.time() // seconds
    found = work(0)
    return found if time.time() // seconds == before else work(1)


def until_tomorrow() -> float:
    """Seconds until the day of UTC ends."""
    now = datetime.now(UTC)
    return 86400 - (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()


def mixed(tokens: Sequence[str], number: int) -> list[Question]:
    """So many questions of the tokens by turns, in both languages, half of them streamed."""
    models = {CHAT: "sim", MESSAGES: "claude"}
    return [
        Question(
            tokens[n % len(tokens)],
            f"row {n} of {len(tokens)} callers, {number}",
            path,
            TOKENS,
            {"model": models[path], "stream": n // 4 % 2 == 0},
        )
        for n in range(number)
        for path in [(CHAT, MESSAGES)[n // 2 % 2]]
    ]


def check_refusals(replies: Sequence[Reply], cap: str) -> None:
    """All who were refused heard of the cap, in their own language, and when it begins anew."""
    refused = [reply for reply in replies if reply.status != 200]
    assert {reply.status for reply in refused} == {402}
    for reply in refused:
        assert abs(int(reply.headers["retry-after"]) - until_tomorrow()) < 60
        assert f"the cap of {cap} is used up" in reply.error["message"]


def test_two_hundred_callers_spend_a_cap_to_the_cent(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """Of 200 at once over two workers, in both languages, as many are served as the cap pays for:
    nothing beyond it, by the ledger and by the provider's invoice; the others hear 402."""
    crowded(home, sim)
    sim.reply, sim.latency = dear, 0.2
    secret = token("web", "--budget", "0.50/day")
    gateway = serve("--workers", "2")
    replies = ask_at_once(gateway, mixed([secret], 200))
    served = [reply for reply in replies if reply.status == 200]
    assert len(served) == 24
    check_refusals(replies, "$0.50 (a day for token web)")
    assert gateway.stop() == 0
    total = sum(map(spent, ledger(home)))
    assert total == billed(sim) == len(served) * (2 * CENT + Decimal(5) / 10**6)
    assert Decimal("0.50") - 2 * CENT < total <= Decimal("0.50")


def test_a_team_shares_a_cap_and_others_have_theirs(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """Two tokens of a team spend its cap together, whichever worker serves them; a token with a
    cap of its own, and a user whom the configuration holds to a budget, have all of theirs."""
    crowded(
        home,
        sim,
        "serve: {teams: {search: {budget: 0.30/day}}}\n"
        "budgets: [{name: ann's, limit_usd: 0.05, period: day, match: {user: ann}}]\n",
    )
    sim.reply, sim.latency = dear, 0.2
    team = [token(f"team-{n}", "--team", "search", "--budget", "9/day") for n in range(2)]
    own = [token("solo", "--budget", "0.05/day"), token("ann")]
    gateway = serve("--workers", "2")
    replies = ask_at_once(gateway, [*mixed(team, 60), *mixed(own, 12)])
    check_refusals(replies[:60], "$0.30 (a day for team search)")
    check_refusals(replies[60::2], "$0.05 (a day for token solo)")
    check_refusals(replies[61::2], "$0.05 (ann's)")
    assert gateway.stop() == 0
    served = Counter(row["user"] for row in ledger(home) if row["status"] == "ok")
    assert served["team-0"] + served["team-1"] == 14
    assert (served["solo"], served["ann"]) == (2, 2)


@pytest.mark.parametrize(("path", "model"), [(CHAT, "sim"), (MESSAGES, "claude")])
def test_a_cap_that_is_held_is_429(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path, path: str, model: str
) -> None:
    """While calls under way hold what is left, others are told to try again in a moment; one that
    costs more than the whole cap is told so for good."""
    crowded(home, sim, "serve: {limits: {wait: 0s}}\n")
    secret = token("web", "--budget", "0.03/day")
    gateway = serve()
    sim.hold()

    async def work() -> list[Reply]:
        asked = Question(secret, "one", path, TOKENS, {"model": model})
        first = await Caller.asking(gateway, asked)
        await asyncio.to_thread(sim.wait_for_calls, 1)
        second = await ask(gateway, replace(asked, text="two"))
        third = await ask(gateway, replace(asked, text="three", most=2 * TOKENS))
        sim.release()
        return [await first.reply(), second, third]

    first, second, third = asyncio.run(work())
    assert (first.status, second.status, third.status) == (200, 429, 402)
    assert int(second.headers["retry-after"]) <= 5
    assert "$0.03 (a day for token web) is held by calls under way" in second.error["message"]
    assert "retry-after" not in third.headers
    assert "more than all of the cap" in third.error["message"]


def test_a_question_that_two_ask_is_refused_to_the_one_whose_cap_is_held(
    serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """Of two who ask the same at once only the one whose own cap has no room is refused."""
    crowded(home, sim, "serve: {limits: {wait: 1s}}\n")
    poor, rich = token("poor", "--budget", "0.03/day"), token("rich", "--budget", "9/day")
    admin = token("admin", "--admin")
    gateway = serve()
    sim.hold()

    async def work() -> tuple[int, int]:
        first = await Caller.asking(gateway, Question(poor, "first", most=TOKENS))
        await asyncio.to_thread(sim.wait_for_calls, 1)
        refused = asyncio.create_task(ask(gateway, Question(poor, "same", most=TOKENS)))
        await asyncio.to_thread(until, lambda: in_flight(gateway, admin) == 2)
        other = asyncio.create_task(ask(gateway, Question(rich, "same", most=TOKENS)))
        status = (await refused).status
        sim.release()
        await first.reply()
        return status, (await other).status

    assert asyncio.run(work()) == (429, 200)


@pytest.mark.parametrize(
    ("flags", "seconds"), [(("--rpm", "50"), 60), (("--requests", "50/day"), 86400)]
)
def test_exactly_so_many_requests_pass(
    serve: Serve,
    token: Callable[..., str],
    home: Path,
    sim: Simulator,
    *,
    flags: list[str],
    seconds: int,
) -> None:
    """Of 120 at once over two workers 50 pass; the others hear 429, and when it begins anew."""
    crowded(home, sim)
    secrets = [token(f"web-{number}", *flags) for number in range(2)]
    gateway = serve("--workers", "2")

    def work(number: int) -> list[Reply]:
        rows = [Question(secrets[number], f"row {number} {n}") for n in range(120)]
        return ask_at_once(gateway, rows)

    replies = within_one(seconds, work)
    assert Counter(reply.status for reply in replies) == {200: 50, 429: 70}
    left = seconds - time.time() % seconds
    for reply in replies:
        if reply.status == 429:
            assert left - 1 <= int(reply.headers["retry-after"]) <= left + 60
            assert "the cap of 50 requests a " in reply.error["message"]


def test_tokens_are_held_and_given_back(
    serve: Serve, token: Callable[..., str], home: Path, sim: Simulator
) -> None:
    """While no answer is there each call counts in full, over two workers; what it did not use is
    free again the moment that its caller has the answer."""
    crowded(home, sim)
    secrets = [token(f"web-{number}", "--tpm", "41000") for number in range(2)]
    gateway = serve("--workers", "2")

    def work(number: int) -> tuple[list[int], list[int]]:
        secret, before = secrets[number], len(sim.calls)
        sim.hold()

        async def crowd() -> list[int]:
            asked = [Question(secret, f"row {number} {n:03}") for n in range(100)]
            pending = {asyncio.create_task(ask(gateway, question)) for question in asked}
            await asyncio.to_thread(sim.wait_for_calls, before + 40)
            found: list[Reply] = []
            while pending:
                if len(pending) <= 40:  # all others have been refused
                    sim.release()
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                found += [task.result() for task in done]
            return [reply.status for reply in found]

        first = asyncio.run(crowd())
        more = [Question(secret, f"more {number} {n:03}") for n in range(30)]
        return first, [reply.status for reply in ask_at_once(gateway, more)]

    statuses, more = within_one(60, work)
    assert statuses == [429] * 60 + [200] * 40
    assert more == [200] * 30
