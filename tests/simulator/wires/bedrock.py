"""Amazon Bedrock: Converse plain and streamed, the token count, models and inference profiles."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote
from zlib import crc32

import orjson

from tests.simulator.call import Ask, Json, bearer
from tests.simulator.reply import Problem, Usage

from .wire import Kind, Turn, Wire, dump, kind_of, load, spoken

_FINISH = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
    "refusal": "content_filtered",
}
_MEDIA = {"image": "image", "audio": "audio", "document": "application"}
_SAID: dict[Kind, tuple[int, str, str]] = {
    "auth": (403, "UnrecognizedClientException", "The security token is invalid."),
    "context": (400, "ValidationException", "Input is too long for requested model."),
    "invalid": (400, "ValidationException", ""),
    "missing": (404, "ResourceNotFoundException", ""),
    "not_found": (404, "ResourceNotFoundException", "Could not resolve the foundation model."),
    "overloaded": (503, "ServiceUnavailableException", "The service is currently unavailable."),
    "permission": (403, "AccessDeniedException", "You don't have access to the model."),
    "quota": (400, "ServiceQuotaExceededException", "You have exceeded your quota."),
    "rate": (429, "ThrottlingException", "Too many requests, please wait before trying again."),
    "server": (500, "InternalServerException", "The system encountered an unexpected error."),
    "timeout": (408, "ModelTimeoutException", "Model has timed out in processing the request."),
}


class Bedrock(Wire):
    """What every endpoint has in common: a bearer token or the access key of a signature, and
    Amazon's error shape."""

    names = "x-amzn-requestid"
    stream_type = "application/vnd.amazon.eventstream"

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take the token, or the access key that signed."""
        signed = re.search(r"Credential=([^/]+)/", headers.get("authorization", ""))
        return signed[1] if signed else bearer(headers)

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give the name of the error in the body, as the JSON protocols have it."""
        kind = kind_of(status, problem)
        code, name, message = _SAID[kind]
        if kind in {"invalid", "missing", "server"}:
            code, message = max(status, code), problem.message
        if kind == "permission":
            message = problem.message or message
        if kind == "auth":
            message = f"{message} ({problem.message})"
        return code, {"__type": f"com.amazon.coral.service#{name}", "message": message}

    def error_event(self, problem: Problem) -> bytes:
        """Give the error as an exception frame."""
        name = _SAID[kind_of(500, problem)][1]
        return exception_frame(name[0].lower() + name[1:], {"message": problem.message})

    def unknown_event(self) -> bytes:
        """Give an event of a kind that nobody knows, and a delta of one."""
        unheard = {"contentBlockIndex": 0, "delta": {"unheardOf": {"text": "unheard"}}}
        return frame("unheardOf", {"text": "unheard"}) + frame("contentBlockDelta", unheard)


class Converse(Bedrock):
    """`POST /model/M/converse` and `/converse-stream`."""

    place = "POST", ("/converse", "/converse-stream")

    def read(self, body: Json, path: str) -> Ask:
        """Read the conversation, the limits, and the model in the path, escaped once."""
        given = body.get("inferenceConfig") or {}
        form = (body.get("outputConfig") or {}).get("textFormat")
        schema = form and orjson.loads(form["structure"]["jsonSchema"]["schema"])
        system = [("system", body["system"])] if body.get("system") else []
        turns = [(turn["role"], list(_readable(turn["content"]))) for turn in body["messages"]]
        model, _, verb = path.rpartition("/model/")[2].partition("/")
        return spoken(
            [*system, *turns],
            model=unquote(model),
            max_tokens=given.get("maxTokens"),
            stream=verb == "converse-stream",
            temperature=given.get("temperature"),
            schema=schema,
        )

    def whole(self, turn: Turn) -> Json:
        """Give the message; its model is not told."""
        content: list[Json] = []
        if turn.thought:
            content.append({"reasoningContent": {"reasoningText": {"text": turn.thought}}})
        if turn.reply.text:
            content.append({"text": turn.reply.text})
        content += [
            {"toolUse": {"toolUseId": tool.id, "name": tool.name, "input": _arguments(tool)}}
            for tool in turn.reply.tool_calls
        ]
        message = {"role": "assistant", "content": content}
        return {"output": {"message": message}, "stopReason": _reason(turn)} | _metadata(turn)

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give a frame for every event; the usage comes after the reason to stop."""
        found = [frame("messageStart", {"role": "assistant"})]
        index = 0
        if turn.thought:
            found += _block(index, [{"reasoningContent": {"text": turn.thought}}])
            index += 1
        if turn.reply.text:
            found += _block(index, [{"text": piece} for piece in turn.pieces])
            index += 1
        for tool in turn.reply.tool_calls:
            start = {"toolUse": {"toolUseId": tool.id, "name": tool.name}}
            found.append(frame("contentBlockStart", {"contentBlockIndex": index, "start": start}))
            halves = tool.arguments[:5], tool.arguments[5:]
            found += _block(index, [{"toolUse": {"input": half}} for half in halves])
            index += 1
        found.append(frame("messageStop", {"stopReason": _reason(turn)}))
        found.append(frame("metadata", _metadata(turn)))
        return tuple(found)


class CountTokens(Bedrock):
    """`POST /model/M/count-tokens`."""

    billing = "free"
    place = "POST", "/count-tokens"

    def read(self, body: Json, path: str) -> Ask:
        """Read the request that would be sent."""
        return Converse().read(body["input"]["converse"], path)

    def whole(self, turn: Turn) -> Json:
        """Give the count."""
        return {"inputTokens": turn.usage.input}


class Models(Bedrock):
    """`GET /foundation-models`: the first model is called by its own id, another provisioned."""

    billing = "free"
    place = "GET", "/foundation-models"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give all there are."""
        listed = ((self.models[0], "ON_DEMAND"), (f"{self.models[0]}:0:48k", "PROVISIONED"))
        return {
            "modelSummaries": [
                {
                    "modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{name}",
                    "modelId": name,
                    "modelName": f"The {name}",
                    "inferenceTypesSupported": [kind],
                }
                for name, kind in listed
            ]
        }


