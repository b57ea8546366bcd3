"""Google's Gemini API. Pure: no I/O; the clock is passed in.

Reference: ai.google.dev/api/generate-content, …/api/tokens, …/api/models, …/api/caching#Content,
ai.google.dev/gemini-api/docs/function-calling, …/thought-signatures, …/image-understanding,
…/document-processing, …/audio, …/troubleshooting, …/rate-limits, and google.rpc's ErrorInfo,
QuotaFailure and RetryInfo (cloud.google.com/apis/design/errors).

`options` go into `generationConfig` (`topP`, `seed`, `thinkingConfig`…), except the fields that
stand beside it: those in `TOP_LEVEL`, in either spelling. `generationConfig` itself is merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from llmctl.errors import CallError, ContentFiltered, QuotaExhausted
from llmctl.protocols import WireRequest
from llmctl.providers import message_parts as chat
from llmctl.providers import replies
from llmctl.types import (
    JSON,
    Finish,
    Message,
    ModelInfo,
    ProviderReply,
    Request,
    StreamChunk,
    Usage,
)

TOP_LEVEL = frozenset(
    {"tools", "toolConfig", "tool_config", "safetySettings", "safety_settings", "cachedContent",
     "cached_content", "systemInstruction", "system_instruction", "contents", "labels",
     "serviceTier", "service_tier", "store"}
)  # fmt: skip
"""Fields of GenerateContentRequest beside `generationConfig` (ai.google.dev/api/generate-content,
"Request body"; the API reads JSON in both spellings)."""

_CONFIG = ("generationConfig", "generation_config")
_PAGE = 1000
"""Models in one page: the most there can be (ai.google.dev/api/models, `pageSize`)."""

_MODEL = {
    "id": "name",
    "prefix": "models/",
    "name": "displayName",
    "context": "inputTokenLimit",
    "output": "outputTokenLimit",
}


class Gemini(replies.BaseCodec):
    """The codec; see `protocols.Codec`."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """The model is part of the path. An OpenAI-shaped body is translated."""
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return WireRequest(f"/{_model(request)}:{verb}", _body(request))

    def auth(self, key: str) -> Mapping[str, str]:
        """The key has a header of its own; it never stands in the address."""
        return {"x-goog-api-key": key}

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The first candidate's text, without thoughts, read like the chunk of a stream. Raises
        `ContentFiltered` for a blocked prompt, and an answer stopped before it said anything."""
        if listed := found.get("candidates"):
            found = {**found, "candidates": [{**listed[0], "index": 0}]}
        reader = GeminiReader()
        chunk = reader.read("", found)
        if chunk.finish is None and not chunk.text and not reader.calls:
            raise KeyError("finishReason")
        return ProviderReply(chunk.text, chunk.finish or "other", chunk.model or "", chunk.usage)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """By status, `details` and message: the wait and what ran out stand in the body."""
        found = _error_object(replies.json_or_none(body))
        known = _with_code(found) if found else None
        return _with_wait(
            replies.error_from_reply(status, headers, body, known, now=self._now), found
        )

    def reader(self) -> GeminiReader:
        """A reader for one stream: it has no end mark of its own."""
        return GeminiReader()

    def probe(self) -> WireRequest:
        """One model of the list."""
        return WireRequest("/models?pageSize=1", None, method="GET")

    def models(self, after: str | None) -> WireRequest:
        """A page of the list."""
        query = {"pageSize": _PAGE, **({"pageToken": after} if after else {})}
        return WireRequest(f"/models?{urlencode(query)}", None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """Models with their name and limits, without the `models/` before their ids."""
        found, models = replies.models_page(body, "models", _MODEL)
        return models, replies.first_text(found, "nextPageToken")

    def count(self, request: Request) -> WireRequest:
        """Contents alone are counted as they are; with instructions or tools the whole request
        is handed over, which names its model again."""
        body = _body(request)
        config = body.pop("generationConfig", None)
        if set(body) != {"contents"}:
            if config:
                body["generationConfig"] = config
            body = {"generateContentRequest": {"model": _model(request, quoted=False), **body}}
        return WireRequest(f"/{_model(request)}:countTokens", body)

    def decode_count(self, body: bytes) -> int:
        """`totalTokens`; it is left out where there is nothing to count."""
        found = replies.json_object(body)
        with replies.shape_errors(body):
            return int(found.get("totalTokens", 0))


def _model(request: Request, *, quoted: bool = True) -> str:
    """`models/M`; tuned models bring their own collection."""
    model = request.target.model
    first, slash, rest = model.partition("/")
    if not slash or first not in ("models", "tunedModels"):
        first, rest = "models", model
    return f"{first}/{quote(rest, safe='') if quoted else rest}"


def _body(request: Request) -> dict[str, Any]:
    if request.raw is not None:
        request = _from_openai(request)
    body: dict[str, Any] = _conversation(request)
    config: dict[str, Any] = {}
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": request.schema}
    for name, value in request.options.items():
        if name in _CONFIG and isinstance(value, Mapping):
            config.update(value)
        elif name in TOP_LEVEL:
            body[name] = value
        else:
            config[name] = value
    if config:
        body["generationConfig"] = config
    return body


# --- Messages -----------------------------------------------------------------------------------

_TAKEN = ("image/", "audio/", "video/", "text/")
_ALSO_TAKEN = frozenset({"application/pdf", "application/json"})

_OPTIONS = {
    "top_p": "topP",
    "stop": "stopSequences",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
}
"""OpenAI's names → ours."""

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}

