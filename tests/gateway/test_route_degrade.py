"""`route:` and `degrade:` of a gateway's profile: what callers get, and what is on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.gateway.conftest import Serve
from tests.gateway.test_gateway import ask, said
from tests.ledgers import calls_of
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.server import Simulator

DEGRADE = 'cache: {ttl: 0.001}, degrade: [{stale: 24h}, {static: "come back later"}]'
STRONG = f"""
  strong: {{extends: sim, {DEGRADE},
    route: {{cheap: cheap, rules: [{{when: {{matches: easy}}, to: cheap}}],
            cascade: {{check: [refusal]}}}}}}
  cheap: {{extends: sim, base_url: "CHEAP", model: gpt-5-nano}}
"""


def answer(call: Call) -> str:
    """A refusal of what is hard."""
    asked = call.ask.last if call.ask else ""
    return "I'm sorry, I can't." if "hard" in asked else f"cheap: {asked}"


@pytest.fixture
def cheap(
    team: dict[str, str],  # noqa: ARG001 - writes the configuration
    home: Path,
) -> Iterator[Simulator]:
    """The provider of the profile `cheap`, to which `strong` has a route."""
    with Simulator(reply=answer) as simulator:
        config = home / ".config/llmctl/config.yaml"
        text = config.read_text(encoding="utf-8") + STRONG.replace("CHEAP", simulator.base_url)
        config.write_text(text, encoding="utf-8")
        yield simulator


def test_a_routed_call(
    serve: Serve, token: Callable[..., str], home: Path, sim: Simulator, cheap: Simulator
) -> None:
    """The cheaper profile answers what a rule or its checked answer lets it; of one whose check
    fails both calls are on the ledger, for the caller, under one parent. A stream is the checked
    answer's."""
    secret = token("web", "--user", "ann")
    with serve().client(secret) as client:
        easy = ask(client, "easy", model="strong")
        assert (said(easy), easy.headers["x-llmctl-profile"]) == ("cheap: easy", "cheap")
        hard = ask(client, "hard", model="strong")
        assert (said(hard), hard.headers["x-llmctl-profile"]) == ("echo: hard", "strong")
        streamed = ask(client, "hardest", model="strong", stream=True).text
        assert "hardest" in streamed
        assert "sorry" not in streamed
    assert (sim.billed.requests, cheap.billed.requests) == (2, 3)
    calls = calls_of(home)
    assert [call["user"] for call in calls] == ["ann"] * 5
    legs = [call for call in calls if call["parent"] == hard.headers["x-llmctl-call"]]
    assert {(leg["profile"], leg["status"]) for leg in legs} == {("cheap", "ok"), ("strong", "ok")}
    billed = {"strong": sim.billed, "cheap": cheap.billed}
    for name, bill in billed.items():
        own = [call for call in calls if call["profile"] == name]
        assert sum(call["input_tokens"] for call in own) == bill.input_tokens


def test_an_outage(
    serve: Serve, token: Callable[..., str], home: Path, sim: Simulator, cheap: Simulator
) -> None:
    """Headers mark an answer that has expired, with its age, and a static text, of streams too; it
    is free. What the provider refuses is no outage."""
    secret = token("web", "--user", "ann")
    with serve().client(secret) as client:
        assert ask(client, "hard", model="strong").headers["x-llmctl-cache"] == "miss"
        sim.fault = cheap.fault = errors.server_error()

        def marks(response: httpx2.Response) -> tuple[int, str | None, str | None]:
            found = response.headers
            return response.status_code, found.get("x-llmctl-cache"), found.get("x-llmctl-degraded")

        kept = ask(client, "hard", model="strong")
        assert (said(kept), marks(kept)) == ("echo: hard", (200, "stale", "stale"))
        assert int(kept.headers["age"]) >= 0
        streamed = ask(client, "hard", model="strong", stream=True)
        assert streamed.headers["x-llmctl-degraded"] == "stale"
        assert "echo: hard" in streamed.text
        new = ask(client, "new", model="strong")
        assert (said(new), marks(new)) == ("come back later", (200, "static", "static"))
        sim.fault = cheap.fault = errors.status(400)
        refused = ask(client, "hard", model="strong")
        assert marks(refused) == (400, None, None)
    given = [call for call in calls_of(home) if call["cache"] in {"stale", "static"}]
    assert [call["cost_pico"] for call in given] == [0] * len(given)
    assert len(given) == 3
