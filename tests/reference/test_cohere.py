"""Cohere's own SDK and llmctl, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from llmctl.types import Finish
from tests.conformance.codec import KEY, Wired
from tests.reference.chat import LAST, LOOK, MESSAGES
from tests.reference.contract import TOOL, TURNS, WORKED, Alone, Said, SdkContract


class TestCohere(SdkContract):
    """Chat."""

    name = "cohere"
    module = "cohere"
    finishes: ClassVar[dict[str, Finish]] = {"COMPLETE": "stop", "TOOL_CALL": "tool_calls"}
    http: Any
    alone = (Alone("stream", value=False, why="the default, said aloud"),)

    def client(self, sdk: Any, origin: str) -> Any:
        """The client; it knows `/v2` by itself."""
        return sdk.ClientV2(api_key=KEY, base_url=f"{origin}/cohere", httpx_client=self.http)

    @pytest.fixture
    def sdk(self, wired: Wired) -> Iterator[Any]:
        """The client, with an HTTP client that can be closed."""
        with pytest.importorskip("httpx").Client() as self.http:
            yield self.client(pytest.importorskip(self.module), wired.sim.origin)

    def ask(self, client: Any, *, stream: bool) -> Said:
        """Turns as OpenAI has them."""
        given = {"messages": MESSAGES, "max_tokens": 64, "temperature": self.temperature}
        return self._said(client, given, stream=stream)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """The SDK makes nothing of a model: its schema is given as the API wants it."""
        form = {"type": "json_object", "json_schema": model.model_json_schema()}
        answer = client.chat(model="sim-small", messages=LAST, response_format=form)
        city: str = model.model_validate_json(answer.message.content[-1].text).city
        return city

    def ask_with_image(self, client: Any) -> str:
        """An image by its data URL."""
        answer = client.chat(model="sim-small", messages=LOOK)
        text: str = answer.message.content[-1].text
        return text

    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """A function."""
        return self._said(client, {"messages": LAST, "tools": self.tools}, stream=stream)

    def ask_with_results(self, client: Any) -> str:
        """Turns as OpenAI has them."""
        answer = client.chat(model="sim-small", messages=WORKED, tools=[TOOL], max_tokens=64)
        text: str = answer.message.content[-1].text
        return text

    def models(self, client: Any) -> list[str]:
        """The list's `models`."""
        return [model.name for model in client.models.list().models]

    def count(self, client: Any) -> int | None:
        """The tokens of a text."""
        found = client.tokenize(text=TURNS[-1][1], model="sim-small", offline=False)
        return len(found.tokens)

    def _said(self, client: Any, given: dict[str, Any], *, stream: bool) -> Said:
        if stream:
            events = list(client.chat_stream(model="sim-small", **given))
            pieces = [e.delta.message.content.text for e in events if e.type == "content-delta"]
            text, ended = "".join(piece or "" for piece in pieces), events[-1].delta
        else:
            ended = client.chat(model="sim-small", **given)
            blocks = ended.message.content or ()
            text = "".join(block.text for block in blocks if block.type == "text")
        usage = ended.usage
        counted = (usage.tokens.input_tokens, usage.tokens.output_tokens, usage.cached_tokens)
        return Said(text, ended.finish_reason, *map(int, counted))
