"""OpenAI's own SDK and llmctl, side by side."""

from __future__ import annotations

from typing import Any, ClassVar

from llmctl.types import Finish
from tests.conformance.codec import KEY
from tests.conformance.codec_dialects import PNG
from tests.reference.chat import LAST, ChatSdk
from tests.reference.contract import (
    FUNCTION,
    LOOKING,
    SYSTEM,
    TOOL,
    TURNS,
    WORKED,
    Alone,
    Said,
    SdkContract,
)

NOT_STREAMED = Alone("stream", value=False, why="the default, said aloud")


class TestOpenAIChat(ChatSdk):
    """Chat completions."""

    name = "openai"
    module = "openai"
    alone = (NOT_STREAMED,)
    streaming: ClassVar[dict[str, Any]] = {"stream_options": {"include_usage": True}}

    def client(self, sdk: Any, origin: str) -> Any:
        """The client, without retries."""
        return sdk.OpenAI(api_key=KEY, base_url=f"{origin}/v1", max_retries=0)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """`parse` makes strict structured output of a model."""
        answer = client.chat.completions.parse(
            model="sim-small", messages=LAST, response_format=model
        )
        city: str = answer.choices[0].message.parsed.city
        return city

    def count(self, client: Any) -> int | None:
        """The count of Responses is the only one there is."""
        return counted(client)


class TestOpenAIResponses(SdkContract):
    """Responses."""

    name = "openai"
    api = "responses"
    module = "openai"
    finishes: ClassVar[dict[str, Finish]] = {"completed": "stop", "function_call": "tool_calls"}
    tools: ClassVar[list[Any]] = [{"type": "function", **FUNCTION}]

    def client(self, sdk: Any, origin: str) -> Any:
        """The client, without retries."""
        return sdk.OpenAI(api_key=KEY, base_url=f"{origin}/v1", max_retries=0)

    def ask(self, client: Any, *, stream: bool) -> Said:
        """The system prompt is a turn of its own."""
        turns = [("system", SYSTEM), *TURNS]
        return self._said(
            client,
            {
                "input": [{"role": role, "content": text} for role, text in turns],
                "max_output_tokens": 64,
                "temperature": self.temperature,
            },
            stream=stream,
        )

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """`parse` makes strict structured output of a model."""
        answer = client.responses.parse(model="sim-small", input=LAST, text_format=model)
        city: str = answer.output_parsed.city
        return city

    def ask_with_image(self, client: Any) -> str:
        """An image by its data URL."""
        parts = [
            {"type": "input_text", "text": LOOKING},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
        ]
        given = [{"role": "user", "content": parts}]
        text: str = client.responses.create(model="sim-small", input=given).output_text
        return text

    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """A function."""
        return self._said(client, {"input": LAST, "tools": self.tools}, stream=stream)

    def ask_with_results(self, client: Any) -> str:
        """A body in the shape of chat completions goes to chat completions as it is."""
        answer = client.chat.completions.create(
            model="sim-small", messages=WORKED, tools=[TOOL], max_tokens=64
        )
        text: str = answer.choices[0].message.content
        return text

    def count(self, client: Any) -> int | None:
        """Its own count."""
        return counted(client)

    def _said(self, client: Any, given: dict[str, Any], *, stream: bool) -> Said:
        if stream:
            with client.responses.create(model="sim-small", stream=True, **given) as events:
                (answer,) = [e.response for e in events if e.type == "response.completed"]
        else:
            answer = client.responses.create(model="sim-small", **given)
        kinds = {item.type for item in answer.output}
        finish = "function_call" if "function_call" in kinds else answer.status
        usage = answer.usage
        cached = usage.input_tokens_details.cached_tokens
        return Said(answer.output_text, finish, usage.input_tokens, usage.output_tokens, cached)


def counted(client: Any) -> int:
    """The tokens of the last turn."""
    found: int = client.responses.input_tokens.count(model="sim-small", input=LAST).input_tokens
    return found
