"""Azure by a token of Entra ID: the vendors' own SDKs and llmctl, side by side.

Anthropic's SDK sends `anthropic-version: 2026-10-21`, llmctl 2023-06-01: see `test_anthropic`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmctl.auth.key_auth import FixedKey, KeyAuth, bearer
from llmctl.clock import SystemClock
from llmctl.config.settings import Timeouts
from llmctl.http import HttpClient
from llmctl.providers.anthropic import VERSION
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.models_api import count_tokens, list_models
from llmctl.providers.registry import codec
from llmctl.types import Message, Request, Target, Usage
from tests.simulator.call import Call
from tests.simulator.server import Simulator

TOKEN = "entra-token-4711"
API_VERSION = "2024-10-21"
TEXT = "Where is the Seine? 🦜"
SAID = [{"role": "user", "content": TEXT}]
CARRIED = ("api-key", "authorization", "content-type", "x-api-key")
"""Headers that carry meaning. The others are the SDK's name and machine, and `accept`."""


class Ours:
    """llmctl's side of an address below a simulator's."""

    def __init__(self, sim: Simulator, adapter: str, path: str) -> None:
        self._target = Target("azure", adapter, adapter, sim.origin + path, "mine")

    def ask(self, *, stream: bool = False, **more: Any) -> None:
        """Ask `SAID`."""
        asked = self._request(**more)
        emit = (lambda _: None) if stream else None
        asyncio.run(self._with(lambda end: end(asked, emit)))

    def models(self) -> None:
        """List the models."""
        asyncio.run(self._with(list_models))

    def count(self) -> None:
        """Count the tokens of `SAID`."""
        asyncio.run(self._with(lambda end: count_tokens(end, self._request())))

    def _request(self, **more: Any) -> Request:
        return Request(id="a", target=self._target, messages=(Message("user", TEXT),), **more)

    async def _with(self, work: Any) -> None:
        client = HttpClient()
        end = Endpoint(
            codec=codec(self._target.adapter),
            http=client,
            base_url=self._target.base_url,
            auth=KeyAuth(bearer, FixedKey(TOKEN)),
            timeouts=Timeouts(),
            clock=SystemClock(),
            estimate=lambda _request, _text: Usage(),
            heard=lambda _: None,
        )
        try:
            await work(end)
        finally:
            await client.close()


def agree(sim: Simulator) -> None:
    """Assert that the two requests the simulator got are the same."""
    theirs, ours = (said(call) for call in sim.calls)
    assert ours == theirs
    assert ours["headers"]["authorization"] == f"Bearer {TOKEN}"


def said(call: Call) -> dict[str, Any]:
    """What a request says."""
    headers = {name: call.headers[name] for name in CARRIED if name in call.headers}
    if call.method == "GET":
        headers.pop("content-type", None)  # of a body that there is not
    return {
        "method": call.method,
        "path": call.path,
        "query": call.query,
        "headers": headers,
        "body": call.body,
    }


@pytest.fixture(params=["v1", "deployment"])
def openai(request: pytest.FixtureRequest, sim: Simulator) -> Iterator[tuple[Any, Ours]]:
    """The SDK's client and our side, for either form of Azure OpenAI's addresses."""
    sdk = pytest.importorskip("openai")
    if request.param == "v1":
        path = "/openai/v1"
        made = sdk.OpenAI(base_url=sim.origin + path, api_key=lambda: TOKEN, max_retries=0)
    else:
        path = f"/openai/deployments/mine?api-version={API_VERSION}"
        made = sdk.AzureOpenAI(
            azure_endpoint=sim.origin,
            azure_deployment="mine",
            api_version=API_VERSION,
            azure_ad_token_provider=lambda: TOKEN,
            max_retries=0,
        )
    with made:
        yield made, Ours(sim, "openai", path)


def test_openais_chat(sim: Simulator, openai: tuple[Any, Ours]) -> None:
    """A question goes to the same place with the same token and the same body."""
    sdk, ours = openai
    sdk.chat.completions.create(model="mine", messages=SAID, temperature=0.5)
    ours.ask(temperature=0.5)
    agree(sim)


def test_openais_stream(sim: Simulator, openai: tuple[Any, Ours]) -> None:
    """So does one whose answer is streamed."""
    sdk, ours = openai
    usage = {"include_usage": True}
    with sdk.chat.completions.create(
        model="mine", messages=SAID, stream=True, stream_options=usage
    ) as events:
        assert list(events)
    ours.ask(stream=True)
    agree(sim)


def test_openais_models(sim: Simulator, openai: tuple[Any, Ours]) -> None:
    """Models are listed at the resource, above its deployments."""
    sdk, ours = openai
    assert list(sdk.models.list())
    ours.models()
    agree(sim)


@pytest.fixture
def foundry(sim: Simulator) -> Iterator[tuple[Any, Ours]]:
    """Anthropic's client for Foundry, and our side."""
    sdk = pytest.importorskip("anthropic")
    with sdk.AnthropicFoundry(
        base_url=f"{sim.origin}/anthropic", azure_ad_token_provider=lambda: TOKEN, max_retries=0
    ) as made:
        yield made, Ours(sim, "anthropic", "/anthropic/v1")


def test_claudes_messages(sim: Simulator, foundry: tuple[Any, Ours]) -> None:
    """A question goes to the same place with the token, and no key beside it."""
    sdk, ours = foundry
    sdk.messages.create(model="mine", messages=SAID, max_tokens=64)
    ours.ask(max_tokens=64)
    agree(sim)
    assert sim.calls[1].headers["anthropic-version"] == VERSION


def test_claudes_stream(sim: Simulator, foundry: tuple[Any, Ours]) -> None:
    """So does one whose answer is streamed."""
    sdk, ours = foundry
    with sdk.messages.create(model="mine", messages=SAID, max_tokens=64, stream=True) as events:
        assert list(events)
    ours.ask(stream=True, max_tokens=64)
    agree(sim)


def test_claudes_count(sim: Simulator, foundry: tuple[Any, Ours]) -> None:
    """Tokens are counted at the same place."""
    sdk, ours = foundry
    sdk.messages.count_tokens(model="mine", messages=SAID)
    ours.count()
    agree(sim)
