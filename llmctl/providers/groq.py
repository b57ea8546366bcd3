"""Groq: chat completions with images only; errors and usage may stand under `x_groq`.

Reference: console.groq.com/docs/api-reference. Its rate-limit headers have OpenAI's names, but
count requests per day and tokens per minute.
"""

from __future__ import annotations

from llmctl.providers.openai_chat import AttachmentKind, ChatCompletions
from llmctl.types import Target


class Groq(ChatCompletions):
    """The codec; see `protocols.Codec`."""

    takes = frozenset[AttachmentKind]({"image", "image_url"})

    def limit_name(self, target: Target) -> str:  # noqa: ARG002 - it has but one name
        """`max_tokens` is deprecated here."""
        return "max_completion_tokens"
