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
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from msgspec.structs import replace

from llmctl.errors import CallError, ContentFiltered, QuotaExhausted
from llmctl.protocols import WireRequest
from llmctl.providers.message_parts import (
    Media,
    Native,
    Part,
    ToolCall,
    call_id,
    from_chat,
    functions,
    parts,
    refusal,
    text_only,
    tool_calls,
    tool_choice,
    turns,
)
from llmctl.providers.replies import (
    MAX_WAIT,
    BaseCodec,
    BaseReader,
    content_filtered,
    duration,
    error_from_event,
    finish_of,
    first_text,
    json_object,
    json_or_none,
    listing,
    object_or_empty,
    required_text,
    shape_errors,
    token_count,
)
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


class Gemini(BaseCodec):
    """The codec; see `protocols.Codec`."""

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """The model is part of the path. An OpenAI-shaped body is translated."""
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return WireRequest(f"/{_model(request)}:{verb}", _body(request))

    def auth(self, key: str) -> Mapping[str, str]:
        """The key has a header of its own; it never stands in the address."""
        return {"x-goog-api-key": key}

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The first candidate's text, without thoughts. Raises `ContentFiltered` for a blocked
        prompt, and for an answer that was stopped before it said anything."""
        if found.get("error"):
            raise _error_within(found)
        usage = _usage(found.get("usageMetadata"))
        _raise_if_blocked(found, usage)
        candidate = found["candidates"][0]
        text, calls = _content(candidate)
        finish = _finish(candidate.get("finishReason"), calls=calls)
        if finish is None and not text and not calls:
            raise KeyError("finishReason")
        if finish == _FILTERED and not text:
            raise _stopped(candidate, usage)
        model = first_text(found, "modelVersion") or ""
        return ProviderReply(text, finish or "other", model, usage)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """By status, `details` and message: the wait and what ran out stand in the body."""
        found = _error_object(json_or_none(body))
        known = orjson.dumps({"error": _with_code(found)}) if found else body
        return _with_wait(super().failure(status, headers, known), found)

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
        found, listed = listing(body, "models")
        models = [
            ModelInfo(
                id=(first_text(model, "name") or "").removeprefix("models/"),
                name=first_text(model, "displayName"),
                context=token_count(model.get("inputTokenLimit")) or None,
                output=token_count(model.get("outputTokenLimit")) or None,
            )
            for model in listed
        ]
        return models, first_text(found, "nextPageToken")

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
        found = json_object(body)
        with shape_errors(body):
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
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = request.schema
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
    "tools": "tools",
    "tool_choice": "tool_choice",
}
"""OpenAI's names → ours; the values of the last two are translated below."""

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
    listed = list(turns(request))
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
    found: dict[str, Any] = {"contents": contents}
    if system:
        # The role means nothing, but Google's own SDK sends it.
        found["systemInstruction"] = {"parts": system, "role": "user"}
    return found


def _parts(turn: Message, request: Request) -> list[JSON]:
    return [_part(part, request) for part in parts(turn, request)]


def _turn(turn: Message, names: dict[str, str], request: Request) -> JSON:
    made = _parts(turn, request)
    for index, call in enumerate(tool_calls(turn, request)):
        names[call.id] = call.name
        made.append(_function_call(call, request, first=index == 0))
    role = "model" if turn.role == "assistant" else "user"
    return {"role": role, "parts": made or [{"text": ""}]}


def _function_call(call: ToolCall, request: Request, *, first: bool) -> JSON:
    made: dict[str, Any] = {"name": call.name, "args": call.arguments}
    if call.id:
        made["id"] = call.id
    part: dict[str, Any] = {"functionCall": made}
    if call.signature:
        part["thoughtSignature"] = call.signature
    elif first and not request.target.model.startswith(_WITHOUT_SIGNATURES):
        part["thoughtSignature"] = _UNSIGNED
    return part


def _result(turn: Message, names: dict[str, str], request: Request) -> JSON:
    answered = call_id(turn)
    name = turn.extra.get("name") or names.get(answered)
    if not name:
        raise refusal("a tool's result without the call it belongs to", request)
    text = text_only(turn, request, "a tool's result")
    output = json_or_none(text.encode(errors="replace"))
    made: dict[str, Any] = {"name": str(name)}
    if answered:
        made["id"] = answered
    # The result has to be an object; `output` is the name the API gives to anything else.
    made["response"] = output if isinstance(output, dict) else {"output": text}
    return {"functionResponse": made}


def _part(part: Part, request: Request) -> JSON:
    if isinstance(part, Native):
        if "type" in part.part:
            raise refusal(f"parts of the type `{part.kind}`", request)
        return part.part  # Gemini's own parts have no type: `inlineData`, `fileData`…
    if isinstance(part, Media):
        return _media(part, request)
    return {"text": part.text}


def _media(part: Media, request: Request) -> JSON:
    mime = part.mime
    if mime is not None and not mime.startswith(_TAKEN) and mime not in _ALSO_TAKEN:
        raise refusal(f"attachments of the type {mime}", request)
    if part.data is not None:
        if mime is None:
            raise refusal("attachments of an unknown type", request, "give a data URL")
        return {"inlineData": {"mimeType": mime, "data": part.data}}
    located = {"fileUri": part.url or part.file_id}
    return {"fileData": {**located, "mimeType": mime} if mime else located}