class Profiles(Bedrock):
    """`GET /inference-profiles`: what the other models are called through."""

    billing = "free"
    place = "GET", "/inference-profiles"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the one page there is."""
        return {
            "inferenceProfileSummaries": [
                {"inferenceProfileId": name, "inferenceProfileName": f"The {name}"}
                for name in self.models[1:]
            ]
        }


def frame(event: str, payload: Json) -> bytes:
    """Write an event's frame."""
    return framed({":event-type": event, ":message-type": "event"}, dump(payload))


def exception_frame(name: str, payload: Json) -> bytes:
    """Write the frame of an exception."""
    return framed({":exception-type": name, ":message-type": "exception"}, dump(payload))


def swapped(frames: bytes, old: bytes, new: bytes) -> bytes:
    """The frames with a piece of their payloads in place of another, and sums that fit."""
    found = b""
    while frames:
        size, headers = struct.unpack(">II", frames[:8])
        one, frames = frames[:size], frames[size:]
        found += _message(one[12 : 12 + headers], one[12 + headers : -4].replace(old, new))
    return found


def framed(headers: Mapping[str, str], payload: bytes, more: bytes = b"") -> bytes:
    """Write a frame; `more` stands behind its headers as it is."""
    written = b""
    for name, value in {**headers, ":content-type": "application/json"}.items():
        written += bytes([len(name)]) + name.encode() + b"\x07"
        written += struct.pack(">H", len(value)) + value.encode()
    return _message(written + more, payload)


def _message(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return body + struct.pack(">I", crc32(body))


def _block(index: int, deltas: list[Json]) -> Iterator[bytes]:
    for delta in deltas:
        yield frame("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
    yield frame("contentBlockStop", {"contentBlockIndex": index})


def _readable(content: list[Any]) -> Iterator[Any]:
    """The blocks, with files as other wires have them."""
    for block in content:
        kind = next((name for name in _MEDIA if name in block), None)
        if kind is None:
            yield block
        else:
            media = f"{_MEDIA[kind]}/{block[kind]['format']}"
            yield {"media_type": media, "data": block[kind]["source"]["bytes"]}


def _reason(turn: Turn) -> str:
    return turn.reply.word or _FINISH[turn.reason]


def _arguments(tool: Any) -> Json:
    return load(tool.arguments.encode())


def _metadata(turn: Turn) -> Json:
    return {"usage": _usage(turn.usage), "metrics": {"latencyMs": 275}}


def _usage(usage: Usage) -> Json:
    """Give usage in Amazon's convention: the input leaves out what the cache has to do with."""
    return {
        "inputTokens": usage.input - usage.cached - usage.written,
        "outputTokens": usage.output,
        "totalTokens": usage.total,
        "cacheReadInputTokens": usage.cached,
        "cacheWriteInputTokens": usage.written,
    }
