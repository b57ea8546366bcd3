"""Google's own SDK and llmctl, side by side."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import pytest

from llmctl.types import Finish
from tests.conformance.codec import KEY
from tests.conformance.codec_dialects import PNG
from tests.reference.contract import FUNCTION, LOOKING, SYSTEM, TURNS, Alone, Said, SdkContract

DECLARED = {
    "name": FUNCTION["name"],
    "description": FUNCTION["description"],
    "parametersJsonSchema": FUNCTION["parameters"],
}


class TestGemini(SdkContract):
    """Generated content."""

    name = "gemini"
    module = "google.genai"
    finishes: ClassVar[dict[str, Finish]] = {"STOP": "stop", "function call": "tool_calls"}
    alone = (
        Alone("systemInstruction.role", value="user", why="instructions have no role to tell"),
        Alone("generationConfig", value={}, why="an empty configuration says nothing"),
        Alone(
            "contents[].parts[].thoughtSignature",
            value="skip_thought_signature_validator",
            why="Google's own value for a call that Gemini did not make; Gemini 3 wants one",
        ),
    )
    tools: ClassVar[list[Any]] = [{"functionDeclarations": [DECLARED]}]

    def client(self, sdk: Any, origin: str) -> Any:
        """The client, at the API's version that our base URL names; its own default is `v1`."""
        options = sdk.types.HttpOptions(base_url=f"{origin}/gemini", api_version="v1beta")
        return sdk.Client(api_key=KEY, http_options=options)

    def ask(self, client: Any, *, stream: bool) -> Said:
        """Instructions and parameters stand in the configuration."""
        contents = [
            {"role": "model" if role == "assistant" else role, "parts": [{"text": text}]}
            for role, text in TURNS
        ]
        config = {
            "system_instruction": SYSTEM,
            "max_output_tokens": 64,
            "temperature": self.temperature,
        }
        return self._said(client, {"contents": contents, "config": config}, stream=stream)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """The schema goes out as JSON Schema, not as Google's older dialect of it."""
        config = {
            "response_mime_type": "application/json",
            "response_json_schema": model.model_json_schema(),
        }
        answer = client.models.generate_content(
            model="sim-small", contents=TURNS[-1][1], config=config
        )
        city: str = model.model_validate_json(answer.text).city
        return city

    def ask_with_image(self, client: Any) -> str:
        """An image's bytes."""
        types = pytest.importorskip("google.genai.types")
        image = types.Part.from_bytes(data=base64.b64decode(PNG), mime_type="image/png")
        answer = client.models.generate_content(model="sim-small", contents=[LOOKING, image])
        text: str = answer.text
        return text

    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """A function's declaration."""
        config = {"tools": [{"function_declarations": [DECLARED]}]}
        return self._said(client, {"contents": TURNS[-1][1], "config": config}, stream=stream)

    def ask_with_results(self, client: Any) -> str:
        """A call and its result are parts of two turns."""
        call = {"name": "weather", "args": {"city": "Paris"}, "id": "call_1"}
        result = {"name": "weather", "response": {"rain": True}, "id": "call_1"}
        contents = [
            {"role": "user", "parts": [{"text": "Is it wet in Paris?"}]},
            {"role": "model", "parts": [{"function_call": call}]},
            {"role": "user", "parts": [{"function_response": result}]},
        ]
        config = {
            "system_instruction": SYSTEM,
            "max_output_tokens": 64,
            "tools": [{"function_declarations": [DECLARED]}],
        }
        answer = client.models.generate_content(model="sim-small", contents=contents, config=config)
        text: str = answer.text
        return text

    def models(self, client: Any) -> list[str]:
        """Names with their collection before them."""
        return [model.name for model in client.models.list()]

    def count(self, client: Any) -> int | None:
        """Its own count."""
        found = client.models.count_tokens(model="sim-small", contents=TURNS[-1][1])
        tokens: int = found.total_tokens
        return tokens

    def meaning(self, body: Any) -> Any:
        """Google reads names in both spellings, and its SDK mixes them."""
        return camel(super().meaning(body))

    def _said(self, client: Any, given: dict[str, Any], *, stream: bool) -> Said:
        if stream:
            chunks = list(client.models.generate_content_stream(model="sim-small", **given))
        else:
            chunks = [client.models.generate_content(model="sim-small", **given)]
        parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts or ()]
        text = "".join(part.text or "" for part in parts if not part.thought)
        finish = chunks[-1].candidates[0].finish_reason.name
        if any(part.function_call for part in parts):
            finish = "function call"
        usage = chunks[-1].usage_metadata
        output = usage.candidates_token_count + (usage.thoughts_token_count or 0)
        cached = usage.cached_content_token_count or 0
        return Said(text, finish, usage.prompt_token_count, output, cached)


def camel(value: Any) -> Any:
    """The value with all names in camel case."""
    if isinstance(value, dict):
        return {_camel(name): camel(inner) for name, inner in value.items()}
    return [camel(inner) for inner in value] if isinstance(value, list) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
