"""OpenRouter: chat completions of many providers, with the price of each in its usage.

Reference: openrouter.ai/docs/api-reference. Errors may arrive inside a 200; a stream begins with
comments while the provider behind it is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmctl.errors import AuthFailed, CallError, RateLimited
from llmctl.protocols import NO_RATE_HEADERS, RateHeaders, WireRequest
from llmctl.providers import replies
from llmctl.providers.openai_base import AttachmentKind
from llmctl.providers.openai_chat import ChatCompletions
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

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The mapped error; the wait may stand in the body (`metadata.headers`)."""
        error = super().failure(status, headers, body)
        if isinstance(error, RateLimited) and error.retry_after is None:
            metadata = replies.object_or_empty(replies.error_body(body).get("metadata"))
            told = replies.object_or_empty(metadata.get("headers"))
            lower = {str(name).lower(): str(value) for name, value in told.items()}
            wait = self.limits(lower).reset_requests
            error.retry_after = None if wait is None else min(wait, replies.MAX_WAIT)
        return error

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
        """What is said of the key."""
        if not isinstance(replies.object_or_empty(replies.json_value(body)).get("data"), dict):
            raise AuthFailed("OpenRouter says nothing of this key")
