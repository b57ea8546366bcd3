"""Bills, keys and limits by an admin key, over HTTP: pages, windows, amounts, refusals."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TypeVar
from urllib.parse import parse_qs

import pytest

from llmctl.clock import SystemClock
from llmctl.config.settings import KeyPlaces, ModelLimits, Profile
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    NotFound,
    PermissionRefused,
    RateLimited,
)
from llmctl.providers.account_limits import AccountLimit, account_limits
from llmctl.providers.admin_pages import Question, ask_all
from llmctl.providers.bills import BillLine, KeyHint, ids_of
from llmctl.providers.key_admin import open_admin
from llmctl.providers.registry import bill_api
from llmctl.types import Usage
from tests.simulator.bills import PROJECT, Bills, Charge, hash_of
from tests.simulator.errors import rate_limited, status
from tests.simulator.server import Simulator
from tests.support import FakeClock

ADMIN = "sk-admin-canary-7777"
TODAY = date(2026, 11, 25)
DAY = date(2026, 11, 20)
PATHS = {"openai": "/v1", "anthropic": "/anthropic/v1", "openrouter": "/openrouter/api/v1"}
ALL = tuple(PATHS)
EUROS = '{"data": [{"start_time": 1, "results": [{"amount": {"value": 1, "currency": "eur"}}]}]}'

T = TypeVar("T")


class Asking:
    """A provider's administration on the simulator."""

    def __init__(self, sim: Simulator, provider: str) -> None:
        self.sim, self.provider = sim, provider
        api = bill_api(provider)
        assert api is not None
        self.api = api
        self.profile = Profile(
            "sim",
            provider,
            provider,
            sim.origin + PATHS[provider],
            "m",
            KeyPlaces(env="SIM_KEY"),
            headers={
                "openai-project": PROJECT,
                "anthropic-version": "1999-01-01",
                "anthropic-beta": "mine",
            },
        )

    def all(self, *questions: Question[T]) -> list[T]:
        """The items of all pages of questions."""

        async def work() -> list[T]:
            found: list[T] = []
            async with open_admin(self.profile, ADMIN, "$SIM_ADMIN", SystemClock()) as (fetch, _):
                for question in questions:
                    found += await ask_all(question, fetch, SystemClock())
            return found

        return asyncio.run(work())

    def bill(
        self, first: date = DAY, last: date = DAY, keys: Collection[str] = ()
    ) -> list[BillLine]:
        """The bill's lines."""
        return self.all(*self.api.questions(first, last, keys))


def sums(lines: Sequence[BillLine]) -> tuple[Decimal, Usage, int]:
    """Dollars, tokens and requests in all."""
    used = [line.usage for line in lines if line.usage]
    return (
        sum((line.cost for line in lines if line.cost), Decimal(0)),
        sum(used[1:], used[0]) if used else Usage(),
        sum(line.requests or 0 for line in lines),
    )


@pytest.fixture
def bills(sim: Simulator) -> Bills:
    """Answers to the admin key."""
    made = Bills(key=ADMIN)
    sim.bills = made
    return made


@pytest.mark.parametrize("provider", ALL)
def test_every_page_of_every_window_is_read(sim: Simulator, bills: Bills, provider: str) -> None:
    """Seventy days of three charges, two a page: nothing is lost, nothing counted twice; no window
    is longer than the provider's most, else it would refuse."""
    first = TODAY - timedelta(days=70)
    days = [first + timedelta(days=n) for n in range(70)]
    bills.charges.extend(
        Charge(day=day, model=model, usd="0.01", input=10, output=3)
        for day in days
        for model in ("a", "b", "c")
    )
    asking = Asking(sim, provider)
    known = asking.api.known(first, TODAY, TODAY)
    lines = asking.bill(*known)
    count = 3 * sum(known[0] <= day <= known[1] for day in days)
    assert count == (90 if provider == "openrouter" else 210)
    assert sums(lines) == (count * Decimal("0.01"), Usage(count * 10, count * 3), count)
    assert {line.day for line in lines} == {day for day in days if known[0] <= day <= known[1]}


