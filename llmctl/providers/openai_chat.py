"""Chat completions of OpenAI and of every server that imitates them, and what OpenAI's interfaces
have in common. Pure.

vLLM, Ollama, llama.cpp, LM Studio, Azure OpenAI. Reference: platform.openai.com/docs/
api-reference/chat, …/docs/guides/structured-outputs ("Supported schemas"), docs.mistral.ai/api,
openrouter.ai/docs/api-reference, console.groq.com/docs/api-reference.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal

import orjson
from msgspec.structs import replace

from llmctl.errors import BadResponse, CallError, ContentFiltered, InvalidRequest, ServerFailed
from llmctl.protocols import RateHeaders, WireRequest
from llmctl.providers import replies
from llmctl.providers.model_parameters import is_reasoning_model, require_accepted
from llmctl.tokens import OPENAI_FIELDS
from llmctl.types import (
    JSON,
    Finish,
    Message,
    ProviderReply,
    RawRequest,
    Request,
    StreamChunk,
    Target,
    Usage,
)

AttachmentKind = Literal["image", "image_url", "file", "file_url", "audio", "other_audio", "video"]

_LIMITS = ("max_tokens", "max_completion_tokens")


class ChatCompletions(replies.BaseCodec):
    """The base of the family's codecs; see `protocols.Codec`.

    `takes` are the attachments that the provider understands; `streams_usage` says whether a
    stream must be asked for its usage.
    """

    fields = OPENAI_FIELDS
    takes: ClassVar[frozenset[AttachmentKind]] = frozenset({"image", "image_url", "file", "audio"})
    streams_usage: ClassVar[bool] = True

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A chat completion, or the raw body as it is."""
        if request.raw is not None:
            return self.passed(request.raw, stream=stream)
        require_accepted(request)
        target = request.target
        body: dict[str, Any] = {
            "model": target.model,
            "messages": [self.turn(message, target) for message in request.messages],
        }
        if request.max_tokens is not None and request.options.keys().isdisjoint(_LIMITS):
            body[self.limit_name(target)] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.schema is not None:
            form = {"type": "json_schema", "json_schema": json_schema_format(request.schema)}
            body["response_format"] = form
        body.update(request.options)
        if stream:
            body["stream"] = True
            if self.streams_usage:
                body["stream_options"] = {"include_usage": True}
        return WireRequest("/chat/completions", body)

    def passed(self, raw: RawRequest, *, stream: bool) -> WireRequest:
        """A body that is passed through as it is."""
        chat = raw.path.rstrip("/").endswith("/completions")
        asked = {"stream_options": {"include_usage": True}} if chat and self.streams_usage else {}
        body = {**raw.body, "stream": True, **asked} if stream else raw.body
        return WireRequest(raw.path, body, raw.headers)

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """An answer of chat completions, responses or embeddings: rows that are passed through
        raw may ask for any of them."""
        if found.get("error") or found.get("object") == "error":
            raise _failed(found)
        if "choices" in found:
            return chat_reply(found)
        if "output" in found:
            return responses_reply(found)
        if isinstance(found.get("data"), list):  # embeddings
            return ProviderReply("", "stop", _model(found), *openai_usage(found), beyond_text=True)
        raise KeyError("choices")

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usage`."""
        return openai_usage(found)

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-{remaining,limit,reset}-{requests,tokens}`."""
        return replies.rate_headers(headers, "x-ratelimit-{what}-{of}", replies.duration)

    def models(self, after: str | None) -> WireRequest:  # noqa: ARG002 - it is one page
        """All models."""
        return WireRequest("/models", None, method="GET")

    def limit_name(self, target: Target) -> str:  # noqa: ARG002 - OpenAI's own depends on it
        """What the output limit is called."""
        return "max_tokens"

    def turn(self, message: Message, target: Target) -> JSON:
        """The message as this provider wants it. Raises `InvalidRequest`."""
        if not isinstance(message.content, tuple):
            return message.as_json()
        parts = [self.part(require_taken(part, self.takes, target)) for part in message.content]
        return {"role": message.role, "content": parts, **message.extra}

    def part(self, part: JSON) -> JSON:
        """A part that the provider takes, in its words."""
        return part

    def reader(self) -> replies.BaseReader:
        """A reader for one streamed answer."""
        return ChatReader()


class OpenAIChat(ChatCompletions):
    """The codec of OpenAI and its imitators; see `protocols.Codec`."""

    def limit_name(self, target: Target) -> str:
        """OpenAI's own models want `max_completion_tokens` (its reasoning models refuse
        `max_tokens`); other servers mostly know `max_tokens` only."""
        own = "api.openai.com" in target.base_url or ".azure.com" in target.base_url
        reasoning = own or is_reasoning_model(target)
        return "max_completion_tokens" if reasoning else "max_tokens"

    def turn(self, message: Message, target: Target) -> JSON:
        """The message; to the embedded model nothing can be attached."""
        if target.provider == "local" and isinstance(message.content, tuple):
            for part in message.content:
                require_taken(part, (), target)
        return super().turn(message, target)

    def count(self, request: Request) -> WireRequest | None:
        """Chat completions and responses read the same tokens; only the latter are counted."""
        return count_request(request) if request.target.provider == "openai" else None


# --- Answers ------------------------------------------------------------------------------------

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    **dict.fromkeys(("eos", "eos_token", "stop_sequence", "end_turn"), "stop"),  # Together, TGI
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "model_length": "length",  # Mistral: the model's window is full
    "max_output_tokens": "length",  # of responses
}


def chat_finish(choice: Mapping[str, Any]) -> Finish | None:
    """The finish of a choice; None while there is none. Raises where the model failed."""
    reason = choice.get("finish_reason")
    if choice.get("error"):
        raise replies.error_from_event(choice)
    if reason == "error":
        raise replies.error_from_event({"message": "the model failed while it answered"})
    return (replies.finish_of(reason, _FINISH) or "other") if reason else None


_FOR_THE_CALLER = (
    "function_call", "custom_tool_call", "computer_call", "local_shell_call", "apply_patch_call",
    "mcp_approval_request",
)  # fmt: skip
"""Items that wait for the caller to act; other calls (`web_search_call`…) are done by OpenAI."""


def chat_reply(answer: Mapping[str, Any]) -> ProviderReply:
    """The answer of a chat completion (or of the older completions). Raises `ContentFiltered` for a
    refusal, and as `BaseCodec.reply` does."""
    choice = answer["choices"][0]
    finish = chat_finish(choice) or "other"
    message = choice.get("message") or {}
    usage, cost = openai_usage(answer)
    text = content_text(message.get("content", choice.get("text"))) or _spoken(message)
    if not text and (message.get("refusal") or finish == "content_filter"):
        raise refused(message.get("refusal"), usage, cost)
    return ProviderReply(
        text, finish, _model(answer), usage, cost,
        reason=replies.first_text(choice, "finish_reason"),
        tool_calls=_chat_calls(message),
        citations=replies.kept(message.get("annotations") or answer.get("citations")),
        beyond_text=bool(message.get("images") or message.get("audio")),
    )  # fmt: skip


def _model(answer: Mapping[str, Any]) -> str:
    return replies.named(answer, "model") or ""


def _spoken(message: Mapping[str, Any]) -> str:
    """The words of an answer that is sound."""
    spoken = replies.object_or_empty(message.get("audio"))
    return replies.first_text(spoken, "transcript") or ""


def _chat_calls(message: Mapping[str, Any]) -> tuple[JSON, ...]:
    """The tool calls of a message, or the one `function_call` of before there were tools."""
    found: list[JSON] = []
    for call in message.get("tool_calls") or ():
        made = call.get("function") or call.get("custom") or call
        arguments = made.get("arguments", made.get("input"))
        found.append(replies.tool_call(made["name"], arguments, call.get("id")))
    if function := message.get("function_call"):
        found.append(replies.tool_call(function["name"], function.get("arguments")))
    return tuple(found)


def _failed(answer: Mapping[str, Any]) -> CallError:
    """The error in a body of status 200. Of the codes of a failed response (`error.code`,
    platform.openai.com/docs/api-reference/responses) only the server's own may pass."""
    error = replies.error_from_event(answer)
    code = replies.object_or_empty(answer.get("error")).get("code")
    code = code if answer.get("status") == "failed" else None
    passing = (None, "server_error", "vector_store_timeout")
    if not isinstance(error, ServerFailed) or code in passing:
        return error
    kind = ContentFiltered if "policy" in str(code) else InvalidRequest
    return kind(error.message, http_status=200, provider_request_id=error.provider_request_id)


