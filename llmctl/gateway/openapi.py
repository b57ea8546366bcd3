"""The gateway's OpenAPI document. Bodies are the vendors': theirs are the schemas of those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import llmctl
from llmctl.types import JSON

_OPENAI, _ANTHROPIC, _GATEWAY = "OpenAIError", "AnthropicError", "OpenAIError"

_REFUSALS: Mapping[int, str] = {
    400: "The body is not understood, exceeds a bound (`serve: limits:`), or matches a rule of "
    "`serve: screen:`.",
    401: "No valid token.",
    402: "A cap in dollars is used up, or the call may cost more than all of it.",
    403: "The address, the origin, or the token may not do this.",
    404: "There is no such model.",
    405: "The path takes another method.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    415: "The body is not application/json, or is compressed.",
    429: "A cap of requests or tokens is used up, too many calls wait, or the provider says so.",
    500: "A mistake in the gateway.",
    502: "The provider's answer is an error, or none.",
    503: "The provider, or the gateway, is down for now.",
    504: "The provider did not answer in time.",
}
_WAITS = frozenset({402, 429, 503})  # replies that may say when to try again
_LET_IN = (401, 403, 405)

_TEXT: JSON = {"type": "string"}
_TOKENS: JSON = {"type": "integer", "minimum": 1}


def _object(required: list[str], more: bool = True, **properties: Any) -> JSON:  # noqa: FBT001, FBT002
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": more,
    }


def _list_of(items: JSON, least: int = 0) -> JSON:
    return {"type": "array", "items": items, "minItems": least}


_TURNS = _list_of(_object(["role"], role=_TEXT), 1)
_MODEL: JSON = {
    "type": "string",
    "description": "A profile, `profile/model`, or an alias of `serve: models:`.",
}
_STREAM: JSON = {"type": "boolean"}
_SCHEMAS: Mapping[str, JSON] = {
    "ChatCompletionRequest": _object(
        ["model", "messages"], model=_MODEL, messages=_TURNS, stream=_STREAM
    ),
    "ResponseRequest": _object(
        ["model", "input"],
        model=_MODEL,
        input={"oneOf": [_TEXT, _list_of(_object([]))]},
        stream=_STREAM,
    ),
    "EmbeddingRequest": _object(
        ["model", "input"],
        model=_MODEL,
        input={"oneOf": [_TEXT, _list_of({"type": ["string", "integer", "array"]}, 1)]},
    ),
    "MessageRequest": _object(
        ["model", "max_tokens", "messages"],
        model=_MODEL,
        max_tokens=_TOKENS,
        messages=_TURNS,
        stream=_STREAM,
    ),
    "CountRequest": _object(["model", "messages"], model=_MODEL, messages=_TURNS),
    "Count": _object(["input_tokens"], input_tokens={"type": "integer", "minimum": 0}),
    "Answer": _object([]),
    "Models": _object(["data"], data=_list_of(_object(["id"], id=_TEXT))),
    "Model": _object(["id"], id=_TEXT),
    "OpenAIError": _object(
        ["error"],
        error=_object(
            ["message", "type"],
            message=_TEXT,
            type=_TEXT,
            param={"type": ["string", "null"]},
            code={"type": ["string", "null"]},
        ),
    ),
    "AnthropicError": _object(
        ["type", "error"],
        type={"const": "error"},
        error=_object(["type", "message"], type=_TEXT, message=_TEXT),
    ),
    "Status": _object(["status"], status=_TEXT),
    "Usage": _object([]),
    "About": _object(["name", "version", "links"], name=_TEXT, version=_TEXT, links=_object([])),
}


def _ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}


def _reply(
    description: str, schema: str | None, *, kind: str = "application/json"
) -> dict[str, Any]:
    content = {"schema": _TEXT if schema is None else _ref(schema)}
    return {"description": description, "content": {kind: content}}


def _errors(schema: str, statuses: tuple[int, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in statuses:
        found[str(status)] = _reply(_REFUSALS[status], schema)
        if status in _WAITS:
            seconds = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
            found[str(status)]["headers"] = {"retry-after": seconds}
    return found


def _call(name: str, summary: str, request: str, answer: str, errors: str) -> JSON:
    """A path that takes a body."""
    ok = _reply("The answer.", answer)
    if request != "EmbeddingRequest" and answer == "Answer":
        ok["description"] = "The answer; with `stream`, its events."
        ok["content"]["text/event-stream"] = {"schema": {}}  # readers differ in what it is of
    body = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": body,
            "responses": {"200": ok, **_errors(errors, tuple(_REFUSALS))},
        }
    }


def _page(
    name: str, summary: str, schema: str | None, *statuses: int, kind: str = "application/json"
) -> JSON:
    """A path that is read."""
    ok = _reply("What was asked for.", schema, kind=kind)
    return {
        "get": {
            "operationId": name,
            "summary": summary,
            "responses": {"200": ok, **_errors(_GATEWAY, statuses)},
        }
    }


def _open(name: str, summary: str, **replies: JSON) -> JSON:
    """A path that anybody may read."""
    ok = _reply("Yes.", "Status")
    more = {status.removeprefix("status_"): reply for status, reply in replies.items()}
    responses = {"200": ok, **_errors(_GATEWAY, (405,)), **more}
    return {
        "get": {"operationId": name, "summary": summary, "security": [], "responses": responses}
    }


def _with_report(page: JSON) -> JSON:
    """With the page that a browser gets."""
    page["get"]["responses"]["200"]["content"]["text/html"] = {"schema": _TEXT}
    return page


def _with_model(page: JSON) -> JSON:
    name = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    return {**page, "parameters": [name]}


_PATHS: Mapping[str, JSON] = {
    "/v1/chat/completions": _call(
        "createChatCompletion", "OpenAI's chat completions.", "ChatCompletionRequest", "Answer",
        _OPENAI,
    ),
    "/v1/responses": _call(
        "createResponse", "OpenAI's responses.", "ResponseRequest", "Answer", _OPENAI
    ),
    "/v1/embeddings": _call(
        "createEmbedding", "OpenAI's embeddings.", "EmbeddingRequest", "Answer", _OPENAI
    ),
    "/v1/messages": _call(
        "createMessage", "Anthropic's messages.", "MessageRequest", "Answer", _ANTHROPIC
    ),
    "/v1/messages/count_tokens": _call(
        "countTokens", "The tokens of Anthropic's messages.", "CountRequest", "Count", _ANTHROPIC
    ),
    "/v1/models": _page(
        "listModels", "The names that the caller may use as `model`.", "Models", *_LET_IN
    ),
    "/v1/models/{model}": _with_model(
        _page("getModel", "One of them.", "Model", *_LET_IN, 404)
    ),
    "/": _with_report(
        _page("getAbout", "Name, version and links; the page of `llmctl report` for who accepts "
        "text/html, and may see what others used.", "About", *_LET_IN, 503)
    ),
    "/usage": _page(
        "getUsage", "What the caller has used, and has left; an admin sees all callers.", "Usage",
        *_LET_IN, 503,
    ),
    "/metrics": _page(
        "getMetrics", "Prometheus metrics; for tokens made with --admin.", None, *_LET_IN,
        kind="text/plain",
    ),
    "/openapi.json": _page("getOpenApi", "This document.", "Answer", *_LET_IN),
    "/healthz": _open("getHealth", "Whether the process lives."),
    "/readyz": _open(
        "getReady", "Whether calls can be served now.", status_503=_reply("No.", "Status")
    ),
}  # fmt: skip

ROUTES = frozenset(_PATHS)
"""The paths that the gateway answers at."""


def document() -> JSON:
    """The document, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmctl gateway",
            "version": llmctl.__version__,
            "description": "Calls to language models in the language of the caller's SDK. On "
            "loopback without tokens no credential is needed.",
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": dict(_PATHS),
        "components": {
            "schemas": dict(_SCHEMAS),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
