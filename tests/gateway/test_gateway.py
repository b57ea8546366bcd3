"""What a caller of the gateway meets besides its own SDK's words: headers, names, caches, rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import ledger
from tests.gateway.conftest import Serve
from tests.gateway.serving import configure
from tests.simulator.server import Simulator

CHAT = "/v1/chat/completions"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8A"
    "AAAASUVORK5CYII="
)


def ask(client: httpx2.Client, text: Any, **more: Any) -> httpx2.Response:
    """One question in OpenAI's language, of the profile `sim` where no `model` is named."""
    body = {"model": "sim", "messages": [{"role": "user", "content": text}], **more}
    return client.post(CHAT, json=body)


def said(response: httpx2.Response) -> str:
    """The answer's text."""
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def test_a_call_is_on_record_with_who_asked(
    serve: Serve, token: Callable[..., str], home: Path
) -> None:
    """User, token, team and organisation; ids go in and out, and the row is found by its own."""
    secret = token("web", "--user", "ann", "--team", "data", "--organisation", "acme")
    with serve().client(secret) as client:
        response = client.post(
            CHAT,
            json={"model": "sim", "messages": [{"role": "user", "content": "hi"}]},
            headers={"x-request-id": "caller-7"},
        )
    assert response.headers["x-request-id"] == "caller-7"
    assert response.headers["x-llmctl-profile"] == "sim"
    (row,) = ledger(home)
    assert row["call_id"] == response.headers["x-llmctl-call"]
    assert (row["user"], row["status"]) == ("ann", "ok")
    assert json.loads(row["tags"]) == {"token": "web", "team": "data", "organisation": "acme"}


def test_answers_are_kept_for_all_workers_and_told_again_as_a_stream(
    serve: Serve, token: Callable[..., str], sim: Simulator
) -> None:
    """The second caller is answered from the cache, in the form it asks for; `no-cache` asks
    again."""
    first, second, gateway = token("one"), token("two"), serve("--workers", "2")
    with gateway.client(first) as one, gateway.client(second) as two:
        assert ask(one, "same").headers["x-llmctl-cache"] == "miss"
        for _ in range(8):  # whichever worker takes it
            response = ask(two, "same")
            assert (response.headers["x-llmctl-cache"], said(response)) == ("hit", "echo: same")
        streamed = ask(two, "same", stream=True).text
        assert '"content":"echo: same"' in streamed
        assert streamed.endswith("data: [DONE]\n\n")
        assert len(sim.calls) == 1
        body = {"model": "sim", "messages": [{"role": "user", "content": "same"}]}
        again = two.post(CHAT, json=body, headers={"cache-control": "no-cache"})
        assert (again.headers["x-llmctl-cache"], len(sim.calls)) == ("miss", 2)


@pytest.mark.parametrize("profile", ["sim", "claude", "google"])
def test_images_go_along(
    profile: str, serve: Serve, token: Callable[..., str], sim: Simulator
) -> None:
    """In both vendors' forms, whatever the provider speaks."""
    openai = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL.partition(",")[2]}
    anthropic = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
    secret = token("web")
    with serve().client(secret) as client:
        assert said(ask(client, openai, model=profile)) == "echo: see"
        body = {
            "model": profile,
            "max_tokens": 9,
            "messages": [{"role": "user", "content": anthropic}],
        }
        assert client.post("/v1/messages", json=body).json()["content"][0]["text"] == "echo: look"
    for call in sim.calls:
        assert call.ask is not None
        assert call.ask.files == (("image/png", PIXEL.partition(",")[2]),)


def test_models_have_names_of_the_operator_s_choice(
    home: Path, sim: Simulator, serve: Serve, token: Callable[..., str]
) -> None:
    """An alias, a profile, and another model of a profile; who may use a name may use no other."""
    configure(home, sim, "serve: {profiles: [sim], models: {quick: sim/gpt-5-nano}}\n")
    secret = token("web")
    with serve().client(secret) as client:
        for name in ("quick", "sim", "sim/gpt-5"):
            assert ask(client, name, model=name).status_code == 200
        assert ask(client, "x", model="claude").status_code == 404
    assert [call.ask and call.ask.model for call in sim.calls] == [
        "gpt-5-nano",
        "gpt-5-mini",
        "gpt-5",
    ]


def test_a_fallback_answers_in_the_caller_s_language(
    home: Path, sim: Simulator, serve: Serve, token: Callable[..., str]
) -> None:
    """Where the provider of the profile is not there another one is asked in its own, and the
    caller hears it in its own; plain and streamed."""
    file = configure(home, sim)
    dead = "base_url: http://127.0.0.1:9/anthropic/v1\n    fallback: [sim]"
    text = file.read_text().replace(f"base_url: {sim.origin}/anthropic/v1", dead)
    file.write_text(text)
    secret = token("web")
    with serve().client(secret) as client:
        body: Any = {
            "model": "claude",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}],
        }
        plain = client.post("/v1/messages", json=body)
        assert plain.json()["content"] == [{"type": "text", "text": "echo: hi"}]
        assert plain.headers["x-llmctl-profile"] == "sim"
        body["messages"][0]["content"] = "more"
        events = client.post("/v1/messages", json={**body, "stream": True}).text
        assert "event: message_start" in events
        assert '"text":"echo:' in events
        assert events.rstrip().endswith('data: {"type":"message_stop"}')


