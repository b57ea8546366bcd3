"""OpenAI's batch lines: `{"custom_id", "method", "url", "body"}`, the body passed through.

Reference: platform.openai.com/docs/guides/batch. The default system prompt is not applied to
them: what the line holds is what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.batch.questions import RowError
from llmctl.request import Question
from llmctl.types import Message, RawRequest

URLS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("messages",),
    "/v1/completions": ("prompt",),
    "/v1/embeddings": ("input",),
    "/v1/responses": ("input", "prompt"),
}
"""The endpoints a line may name, and which field of the body holds what is asked."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def raw_question(fields: Mapping[str, Any]) -> Question:
    """The question of an OpenAI batch line. Its messages only serve to count tokens.

    Raises `RowError`.
    """
    body, url = fields["body"], fields.get("url")
    if type(body) is not dict:
        raise RowError("`body` must be an object")
    if fields.get("method", "POST") != "POST":
        raise RowError('`method` must be "POST"')
    if type(url) is not str or url not in URLS:
        raise RowError(f"`url` must be one of {', '.join(URLS)}")
    if body.get("stream"):
        raise RowError("`stream` in `body`: the answers of a batch are whole; remove it")
    if not any(body.get(name) for name in URLS[url]):
        raise RowError(f"no prompt: `body` has no `{URLS[url][0]}`")
    model = body.get("model")
    if "model" in body and (type(model) is not str or not model.strip()):
        raise RowError("`model` in `body` must be text")
    limit = next((body[name] for name in _LIMITS if type(body.get(name)) is int), None)
    return Question(
        messages=tuple(_asked(body)),
        model=model,
        max_tokens=limit if limit is not None and limit > 0 else None,
        raw=RawRequest(url.removeprefix("/v1"), body),
    )


def _asked(body: Mapping[str, Any]) -> Iterable[Message]:
    """The texts of a body as messages, wherever they are found; the rest is left out."""
    if type(body.get("instructions")) is str:
        yield Message("system", body["instructions"])
    for name in ("messages", "input", "prompt"):
        value = body.get(name)
        for item in value if type(value) is list else [value]:
            if type(item) is str:
                yield Message("user", item)
            elif type(item) is dict and name != "prompt":
                yield _turn(item)


def _turn(item: Mapping[str, Any]) -> Message:
    role, content = item.get("role"), item.get("content", item.get("output"))
    extra = {k: v for k, v in item.items() if k not in ("role", "content", "output")}
    kept: str | tuple[Mapping[str, Any], ...] | None = None
    if type(content) is str:
        kept = content
    elif type(content) is list:
        kept = tuple(part for part in content if type(part) is dict)
    return Message(role if type(role) is str else "user", kept, extra)
