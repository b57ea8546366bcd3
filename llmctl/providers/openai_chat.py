"""OpenAI's own chat completions, and those of any server that imitates them (vLLM, Ollama,
llama.cpp, LM Studio, Azure OpenAI).

Reference: platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from llmctl.protocols import WireRequest
from llmctl.providers.attached import checked
from llmctl.providers.chat import ChatCompletions
from llmctl.providers.responses_input import counted
from llmctl.types import JSON, Message, Request, Target

_REASONING = ("o1", "o3", "o4", "gpt-5", "gpt-6")


class OpenAIChat(ChatCompletions):
    """The codec; see `protocols.Codec`."""

    def limit_name(self, target: Target) -> str:
        """OpenAI's own models want `max_completion_tokens` (its reasoning models refuse
        `max_tokens`); other servers mostly know `max_tokens` only."""
        own = "api.openai.com" in target.base_url or ".azure.com" in target.base_url
        reasoning = target.model.startswith(_REASONING)
        return "max_completion_tokens" if own or reasoning else "max_tokens"

    def turn(self, message: Message, target: Target) -> JSON:
        """The message; to the embedded model nothing can be attached."""
        if target.provider == "local" and isinstance(message.content, tuple):
            for part in message.content:
                checked(part, (), target)
        return super().turn(message, target)

    def count(self, request: Request) -> WireRequest | None:
        """Chat completions and responses read the same tokens; only the latter are counted."""
        return counted(request) if request.target.provider == "openai" else None