_UNSIGNED = "skip_thought_signature_validator"
"""In place of the signature of a call that another model made, or an older client recorded:
Gemini 3 and later refuse calls without one (ai.google.dev/gemini-api/docs/thought-signatures,
"FAQs")."""

_WITHOUT_SIGNATURES = ("gemini-1", "gemini-2", "models/gemini-1", "models/gemini-2")


def _conversation(request: Request) -> dict[str, Any]:
    """`contents`, and `systemInstruction` where there is one: all instructions, wherever they
    stood, each a part. Results of tools that follow each other are one turn, as the API
    demands."""
    listed = list(chat.turns(request))
    system = [part for turn in listed if turn.role == "system" for part in _parts(turn, request)]
    contents: list[JSON] = []
    names: dict[str, str] = {}
    spoken = (turn for turn in listed if turn.role != "system")
    for is_result, group in groupby(spoken, lambda turn: turn.role == "tool"):
        if is_result:
            results = [_result(turn, names, request) for turn in group]
            contents.append({"role": "user", "parts": results})
        else:
            contents += [_turn(turn, names, request) for turn in group]
    if not system:
        return {"contents": contents}
    # The role means nothing, but Google's own SDK sends it.
    return {"contents": contents, "systemInstruction": {"parts": system, "role": "user"}}


def _parts(turn: Message, request: Request) -> list[JSON]:
    return [_part(part, request) for part in chat.parts(turn, request)]


def _turn(turn: Message, names: dict[str, str], request: Request) -> JSON:
    made = _parts(turn, request)
    for index, call in enumerate(chat.tool_calls(turn, request)):
        names[call.id] = call.name
        made.append(_function_call(call, request, first=index == 0))
    role = "model" if turn.role == "assistant" else "user"
    return {"role": role, "parts": made or [{"text": ""}]}


def _function_call(call: chat.ToolCall, request: Request, *, first: bool) -> JSON:
    made: dict[str, Any] = {"name": call.name, "args": call.arguments}
    if call.id:
        made["id"] = call.id
    signature = call.signature
    if first and not request.target.model.startswith(_WITHOUT_SIGNATURES):
        signature = signature or _UNSIGNED
    return {"functionCall": made, **({"thoughtSignature": signature} if signature else {})}


def _result(turn: Message, names: dict[str, str], request: Request) -> JSON:
    answered = chat.call_id(turn)
    name = turn.extra.get("name") or names.get(answered)
    if not name:
        raise chat.refusal("a tool's result without the call it belongs to", request)
    text = chat.text_only(turn, request, "a tool's result")
    output = replies.json_or_none(text.encode(errors="replace"))
    # The result has to be an object; `output` is the name the API gives to anything else.
    response = output if isinstance(output, dict) else {"output": text}
    identified = {"id": answered} if answered else {}
    return {"functionResponse": {"name": str(name), **identified, "response": response}}


