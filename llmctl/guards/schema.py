"""Schema validation: an answer that does not fit its schema is a failure, though paid for."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl import schemas
from llmctl.errors import ContentFiltered, SchemaMismatch
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request


class SchemaValidation:
    """The guard: holds every answer to its request's schema, and parses it."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer, with `parsed`. Raises `SchemaMismatch`, with what was billed."""
        answer = await self._inner(request, emit)
        if request.schema is None:
            return answer
        try:
            return replace(answer, parsed=schemas.fit(answer.text, request.schema))
        except ValueError as error:
            raise _failure(answer, str(error)) from error


def _failure(answer: Answer, why: str) -> SchemaMismatch | ContentFiltered:
    hint = "; it was cut off at the output limit, so raise max_tokens"
    kind: type[SchemaMismatch | ContentFiltered] = SchemaMismatch
    message = f"the answer does not fit the schema: {why}{hint * (answer.finish == 'length')}"
    if answer.finish == "content_filter":
        kind, message = ContentFiltered, "the provider's content filter cut the answer off"
    error = kind(message, http_status=answer.status, provider_request_id=answer.provider_request_id)
    error.usage, error.cost = answer.usage, answer.reported_cost
    error.attempts, error.uncertain = answer.attempts, answer.uncertain
    return error
