"""What llmctl asks of administrations is what the vendors' own SDKs ask, and reads what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

import anthropic
import openai
import pytest

from llmctl.clock import SystemClock
from llmctl.config.settings import Profile
from llmctl.providers.account_limits import account_limits
from llmctl.providers.admin_pages import Question, ask_all
from llmctl.providers.key_admin import open_admin
from llmctl.providers.registry import bill_api
from tests.simulator.bills import PROJECT, Bills, Charge
from tests.simulator.call import Call
from tests.simulator.server import Simulator

ADMIN = "sk-admin-canary-7777"
DAY = date(2026, 11, 20)
START, END = (datetime(2026, 11, day, tzinfo=UTC) for day in (20, 21))
GROUPS = ["model", "service_tier", "api_key_id", "workspace_id"]


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """Three charges, two a page."""
    with Simulator() as made:
        made.bills = Bills(key=ADMIN)
        made.bills.charges.extend(
            Charge(day=DAY, model=model, usd="1.25", input=100, output=9, cached=40)
            for model in ("a", "b", "c")
        )
        made.bills.shown["k"] = "sk-abc...wxyz"
        yield made


def ours(sim: Simulator, provider: str, base: str, questions: Iterable[Question[Any]]) -> list[Any]:
    """What llmctl reads."""

    async def work() -> list[Any]:
        profile = Profile("p", provider, provider, sim.origin + base, "m")
        async with open_admin(profile, ADMIN, "$X", SystemClock()) as (fetch, _):
            return [item for one in questions for item in await ask_all(one, fetch, SystemClock())]

    return asyncio.run(work())


def asked(calls: Iterable[Call]) -> list[tuple[str, dict[str, list[str]]]]:
    """Places and parameters; SDKs write moments as `isoformat` does."""
    found = []
    for call in calls:
        query = parse_qs(call.query)
        for name in ("starting_at", "ending_at"):
            if name in query:
                query[name] = [datetime.fromisoformat(query[name][0]).isoformat()]
        found.append((call.path, query))
    return found


def test_anthropic(sim: Simulator) -> None:
    """Cost, usage, keys and rate limits: every page, parameter, and the version of the names."""
    api, limits = bill_api("anthropic"), account_limits("anthropic", None)
    assert api is not None
    assert limits is not None
    listing = api.keys(None)
    assert listing is not None
    lines = ours(sim, "anthropic", "/anthropic/v1", api.questions(DAY, DAY, ()))
    ours(sim, "anthropic", "/anthropic/v1", [listing, limits])
    mine = list(sim.calls)
    client = anthropic.Anthropic(api_key=ADMIN, base_url=f"{sim.origin}/anthropic", max_retries=0)
    told: dict[str, Any] = {
        "starting_at": START,
        "ending_at": END,
        "time_bucket_width": "1d",
        "order_by": "time",
        "limit": 1000,
        "group_by": GROUPS,
    }
    analytics = client.beta.organization.analytics
    usage, costs = list(analytics.usage.list(**told)), list(analytics.cost.list(**told))
    list(client.organization.api_keys.list(limit=1000))
    list(client.organization.rate_limits.list(group_type="model_group"))
    theirs = sim.calls[len(mine) :]
    assert asked(mine) == asked(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one.headers["anthropic-version"] == other.headers["anthropic-version"]
        assert one.headers.get("anthropic-beta") == other.headers.get("anthropic-beta")
    read = [one.usage for one in usage]
    assert [(line.usage.input, line.usage.output) for line in lines if line.usage] == [
        (each.uncached_input_tokens + each.cache_read_input_tokens, each.output_tokens)
        for each in read
    ]
    charged = [line.cost for line in lines if line.cost is not None]
    assert charged == [Decimal(one.cost.amount) / 100 for one in costs]


def test_openai(sim: Simulator) -> None:
    """Usage, costs, keys and rate limits."""
    api, limits = bill_api("openai"), account_limits("openai", PROJECT)
    assert api is not None
    assert limits is not None
    listing = api.keys(PROJECT)
    assert listing is not None
    lines = ours(sim, "openai", "/v1", api.questions(DAY, DAY, ()))
    ours(sim, "openai", "/v1", [listing, limits])
    mine = list(sim.calls)
    client = openai.OpenAI(
        api_key="x", admin_api_key=ADMIN, base_url=f"{sim.origin}/v1", max_retries=0
    )
    organization = client.admin.organization
    span: dict[str, Any] = {
        "start_time": int(START.timestamp()),
        "end_time": int(END.timestamp()),
        "bucket_width": "1d",
    }
    keys: list[Any] = ["project_id", "api_key_id"]
    completions = organization.usage.completions(
        **span, limit=31, group_by=[*keys, "model", "batch"]
    )
    organization.usage.embeddings(**span, limit=31, group_by=[*keys, "model"])
    costs = organization.usage.costs(**span, limit=180, group_by=[*keys, "line_item"])
    projects = organization.projects
    list(projects.api_keys.list(PROJECT, limit=100, owner_project_access="any"))
    list(projects.rate_limits.list_rate_limits(PROJECT, limit=100))
    assert asked(mine) == asked(sim.calls[len(mine) :])
    used = [row for bucket in completions.data for row in bucket.results]
    assert [line.usage.input for line in lines if line.usage] == [
        getattr(row, "input_tokens", None) for row in used
    ]
    charged: list[Any] = [row for bucket in costs.data for row in bucket.results]
    wanted = [Decimal(str(row.amount.value)) for row in charged]
    assert [line.cost for line in lines if line.cost is not None] == wanted
