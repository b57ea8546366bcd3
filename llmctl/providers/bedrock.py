"""Amazon Bedrock's Converse API, for the models of all vendors there. Pure: no I/O.

Reference: docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
…/API_runtime_ConverseStream.html, …/API_runtime_CountTokens.html, …/API_ListFoundationModels.html,
…/API_ListInferenceProfiles.html, …/userguide/structured-output.html, …/userguide/api-keys.html, and
the service model that botocore 1.44 brings along.

`options` go into `additionalModelRequestFields`, as the model itself calls them (`top_k`,
`thinking`…), except Converse's own fields: those of `inferenceConfig`, and those in `TOP_LEVEL`.
`inferenceConfig` and `additionalModelRequestFields` themselves are merged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count, groupby
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from msgspec.structs import replace

from llmctl.auth.extras import needs_extra
from llmctl.errors import BadResponse, CallError
from llmctl.pricing import BEDROCK_GEOGRAPHY
from llmctl.protocols import BodyFields, EventStream, WireRequest
from llmctl.providers import message_parts as chat
from llmctl.providers import replies
from llmctl.providers.anthropic import to_anthropic_schema
from llmctl.providers.aws_event_stream import EXCEPTION, AwsEventStream
from llmctl.providers.model_parameters import require_accepted
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
    {"messages", "system", "toolConfig", "guardrailConfig", "projectIdentifier", "promptVariables",
     "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "serviceTier",
     "outputConfig"}
)  # fmt: skip
"""Fields of a Converse request beside the two that are merged."""

_INFERENCE = frozenset({"maxTokens", "temperature", "topP", "stopSequences"})
_MERGED = ("inferenceConfig", "additionalModelRequestFields")
_COUNTED = ("messages", "system", "toolConfig", "additionalModelRequestFields")
"""What CountTokens takes of a request's fields (API_runtime_ConverseTokensRequest)."""

_MODELS = "/foundation-models?byOutputModality=TEXT"
_PROFILES = "/inference-profiles?"


