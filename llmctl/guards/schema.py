"""Schema validation: an answer that does not fit its schema is a failure, though paid for."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl.errors import CallError, ContentFiltered, SchemaMismatch
from llmctl.protocols import Emit, Handler
from llmctl.schemas import Checker
from llmctl.types import Answer, Request


def schema_validation(inner: Handler, checker: Checker) -> Handler:
    """The guard: holds every answer to its request's schema, and sets `parsed`. Raises
    `SchemaMismatch`, with what was billed."""

    async def validate(request: Request, emit: Emit | None) -> Answer:
        answer = await inner(request, emit)
        if request.schema is None:
            return answer
        try:
            return replace(answer, parsed=await checker.fit(answer.text, request.schema))
        except ValueError as error:
            raise _failure(answer, str(error)) from error

    return validate


def _failure(answer: Answer, why: str) -> CallError:
    error: CallError
    if answer.finish == "content_filter":
        error = ContentFiltered("the provider's content filter cut the answer off")
    else:
        hint = "; it was cut off at the output limit, so raise max_tokens"
        shown = hint if answer.finish == "length" else ""
        error = SchemaMismatch(f"the answer does not fit the schema: {why}{shown}")
    error.http_status, error.provider_request_id = answer.status, answer.provider_request_id
    error.usage, error.cost = answer.usage, answer.reported_cost
    error.attempts, error.uncertain = answer.attempts, answer.uncertain
    return error