@pytest.mark.parametrize("provider", ALL)
def test_a_line_is_read_whole(sim: Simulator, bills: Bills, provider: str) -> None:
    """Model, key, tokens with those of caches among them, requests, dollars to the last digit."""
    mine = Charge(
        day=DAY, usd="12.3456789", list_usd="20", input=100, output=7, cached=30, written=20,
        requests=4, batch=True, key="k",
    )  # fmt: skip
    bills.charges.append(mine)
    lines = Asking(sim, provider).bill(keys=["k"])
    assert {(line.day, line.model, line.key) for line in lines} == {(DAY, "gpt-5-mini", "k")}
    cost, usage, requests = sums(lines)
    cached = (0, 0) if provider == "openrouter" else (30, 20)
    assert (cost, usage, requests) == (Decimal("12.3456789"), Usage(100, 7, *cached), 4)
    told = {"openai": {True, None}, "anthropic": {True}, "openrouter": {None}}
    assert {line.batch for line in lines} == told[provider]
    listed = {line.list_cost for line in lines if line.cost is not None}
    assert listed == {Decimal(20) if provider == "anthropic" else None}


@pytest.mark.parametrize("provider", ALL)
def test_what_passes_is_asked_again(sim: Simulator, bills: Bills, provider: str) -> None:
    """A rate limit, for as long as the provider says, and a server that fails."""
    bills.charges.append(Charge(day=DAY, usd="1"))
    bills.refusals.extend([rate_limited(0.01), rate_limited(0.01)])
    assert sums(Asking(sim, provider).bill())[0] == 1
    bills.refusals.append(rate_limited(0.01))
    asking = Asking(sim, provider)
    before = len(sim.calls)
    asking.bill()
    assert [call.status for call in sim.calls[before : before + 2]] == [429, 200]


def test_waits_are_the_providers_or_grow() -> None:
    """What the provider asks for, to the second; else a random pause; six attempts in all."""
    clock, starts = FakeClock(), list[float]()

    async def fetch(_: object) -> bytes:
        starts.append(clock.now)
        raise RateLimited("no", retry_after=7.0 if len(starts) < 3 else None)

    question: Question[str] = Question("/x", lambda _: [])
    with pytest.raises(RateLimited):
        clock.run(ask_all(question, fetch, clock))
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert (len(starts), waits[:2]) == (6, [7, 7])
    assert all(0 <= wait <= 20 for wait in waits[2:])
    assert sum(waits[2:]) > 0


@pytest.mark.parametrize(
    ("code", "kind"), [(401, AuthFailed), (403, PermissionRefused), (404, NotFound)]
)
@pytest.mark.parametrize("provider", ALL)
def test_refusals_are_not_repeated(
    sim: Simulator, bills: Bills, provider: str, code: int, kind: type[CallError]
) -> None:
    """One request, and what is wrong; of a key that it is the admin key, and where it was found."""
    bills.refusals.append(status(code))
    with pytest.raises(kind) as caught:
        Asking(sim, provider).bill()
    assert len(sim.calls) == 1
    if code != 404:
        assert "the admin key of $SIM_ADMIN is refused" in caught.value.message


