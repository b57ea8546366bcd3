"""Answers that do not fit the schema they were asked for are failures, though paid for."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl import schemas
from llmctl.errors import ContentFiltered, SchemaMismatch
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request


class Fitting:
    """Holds every answer to its request's schema, and parses it."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer, with `parsed`. Raises `SchemaMismatch`, with what was billed."""
        response = await self._inner(request, emit)
        if request.schema is None:
            return response
        try:
            return replace(response, parsed=schemas.fit(response.text, request.schema))
        except ValueError as error:
            raise _failure(response, str(error)) from error


def _failure(response: Answer, why: str) -> SchemaMismatch | ContentFiltered:
    error: SchemaMismatch | ContentFiltered = SchemaMismatch(
        f"the answer does not fit the schema: {why}{_hint(response)}",
        http_status=response.status,
        provider_request_id=response.provider_request_id,
    )
    if response.finish == "content_filter":
        error = ContentFiltered(
            "the provider's content filter cut the answer off",
            http_status=response.status,
            provider_request_id=response.provider_request_id,
        )
    error.usage, error.cost = response.usage, response.reported_cost
    error.attempts, error.uncertain = response.attempts, response.uncertain
    return error


def _hint(response: Answer) -> str:
    if response.finish == "length":
        return "; it was cut off at the output limit, so raise max_tokens"
    return ""