def _from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Gemini's shape."""
    plain = from_chat(request, _OPTIONS)
    options = dict(plain.options)
    tools, choice = options.pop("tools", None), options.pop("tool_choice", None)
    if tools:
        declared = [_tool(function) for function in functions(tools, request)]
        options["tools"] = [{"functionDeclarations": declared}]
    if choice is not None:
        how, name = tool_choice(choice, request)
        config: dict[str, Any] = {"mode": _MODES[how]}
        if name:
            config["allowedFunctionNames"] = [name]
        options["toolConfig"] = {"functionCallingConfig": config}
    return replace(plain, options=options)


def _tool(function: JSON) -> JSON:
    made: dict[str, Any] = {"name": function["name"]}
    if function.get("description"):
        made["description"] = function["description"]
    if function.get("parameters"):
        made["parametersJsonSchema"] = function["parameters"]
    return made


# --- Answers ------------------------------------------------------------------------------------

_FILTERED: Finish = "content_filter"

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": _FILTERED,
    "RECITATION": _FILTERED,
    "BLOCKLIST": _FILTERED,
    "PROHIBITED_CONTENT": _FILTERED,
    "SPII": _FILTERED,
    "IMAGE_SAFETY": _FILTERED,
    "IMAGE_PROHIBITED_CONTENT": _FILTERED,
    "IMAGE_RECITATION": _FILTERED,
    "MODEL_ARMOR": _FILTERED,
}
"""The others (LANGUAGE, OTHER, MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL…): `other`."""

_NO_REASON = ("BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")


def _usage(value: object) -> Usage | None:
    """Input includes the cache in both; thoughts are beside the output there and part of it here.

    `toolUsePromptTokenCount`, what built-in tools fed back, is not in it: whether it is billed
    depends on the tool (ai.google.dev/gemini-api/docs/pricing).
    """
    found = object_or_empty(value)
    if not found:
        return None
    thoughts = token_count(found.get("thoughtsTokenCount"))
    return Usage(
        input=token_count(found.get("promptTokenCount")),
        output=token_count(found.get("candidatesTokenCount")) + thoughts,
        cached_input=token_count(found.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )


def _content(candidate: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of a candidate, and whether it calls a function."""
    content = candidate.get("content")
    found = (content.get("parts") or ()) if content is not None else ()
    texts = [p["text"] for p in found if "text" in p and p.get("thought") is not True]
    return "".join(map(required_text, texts)), any("functionCall" in part for part in found)


def _finish(reason: object, *, calls: bool) -> Finish | None:
    """Gemini calls it STOP as well when a function shall be called."""
    finish = finish_of(reason, _FINISH)
    return "tool_calls" if calls and finish == "stop" else finish


def _raise_if_blocked(found: Mapping[str, Any], usage: Usage | None) -> None:
    feedback = object_or_empty(found.get("promptFeedback"))
    reason = first_text(feedback, "blockReason")
    if found.get("candidates") or reason is None:
        return
    why = first_text(feedback, "blockReasonMessage") or reason
    known = "" if reason in _NO_REASON else f": {why}"
    raise content_filtered(f"the provider refused the prompt{known}", usage)


def _stopped(candidate: Mapping[str, Any], usage: Usage | None) -> ContentFiltered:
    ratings = candidate.get("safetyRatings")
    blocking = [
        str(rating.get("category"))
        for rating in map(object_or_empty, ratings if isinstance(ratings, list) else ())
        if rating.get("blocked") is True
    ]
    why = first_text(candidate, "finishMessage") or ", ".join(blocking)
    sentence = f"the provider's filter stopped the answer ({candidate.get('finishReason')})"
    return content_filtered(sentence + (f": {why}" if why else ""), usage)


class GeminiReader(BaseReader):
    """Reads one stream. It ends with the connection: complete once a reason to finish came.
    Every chunk counts all tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = False
        self._finished = False

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:  # noqa: ARG002 - no names
        """One chunk, built like a complete answer."""
        if found.get("error"):
            raise _error_within(found)
        usage, model = _usage(found.get("usageMetadata")), first_text(found, "modelVersion")
        _raise_if_blocked(found, usage)
        text, finish = "", None
        for candidate in found.get("candidates") or ():
            if token_count(candidate.get("index")) != 0:
                continue  # one answer is read, the first
            text, calls = _content(candidate)
            self._calls = self._calls or calls
            finish = _finish(candidate.get("finishReason"), calls=self._calls)
            self._finished = self._finished or finish is not None
            if finish == _FILTERED and not text and not self._has_text:
                raise _stopped(candidate, usage)
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
    return _with_wait(error_from_event(_with_code(found)), found)


def _error_object(answer: object) -> Mapping[str, Any]:
    """The `error` object; a stream that was not asked for as events wraps it in a list."""
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = object_or_empty(answer).get("error")
    return {"message": error} if isinstance(error, str) else object_or_empty(error)


def _details(found: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    details = found.get("details")
    for item in map(object_or_empty, details if isinstance(details, list) else ()):
        if str(item.get("@type", "")).endswith(f".{name}"):
            yield item


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
    for failed in _details(found, "QuotaFailure"):
        violations = failed.get("violations")
        for violation in map(object_or_empty, violations if isinstance(violations, list) else ()):
            if "perday" in str(violation.get("quotaId", "")).lower():
                return True
    return False


def _with_wait(error: CallError, found: Mapping[str, Any]) -> CallError:
    """The error; its `retry_after` is RetryInfo's where no header says it."""
    if error.retry_after is None and not isinstance(error, QuotaExhausted):
        for info in _details(found, "RetryInfo"):
            wait = duration(str(info.get("retryDelay", "")))
            if wait is not None:
                error.retry_after = min(wait, MAX_WAIT)
    return error