def test_headers_are_those_of_the_administration(sim: Simulator, bills: Bills) -> None:
    """The newest names of Anthropic's fields and the beta, not those of the profile's calls; and
    no project, which an admin key does not belong to."""
    bills.charges.append(Charge(day=DAY, usd="1"))
    assert Asking(sim, "anthropic").bill()
    assert Asking(sim, "openai").bill()
    for call in sim.calls:
        if "/analytics/" in call.path:
            assert call.headers["anthropic-version"] == "2026-10-21"
        else:
            assert "openai-project" not in call.headers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[]", "is no JSON object"),
        ("<html>", "is no JSON object"),
        ('{"data": [{"start_time": "x", "results": [{}]}]}', "no readable start_time"),
        ('{"data": [{"start_time": 1, "results": [{"amount": {"value": null}}]}]}', "amount"),
        ('{"data": [{"start_time": 1, "results": [{"amount": {"value": "NaN"}}]}]}', "amount"),
        (
            EUROS,
            "in 'eur', and the ledger in US dollars",
        ),
        ('{"data": [], "has_more": true, "next_page": "again"}', "has no end"),
    ],
)
def test_nonsense_is_an_error(body: str, said: str) -> None:
    """A bill with a line left out would be wrong in silence."""
    api = bill_api("openai")
    assert api is not None
    *_, costs = api.questions(DAY, DAY, ())

    async def fetch(_: object) -> bytes:
        return body.encode()

    with pytest.raises(BadResponse, match=re.escape(said)):
        asyncio.run(ask_all(costs, fetch, SystemClock()))


@pytest.mark.parametrize(
    ("tokens", "wrong"),
    [("-1", True), ("1.5", True), ('"9"', True), ("1e3", False), ("null", False)],
)
def test_counts_are_counts(tokens: str, wrong: bool) -> None:  # noqa: FBT001 - a table
    """Or the line is no line."""
    api = bill_api("openai")
    assert api is not None
    usage = next(iter(api.questions(DAY, DAY, ())))
    row = f'{{"start_time": 1, "results": [{{"input_tokens": {tokens}}}]}}'

    async def fetch(_: object) -> bytes:
        return f'{{"data": [{row}]}}'.encode()

    if wrong:
        with pytest.raises(BadResponse, match="no readable input_tokens"):
            asyncio.run(ask_all(usage, fetch, SystemClock()))
    else:
        assert asyncio.run(ask_all(usage, fetch, SystemClock()))


def test_the_days_that_providers_know() -> None:
    """OpenRouter: thirty that have ended; Anthropic: a year; OpenAI: up to today."""
    old, day = date(2020, 1, 1), timedelta(days=1)
    known = {name: (api := bill_api(name)) and api.known(old, TODAY + day, TODAY) for name in ALL}
    assert known == {
        "openai": (old, TODAY),
        "anthropic": (TODAY - 364 * day, TODAY),
        "openrouter": (TODAY - 30 * day, TODAY - day),
    }


def test_windows_are_of_the_providers_sizes(sim: Simulator, bills: Bills) -> None:
    """OpenAI: 31 buckets of usage, 180 of costs; Anthropic: 31 days; all of whole UTC days."""
    bills.charges.append(Charge(day=DAY, usd="1"))
    first = DAY - timedelta(days=199)
    for provider in ("openai", "anthropic"):
        Asking(sim, provider).bill(first, DAY)
    spans: dict[str, set[tuple[date, int]]] = {}
    for call in sim.calls:
        asked = parse_qs(call.query)
        if "start_time" in asked:
            start, end = (
                datetime.fromtimestamp(int(asked[name][0]), UTC)
                for name in ("start_time", "end_time")
            )
        else:
            start, end = (
                datetime.fromisoformat(asked[name][0]) for name in ("starting_at", "ending_at")
            )
        assert (start.hour, end.hour) == (0, 0)
        spans.setdefault(call.path, set()).add((start.date(), (end - start).days))
    lengths = {path: sorted(days for _, days in found) for path, found in spans.items()}
    months = [14, 31, 31, 31, 31, 31, 31]
    assert lengths == {
        "/v1/organization/usage/completions": months,
        "/v1/organization/usage/embeddings": months,
        "/v1/organization/costs": [20, 180],
        "/anthropic/v1/organizations/analytics/usage": months,
        "/anthropic/v1/organizations/analytics/cost": months,
    }


KEY = "sk-proj-abcdefghijklmnopWXYZ"