def responses_reply(answer: Mapping[str, Any]) -> ProviderReply:
    """The answer of a response. Raises `ContentFiltered`, `BadResponse` for one that is not
    finished, and as `BaseCodec.reply` does."""
    status = answer.get("status")
    if status == "failed" or answer.get("error"):
        raise _failed(answer)
    if status in ("queued", "in_progress", "cancelled"):
        raise BadResponse(
            f"the provider answered that the response is {status}: llmctl asks for answers, not "
            "for work in the background; leave `background` out",
            http_status=200,
            retryable=False,
        )
    items = answer["output"]
    if not isinstance(items, list):
        raise TypeError("`output` is no list")
    messages = [i for i in items if i.get("type") == "message" and not is_commentary(i)]
    parts = [p for item in messages for p in item.get("content") or ()]
    text, refusal = _joined(parts, "output_text", "text"), _joined(parts, "refusal", "refusal")
    usage, cost = openai_usage(answer)
    finish = _responses_finish(answer, items)
    if not text and (refusal or finish == "content_filter"):
        raise refused(refusal, usage, cost)
    details = replies.object_or_empty(answer.get("incomplete_details"))
    return ProviderReply(
        text, finish, _model(answer), usage, cost,
        reason=replies.first_text(details, "reason") or replies.first_text(answer, "status"),
        tool_calls=tuple(
            replies.tool_call(i.get("name") or i["type"], _arguments(i), i.get("call_id"))
            for i in items if _waits_for_the_caller(i)
        ),
        citations=replies.kept([c for p in parts for c in p.get("annotations") or ()]),
        beyond_text=any(i.get("type") == "image_generation_call" for i in items),
    )  # fmt: skip


