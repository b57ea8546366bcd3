"""The lines a batch writes: of an answer or an error, in llmctl's own shape or OpenAI's. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson

from llmctl.batch.answers import OPENAI_ID, Format
from llmctl.errors import CallError
from llmctl.types import Answer, CallRecord

_ZERO = orjson.Fragment("0")
_FINISH = {"other": "stop"}  # OpenAI knows no such reason; a client's enum would refuse it


def record(outcome: CallRecord, format: Format) -> bytes:
    """The line, with its line feed, for a call that has ended."""
    if format == "openai":
        return _line(_openai(outcome))
    return _line(row(outcome))


def row(outcome: CallRecord) -> dict[str, Any]:
    """The output row of an answer, or the error row of a failure, as orjson can dump it.

    A row that was passed through raw also carries the provider's `body`: tool calls and
    embeddings have no other place.
    """
    result, request = outcome.result, outcome.request
    if isinstance(result, CallError):
        return _error_row(outcome, result)
    usage = outcome.usage
    fields: dict[str, Any] = {
        "id": request.id,
        "index": request.index,
        "text": result.text,
        "parsed": result.parsed,
        "profile": result.target.profile,
        "provider": result.target.provider,
        "model": result.model,
        "finish_reason": result.finish,
        "usage": {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "cached_input_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write,
            "reasoning_tokens": usage.reasoning,
            "estimated": usage.estimated,
        },
        "cost_usd": dollars(outcome.cost),
        "cache": result.cache,
        "attempts": result.attempts,
        "latency_ms": round(result.latency * 1000),
        "call_id": request.call_id,
        "request_hash": request.fingerprint,
        "tags": dict(request.tags),
    }
    if request.raw is not None and result.body is not None:
        fields["body"] = _one_line(result.body)
    return fields


def dollars(cost: Decimal | None) -> orjson.Fragment | None:
    """A JSON number with exactly the amount's digits; None when it is unknown."""
    if cost is None:
        return None
    return orjson.Fragment(format(cost.normalize(), "f")) if cost else _ZERO


def _error_row(outcome: CallRecord, error: CallError) -> dict[str, Any]:
    request = outcome.request
    return {
        "id": request.id,
        "index": request.index,
        "error": {
            "type": error.row_type,
            "message": error.message,
            "http_status": error.http_status,
            "retryable": error.retryable,
            "provider_request_id": error.provider_request_id,
        },
        "attempts": error.attempts,
        "call_id": request.call_id,
        "request_hash": request.fingerprint,
        "cost_usd": dollars(outcome.cost),
    }


def _openai(outcome: CallRecord) -> dict[str, Any]:
    """OpenAI's batch result line (platform.openai.com/docs/api-reference/batch).

    Its `id` holds the request hash: the next run knows by it what was asked.
    """
    request, result = outcome.request, outcome.result
    line = {"id": OPENAI_ID + request.fingerprint, "custom_id": request.id}
    if isinstance(result, CallError):
        failure = {"code": result.row_type, "message": result.message}
        if result.http_status is None:
            return {**line, "response": None, "error": failure}
        body: Any = {"error": {**failure, "type": result.row_type, "param": None}}
        status, request_id = result.http_status, result.provider_request_id
        error: dict[str, Any] | None = failure
    else:
        body = _one_line(result.body) if result.body is not None else _completion(outcome, result)
        status, request_id, error = result.status, result.provider_request_id, None
    response = {"status_code": status, "request_id": request_id or request.call_id, "body": body}
    return {**line, "response": response, "error": error}


def _completion(outcome: CallRecord, result: Answer) -> dict[str, Any]:
    """A chat completion for an answer whose own body was not kept (it came as a stream)."""
    usage = outcome.usage
    return {
        "id": f"chatcmpl-{outcome.request.call_id}",
        "object": "chat.completion",
        "created": int(outcome.started),
        "model": result.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": result.text},
                "finish_reason": _FINISH.get(result.finish, result.finish),
            }
        ],
        "usage": {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
        },
    }


def _one_line(body: bytes) -> orjson.Fragment:
    """The body, byte for byte but for line breaks, which in JSON only stand between tokens."""
    return orjson.Fragment(body.strip().replace(b"\r", b" ").replace(b"\n", b" "))


def _line(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half a surrogate pair in a provider's text: not worth losing a paid answer for.
        return orjson.dumps(_mended(fields), option=orjson.OPT_APPEND_NEWLINE)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value
