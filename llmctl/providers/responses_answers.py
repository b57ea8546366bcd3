"""Reading OpenAI's responses, whole and streamed. Pure.

Reference: platform.openai.com/docs/api-reference/responses and …/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmctl.errors import BadResponse
from llmctl.providers.chat_answers import filtered, loaded, named
from llmctl.providers.failures import from_event, not_json
from llmctl.providers.usage import dollars, mapping, openai_usage
from llmctl.types import Finish, ProviderReply, StreamChunk

_FOR_THE_CALLER = frozenset(
    {"function_call", "custom_tool_call", "computer_call", "local_shell_call",
     "apply_patch_call", "mcp_approval_request"}
)  # fmt: skip
"""Items that wait for the caller to act; other calls (`web_search_call`…) are done by OpenAI."""

_PENDING = ("queued", "in_progress", "cancelled")


def responses_reply(whole: Mapping[str, Any]) -> ProviderReply:
    """The answer of a response.

    Raises `ContentFiltered`, `BadResponse` for one that is not finished, the mapped error of a
    failed one, and `KeyError`, `TypeError` or `AttributeError` for what is no response.
    """
    status = whole.get("status")
    if status == "failed" or whole.get("error"):
        raise from_event(mapping(whole.get("error")))
    if status in _PENDING:
        raise BadResponse(
            f"the provider answered that the response is {status}: llmctl asks for answers, not "
            "for work in the background; leave `background` out",
            http_status=200,
            retryable=False,
        )
    items = whole["output"]
    if not isinstance(items, list):
        raise TypeError("`output` is no list")
    text = "".join(_texts(items, "output_text", "text"))
    finish = _finish(whole, items)
    usage = openai_usage(whole.get("usage"))
    cost = dollars(mapping(whole.get("usage")).get("cost"))
    refusal = "".join(_texts(items, "refusal", "refusal"))
    if not text and (refusal or finish == "content_filter"):
        raise filtered(refusal, usage, cost)
    return ProviderReply(text, finish, named(whole), usage, cost)


class ResponsesReader:
    """Reads one streamed response; `response.completed` or `.incomplete` end it."""

    def __init__(self) -> None:
        self._said = False

    def piece(self, event: str, data: str) -> StreamChunk:
        """One event. Raises the mapped error where the stream carries one."""
        if data.strip() == "[DONE]":  # other servers end so; the last event has said all
            return StreamChunk()
        step = loaded(data)
        kind = step.get("type", event)
        if kind == "error" or step.get("error"):
            raise from_event(mapping(step.get("error")) or step)
        if kind == "response.output_text.delta":
            text = step.get("delta")
            if not isinstance(text, str):
                raise not_json(200, {}, data.encode(), "a piece of text is none")
            self._said = self._said or bool(text)
            return StreamChunk(text=text)
        if kind in ("response.completed", "response.incomplete", "response.failed"):
            return self._last(step, data)
        return StreamChunk()

    def end(self) -> StreamChunk:
        """A stream that ends before `response.completed` is incomplete."""
        return StreamChunk()

    def _last(self, step: Mapping[str, Any], data: str) -> StreamChunk:
        try:
            reply = responses_reply(step["response"])
        except (KeyError, TypeError, AttributeError) as error:
            raise not_json(200, {}, data.encode(), f"{type(error).__name__} {error}") from error
        return StreamChunk(
            text="" if self._said else reply.text,
            finish=reply.finish,
            model=reply.model or None,
            usage=reply.usage,
            cost=reply.cost,
            done=True,
        )


def _texts(items: Iterable[Any], kind: str, field: str) -> Iterable[str]:
    for item in items:
        if item.get("type") != "message":
            continue
        for part in item.get("content") or ():
            said = part.get(field)
            if part.get("type") == kind and isinstance(said, str):
                yield said


def _finish(whole: Mapping[str, Any], items: Iterable[Any]) -> Finish:
    reason = mapping(whole.get("incomplete_details")).get("reason")
    if whole.get("status") == "incomplete" or reason:
        known: dict[Any, Finish] = {
            "max_output_tokens": "length",
            "content_filter": "content_filter",
        }
        return known.get(reason, "other") if isinstance(reason, str) else "other"
    return "tool_calls" if any(_for_the_caller(item) for item in items) else "stop"


def _for_the_caller(item: Mapping[str, Any]) -> bool:
    kind = item.get("type")
    if kind == "tool_search_call":
        return item.get("execution") == "client"
    return isinstance(kind, str) and kind in _FOR_THE_CALLER
