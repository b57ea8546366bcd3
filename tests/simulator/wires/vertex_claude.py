"""Google Cloud's Vertex AI: Anthropic's Messages API, asked by `rawPredict`."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from tests.simulator.call import Ask, Call, Json, bearer
from tests.simulator.http1 import Headers
from tests.simulator.limits import Standing
from tests.simulator.reply import Problem

from . import anthropic
from .vertex import publisher_models, refusal
from .wire import Turn, named_event

_SAMPLING = frozenset({"temperature", "top_p", "top_k"})


class VertexClaude(anthropic.Anthropic):
    """What every endpoint has in common: a bearer token, the version in the body, and Google's
    errors ahead of Anthropic's."""

    unsaid = frozenset({"retry-after", "retry-after-ms"})

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take a bearer token."""
        return bearer(headers)

    def objection(self, call: Call) -> str | None:
        """Miss the version, or mind what it has no longer."""
        body = call.body or {}
        version = body.get("anthropic_version")
        if version not in {"vertex-2023-10-16", "2026-10-21"}:
            return "anthropic_version: Field required"
        if "anthropic-version" in call.headers:
            return "anthropic-version: it belongs into the body"
        gone = _SAMPLING & body.keys()
        return f"{min(gone)}: removed in 2026-10-21" if gone and version == "2026-10-21" else None

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give Google's status, or what Anthropic says behind it."""
        return refusal(status, problem) or super().refuse(status, problem)

    def error_event(self, problem: Problem) -> bytes:
        """Give an `error` event: in a stream only Anthropic speaks."""
        return named_event(super().refuse(500, problem)[1])

    def rate_headers(self, standing: Mapping[str, Standing]) -> Headers:  # noqa: ARG002
        """Google says nothing of its limits."""
        return ()


class Messages(VertexClaude, anthropic.Messages):
    """`POST …/publishers/anthropic/models/M:rawPredict` and `:streamRawPredict`."""

    place = "POST", (":rawPredict", ":streamRawPredict")

    def objection(self, call: Call) -> str | None:
        """Mind a model in the body, or a verb that does not fit it."""
        body = call.body or {}
        if "model" in body:
            return "model: Extra inputs are not permitted"
        if bool(body.get("stream")) is not call.path.endswith(":streamRawPredict"):
            return "stream: it does not fit the verb"
        return super().objection(call)

    def read(self, body: Json, path: str) -> Ask:
        """Read the model in the path, and the rest as Anthropic does."""
        model = unquote(path).rpartition("/models/")[2].rpartition(":")[0]
        return super().read({**body, "model": model}, path)


class CountTokens(VertexClaude, anthropic.CountTokens):
    """`POST …/publishers/anthropic/models/count-tokens:rawPredict`."""

    place = "POST", "/models/count-tokens:rawPredict"


class Models(VertexClaude):
    """`GET /v1beta1/publishers/anthropic/models`."""

    billing = "free"
    place = "GET", "/v1beta1/publishers/anthropic/models"

    def objection(self, call: Call) -> str | None:  # noqa: ARG002
        """There is no body to hold a version."""
        return None

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the one page there is."""
        return publisher_models("anthropic", self.models)
