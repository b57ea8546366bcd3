"""Google's Gemini API. Pure: no I/O; the clock is passed in.

Reference: ai.google.dev/api/generate-content, …/api/tokens, …/api/models, …/api/caching#Content,
ai.google.dev/gemini-api/docs/function-calling, …/thought-signatures, …/image-understanding,
…/document-processing, …/audio, …/troubleshooting, …/rate-limits, and google.rpc's ErrorInfo,
QuotaFailure and RetryInfo (cloud.google.com/apis/design/errors).

`options` go into `generationConfig` (`topP`, `seed`, `thinkingConfig`…), except the fields that
stand beside it: those in `TOP_LEVEL`, in either spelling. `generationConfig` itself is merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from llmctl.errors import ContentFiltered
from llmctl.protocols import BodyFields, WireRequest
from llmctl.providers import message_parts as chat
from llmctl.providers import replies
from llmctl.types import JSON, Finish, Message, ProviderReply, Request, StreamChunk, Usage

TOP_LEVEL = frozenset(
    {"tools", "toolConfig", "tool_config", "safetySettings", "safety_settings", "cachedContent",
     "cached_content", "systemInstruction", "system_instruction", "contents", "labels",
     "serviceTier", "service_tier", "store"}
)  # fmt: skip
"""Fields of GenerateContentRequest beside `generationConfig` (ai.google.dev/api/generate-content,
"Request body"; the API reads JSON in both spellings)."""

_CONFIG = ("generationConfig", "generation_config")
_PAGE = 1000  # models in one page: the most there can be (ai.google.dev/api/models, `pageSize`)


class Gemini(replies.BaseCodec):
    """The codec; see `protocols.Codec`."""

    fields = BodyFields(
        ("maxOutputTokens", "max_output_tokens"), ("contents", "systemInstruction"), _CONFIG
    )

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
        return ProviderReply(
            chunk.text, chunk.finish or "other", chunk.model or "", chunk.usage,
            reason=chunk.reason, beyond_text=reader.beyond_text,
            tool_calls=reader.tool_calls(), citations=replies.kept(reader.citations),
        )  # fmt: skip

    def wait(self, headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """RetryInfo's."""
        return retry_info(error)

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usageMetadata`."""
        return _usage(found), None

    def reader(self) -> GeminiReader:
        """A reader for one stream: it has no end mark of its own."""
        return GeminiReader()

    def models(self, after: str | None) -> WireRequest:
        """A page of the list."""
        query = {"pageSize": _PAGE, **({"pageToken": after} if after else {})}
        return WireRequest(f"/models?{urlencode(query)}", None, method="GET")

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
    system = [
        _part(part, request)
        for turn in listed
        if turn.role == "system"
        for part in chat.parts(turn, request)
    ]
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


def _turn(turn: Message, names: dict[str, str], request: Request) -> JSON:
    made = [_part(part, request) for part in chat.parts(turn, request)]
    for index, call in enumerate(chat.tool_calls(turn, request)):
        names[call.id] = call.name
        signature = call.signature
        if index == 0 and not request.target.model.startswith(_WITHOUT_SIGNATURES):
            signature = signature or _UNSIGNED
        identified = {"id": call.id} if call.id else {}
        part = {"functionCall": {"name": call.name, "args": call.arguments, **identified}}
        made.append({**part, "thoughtSignature": signature} if signature else part)
    role = "model" if turn.role == "assistant" else "user"
    return {"role": role, "parts": made or [{"text": ""}]}


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
    if request.options.get("store") is False:  # of the rules of where data may go
        options["store"] = False
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


def retry_info(error: Mapping[str, Any]) -> float | None:
    """Seconds to wait by the RetryInfo in the details of Google's errors."""
    delays = (str(info.get("retryDelay", "")) for info in replies.objects(error, "details"))
    return next(filter(None, map(replies.duration, delays)), None)


_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
         "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        "content_filter",
    ),
}  # fmt: skip
"""The others (LANGUAGE, OTHER, MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL…): `other`."""


def _usage(whole: Mapping[str, Any]) -> Usage | None:
    """Thoughts are beside the output there and part of it here, what tools read beside the input.
    Grounding is billed by the search (Gemini 3), or by the prompt that was grounded."""
    found = replies.object_or_empty(whole.get("usageMetadata"))
    if not found:
        return None
    count = replies.token_count
    thoughts = count(found.get("thoughtsTokenCount"))
    usage = Usage(
        input=count(found.get("promptTokenCount")) + count(found.get("toolUsePromptTokenCount")),
        output=count(found.get("candidatesTokenCount")) + thoughts,
        cached_input=count(found.get("cachedContentTokenCount")),
        reasoning=thoughts,
        audio_input=_of(found, "promptTokensDetails", "AUDIO"),
        audio_output=_of(found, "candidatesTokensDetails", "AUDIO"),
        image_output=_of(found, "candidatesTokensDetails", "IMAGE"),
        searches=sum(map(_searches, replies.objects(whole, "candidates"))),
    )
    more = count(found.get("totalTokenCount")) - usage.input - usage.output
    if more > 0:  # a side that is not said
        usage = replace(usage, output=usage.output + more, estimated=True)
    return replies.credible(usage)


def _of(found: Mapping[str, Any], name: str, modality: str) -> int:
    each = [one for one in replies.objects(found, name) if one.get("modality") == modality]
    return sum(replies.token_count(one.get("tokenCount")) for one in each)


def _searches(candidate: Mapping[str, Any]) -> int:
    grounding = replies.object_or_empty(candidate.get("groundingMetadata"))
    queries = grounding.get("webSearchQueries")
    return len(queries) if isinstance(queries, list) else 0


class GeminiReader(replies.BaseReader):
    """Reads one stream. It ends with the connection: complete once a reason to finish came.
    Every chunk counts all tokens so far."""

    beyond_text = False  # whether it gives images or sound

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usageMetadata`."""
        return _usage(found), None

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:  # noqa: ARG002 - no names
        """One chunk, built like a complete answer."""
        if found.get("error"):
            raise replies.error_from_event(found)
        usage = _usage(found)
        feedback = replies.object_or_empty(found.get("promptFeedback"))
        if (blocked := replies.first_text(feedback, "blockReason")) and not found.get("candidates"):
            why = replies.first_text(feedback, "blockReasonMessage") or blocked
            raise replies.content_filtered("the provider refused the prompt", why, usage)
        text, finish, reason = "", None, None
        for candidate in found.get("candidates") or ():
            if replies.token_count(candidate.get("index")) != 0:
                continue  # one answer is read, the first
            parts = (candidate.get("content") or {}).get("parts") or ()
            said = (p["text"] for p in parts if "text" in p and p.get("thought") is not True)
            text = "".join(map(replies.required_text, said))
            for made in (part["functionCall"] for part in parts if "functionCall" in part):
                written = replies.tool_call(made.get("name"), made.get("args"))["function"]
                self.call(len(self.calls), id=made.get("id"), **written)
            self.beyond_text = self.beyond_text or any("inlineData" in part for part in parts)
            grounds = replies.object_or_empty(candidate.get("groundingMetadata"))
            cited = replies.object_or_empty(candidate.get("citationMetadata"))
            self.citations += replies.kept(grounds.get("groundingChunks"))
            self.citations += replies.kept(cited.get("citationSources", cited.get("citations")))
            reason = replies.first_text(candidate, "finishReason")
            finish = replies.finish_of(candidate.get("finishReason"), _FINISH)
            if finish == "content_filter" and not text and not self._has_text:
                raise _stopped(candidate, usage)
            finish = "tool_calls" if self.calls and finish == "stop" else finish
        model = replies.named(found, "modelVersion")
        return StreamChunk(text=text, finish=finish, model=model, usage=usage, reason=reason)


def _stopped(candidate: Mapping[str, Any], usage: Usage | None) -> ContentFiltered:
    ratings = replies.objects(candidate, "safetyRatings")
    blocking = [str(rating.get("category")) for rating in ratings if rating.get("blocked") is True]
    why = replies.first_text(candidate, "finishMessage") or ", ".join(blocking)
    sentence = f"the provider's filter stopped the answer ({candidate.get('finishReason')})"
    return replies.content_filtered(sentence, why, usage)