def test_prompts_are_screened(
    home: Path, sim: Simulator, serve: Serve, token: Callable[..., str]
) -> None:
    """What a rule masks never reaches the provider; what one refuses is not sent at all, and the
    caller hears which rule, not what matched."""
    rules = r"""
serve:
  screen:
    - {name: number, pattern: '\d{4}-\d{4}', action: mask}
    - {name: project, pattern: '(?i)project x', action: refuse}
"""
    configure(home, sim, rules)
    secret = token("web")
    with serve().client(secret) as client:
        assert said(ask(client, "card 1234-5678 is mine")) == "echo: card [number] is mine"
        refused = ask(client, "tell me of Project X")
    assert (refused.status_code, len(sim.calls)) == (400, 1)
    assert "the rule project" in refused.json()["error"]["message"]
    assert "Project X" not in refused.text


def test_what_one_call_may_ask_for_is_bounded(
    home: Path, sim: Simulator, serve: Serve, token: Callable[..., str]
) -> None:
    """More is refused by the field's name; a call that names no limit gets the gateway's."""
    configure(home, sim, "serve: {limits: {max_tokens: 50, n: 2, messages: 3, logit_bias: 1}}\n")
    turn = {"role": "user", "content": "hi"}
    too_much: Mapping[str, Any] = {
        "max_completion_tokens": 51,
        "n": 3,
        "messages": [turn] * 4,
        "logit_bias": {"1": 1, "2": 2},
    }
    secret = token("web")
    with serve().client(secret) as client:
        for field, value in too_much.items():
            body = {"model": "sim", "messages": [turn], field: value}
            response = client.post(CHAT, json=body)
            assert response.status_code == 400
            assert field in response.json()["error"]["message"]
        assert not sim.calls
        ask(client, "hi")
    assert sim.calls[0].ask is not None
    assert sim.calls[0].ask.max_tokens == 50


def test_usage_shows_a_caller_its_own_and_an_admin_everybody_s(
    serve: Serve, token: Callable[..., str]
) -> None:
    """What was used this month, and what each cap has left."""
    secret = token("web", "--rpm", "10", "--budget", "5/day", "--user", "ann")
    admin, gateway = token("root", "--admin"), serve()
    with gateway.client(secret) as client:
        ask(client, "hi")
        mine = client.get("/usage").json()
    assert (mine["month"]["user"], mine["month"]["calls"]) == ("ann", 1)
    assert "callers" not in mine
    dollars, requests = mine["caps"]
    assert dollars["limit_usd"] == 5
    assert 0 < dollars["spent_usd"] == mine["month"]["cost_usd"]
    assert dollars["left_usd"] == pytest.approx(5 - dollars["spent_usd"])
    assert (requests["limit_requests"], requests["used_requests"]) == (10, 1)
    with gateway.client(admin) as client:
        every = client.get("/usage").json()["callers"]
    assert [(one["user"], one["token"], one["calls"]) for one in every] == [("ann", "web", 1)]


def test_a_cap_of_tokens_bounds_answers_that_nothing_else_bounds(
    serve: Serve, token: Callable[..., str], sim: Simulator
) -> None:
    """A call without a limit gets the profile's, so that it fits; a kept answer uses nothing of
    the cap."""
    secret = token("web", "--tpm", "20000")
    with serve().client(secret) as client:
        for cache in ("miss", "hit"):
            assert ask(client, "hi").headers["x-llmctl-cache"] == cache
        (cap,) = client.get("/usage").json()["caps"]
    assert sim.calls[0].ask is not None
    assert sim.calls[0].ask.max_tokens == 8192
    assert 0 < cap["used_tokens"] < 20


def test_profiles_without_a_key_are_warned_of_and_those_of_a_file_are_not(
    home: Path, sim: Simulator, serve: Serve, token: Callable[..., str]
) -> None:
    """A key that stands in the profile's own file of variables is as good as any other."""
    file = configure(home, sim)
    (file.parent / "keys.env").write_text("FILE_KEY=sk-of-the-file-4711\n")
    (file.parent / "keys.env").chmod(0o600)
    text = file.read_text().replace(
        "    key: {env: SIM_KEY}\n", "    key: {env: FILE_KEY}\n    env_file: keys.env\n", 1
    )
    text = text.replace("    key: {env: SIM_KEY}\n", "    key: {env: NOT_SET}\n", 1)
    file.write_text(text)
    secret, gateway = token("web"), serve()
    with gateway.client(secret) as client:
        assert said(ask(client, "hi")) == "echo: hi"
    warned = [line for line in gateway.lines if "has no key" in line]
    assert len(warned) == 1
    assert "the profile claude has no key" in warned[0]
    assert "$NOT_SET" in warned[0]
