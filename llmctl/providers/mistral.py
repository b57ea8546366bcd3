"""Mistral: chat completions with documents and audio in parts of its own.

Reference: docs.mistral.ai/api.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from llmctl.protocols import NO_RATE_HEADERS, BodyFields, RateHeaders, WireRequest
from llmctl.providers.openai_chat import AttachmentKind, ChatCompletions
from llmctl.providers.replies import count, object_or_empty
from llmctl.types import JSON, RawRequest


class Mistral(ChatCompletions):
    """The codec; see `protocols.Codec`."""

    takes = frozenset[AttachmentKind](
        {"image", "image_url", "file", "file_url", "audio", "other_audio"}
    )
    fields = BodyFields(("max_tokens",), ("messages",))
    streams_usage = False  # the last chunk carries it unasked; unknown fields are refused

    def passed(self, raw: RawRequest, *, stream: bool) -> WireRequest:
        """A body that is passed through; OpenAI's newer name of the limit would be refused."""
        body = dict(raw.body)
        if (limit := body.pop("max_completion_tokens", None)) is not None:
            body.setdefault("max_tokens", limit)
        return super().passed(replace(raw, body=body), stream=stream)

    def part(self, part: JSON) -> JSON:
        """PDF files are `document_url`, also those that go along; audio is its base64."""
        kind = part.get("type")
        if kind == "file":
            file = object_or_empty(part.get("file"))
            if "file_id" in file:
                return {"type": "file", "file_id": file["file_id"]}
            url = file.get("file_url") or file.get("file_data")
            name = {"document_name": file["filename"]} if file.get("filename") else {}
            return {"type": "document_url", "document_url": url, **name}
        if kind == "input_audio":
            audio = part.get("input_audio")
            data = audio.get("data") if isinstance(audio, Mapping) else audio
            return {"type": "input_audio", "input_audio": data}
        return part

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """What is left of this minute; when it is full again is not said."""
        form = "x-ratelimit-remaining-{}-minute"
        requests, tokens = (count(headers.get(form.format(of))) for of in ("req", "tokens"))
        if requests is None and tokens is None:
            return NO_RATE_HEADERS
        return RateHeaders(remaining_requests=requests, remaining_tokens=tokens)
