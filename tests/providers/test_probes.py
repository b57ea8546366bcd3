"""`keys check` at every provider, by that provider's real replies: a good key is never called bad,
nor a bad one good.

Replies: platform.openai.com/docs/guides/error-codes, platform.claude.com/docs/en/api/errors,
ai.google.dev/gemini-api/docs/troubleshooting, docs.cohere.com/reference/checkapikey,
docs.mistral.ai/api, openrouter.ai/docs/api-reference/api-keys/get-current-key,
console.groq.com/docs/errors, learn.microsoft.com/azure/ai-foundry/openai/how-to/managed-identity,
github.com/microsoft/semantic-kernel/issues/10020.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.auth.key_auth import FixedKey, KeyAuth, bearer
from llmctl.clock import SystemClock
from llmctl.config.settings import Profile
from llmctl.errors import CallError
from llmctl.protocols import Auth
from llmctl.providers.models_api import probe
from llmctl.providers.registry import PRESETS
from tests.simulator.loopback import Asked, Loopback, Said

KEY = "probe-key-canary-4711"

PATHS = {
    "openai": "/v1",
    "anthropic": "/v1",
    "gemini": "/v1beta",
    "cohere": "/v2",
    "mistral": "/v1",
    "openrouter": "/api/v1",
    "groq": "/openai/v1",
}
V1 = Profile("az", "openai", "openai", "/openai/v1", "mine", key_header="api-key")
DEPLOYMENT = replace(V1, base_url="/openai/deployments/mine", query={"api-version": "2024-10-21"})
FOUNDRY = Profile("claude", "anthropic", "anthropic", "/anthropic/v1", "claude-sonnet-5-5")


class Provider(Loopback):
    """Replies by method and path; what it has no reply for is not found."""

    def __init__(self, replies: Mapping[str, tuple[int, Any]]) -> None:
        super().__init__()
        self._replies = replies

    def reply(self, asked: Asked) -> Said:
        """The reply to this request."""
        missing = 404, {"error": {"code": "404", "message": "Resource not found"}}
        status, said = self._replies.get(f"{asked.method} {asked.path}", missing)
        return status, {}, said


def at(name: str) -> Profile:
    """A profile of the preset, whose address is a path."""
    return Profile(name, name, name, PATHS[name], PRESETS[name].model)


def checked(
    profile: Profile, replies: Mapping[str, tuple[int, Any]], proof: str | Auth = KEY
) -> tuple[str, list[Asked]]:
    """What the check says (`good`, or the type of its error), and what it asked."""
    with Provider(replies) as provider:
        there = replace(profile, base_url=provider.origin + profile.base_url)
        try:
            asyncio.run(probe(there, proof, SystemClock()))
        except CallError as error:
            return error.row_type, provider.asked
        return "good", provider.asked


def fields(kind: str, message: str, code: str | None = None) -> dict[str, Any]:
    """An error of OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def google(status: str, message: str, reason: str) -> dict[str, Any]:
    """An error of Google's."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}
    return {"error": {"message": message, "status": status, "details": [info]}}


def azure(code: str, message: str) -> dict[str, Any]:
    """An error of Azure's."""
    return {"error": {"code": code, "message": message}}


