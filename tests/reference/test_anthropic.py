"""Anthropic's own SDK and llmctl, side by side.

The SDK's second version differs from ours in two headers, both of which the API documents beside
the ones we send: the key as a bearer token instead of `x-api-key`
(platform.claude.com/docs/en/api/overview), and `anthropic-version: 2026-10-21`, which is
2023-06-01 without `temperature`, `top_p` and `top_k` (…/api/migration-2026-10-21). llmctl offers
a temperature and stays with the version that has one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from llmctl.providers.anthropic import to_anthropic_schema
from llmctl.types import Finish
from tests.conformance.codec import KEY
from tests.conformance.codec_dialects import PNG
from tests.reference.contract import FUNCTION, LOOKING, PARAMETERS, SYSTEM, TURNS, Said, SdkContract

LAST = [{"role": "user", "content": TURNS[-1][1]}]
DEFAULT = 4096
"""What llmctl asks for at most where the caller does not say: the API wants a number."""


class TestAnthropic(SdkContract):
    """Messages."""

    name = "anthropic"
    module = "anthropic"
    finishes: ClassVar[dict[str, Finish]] = {"end_turn": "stop", "tool_use": "tool_calls"}
    carries: ClassVar[dict[str, str]] = {"authorization": "x-api-key"}
    temperature = None  # the SDK's version has none
    tools: ClassVar[list[Any]] = [
        {"name": "weather", "description": "The weather.", "input_schema": PARAMETERS}
    ]

    def client(self, sdk: Any, origin: str) -> Any:
        """The client, without retries; it knows `/v1` by itself."""
        return sdk.Anthropic(api_key=KEY, base_url=f"{origin}/anthropic", max_retries=0)

    def ask(self, client: Any, *, stream: bool) -> Said:
        """The system prompt stands beside the turns."""
        messages = [{"role": role, "content": text} for role, text in TURNS]
        given = {"system": SYSTEM, "messages": messages, "max_tokens": 64}
        return self._said(client, given, stream=stream)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """`parse` makes structured output of a model."""
        answer = client.messages.parse(
            model="sim-small", max_tokens=DEFAULT, messages=LAST, output_format=model
        )
        city: str = answer.parsed_output.city
        return city

    def ask_with_image(self, client: Any) -> str:
        """An image as base64."""
        source = {"type": "base64", "media_type": "image/png", "data": PNG}
        parts = [{"type": "text", "text": LOOKING}, {"type": "image", "source": source}]
        answer = client.messages.create(
            model="sim-small", max_tokens=DEFAULT, messages=[{"role": "user", "content": parts}]
        )
        text: str = answer.content[-1].text
        return text

    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """A tool."""
        given = {"messages": LAST, "max_tokens": DEFAULT, "tools": self.tools}
        return self._said(client, given, stream=stream)

    def ask_with_results(self, client: Any) -> str:
        """A call and its result are blocks of two turns."""
        call = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}
        result = {"type": "tool_result", "tool_use_id": "call_1", "content": '{"rain":true}'}
        tool = {
            "name": FUNCTION["name"],
            "description": FUNCTION["description"],
            "input_schema": PARAMETERS,
        }
        answer = client.messages.create(
            model="sim-small",
            max_tokens=64,
            system=SYSTEM,
            tools=[tool],
            messages=[
                {"role": "user", "content": "Is it wet in Paris?"},
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]},
            ],
        )
        text: str = answer.content[-1].text
        return text

    def count(self, client: Any) -> int | None:
        """Its own count."""
        found: int = client.messages.count_tokens(model="sim-small", messages=LAST).input_tokens
        return found

    def _said(self, client: Any, given: dict[str, Any], *, stream: bool) -> Said:
        if stream:
            with client.messages.stream(model="sim-small", **given) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(model="sim-small", **given)
        text = "".join(block.text for block in answer.content if block.type == "text")
        usage = answer.usage
        cached = usage.cache_read_input_tokens
        read = usage.input_tokens + cached + usage.cache_creation_input_tokens
        return Said(text, answer.stop_reason, read, usage.output_tokens, cached)


_TEXT = {"type": "string", "format": "phone", "minLength": 2}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": _TEXT}, "additionalProperties": True},
    {"type": "object", "patternProperties": {"^x": _TEXT}, "required": ["a"], "title": "t"},
    {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
    {"type": "array", "prefixItems": [{"type": "string"}], "minItems": 1, "description": "d"},
    {"type": "array", "items": {"type": "string", "format": "uuid"}, "minItems": 3},
    {"$ref": "#/$defs/X", "$defs": {"X": {"type": "object", "properties": {"s": _TEXT}}}},
    {"oneOf": [{"type": "null"}, {"const": 1}], "default": None},
    {"enum": ["a", "b"], "type": "string", "description": "x", "examples": ["a"]},
    {"allOf": [{"type": "number", "multipleOf": 2}], "not": {"const": 3}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_are_those_of_the_sdk(schema: dict[str, Any]) -> None:
    """Case 34: closed objects, unknown formats, `patternProperties` and `prefixItems` go out as the
    vendor's own SDK sends them."""
    assert to_anthropic_schema(schema) == pytest.importorskip("anthropic").transform_schema(schema)
