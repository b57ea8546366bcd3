"""OpenAI's batch bodies for providers that speak another language."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl.errors import InvalidRequest
from llmctl.providers.message_parts import from_chat
from llmctl.types import Message, RawRequest, Request
from tests.support import request

NAMES = {"top_p": "topP", "stop": "stopSequences"}


def translated(path: str = "/chat/completions", **body: Any) -> Request:
    """The plain request of a body."""
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    return from_chat(request(raw=RawRequest(path, whole)), NAMES)[0]


def test_what_has_a_counterpart() -> None:
    """Messages, limit, temperature, schema and renamed parameters end where codecs read them."""
    schema = {"type": "object"}
    made = translated(
        messages=[
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}], "name": None},
        ],
        max_completion_tokens=9,
        temperature=0,
        top_p=0.5,
        stop="x",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        n=1,
        stream=False,
        logprobs=None,
        presence_penalty=0,
    )
    assert made.messages == (
        Message("system", "s"),
        Message("user", ({"type": "text", "text": "t"},)),
    )
    assert (made.max_tokens, made.temperature, made.schema) == (9, 0, schema)
    assert made.options == {"topP": 0.5, "stopSequences": ["x"]}
    assert made.raw is None


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("logprobs", {"logprobs": True}),
        ("n", {"n": 2}),
        ("seed", {"seed": 1}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("response_format", {"response_format": 3}),
        ("max_tokens", {"max_tokens": "9"}),
        ("temperature", {"temperature": "hot"}),
        ("messages", {"messages": "hi"}),
        ("messages", {"messages": [3]}),
        ("messages", {"messages": [{"role": "user", "content": 3}]}),
        ("url", {"path": "/embeddings"}),
    ],
)
def test_what_has_none_is_named(field: str, body: dict[str, Any]) -> None:
    """The error names the field, and nothing was sent."""
    with pytest.raises(InvalidRequest, match=f"`{field}` cannot be translated") as caught:
        translated(**body)
    assert not caught.value.sent
