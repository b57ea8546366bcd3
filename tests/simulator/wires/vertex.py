"""Google Cloud's Vertex AI: Gemini behind projects, regions and bearer tokens."""

from __future__ import annotations

from collections.abc import Mapping

from tests.simulator.call import Ask, Call, Json, bearer
from tests.simulator.reply import Problem

from . import gemini
from .wire import Kind, Turn, kind_of

_DENIED = (
    "Permission 'aiplatform.endpoints.predict' denied on resource "
    "'//aiplatform.googleapis.com/projects/sim/locations/europe-west1' (or it may not exist)."
)
_UNKNOWN = (
    "Publisher Model `nobody` was not found or your project does not have access to it. Please "
    "ensure you are using a valid model version."
)
_UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
    "or other valid authentication credential."
)
_SAID: Mapping[Kind, tuple[int, str, str]] = {
    "auth": (401, "UNAUTHENTICATED", _UNAUTHENTICATED),
    "permission": (403, "PERMISSION_DENIED", _DENIED),
    "not_found": (404, "NOT_FOUND", _UNKNOWN),
    "rate": (429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."),
}


def refusal(status: int, problem: Problem) -> tuple[int, Json] | None:
    """Give what Google says before any publisher's model is asked; None where it lets it pass."""
    kind = kind_of(status, problem)
    if kind not in _SAID:
        return None
    code, word, message = _SAID[kind]
    if kind == "auth":
        message = f"{message} ({problem.message})"
    error: Json = {"code": code, "message": message, "status": word}
    if problem.wait:
        kind_of_wait = "type.googleapis.com/google.rpc.RetryInfo"
        error["details"] = [{"@type": kind_of_wait, "retryDelay": f"{problem.wait}s"}]
    return code, {"error": error}


def publisher_models(publisher: str, names: tuple[str, ...]) -> Json:
    """Give the one page there is."""
    return {
        "publisherModels": [
            {
                "name": f"publishers/{publisher}/models/{name}",
                "versionId": "default",
                "openSourceCategory": "PROPRIETARY",
                "launchStage": "GA",
            }
            for name in names
        ]
    }


class Vertex(gemini.Gemini):
    """What every endpoint has in common: a bearer token, and Google's errors."""

    def key(self, headers: Mapping[str, str]) -> str | None:
        """Take a bearer token."""
        return bearer(headers)

    def refuse(self, status: int, problem: Problem) -> tuple[int, Json]:
        """Give Google's status."""
        return refusal(status, problem) or super().refuse(status, problem)


class Generate(Vertex, gemini.Generate):
    """`POST …/publishers/google/models/M:generateContent` and `:streamGenerateContent?alt=sse`."""

    def frame(self, turn: Turn, *, last: bool) -> Json:
        """Count the tokens with the last chunk only."""
        found = super().frame(turn, last=last)
        used = found["usageMetadata"] if last else {}
        return {**found, "usageMetadata": {**used, "trafficType": "ON_DEMAND"}}


class CountTokens(Vertex, gemini.CountTokens):
    """`POST …/publishers/google/models/M:countTokens`."""

    def objection(self, call: Call) -> str | None:
        """Mind what only the Gemini API knows."""
        known = {"contents", "systemInstruction", "tools", "generationConfig", "model", "instances"}
        unknown = set(call.body or {}) - known
        return f'Unknown name "{min(unknown)}": Cannot find field.' if unknown else None

    def read(self, body: Json, path: str) -> Ask:
        """Read the request that would be sent."""
        return Generate().read(body, path)


class Models(Vertex):
    """`GET /v1beta1/publishers/google/models`."""

    billing = "free"
    place = "GET", "/v1beta1/publishers/google/models"

    def whole(self, turn: Turn) -> Json:  # noqa: ARG002  (the seam passes it)
        """Give the one page there is."""
        return publisher_models("google", self.models)