def _part(part: chat.Part, request: Request) -> JSON:
    if isinstance(part, chat.Native):
        if "type" in part.part:
            raise chat.refusal(f"parts of the type `{part.kind}`", request)
        return part.part  # Gemini's own parts have no type: `inlineData`, `fileData`…
    if isinstance(part, chat.Media):
        return _media(part, request)
    return {"text": part.text}


def _media(part: chat.Media, request: Request) -> JSON:
    mime = part.mime
    if mime is not None and not mime.startswith(_TAKEN) and mime not in _ALSO_TAKEN:
        raise chat.refusal(f"attachments of the type {mime}", request)
    if part.data is not None:
        if mime is None:
            raise chat.refusal("attachments of an unknown type", request, "give a data URL")
        return {"inlineData": {"mimeType": mime, "data": part.data}}
    located = {"fileUri": part.url or part.file_id}
    return {"fileData": {**located, "mimeType": mime} if mime else located}


def _from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Gemini's shape."""
    plain, tools, choice = chat.from_chat(request, _OPTIONS)
    options = dict(plain.options)
    if tools:
        options["tools"] = [{"functionDeclarations": [_tool(function) for function in tools]}]
    if choice is not None:
        how, name = choice
        named = {"allowedFunctionNames": [name]} if name else {}
        options["toolConfig"] = {"functionCallingConfig": {"mode": _MODES[how], **named}}
    return replace(plain, options=options)


def _tool(function: JSON) -> JSON:
    made = {key: function[key] for key in ("name", "description") if function.get(key)}
    if function.get("parameters"):
        made["parametersJsonSchema"] = function["parameters"]
    return made


# --- Answers ------------------------------------------------------------------------------------

_FILTERED: Finish = "content_filter"

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
         "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        _FILTERED,
    ),
}  # fmt: skip
"""The others (LANGUAGE, OTHER, MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL…): `other`."""


