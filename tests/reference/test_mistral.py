"""Mistral's own SDK and llmctl, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.codec import KEY, Wired
from tests.reference.chat import LAST, ChatSdk
from tests.reference.contract import Alone


class TestMistral(ChatSdk):
    """Chat completions."""

    name = "mistral"
    module = "mistralai.client"
    alone = (
        Alone("stream", value=False, why="the default, said aloud"),
        Alone("messages[].prefix", value=False, why="the default, said aloud"),
        Alone("messages[].tool_calls[].index", value=0, why="the default, said aloud"),
    )

    def client(self, sdk: Any, origin: str) -> Any:
        """The client."""
        return sdk.Mistral(api_key=KEY, server_url=f"{origin}/mistral")

    @pytest.fixture
    def sdk(self, wired: Wired) -> Iterator[Any]:
        """The client, closed at the end as its documentation says."""
        with self.client(pytest.importorskip(self.module), wired.sim.origin) as made:
            yield made

    def create(self, client: Any, *, stream: bool = False, **more: Any) -> Any:
        """The SDK has a call of its own for streams."""
        if stream:
            return _chunks(client, more)
        return client.chat.complete(model="sim-small", **more)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """`parse` makes strict structured output of a model."""
        answer = client.chat.parse(model, model="sim-small", messages=LAST)
        city: str = answer.choices[0].message.parsed.city
        return city

    def models(self, client: Any) -> list[str]:
        """The list's `data`."""
        return [model.id for model in client.models.list().data]


def _chunks(client: Any, given: dict[str, Any]) -> Iterator[Any]:
    with client.chat.stream(model="sim-small", **given) as events:
        for event in events:
            yield event.data
