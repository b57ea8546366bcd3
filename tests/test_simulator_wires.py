"""The simulated providers speak as the real ones do, each in its own words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

USER = [{"role": "user", "content": "hello there"}]
BODIES: dict[str, dict[str, Any]] = {
    "openai": {"model": "sim-small", "messages": USER},
    "anthropic": {"model": "sim-small", "max_tokens": 50, "messages": USER},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hello there"}]}]},
    "cohere": {"model": "sim-small", "messages": USER},
    "mistral": {"model": "sim-small", "messages": USER},
    "openrouter": {"model": "sim-small", "messages": USER},
    "groq": {"model": "sim-small", "messages": USER},
    "bedrock": {"messages": [{"role": "user", "content": [{"text": "hello there"}]}]},
}
PATHS = {
    "anthropic": "/messages",
    "gemini": "/models/sim-small:generateContent",
    "cohere": "/chat",
    "bedrock": "/model/sim-small/converse",
}
BEARER = {"authorization": "Bearer k1"}
KEYS = {
    "anthropic": {"x-api-key": "k1", "anthropic-version": "2023-06-01"},
    "gemini": {"x-goog-api-key": "k1"},
}
ENDS = {
    "anthropic": "message_stop",
    "gemini": '"finishReason":"STOP"',
    "cohere": "message-end",
    "bedrock": '"outputTokens"',
}
TYPES = {"bedrock": "application/vnd.amazon.eventstream"}
REFUSALS = {"gemini": 400, "bedrock": 403}
BODIES["vertex"], PATHS["vertex"] = BODIES["gemini"], PATHS["gemini"]
ENDS["vertex"] = ENDS["gemini"]
BODIES["vertex-claude"] = {
    "anthropic_version": "2026-10-21", "max_tokens": 50, "messages": USER
}  # fmt: skip
PATHS["vertex-claude"] = "/models/sim-small:rawPredict"
ENDS["vertex-claude"] = ENDS["anthropic"]
PROVIDERS = sorted(BASES)


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """All providers at one origin, with one good key."""
    with Simulator(keys=["k1"]) as simulator:
        yield simulator


def post(sim: Simulator, name: str, *, stream: bool = False, **more: Any) -> httpx2.Response:
    """Send the provider's own body with its own key."""
    path, body = PATHS.get(name, "/chat/completions"), BODIES[name] | more
    if stream and ":generate" in path:
        path = path.replace(":generate", ":streamGenerate") + "?alt=sse"
    elif stream and name == "bedrock":
        path += "-stream"
    elif stream:
        body["stream"] = True
        path = path.replace(":rawPredict", ":streamRawPredict")
    url = sim.origin + BASES[name] + path
    return httpx2.post(url, json=body, headers=KEYS.get(name, BEARER), timeout=5)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True])
def test_every_provider_answers(sim: Simulator, name: str, *, stream: bool) -> None:
    """A provider's own body gets an answer that is billed, whole or as a stream with its end."""
    answer = post(sim, name, stream=stream)
    assert answer.status_code == 200
    if stream:
        assert answer.headers["content-type"].startswith(TYPES.get(name, "text/event-stream"))
        assert ENDS.get(name, "[DONE]") in answer.text[-700:]
    else:
        assert "echo: hello there" in answer.text
    assert sim.billed.requests == 1
    assert sim.calls[0].prompt == "hello there"


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_looks_for_its_own_key(sim: Simulator, name: str) -> None:
    """A key in another provider's header, or none, is a refusal in the provider's own words."""
    url = sim.origin + BASES[name] + PATHS.get(name, "/chat/completions")
    elsewhere = BEARER if name == "gemini" else {"x-goog-api-key": "k1"}
    for headers in ({}, elsewhere):
        answer = httpx2.post(url, json=BODIES[name], headers=headers, timeout=5)
        assert answer.status_code == REFUSALS.get(name, 401)
    assert sim.billed.requests == 0


def test_anthropic_demands_its_version_and_a_limit(sim: Simulator) -> None:
    """Without `anthropic-version` or `max_tokens`, or with what a version has no longer: 400."""
    url = f"{sim.origin}{BASES['anthropic']}/messages"
    newest = KEYS["anthropic"] | {"anthropic-version": "2026-10-21"}
    for headers, body in (
        ({"x-api-key": "k1"}, BODIES["anthropic"]),
        (KEYS["anthropic"], BODIES["openai"]),
        (newest, BODIES["anthropic"] | {"temperature": 0}),
    ):
        answer = httpx2.post(url, headers=headers, json=body, timeout=5)
        assert (answer.status_code, answer.json()["type"]) == (400, "error")
    assert httpx2.post(url, headers=newest, json=BODIES["anthropic"], timeout=5).is_success


def test_mistral_refuses_fields_it_does_not_know(sim: Simulator) -> None:
    """OpenAI's `stream_options` is none of Mistral's."""
    answer = post(sim, "mistral", stream_options={"include_usage": True})
    assert (answer.status_code, answer.json()["object"]) == (400, "error")
