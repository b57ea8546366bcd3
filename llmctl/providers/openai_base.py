"""What OpenAI's interfaces, and the servers that imitate them, have in common. Pure.

Reference: platform.openai.com/docs/api-reference, platform.openai.com/docs/guides/
structured-outputs ("Supported schemas"), docs.mistral.ai/api, openrouter.ai/docs/api-reference,
console.groq.com/docs/api-reference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

from llmctl.errors import BadResponse, ContentFiltered, InvalidRequest
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers import replies
from llmctl.types import JSON, Finish, ModelInfo, ProviderReply, Request, Target, Usage


class OpenAIFamily(replies.BaseCodec):
    """The base of the family's codecs; see `protocols.Codec`."""

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """An answer of chat completions, responses or embeddings: rows that are passed through
        raw may ask for any of them."""
        if found.get("error") or found.get("object") == "error":
            error = replies.error_object(found)
            raise replies.error_from_event(error) if error else ValueError("an error")
        if "choices" in found:
            return chat_reply(found)
        if "output" in found:
            return responses_reply(found)
        if isinstance(found.get("data"), list):  # embeddings
            return ProviderReply("", "stop", model_of(found), openai_usage(found))
        raise KeyError("choices")

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-{remaining,limit,reset}-{requests,tokens}`."""
        return replies.rate_headers(headers, "x-ratelimit-{what}-{of}", replies.duration)

    def probe(self) -> WireRequest:
        """The list of models costs nothing."""
        return self.models(None)

    def decode_probe(self, body: bytes) -> None:
        """A list says that the key is good; it must be one."""
        self.decode_models(body)

    def models(self, after: str | None) -> WireRequest:  # noqa: ARG002 - it is one page
        """All models."""
        return WireRequest("/models", None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The models, and that there are no more."""
        listed = replies.json_value(body)
        found = listed.get("data", listed) if isinstance(listed, dict) else listed
        if found is None:  # Ollama without any model
            found = []
        if not isinstance(found, list):
            raise BadResponse("the list of models is none; check `base_url`", retryable=False)
        return [model for model in map(_model_info, found) if model is not None], None

    def count(self, request: Request) -> WireRequest | None:  # noqa: ARG002 - most do not count
        """None: the provider counts no tokens."""
        return None

    def decode_count(self, body: bytes) -> int:
        """`input_tokens` (platform.openai.com/docs/api-reference/responses/input-tokens)."""
        tokens = replies.object_or_empty(replies.json_value(body)).get("input_tokens")
        if type(tokens) is not int:
            raise BadResponse("the provider's token count is none", retryable=False)
        return tokens


def _model_info(value: object) -> ModelInfo | None:
    """One entry of a list of models; None for what is none. Groq, OpenRouter, Mistral and vLLM
    name a model's window each in its own way."""
    found = replies.object_or_empty(value)
    name, shown = found.get("id"), found.get("name")
    if not isinstance(name, str) or not name:
        return None
    windows = ("context_window", "context_length", "max_context_length", "max_model_len")
    provider = replies.object_or_empty(found.get("top_provider"))
    longest = found.get("max_completion_tokens") or provider.get("max_completion_tokens")
    return ModelInfo(
        id=name,
        name=shown if isinstance(shown, str) and shown != name else None,
        context=next(filter(None, (replies.token_count(found.get(key)) for key in windows)), None),
        output=replies.token_count(longest) or None,
        created=float(replies.token_count(found.get("created"))) or None,
    )


# --- Answers ------------------------------------------------------------------------------------

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "model_length": "length",  # Mistral: the model's window is full
    "max_output_tokens": "length",  # of responses
}


def chat_finish(reason: object) -> Finish | None:
    """The finish of a choice; None while there is none. Raises where the model failed."""
    if reason == "error":
        raise replies.error_from_event({"message": "the model failed while it answered"})
    return (replies.finish_of(reason, _FINISH) or "other") if reason else None


_FOR_THE_CALLER = (
    "function_call", "custom_tool_call", "computer_call", "local_shell_call", "apply_patch_call",
    "mcp_approval_request",
)  # fmt: skip
"""Items that wait for the caller to act; other calls (`web_search_call`…) are done by OpenAI."""

_PENDING = ("queued", "in_progress", "cancelled")


def chat_reply(answer: Mapping[str, Any]) -> ProviderReply:
    """The answer of a chat completion (or of the older completions).

    Raises `ContentFiltered` for a refusal, the mapped error where the choice is one, and
    the errors that `replies.shape_errors` maps for what is no completion.
    """
    choice = answer["choices"][0]
    usage, cost = openai_usage(answer), openai_cost(answer)
    if choice.get("error"):
        raise replies.error_from_event(replies.object_or_empty(choice["error"]))
    message = choice.get("message") or {}
    text = content_text(message.get("content", choice.get("text")))
    finish = chat_finish(choice.get("finish_reason")) or "other"
    if not text and (message.get("refusal") or finish == "content_filter"):
        raise refused(message.get("refusal"), usage, cost)
    return ProviderReply(text, finish, model_of(answer), usage, cost)


def responses_reply(answer: Mapping[str, Any]) -> ProviderReply:
    """The answer of a response.

    Raises `ContentFiltered`, `BadResponse` for one that is not finished, the mapped error of a
    failed one, and the errors that `replies.shape_errors` maps for what is no response.
    """
    status = answer.get("status")
    if status == "failed" or answer.get("error"):
        raise replies.error_from_event(replies.object_or_empty(answer.get("error")))
    if status in _PENDING:
        raise BadResponse(
            f"the provider answered that the response is {status}: llmctl asks for answers, not "
            "for work in the background; leave `background` out",
            http_status=200,
            retryable=False,
        )
    items = answer["output"]
    if not isinstance(items, list):
        raise TypeError("`output` is no list")
    text = _item_text(items, "output_text", "text")
    finish = _responses_finish(answer, items)
    usage, cost = openai_usage(answer), openai_cost(answer)
    refusal = _item_text(items, "refusal", "refusal")
    if not text and (refusal or finish == "content_filter"):
        raise refused(refusal, usage, cost)
    return ProviderReply(text, finish, model_of(answer), usage, cost)


def _item_text(items: Iterable[Any], kind: str, field: str) -> str:
    return "".join(
        part[field]
        for item in items
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == kind and isinstance(part.get(field), str)
    )


def _responses_finish(answer: Mapping[str, Any], items: Iterable[Any]) -> Finish:
    reason = replies.object_or_empty(answer.get("incomplete_details")).get("reason")
    if answer.get("status") == "incomplete" or reason:
        return replies.finish_of(reason, _FINISH) or "other"
    for item in items:
        by_client = item.get("type") == "tool_search_call" and item.get("execution") == "client"
        if by_client or item.get("type") in _FOR_THE_CALLER:
            return "tool_calls"
    return "stop"


def content_text(value: object) -> str:
    """The text of a message's content: text, or the text parts of a list (a reasoning model's
    thoughts stand beside them and are left out). Raises `TypeError` for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise TypeError("`content` is neither text nor parts")
    texts = (p.get("text") for p in value if isinstance(p, dict) and p.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str))


def model_of(answer: Mapping[str, Any]) -> str:
    """The model that answered; empty where it is not said."""
    model = answer.get("model")
    return model if isinstance(model, str) else ""


def openai_usage(answer: Mapping[str, Any]) -> Usage | None:
    """The `usage` of a chat completion (`prompt_tokens`…) or a response (`input_tokens`…).

    None for none. Input includes cached tokens and output reasoning ones, as in `Usage`.
    """
    found = replies.object_or_empty(answer.get("usage"))
    if not found:
        return None
    details = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    read = replies.object_or_empty(details)
    cached = read.get("cached_tokens") or found.get("num_cached_tokens")  # the latter: Mistral's
    details = found.get("completion_tokens_details") or found.get("output_tokens_details")
    written = replies.object_or_empty(details)
    return Usage(
        input=replies.token_count(found.get("prompt_tokens", found.get("input_tokens"))),
        output=replies.token_count(found.get("completion_tokens", found.get("output_tokens"))),
        cached_input=replies.token_count(cached),
        cache_write=replies.token_count(read.get("cache_write_tokens")),
        reasoning=replies.token_count(written.get("reasoning_tokens")),
    )


def openai_cost(answer: Mapping[str, Any]) -> Decimal | None:
    """The provider's own price of the answer (OpenRouter), in dollars."""
    return replies.dollars(replies.object_or_empty(answer.get("usage")).get("cost"))


def refused(
    refusal: object, usage: Usage | None = None, cost: Decimal | None = None
) -> ContentFiltered:
    """The error for a refusal of the model, or for an answer that the filter stopped."""
    why = "the provider's content filter stopped the answer"
    if isinstance(refusal, str) and refusal:
        why = f"the model refused: {refusal[:500]}"
    return replies.content_filtered(why, usage, cost)


# --- Attachments --------------------------------------------------------------------------------

AttachmentKind = Literal["image", "image_url", "file", "file_url", "audio", "other_audio"]

_KIND_NAMES: dict[AttachmentKind, str] = {
    "image": "images",
    "image_url": "images by address",
    "file": "PDF files",
    "file_url": "PDF files by address",
    "audio": "WAV and MP3 audio",
    "other_audio": "audio but WAV and MP3",
}


def require_taken(part: JSON, takes: Collection[AttachmentKind], target: Target) -> JSON:
    """The part, when it is no attachment that the provider refuses. Raises `InvalidRequest`.

    Parts that are none of `types.Message` pass: a provider may know parts that we do not.
    """
    kind = _attachment_kind(part)
    if kind is None or kind in takes:
        return part
    others = ", ".join(_KIND_NAMES[name] for name in sorted(takes)) or "nothing but text"
    raise InvalidRequest(
        f"{target.provider} takes no {_KIND_NAMES[kind]} (it takes {others}): nothing was sent",
        sent=False,
    )


def _attachment_kind(part: JSON) -> AttachmentKind | None:
    kind = part.get("type")
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else image
        return "image" if isinstance(url, str) and url.startswith("data:") else "image_url"
    if kind == "file":
        return "file_url" if replies.object_or_empty(part.get("file")).get("file_url") else "file"
    if kind == "input_audio":
        form = replies.object_or_empty(part.get("input_audio")).get("format")
        return "audio" if form in ("wav", "mp3", None) else "other_audio"
    return None


# --- Schemas ------------------------------------------------------------------------------------

_NOT_STRICT = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas",
     "patternProperties", "propertyNames", "unevaluatedProperties", "minProperties",
     "maxProperties", "contains", "uniqueItems", "prefixItems", "unevaluatedItems", "default",
     "$dynamicRef", "$id", "$anchor"}
)  # fmt: skip
"""Keywords that strict mode refuses."""


def json_schema_format(schema: JSON) -> dict[str, Any]:
    """The `json_schema` of a response format: with the name that OpenAI asks for, and strict
    where the schema is one that strict mode takes (elsewhere it would be refused).

    The name is the schema's title in letters, digits, `_` and `-`, at most 64, or `answer`.
    Strict mode takes an object whose objects, at every depth, name all of their properties as
    required and allow no others.
    """
    title = schema.get("title")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", title).strip("_") if isinstance(title, str) else ""
    strict = schema.get("type") == "object" and "anyOf" not in schema and _is_strict(schema)
    return {"name": name[:64] or "answer", "schema": schema, "strict": strict}


def _is_strict(node: Any) -> bool:
    if not isinstance(node, Mapping) or not _NOT_STRICT.isdisjoint(node):
        return False
    kinds = node.get("type")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in node:
        properties, required = node.get("properties"), node.get("required")
        if not isinstance(properties, Mapping) or node.get("additionalProperties") is not False:
            return False
        if not isinstance(required, list) or set(map(str, required)) != set(properties):
            return False
    elif not {"type", "anyOf", "$ref", "enum", "const"} & node.keys():
        return False  # "anything" has no strict form
    return all(map(_is_strict, _subschemas(node)))


def _subschemas(node: Mapping[str, Any]) -> Iterable[Any]:
    for key in ("properties", "$defs", "definitions"):
        yield from replies.object_or_empty(node.get(key)).values()
    if "items" in node:
        yield node["items"]
    choices = node.get("anyOf")
    if isinstance(choices, list):
        yield from choices
