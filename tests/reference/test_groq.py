"""Groq's own SDK and llmctl, side by side."""

from __future__ import annotations

from typing import Any

from tests.conformance.codec import KEY
from tests.reference.chat import LAST, ChatSdk
from tests.reference.contract import Alone


class TestGroq(ChatSdk):
    """Chat completions."""

    name = "groq"
    module = "groq"
    limit = "max_completion_tokens"
    alone = (
        Alone(
            "stream_options",
            value={"include_usage": True},
            why="ours asks for the usage in OpenAI's place too; the SDK reads `x_groq`",
        ),
    )

    def client(self, sdk: Any, origin: str) -> Any:
        """The client, without retries; it knows `/openai/v1` by itself."""
        return sdk.Groq(api_key=KEY, base_url=f"{origin}/groq", max_retries=0)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """The SDK makes nothing of a model: its schema is given as the API wants it."""
        form = {"name": "City", "schema": model.model_json_schema(), "strict": True}
        answer = self.create(
            client, messages=LAST, response_format={"type": "json_schema", "json_schema": form}
        )
        city: str = model.model_validate_json(answer.choices[0].message.content).city
        return city

    def models(self, client: Any) -> list[str]:
        """The list's `data`."""
        return [model.id for model in client.models.list().data]