def is_commentary(item: Mapping[str, Any]) -> bool:
    """Whether a message of a response is what the model said on its way to the answer."""
    return item.get("phase") == "commentary"


def _arguments(item: Mapping[str, Any]) -> object:
    named = (item[name] for name in ("arguments", "input", "action") if name in item)
    return next(named, item)


def _joined(parts: Iterable[Mapping[str, Any]], kind: str, name: str) -> str:
    found = (part.get(name) for part in parts if part.get("type") == kind)
    return "".join(text for text in found if isinstance(text, str))


def _responses_finish(answer: Mapping[str, Any], items: Iterable[Any]) -> Finish:
    reason = replies.object_or_empty(answer.get("incomplete_details")).get("reason")
    if answer.get("status") == "incomplete" or reason:
        return replies.finish_of(reason, _FINISH) or "other"
    return "tool_calls" if any(map(_waits_for_the_caller, items)) else "stop"


def _waits_for_the_caller(item: Mapping[str, Any]) -> bool:
    by_client = item.get("type") == "tool_search_call" and item.get("execution") == "client"
    return by_client or item.get("type") in _FOR_THE_CALLER


def content_text(value: object) -> str:
    """The text of a message's content: text, or the text parts of a list (a reasoning model's
    thoughts stand beside them and are left out). Where JSON was asked for some servers give that
    itself: its text. Raises `TypeError` for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict | list):
        raise TypeError("`content` is neither text nor parts")
    parts = [part for part in (value if isinstance(value, list) else [value]) if part]
    if all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
        return _joined(parts, "text", "text")
    return orjson.dumps(value).decode()


def openai_usage(answer: Mapping[str, Any]) -> tuple[Usage | None, Decimal | None]:
    """The `usage` of a chat completion (`prompt_tokens`…) or a response (`input_tokens`…), and the
    provider's own price in it (OpenRouter), in dollars."""
    found = replies.object_or_empty(answer.get("usage"))
    if not found:
        return None, None
    details = found.get("prompt_tokens_details") or found.get("input_tokens_details")
    read = replies.object_or_empty(details)
    cached = read.get("cached_tokens") or found.get("num_cached_tokens")  # the latter: Mistral's
    details = found.get("completion_tokens_details") or found.get("output_tokens_details")
    written = replies.object_or_empty(details)
    count = replies.token_count
    tools = [item.get("type") for item in replies.objects(answer, "output")]
    usage = Usage(
        input=count(found.get("prompt_tokens", found.get("input_tokens"))),
        output=count(found.get("completion_tokens", found.get("output_tokens"))),
        cached_input=count(cached),
        cache_write=count(read.get("cache_write_tokens")),
        reasoning=count(written.get("reasoning_tokens")),
        audio_input=count(read.get("audio_tokens")),
        image_input=count(read.get("image_tokens")),
        audio_output=count(written.get("audio_tokens")),
        image_output=count(written.get("image_tokens")),
        searches=tools.count("web_search_call"),
        file_searches=tools.count("file_search_call"),
        audio_seconds=count(found.get("prompt_audio_seconds")),
    )
    cost = replies.dollars(found.get("cost"))
    if cost is not None and found.get("is_byok") is True:  # OpenRouter's fee alone
        details = replies.object_or_empty(found.get("cost_details"))
        cost += replies.dollars(details.get("upstream_inference_cost")) or 0
    return replies.credible(_witnessed(usage, count(found.get("total_tokens")))), cost


