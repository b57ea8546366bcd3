"""Google Cloud's Vertex AI: Gemini, and Anthropic's Claude. Pure: no I/O; the clock is passed in.

Reference: docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference,
…/docs/model-reference/count-tokens, …/docs/partner-models/claude/use-claude,
docs.cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/publishers.models/list, and what
google-genai 3.6 and anthropic 2.14 send.

An address ends at the publisher of the models:
`https://HOST/v1/projects/PROJECT/locations/REGION/publishers/PUBLISHER`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import orjson

from llmctl.errors import CallError, PermissionRefused
from llmctl.protocols import WireRequest
from llmctl.providers import replies
from llmctl.providers.anthropic import WITHOUT_SAMPLING, Anthropic
from llmctl.providers.gemini import Gemini, retry_info
from llmctl.types import JSON, ModelInfo, Request

SAMPLING_VERSION = "vertex-2023-10-16"
"""The `anthropic_version` that takes `temperature`, `top_p` and `top_k`
(platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai)."""

_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_ROOT = "../" * 7  # above v1/projects/PROJECT/locations/REGION/publishers/PUBLISHER
_DENIED = re.compile(r"Permission '?aiplatform\.[\w.]+'? denied")
_COUNTED = ("contents", "systemInstruction", "tools", "generationConfig")
"""What countTokens takes of a request's fields, beside its model."""


class _Vertex(replies.BaseCodec):
    """What the models of all publishers share."""

    publisher: ClassVar[str]

    def auth(self, key: str) -> Mapping[str, str]:
        """The bearer header."""
        return replies.BaseCodec.auth(self, key)

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """As everywhere, with the role that is missing."""
        error = super().failure(status, headers, body)
        if isinstance(error, PermissionRefused) and _DENIED.search(str(error)):
            said = str(error).rstrip(". ")
            error.args = (f"{said}; the account needs the role roles/aiplatform.user there",)
        return error

    def wait(self, headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:  # noqa: ARG002
        """RetryInfo's: it is Google that limits, whoever made the model."""
        return retry_info(error)

    def models(self, after: str | None) -> WireRequest:
        """A page of the publisher's models, which only this version lists; they stand above
        projects and regions, where not each of them is served."""
        query = f"?{urlencode({'pageToken': after})}" if after else ""
        path = f"{_ROOT}v1beta1/publishers/{self.publisher}/models{query}"
        return WireRequest(path, None, method="GET")

    def decode_models(self, body: bytes) -> tuple[list[ModelInfo], str | None]:
        """The models of a page, by the names that a request takes."""
        found = replies.object_or_empty(replies.json_or_none(body))
        if not isinstance(found.get("publisherModels"), list):
            return super().decode_models(body)
        named = [str(each.get("name", "")) for each in replies.objects(found, "publisherModels")]
        listed = [{"id": name.rpartition("/")[2]} for name in named]
        page = {"models": listed, "nextPageToken": found.get("nextPageToken")}
        return super().decode_models(orjson.dumps(page))


class VertexGemini(_Vertex, Gemini):
    """The codec of Google's models; see `protocols.Codec`."""

    publisher = "google"

    def count(self, request: Request) -> WireRequest:
        """The request's own fields are counted, without another around them."""
        wire = self.encode(request, stream=False)
        body = {name: wire.body[name] for name in _COUNTED if wire.body and name in wire.body}
        return WireRequest(f"{wire.path.rpartition(':')[0]}:countTokens", body)


class VertexClaude(_Vertex, Anthropic):
    """The codec of Anthropic's models; see `protocols.Codec`. The model stands in the address, the
    version of the API in the body."""

    publisher = "anthropic"

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A message, or the raw body of one as it is. An OpenAI-shaped body is translated."""
        wire = super().encode(request, stream=stream)
        body = {name: value for name, value in (wire.body or {}).items() if name != "model"}
        model = quote(request.target.model, safe="@")
        verb = "streamRawPredict" if stream else "rawPredict"
        return WireRequest(f"/models/{model}:{verb}", _versioned(body), _without_version(wire))

    def count(self, request: Request) -> WireRequest:
        """A model of its own counts for all of them."""
        wire = super().count(request)
        body = _versioned(wire.body or {})
        return WireRequest("/models/count-tokens:rawPredict", body, _without_version(wire))


def _versioned(body: JSON) -> dict[str, Any]:
    """The body with the version of Anthropic's SDK; with sampling parameters, which that one
    refuses, the version before it."""
    version = SAMPLING_VERSION if _SAMPLING & body.keys() else WITHOUT_SAMPLING
    return {**body, "anthropic_version": version}


def _without_version(wire: WireRequest) -> Mapping[str, str]:
    return {name: value for name, value in wire.headers.items() if name != "anthropic-version"}
