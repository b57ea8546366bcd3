"""OpenRouter: chat completions of many providers, with the price of each in its usage.

Reference: openrouter.ai/docs/api-reference. Errors may arrive inside a 200; a stream begins with
comments while the provider behind it is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.errors import BadResponse
from llmctl.protocols import NO_RATE_HEADERS, RateHeaders, WireRequest
from llmctl.providers import replies
from llmctl.providers.openai_chat import AttachmentKind, ChatCompletions
from llmctl.types import JSON


class OpenRouter(ChatCompletions):
    """The codec; see `protocols.Codec`. `now` gives the seconds since the epoch."""

    takes = frozenset[AttachmentKind](
        {"image", "image_url", "file", "file_url", "audio", "other_audio"}
    )
    streams_usage = False  # every stream ends with usage and cost

    def part(self, part: JSON) -> JSON:
        """A file's address stands where its data would."""
        file = replies.object_or_empty(part.get("file"))
        if part.get("type") != "file" or "file_url" not in file:
            return part
        rest = {name: value for name, value in file.items() if name != "file_url"}
        return {"type": "file", "file": {**rest, "file_data": file["file_url"]}}

    def wait(self, headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """The wait in the body, by the provider behind it (`metadata.headers`)."""
        told = replies.object_or_empty(
            replies.object_or_empty(error.get("metadata")).get("headers")
        )
        return self.limits({k.lower(): str(v) for k, v in told.items()}).reset_requests

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`x-ratelimit-{remaining,reset}`; the reset is milliseconds since the epoch."""
        if "x-ratelimit-remaining" not in headers:
            return NO_RATE_HEADERS
        reset = replies.number(headers.get("x-ratelimit-reset"))
        wait = None if reset is None else max(0.0, reset / 1000 - self._now())
        return RateHeaders(
            remaining_requests=replies.count(headers.get("x-ratelimit-remaining")),
            limit_requests=replies.count(headers.get("x-ratelimit-limit")),
            reset_requests=wait,
        )

    def probe(self) -> WireRequest:
        """The list of models is public here; what the key is good for is not."""
        return WireRequest("/key", None, method="GET")

    def decode_probe(self, body: bytes) -> None:
        """What is said of the key. Raises `BadResponse` where nothing is: that was not OpenRouter,
        and the key may be good."""
        if not isinstance(replies.object_or_empty(replies.json_or_none(body)).get("data"), dict):
            raise BadResponse("nothing is said of this key; check `base_url`", retryable=False)