@pytest.mark.parametrize(
    ("shown", "fits"),
    [
        ("sk-proj-abc...WXYZ", True),
        ("sk-proj-********WXYZ", True),
        ("sk-...WXYZ", True),
        ("sk-proj-abc…WXYZ", True),
        ("sk-proj-abd...WXYZ", False),
        ("sk-proj-abc...WXY1", False),
        ("sk-...XYZ", False),  # three characters are many keys'
        ("sk-proj-...", False),
        ("", False),
        (KEY, False),  # nothing is hidden: no hint
        ("sk-proj-abcdefghijklmnopWXY...ZZ", False),
    ],
)
def test_a_key_is_told_by_what_is_shown_of_it(shown: str, fits: bool) -> None:  # noqa: FBT001
    """By both ends, of enough characters."""
    assert KeyHint("id", shown).fits(KEY) is fits


def test_only_a_key_that_is_certain_counts() -> None:
    """Two that fit are none; OpenRouter's id is the key's own digest."""
    one, two = KeyHint("1", "sk-...WXYZ"), KeyHint("2", "sk-proj-...WXYZ")
    assert ids_of([one], [KEY]) == ("1",)
    assert ids_of([one, two], [KEY]) == ()
    assert ids_of([KeyHint(hash_of(KEY), "")], [KEY, "sk-old"]) == (hash_of(KEY),)


@pytest.mark.parametrize("provider", ALL)
def test_our_key_is_found_in_the_list(sim: Simulator, bills: Bills, provider: str) -> None:
    """Of all its pages."""
    name = hash_of(KEY) if provider == "openrouter" else "ours"
    bills.shown.update({"a": "sk-...1111", "b": "sk-...2222", name: "sk-proj-abc...WXYZ"})
    asking = Asking(sim, provider)
    listing = asking.api.keys(PROJECT)
    assert listing is not None
    assert ids_of(asking.all(listing), [KEY]) == (name,)


def test_openai_lists_keys_of_a_project_alone() -> None:
    """Without its id they cannot be asked for."""
    api = bill_api("openai")
    assert api is not None
    assert api.keys(None) is None


def test_openrouters_lines_are_of_the_keys_asked_for(sim: Simulator, bills: Bills) -> None:
    """One question a key; without any, everybody's."""
    bills.charges.extend(Charge(day=DAY, usd="1", key=key) for key in ("a", "b", "c"))
    asking = Asking(sim, "openrouter")
    assert {line.key for line in asking.bill(keys=["a", "b"])} == {"a", "b"}
    assert sums(asking.bill())[0] == 3


def test_account_limits_of_openai(sim: Simulator, bills: Bills) -> None:
    """Each model's, of all pages; none where none is said."""
    bills.limits.extend(
        {
            "model": f"m{n}",
            "max_requests_per_1_minute": 100 + n,
            "max_tokens_per_1_minute": 1000,
            "max_requests_per_1_day": None if n else 5000,
        }
        for n in range(5)
    )
    question = account_limits("openai", PROJECT)
    assert question is not None
    found = Asking(sim, "openai").all(question)
    assert [one.models for one in found] == [(f"m{n}",) for n in range(5)]
    assert [one.limits for one in found[:2]] == [
        ModelLimits(100, 1000, 5000),
        ModelLimits(101, 1000, None),
    ]


def test_account_limits_of_anthropic(sim: Simulator, bills: Bills) -> None:
    """Of each group of models; that of input tokens which counts first, and that of output."""
    said = {
        "requests_per_minute": 50,
        "input_tokens_per_minute": 9,
        "input_tokens_per_minute_cache_aware": 30_000,
        "output_tokens_per_minute": 8000,
    }
    bills.limits.append(
        {
            "models": ["claude-a", "claude-b"],
            "limits": [{"type": name, "value": value} for name, value in said.items()],
        }
    )
    question = account_limits("anthropic", None)
    assert question is not None
    assert Asking(sim, "anthropic").all(question) == [
        AccountLimit(("claude-a", "claude-b"), ModelLimits(50, 30_000), 8000)
    ]


def test_limits_that_nobody_tells() -> None:
    """Of OpenAI without a project, and of others."""
    assert account_limits("openai", None) is None
    assert account_limits("groq", None) is None
