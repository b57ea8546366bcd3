"""SDKs of the OpenAI family: the same calls, the same answers."""

from __future__ import annotations

from typing import Any, ClassVar

from llmctl.types import Finish
from tests.conformance.codec_dialects import PNG
from tests.reference.contract import LOOKING, SYSTEM, TOOL, TURNS, WORKED, Said, SdkContract

MESSAGES = [
    {"role": "system", "content": SYSTEM},
    *({"role": role, "content": text} for role, text in TURNS),
]
LAST = [{"role": "user", "content": TURNS[-1][1]}]
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
LOOK = [{"role": "user", "content": [{"type": "text", "text": LOOKING}, IMAGE]}]


class ChatSdk(SdkContract):
    """An SDK whose `create` takes chat completions' names; `limit` is that of `max_tokens`."""

    finishes: ClassVar[dict[str, Finish]] = {"stop": "stop", "tool_calls": "tool_calls"}
    limit: ClassVar[str] = "max_tokens"
    streaming: ClassVar[dict[str, Any]] = {}

    def create(self, client: Any, **more: Any) -> Any:
        """The SDK's call."""
        return client.chat.completions.create(model="sim-small", **more)

    def ask(self, client: Any, *, stream: bool) -> Said:
        """The conversation."""
        given = {"messages": MESSAGES, self.limit: 64, "temperature": self.temperature}
        return self._said(client, given, stream=stream)

    def ask_with_image(self, client: Any) -> str:
        """An image by its data URL."""
        return spoken(self.create(client, messages=LOOK).choices[0].message.content)

    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """A function."""
        return self._said(client, {"messages": LAST, "tools": self.tools}, stream=stream)

    def ask_with_results(self, client: Any) -> str:
        """The body as it is."""
        answer = self.create(client, messages=WORKED, tools=[TOOL], max_tokens=64)
        return spoken(answer.choices[0].message.content)

    def count(self, client: Any) -> int | None:  # noqa: ARG002 - the others count nothing
        """There is no count of chat completions."""
        return None

    def _said(self, client: Any, given: dict[str, Any], *, stream: bool) -> Said:
        if stream:
            return streamed(self.create(client, stream=True, **given, **self.streaming))
        answer = self.create(client, **given)
        choice = answer.choices[0]
        return said(spoken(choice.message.content), choice.finish_reason, answer.usage)


def said(text: str, finish: str, usage: Any) -> Said:
    """An answer with usage in OpenAI's names."""
    details: Any = usage.prompt_tokens_details
    cached = details["cached_tokens"] if isinstance(details, dict) else details.cached_tokens
    return Said(text, finish, usage.prompt_tokens, usage.completion_tokens, cached)


def streamed(chunks: Any) -> Said:
    """The same of a stream's chunks."""
    text, finish, usage = "", "", None
    for chunk in chunks:
        usage = getattr(chunk, "usage", None) or usage
        named = getattr(chunk, "x_groq", None)
        usage = (named.usage if named is not None else None) or usage
        for choice in chunk.choices:
            text += spoken(choice.delta.content)
            finish = choice.finish_reason or finish
    return said(text, finish, usage)


def spoken(content: Any) -> str:
    """The text of a content: plain, or the text chunks beside thoughts; "" for what is unset."""
    if isinstance(content, list):
        return "".join(chunk.text for chunk in content if chunk.type == "text")
    return content if isinstance(content, str) else ""