def claude(kind: str, message: str) -> dict[str, Any]:
    """An error of Anthropic's."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


LIST = {"object": "list", "data": [{"id": "m", "object": "model"}]}
MODELS = {
    "openai": ("GET /v1/models", LIST),
    "anthropic": (
        "GET /v1/models",
        {"data": [{"type": "model", "id": "claude-sonnet-5-5"}], "has_more": False},
    ),
    "gemini": ("GET /v1beta/models", {"models": [{"name": "models/gemini-3.8-flash"}]}),
    "cohere": ("POST /v1/check-api-key", {"valid": True, "organization_id": "o"}),
    "mistral": ("GET /v1/models", LIST),
    "openrouter": ("GET /api/v1/key", {"data": {"label": "sk-or-v1-abc...123", "limit": None}}),
    "groq": ("GET /openai/v1/models", LIST),
}
"""What each preset is asked, and its yes."""

HEADERS = {"anthropic": "x-api-key", "gemini": "x-goog-api-key"}

RESTRICTED = "You have insufficient permissions for this operation. Missing scopes: {}. Check that"
LEAKED = "Your API key was reported as leaked. Please use another API key."
UNKNOWN = "Method doesn't allow unregistered callers (callers without established identity)."
BLOCKED = "Requests to this API generativelanguage.googleapis.com method x are blocked."
NO_SUBSCRIPTION = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
    "valid key for an active subscription and use a correct regional API endpoint."
)
NO_ACTION = (
    "The principal `0a1b` lacks the required data action "
    "`Microsoft.CognitiveServices/accounts/OpenAI/models/read` to perform `GET /openai/models`."
)
BAD_TOKEN = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect "
    "(https://cognitiveservices.azure.com), or have expired."
)

SAID: list[tuple[str, int, Any, str]] = [
    (
        "openai",
        401,
        fields("invalid_request_error", "Incorrect API key", "invalid_api_key"),
        "auth",
    ),
    ("openai", 401, fields("invalid_request_error", "You didn't provide an API key."), "auth"),
    ("openai", 401, fields("invalid_request_error", "member of an organization"), "auth"),
    ("openai", 403, fields("x", RESTRICTED.format("api.model.read")), "good"),
    ("openai", 401, fields("x", RESTRICTED.format("api.model.read"), "missing_scope"), "good"),
    ("openai", 403, {"error": RESTRICTED.format("api.model.read")}, "good"),
    ("openai", 403, fields("x", RESTRICTED.format("model.request")), "permission"),
    ("openai", 403, fields("request_forbidden", "Country not supported"), "permission"),
    ("openai", 429, fields("insufficient_quota", "quota", "insufficient_quota"), "quota"),
    ("openai", 500, fields("server_error", "oops"), "server"),
    ("anthropic", 401, claude("authentication_error", "invalid x-api-key"), "auth"),
    ("anthropic", 403, claude("permission_error", "not to be used here"), "permission"),
    ("anthropic", 529, claude("overloaded_error", "Overloaded"), "overloaded"),
    ("gemini", 400, google("INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID"), "auth"),
    ("gemini", 400, google("INVALID_ARGUMENT", "API key expired.", "API_KEY_INVALID"), "auth"),
    ("gemini", 403, google("PERMISSION_DENIED", LEAKED, "x"), "auth"),
    ("gemini", 403, google("PERMISSION_DENIED", UNKNOWN, "x"), "auth"),
    ("gemini", 403, google("PERMISSION_DENIED", BLOCKED, "API_KEY_SERVICE_BLOCKED"), "permission"),
    ("gemini", 401, google("UNAUTHENTICATED", "no", "ACCESS_TOKEN_TYPE_UNSUPPORTED"), "auth"),
    ("gemini", 400, google("FAILED_PRECONDITION", "User location", "x"), "permission"),
    ("cohere", 200, {"valid": False}, "auth"),
    ("cohere", 401, {"id": "1", "message": "invalid api token"}, "auth"),
    ("cohere", 401, {"message": "no api key supplied"}, "auth"),
    ("cohere", 200, {"hello": "portal"}, "bad_response"),
    ("mistral", 401, {"detail": "Unauthorized"}, "auth"),
    ("mistral", 401, {"message": "Unauthorized", "request_id": "1"}, "auth"),
    ("openrouter", 401, {"error": {"message": "User not found.", "code": 401}}, "auth"),
    ("openrouter", 401, {"error": {"message": "No auth credentials found", "code": 401}}, "auth"),
    ("openrouter", 200, {"hello": "portal"}, "bad_response"),
    ("groq", 401, fields("invalid_request_error", "Invalid API Key", "invalid_api_key"), "auth"),
    ("groq", 403, {"error": {"message": "Access denied. Check your network."}}, "permission"),
    ("groq", 200, {"hello": 1}, "bad_response"),
]


@pytest.mark.parametrize("name", MODELS)
def test_a_good_key(name: str) -> None:
    """The provider's yes is a yes; one request says so, with the key in the provider's header."""
    place, yes = MODELS[name]
    said, asked = checked(at(name), {place: (200, yes)})
    assert said == "good"
    (request,) = asked
    header = HEADERS.get(name, "authorization")
    assert request.headers[header].removeprefix("Bearer ") == KEY


@pytest.mark.parametrize(("name", "status", "body", "kind"), SAID)
def test_what_a_provider_says_of_a_key(name: str, status: int, body: Any, kind: str) -> None:
    """A refused key is `auth`, one that may not be used here `permission`; what says nothing of
    the key is neither."""
    assert checked(at(name), {MODELS[name][0]: (status, body)})[0] == kind


def test_openrouters_models_say_nothing() -> None:
    """It shows them to anyone: a bad key is not called good for that."""
    replies = {
        "GET /api/v1/models": (200, LIST),
        "GET /api/v1/key": (401, {"error": {"code": 401}}),
    }
    assert checked(at("openrouter"), replies)[0] == "auth"


AZURE = [(V1, "GET /openai/v1/models", {}), (DEPLOYMENT, "GET /openai/models", DEPLOYMENT.query)]


@pytest.mark.parametrize(("profile", "place", "query"), AZURE, ids=["v1", "deployment"])
@pytest.mark.parametrize("by", ["key", "token"])
def test_azure(profile: Profile, place: str, query: Mapping[str, str], by: str) -> None:
    """Both forms are asked where Azure answers, by a key in `api-key` or by a token."""
    proof = KEY if by == "key" else KeyAuth(bearer, FixedKey(KEY))
    said, (asked,) = checked(profile, {place: (200, LIST)}, proof)
    assert (said, asked.query) == ("good", query)
    header, value = ("api-key", KEY) if by == "key" else ("authorization", f"Bearer {KEY}")
    assert asked.headers[header] == value
    assert ("api-key" in asked.headers) is (by == "key")


@pytest.mark.parametrize(("profile", "place"), [row[:2] for row in AZURE], ids=["v1", "deployment"])
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, azure("401", NO_SUBSCRIPTION), "auth"),
        (401, {"statusCode": 401, "message": NO_SUBSCRIPTION}, "auth"),
        (401, azure("401", BAD_TOKEN), "auth"),
        (401, azure("PermissionDenied", NO_ACTION), "permission"),
        (401, azure("PermissionDenied", "Principal does not have access."), "permission"),
        (403, azure("403", "Access denied due to Virtual Network/Firewall rules."), "permission"),
        (403, azure("AuthenticationTypeDisabled", "Key based authentication is disabled"),
         "permission"),
        (404, azure("404", "Resource not found"), "not_found"),
    ],
)  # fmt: skip
def test_what_azure_says(profile: Profile, place: str, status: int, body: Any, kind: str) -> None:
    """An identity without the role, and a network that is shut, say nothing against the key."""
    assert checked(profile, {place: (status, body)})[0] == kind


def test_claude_on_azure() -> None:
    """It has no list of models: a free count of tokens tells whether the key is good."""
    place = "POST /anthropic/v1/messages/count_tokens"
    said, asked = checked(FOUNDRY, {place: (200, {"input_tokens": 8})})
    assert (said, len(asked)) == ("good", 2)
    assert asked[1].headers["x-api-key"] == KEY
    assert checked(FOUNDRY, {place: (401, azure("401", NO_SUBSCRIPTION))})[0] == "auth"
    assert checked(FOUNDRY, {place: (401, azure("PermissionDenied", NO_ACTION))})[0] == "permission"
    assert checked(FOUNDRY, {})[0] == "not_found"