class Bedrock(replies.BaseCodec):
    """The codec; see `protocols.Codec`. Raises `SetupError` without what reads its streams."""

    fields = BodyFields(("maxTokens",), ("messages", "system"), _MERGED)

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        super().__init__(now)
        needs_extra("aws", "botocore", "botocore")

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """The model is part of the path. An OpenAI-shaped body is translated."""
        verb = "converse-stream" if stream else "converse"
        return WireRequest(f"/model/{quote(request.target.model, safe='')}/{verb}", _body(request))

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The text blocks, cited ones too, joined; reasoning is no text. Raises `ContentFiltered`
        for an answer that was stopped before it said anything."""
        if found.get("error"):
            raise replies.error_from_event(found)
        content = found["output"]["message"]["content"]
        cited = [block["citationsContent"] for block in content if "citationsContent" in block]
        text = "".join(map(_text, content))
        usage = _usage(found)
        finish = replies.finish_of(found["stopReason"], _FINISH) or "other"
        if finish == "content_filter" and not text:
            sentence = f"the provider's filter stopped the answer ({found['stopReason']})"
            raise replies.content_filtered(sentence, None, usage)
        return ProviderReply(
            text, finish, "", usage,
            reason=replies.first_text(found, "stopReason"),
            tool_calls=tuple(
                replies.tool_call(tool["name"], tool.get("input"), tool.get("toolUseId"))
                for block in content
                if (tool := block.get("toolUse")) is not None and _is_ours(tool)
            ),
            citations=replies.kept([c for each in cited for c in each.get("citations") or ()]),
            beyond_text=any("image" in block for block in content),
        )  # fmt: skip

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usage`."""
        return _usage(found), None

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """Amazon names an error in a header, or in the body."""
        found = replies.object_or_empty(replies.json_or_none(body))
        name = headers.get("x-amzn-errortype") or replies.first_text(found, "__type")
        if name or "Message" in found:
            body = orjson.dumps(_named_error(name or "", found))
        return super().failure(status, headers, body)

    def events(self, start: bytes, content_type: str) -> EventStream | None:  # noqa: ARG002
        """Frames: the first one is shorter than 16 MiB, so that its length begins with a zero, as
        no JSON does."""
        return AwsEventStream() if start.startswith(b"\0") else None

    def reader(self) -> BedrockReader:
        """A reader for one stream: usage comes after the reason to finish."""
        return BedrockReader()

    def models(self, after: str | None) -> WireRequest:
        """The list of models, then a page of the inference profiles, whose path `after` is."""
        return WireRequest(after or _MODELS, None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The models that are called by their own id, or the inference profiles, which are called
        by theirs. Raises `BadResponse` for neither."""
        found = replies.object_or_empty(replies.json_or_none(body))
        if isinstance(found.get("modelSummaries"), list):
            listed = filter(_on_demand, replies.objects(found, "modelSummaries"))
            return _models(listed, "modelId", "modelName"), _PROFILES + _page(None)
        if not isinstance(found.get("inferenceProfileSummaries"), list):
            raise BadResponse("the list of models is none; check `base_url`", retryable=False)
        profiles = replies.objects(found, "inferenceProfileSummaries")
        after = replies.first_text(found, "nextToken")
        page = _models(profiles, "inferenceProfileId", "inferenceProfileName")
        return page, _PROFILES + _page(after) if after else None

    def count(self, request: Request) -> WireRequest:
        """The request is counted by the model's own id: an inference profile's is refused."""
        model = BEDROCK_GEOGRAPHY.sub("", request.target.model)
        body = {name: value for name, value in _body(request).items() if name in _COUNTED}
        path = f"/model/{quote(model, safe='')}/count-tokens"
        return WireRequest(path, {"input": {"converse": body}})


def _page(after: str | None) -> str:
    return urlencode({"maxResults": 1000, **({"nextToken": after} if after else {})})


def _on_demand(model: Mapping[str, Any]) -> bool:
    """Whether a model can be called by its own id; the others through a profile, or provisioned."""
    kinds = model.get("inferenceTypesSupported")
    return not isinstance(kinds, list) or "ON_DEMAND" in kinds


def _models(listed: Any, id: str, name: str) -> list[ModelInfo]:
    return [
        ModelInfo(id=found, name=replies.named(item, name))
        for item in listed
        if (found := replies.named(item, id))
    ]


def _body(request: Request) -> dict[str, Any]:
    require_accepted(request)
    if request.raw is not None:
        request = _from_openai(request)
    body: dict[str, Any] = _conversation(request)
    config: dict[str, Any] = {}
    if request.max_tokens is not None:
        config["maxTokens"] = request.max_tokens
    if request.temperature is not None:
        config["temperature"] = request.temperature
    merged: dict[str, dict[str, Any]] = dict(zip(_MERGED, (config, {}), strict=True))
    for name, value in request.options.items():
        if name in merged and isinstance(value, Mapping):
            merged[name].update(value)
        elif name in TOP_LEVEL:
            body[name] = value
        else:
            merged[_MERGED[name not in _INFERENCE]][name] = value
    body |= {name: found for name, found in merged.items() if found}
    if request.schema is not None:
        written = orjson.dumps(to_anthropic_schema(request.schema)).decode()
        form = {"type": "json_schema", "structure": {"jsonSchema": {"schema": written}}}
        body["outputConfig"] = {
            **replies.object_or_empty(body.get("outputConfig")),
            "textFormat": form,
        }
    return body


# --- Messages -----------------------------------------------------------------------------------

_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "application/json": "txt",
}
_SOUNDS = ("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "m4a", "webm")
_FILMS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/mov": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "video/mpeg": "mpeg",
}
_FORMATS: Mapping[str, tuple[str, str]] = {
    **{f"image/{form}": ("image", form) for form in ("png", "jpeg", "gif", "webp")},
    **{mime: ("document", form) for mime, form in _DOCUMENTS.items()},
    **{f"audio/{form}": ("audio", form) for form in _SOUNDS},
    "audio/mpeg": ("audio", "mp3"),
    **{mime: ("video", form) for mime, form in _FILMS.items()},
}
"""The block and format of a type (API_runtime_ImageBlock, DocumentBlock, AudioBlock, VideoBlock);
any other text is a document of plain text."""

_OPTIONS = {"top_p": "topP", "stop": "stopSequences"}
"""OpenAI's names → ours."""


def _conversation(request: Request) -> dict[str, Any]:
    """`messages`, and `system` where there is one: all instructions, wherever they stood. Roles
    take turns, as the API demands: what one says in several turns is one."""
    listed, numbers = list(chat.turns(request)), count(1)
    spoken = (turn for turn in listed if turn.role != "system")
    messages = [
        {
            "role": role,
            "content": [block for turn in group for block in _blocks(turn, request, numbers)],
        }
        for role, group in groupby(spoken, _role)
    ]
    system = [
        _block(part, request, numbers)
        for turn in listed
        if turn.role == "system"
        for part in chat.parts(turn, request)
    ]
    return {"messages": messages, **({"system": system} if system else {})}


def _role(turn: Message) -> str:
    return "assistant" if turn.role == "assistant" else "user"


def _blocks(turn: Message, request: Request, numbers: Iterator[int]) -> list[JSON]:
    found = [_block(part, request, numbers) for part in chat.parts(turn, request)]
    if turn.role == "tool":
        return [{"toolResult": {"toolUseId": chat.call_id(turn), "content": found}}]
    calls = chat.tool_calls(turn, request)
    return [
        *found,
        *({"toolUse": {"toolUseId": c.id, "name": c.name, "input": c.arguments}} for c in calls),
    ]


def _block(part: chat.Part, request: Request, numbers: Iterator[int]) -> JSON:
    if isinstance(part, chat.Native):
        if "type" in part.part:
            raise chat.refusal(f"parts of the type `{part.kind}`", request)
        return part.part  # Converse's own blocks have no type: `image`, `cachePoint`…
    if isinstance(part, chat.Media):
        return _media(part, request, numbers)
    return {"text": part.text}


def _media(part: chat.Media, request: Request, numbers: Iterator[int]) -> JSON:
    if part.data is None:
        raise chat.refusal("attachments by their address", request, "attach the file itself")
    mime = part.mime or ""
    kind, form = _FORMATS.get(mime, ("document", "txt" if mime.startswith("text/") else ""))
    if not form or (part.image and kind != "image" and mime != "application/pdf"):
        raise chat.refusal(f"attachments of the type {part.mime}", request)
    block = {"format": form, "source": {"bytes": part.data}}
    # A document has a name, which the model reads, and no other of the request has.
    return {kind: {**block, "name": f"document-{next(numbers)}"} if kind == "document" else block}


def _from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Converse's shape."""
    plain, tools, choice = chat.from_chat(request, _OPTIONS)
    how, name = choice or ("auto", None)
    if not tools or how == "none":  # there is no such choice: without tools none is called
        return plain
    config: dict[str, Any] = {"tools": [{"toolSpec": _tool(function)} for function in tools]}
    if choice is not None:
        word = {"required": "any", "named": "tool"}.get(how, how)
        config["toolChoice"] = {word: {"name": name} if name else {}}
    return replace(plain, options={**plain.options, "toolConfig": config})


def _tool(function: JSON) -> JSON:
    made = {key: function[key] for key in ("name", "description") if function.get(key)}
    made["inputSchema"] = {"json": function.get("parameters") or {"type": "object"}}
    if isinstance(function.get("strict"), bool):
        made["strict"] = function["strict"]
    return made


# --- Answers ------------------------------------------------------------------------------------

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
"""The others (`malformed_model_output`, `malformed_tool_use`): `other`."""


def _text(block: Mapping[str, Any]) -> str:
    """The text of a block, which may be cited."""
    if "citationsContent" in block:
        return "".join(map(_text, block["citationsContent"].get("content") or ()))
    return replies.required_text(block["text"]) if "text" in block else ""


def _is_ours(tool: Mapping[str, Any]) -> bool:
    """Whether a tool is the caller's to run: Amazon runs those that have a type itself."""
    return tool.get("type") is None


def _usage(whole: Mapping[str, Any]) -> Usage | None:
    """`inputTokens` leaves the cache out there and includes it here; reasoning is part of the
    output in both, and not told."""
    found = replies.object_or_empty(whole.get("usage"))
    read = replies.token_count(found.get("cacheReadInputTokens"))
    hour = sum(
        replies.token_count(each.get("inputTokens"))
        for each in replies.objects(found, "cacheDetails")
        if each.get("ttl") == "1h"
    )
    written = replies.token_count(found.get("cacheWriteInputTokens"))
    usage = Usage(
        input=replies.token_count(found.get("inputTokens")) + read + written,
        output=replies.token_count(found.get("outputTokens")),
        cached_input=read,
        cache_write=written,
        cache_write_1h=min(written, hour),
    )
    return replies.credible(usage)


def _named_error(name: str, found: Mapping[str, Any]) -> JSON:
    """An error as `replies` reads it: `ThrottlingException` of `throttlingException`, of
    `ThrottlingException:http://…` and of `com.amazon.coral.service#ThrottlingException`."""
    plain = name.rpartition("#")[2].partition(":")[0]
    message = replies.first_text(found, "message", "Message") or ""
    return {"code": plain[:1].upper() + plain[1:], "message": message}


class BedrockReader(replies.BaseReader):
    """Reads one stream. It ends with the connection, complete once a reason to finish came; the
    usage comes after that."""

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usage`."""
        return _usage(found), None

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One event; those that are not known say nothing."""
        if event == EXCEPTION:
            name = replies.first_text(found, "__type") or ""
            raise replies.error_from_event(_named_error(name, found))
        if event == "contentBlockStart":
            tool = found["start"].get("toolUse")
            if tool is not None and _is_ours(tool):
                self.call(_index(found), id=tool.get("toolUseId"), name=tool.get("name"))
        elif event == "contentBlockDelta":
            return self._delta(_index(found), found["delta"])
        elif event == "messageStop":
            reason = replies.first_text(found, "stopReason")
            return StreamChunk(finish=replies.finish_of(reason, _FINISH), reason=reason)
        elif event == "metadata":
            return StreamChunk(usage=_usage(found))
        return StreamChunk()

    def _delta(self, index: str, delta: Mapping[str, Any]) -> StreamChunk:
        if "toolUse" in delta and index in self.calls:
            self.call(index, arguments=delta["toolUse"].get("input"))
        if "citation" in delta:
            self.citations += replies.kept([delta["citation"]])
        return StreamChunk(text=_text(delta))


def _index(found: Mapping[str, Any]) -> str:
    return str(found.get("contentBlockIndex"))