def _witnessed(usage: Usage, total: int) -> Usage:
    """The usage, held against the provider's own sum of all tokens: what that has more is the side
    that is not said, else output (x.ai leaves reasoning out there)."""
    more = total - usage.input - usage.output
    if more <= 0:
        return usage
    if usage.output and not usage.input:
        return replace(usage, input=more)
    exact = usage.input and more in (usage.reasoning, total - usage.input)
    return replace(usage, output=usage.output + more, estimated=not exact)


def refused(refusal: object, usage: Usage | None, cost: Decimal | None) -> ContentFiltered:
    """The error for a refusal of the model, or for an answer that the filter stopped."""
    if isinstance(refusal, str) and refusal:
        return replies.content_filtered("the model refused", refusal, usage, cost)
    sentence = "the provider's content filter stopped the answer"
    return replies.content_filtered(sentence, None, usage, cost)


class ChatReader(replies.BaseReader):
    """Reads one streamed chat completion; its end mark is `[DONE]`."""

    _refusal = ""
    _usage: Usage | None = None

    def done(self) -> StreamChunk:
        """The end. Raises `ContentFiltered` for a refusal, which also comes in pieces."""
        if self._refusal and not self._has_text:
            raise refused(self._refusal, self._usage, None)
        return StreamChunk(done=True)

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usage`, of Groq within `x_groq`."""
        groq = replies.object_or_empty(found.get("x_groq"))
        return openai_usage(found if found.get("usage") else groq)

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One chunk."""
        groq = replies.object_or_empty(found.get("x_groq"))
        if found.get("error") or groq.get("error") or "error" in (event, found.get("object")):
            raise replies.error_from_event(groq if groq.get("error") else found)
        usage, cost = self.bill(found)
        self._usage = usage or self._usage
        # Further choices (`n`) come in chunks of their own.
        choices = found.get("choices")
        listed = choices if isinstance(choices, list) else ()
        choice: Mapping[str, Any] = next((c for c in listed if c.get("index") in (0, None)), {})
        finish = chat_finish(choice)
        delta = choice.get("delta") or choice.get("message") or {}
        text = content_text(delta.get("content", choice.get("text"))) or _spoken(delta)
        # As much of it as an error could show: added up, a long one would take a square of time.
        if len(self._refusal) < replies.LONGEST_NOTE:
            self._refusal += content_text(delta.get("refusal"))
        for at, call in enumerate(delta.get("tool_calls") or ()):
            made = call.get("function") or call.get("custom") or {}
            arguments = made.get("arguments", made.get("input"))
            if isinstance(arguments, dict):
                arguments = orjson.dumps(arguments).decode()
            key = call.get("index", at)
            self.call(str(key), id=call.get("id"), name=made.get("name"), arguments=arguments)
        if function := delta.get("function_call"):
            self.call("", name=function.get("name"), arguments=function.get("arguments"))
        self.citations += replies.kept(delta.get("annotations"))
        if listed := replies.kept(found.get("citations")):  # Perplexity: all, in every chunk
            self.citations = list(listed)
        reason = replies.first_text(choice, "finish_reason")
        model = replies.named(found, "model")
        return StreamChunk(text, finish, model, usage, cost, reason=reason)


# --- Input items of responses -------------------------------------------------------------------

_COUNTED = frozenset(
    {"conversation", "input", "instructions", "model", "parallel_tool_calls",
     "previous_response_id", "reasoning", "text", "tool_choice", "tools", "truncation"}
)  # fmt: skip
"""What the counting endpoint takes of a request."""

_TAKES: frozenset[AttachmentKind] = frozenset({"image", "image_url", "file", "file_url"})


def count_request(request: Request) -> WireRequest:
    """Asks how many tokens the request is (platform.openai.com/docs/api-reference/responses,
    "Get input token counts"). Raises `InvalidRequest` as `OpenAIResponses.encode` does."""
    items = input_items(request.messages, request.target)
    body: dict[str, Any] = {"model": request.target.model, "input": items, **request.options}
    if request.schema is not None:
        body["text"] = text_format(request.schema)
    return WireRequest("/responses/input_tokens", {k: v for k, v in body.items() if k in _COUNTED})


def input_items(messages: Iterable[Message], target: Target) -> list[JSON]:
    """The input items. Raises `InvalidRequest` for parts that responses do not take (audio)."""
    found: list[JSON] = []
    for message in messages:
        if message.role == "tool":
            result = {"type": "function_call_output", "output": message.text}
            found.append({**result, "call_id": message.extra.get("tool_call_id", "")})
            continue
        calls = list(_function_calls(message))
        if message.content or (message.content is not None and not calls):
            content: Any = message.content
            if isinstance(content, tuple):
                content = [_part(part, message.role, target) for part in content]
            found.append({"role": message.role, "content": content})
        found.extend(calls)
    return found


def _function_calls(message: Message) -> Iterable[JSON]:
    calls = message.extra.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            yield {
                "type": "function_call",
                "call_id": call.get("id", ""),
                "name": function.get("name", ""),
                "arguments": function.get("arguments", ""),
            }


def _part(part: JSON, role: str, target: Target) -> JSON:
    kind = require_taken(part, _TAKES, target).get("type")
    if kind == "text":
        return {**part, "type": "output_text" if role == "assistant" else "input_text"}
    if kind == "image_url":
        image = part.get("image_url")
        given = image if isinstance(image, Mapping) else {"url": image}
        detail = {"detail": given["detail"]} if "detail" in given else {}
        return {"type": "input_image", "image_url": given.get("url"), **detail}
    if kind == "file":
        file = dict(replies.object_or_empty(part.get("file")))
        if "file_url" in file:
            file.pop("filename", None)  # the interface takes a name only with the data
        return {"type": "input_file", **file}
    return part  # an item of the interface's own


def text_format(schema: JSON) -> JSON:
    """The `text` parameter that asks for an answer of this schema."""
    return {"format": {"type": "json_schema", **json_schema_format(schema)}}


# --- Attachments --------------------------------------------------------------------------------

_KIND_NAMES: dict[AttachmentKind, str] = {
    "image": "images",
    "image_url": "images by address",
    "file": "PDF files",
    "file_url": "PDF files by address",
    "audio": "WAV and MP3 audio",
    "other_audio": "audio but WAV and MP3",
    "video": "video",
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
        file = replies.object_or_empty(part.get("file"))
        if str(file.get("file_data", "")).startswith("data:video/"):
            return "video"
        return "file_url" if file.get("file_url") else "file"
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
    """The `json_schema` of a response format, named by its title in letters, digits, `_` and `-`.

    Strict mode takes an object whose objects, at every depth, name all of their properties as
    required and allow no others; elsewhere it would be refused.
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