def _usage(value: object) -> Usage | None:
    """Input includes the cache in both; thoughts are beside the output there and part of it here.

    `toolUsePromptTokenCount`, what built-in tools fed back, is not in it: whether it is billed
    depends on the tool (ai.google.dev/gemini-api/docs/pricing).
    """
    found = replies.object_or_empty(value)
    if not found:
        return None
    thoughts = replies.token_count(found.get("thoughtsTokenCount"))
    return Usage(
        input=replies.token_count(found.get("promptTokenCount")),
        output=replies.token_count(found.get("candidatesTokenCount")) + thoughts,
        cached_input=replies.token_count(found.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )


def _content(candidate: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of a candidate, and whether it calls a function."""
    content = candidate.get("content")
    found = (content.get("parts") or ()) if content is not None else ()
    texts = [p["text"] for p in found if "text" in p and p.get("thought") is not True]
    return "".join(map(replies.required_text, texts)), any("functionCall" in part for part in found)


def _raise_if_blocked(found: Mapping[str, Any], usage: Usage | None) -> None:
    feedback = replies.object_or_empty(found.get("promptFeedback"))
    reason = replies.first_text(feedback, "blockReason")
    if found.get("candidates") or reason is None:
        return
    why = replies.first_text(feedback, "blockReasonMessage") or reason
    raise replies.content_filtered(f"the provider refused the prompt: {why}", usage)


def _stopped(candidate: Mapping[str, Any], usage: Usage | None) -> ContentFiltered:
    ratings = _objects(candidate, "safetyRatings")
    blocking = [str(rating.get("category")) for rating in ratings if rating.get("blocked") is True]
    why = replies.first_text(candidate, "finishMessage") or ", ".join(blocking)
    sentence = f"the provider's filter stopped the answer ({candidate.get('finishReason')})"
    return replies.content_filtered(sentence + (f": {why}" if why else ""), usage)


def _objects(found: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    """The objects in the list `name`."""
    listed = found.get(name)
    return map(replies.object_or_empty, listed if isinstance(listed, list) else ())


class GeminiReader(replies.BaseReader):
    """Reads one stream. It ends with the connection: complete once a reason to finish came.
    Every chunk counts all tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = False
        """Whether a function is called: Gemini calls that STOP as well."""
        self._finished = False

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:  # noqa: ARG002 - no names
        """One chunk, built like a complete answer."""
        if found.get("error"):
            raise _error_within(found)
        usage = _usage(found.get("usageMetadata"))
        _raise_if_blocked(found, usage)
        text, finish = "", None
        for candidate in found.get("candidates") or ():
            if replies.token_count(candidate.get("index")) != 0:
                continue  # one answer is read, the first
            text, calls = _content(candidate)
            self.calls = self.calls or calls
            finish = replies.finish_of(candidate.get("finishReason"), _FINISH)
            if finish == _FILTERED and not text and not self._has_text:
                raise _stopped(candidate, usage)
            finish = "tool_calls" if self.calls and finish == "stop" else finish
            self._finished = self._finished or finish is not None
        model = replies.first_text(found, "modelVersion")
        return StreamChunk(text=text, finish=finish, model=model, usage=usage)

    def end(self) -> StreamChunk:
        """Done, if the answer had finished."""
        return StreamChunk(done=self._finished)


# --- Errors -------------------------------------------------------------------------------------

_STATUS = {
    "UNAUTHENTICATED": "invalid_api_key",
    "PERMISSION_DENIED": "permission_error",
    "FAILED_PRECONDITION": "permission_error",  # the country, or a project without billing
    "NOT_FOUND": "not_found_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "UNAVAILABLE": "overloaded_error",
    "INVALID_ARGUMENT": "invalid_request_error",
}
"""Google's status names → codes that `replies` knows; the rest goes by the HTTP status."""

_BAD_KEY = re.compile(
    r"API key (?:not valid|not found|expired|was reported as leaked)|unregistered callers"
    r"|missing a valid API key",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"token count .*exceeds the maximum|exceeds the maximum number of tokens", re.DOTALL
)
_NO_CREDIT = re.compile(
    r"credits? (?:are|is|have been) (?:depleted|exhausted)|spending cap", re.IGNORECASE
)


def _error_within(answer: object) -> CallError:
    """The mapped error of an `error` inside a successful reply or a stream."""
    found = _error_object(answer)
    return _with_wait(replies.error_from_event(_with_code(found)), found)


def _error_object(answer: object) -> Mapping[str, Any]:
    """The `error` object; a stream that was not asked for as events wraps it in a list."""
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = replies.object_or_empty(answer).get("error")
    return {"message": error} if isinstance(error, str) else replies.object_or_empty(error)


def _details(found: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    listed = _objects(found, "details")
    return (item for item in listed if str(item.get("@type", "")).endswith(f".{name}"))


def _with_code(found: Mapping[str, Any]) -> dict[str, Any]:
    """The error with a `type` that `replies` knows."""
    status, message = str(found.get("status") or ""), str(found.get("message") or "")
    reasons = [str(info.get("reason")) for info in _details(found, "ErrorInfo")]
    if any(reason.startswith("API_KEY_INVALID") for reason in reasons) or _BAD_KEY.search(message):
        kind = "invalid_api_key"
    elif _per_day(found) or _NO_CREDIT.search(message):
        kind = "insufficient_quota"
    elif _TOO_LONG.search(message):
        kind = "context_length_exceeded"
    else:
        kind = _STATUS.get(status, status)
    return {**found, "message": message, "type": kind}


def _per_day(found: Mapping[str, Any]) -> bool:
    """Whether a quota of the day ran out: waiting a minute does not help."""
    return any(
        "perday" in str(violation.get("quotaId", "")).lower()
        for failed in _details(found, "QuotaFailure")
        for violation in _objects(failed, "violations")
    )


def _with_wait(error: CallError, found: Mapping[str, Any]) -> CallError:
    """The error; its `retry_after` is RetryInfo's where no header says it."""
    if error.retry_after is None and not isinstance(error, QuotaExhausted):
        for info in _details(found, "RetryInfo"):
            wait = replies.duration(str(info.get("retryDelay", "")))
            if wait is not None:
                error.retry_after = min(wait, replies.MAX_WAIT)
    return error
