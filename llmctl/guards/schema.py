"""Schema validation: an answer that does not fit its schema is a failure, though paid for."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from llmctl.errors import CallError, ContentFiltered, SchemaMismatch
from llmctl.http import CancelledAfterSending
from llmctl.protocols import Emit, Handler
from llmctl.schemas import Checker, without_fence
from llmctl.types import Answer, Billed, Message, Request, StreamChunk


def schema_validation(inner: Handler, checker: Checker, retries: int = 0) -> Handler:
    """The guard: holds every answer to its request's schema, sets `parsed`, and takes one Markdown
    fence off the text.

    One that does not fit is asked for again, at most `retries` times, with the validator's words;
    what is shown is the last one, whole. Raises `SchemaMismatch`, with the text and what all of
    them were billed; a failure of asking again does not take its place. A tool call without text
    is not held to the schema.
    """

    async def validate(request: Request, emit: Emit | None) -> Answer:
        if request.schema is None:
            return await inner(request, emit)
        answer = await inner(request, None)
        for left in range(retries, -1, -1):
            if answer.tool_calls and not answer.text.strip():
                break
            try:
                found = await checker.fit(answer.text, request.schema)
                answer = replace(answer, text=without_fence(answer.text), parsed=found)
                break
            except ValueError as error:
                failure = _failure(answer, str(error))
                # The same limit would cut the next one too; a body that is passed through is not
                # ours to change.
                if not left or answer.finish != "stop" or request.raw is not None:
                    raise failure from error
                answer = await _ask_again(inner, request, answer, failure, str(error))
        if emit is not None:
            emit(StreamChunk(answer.text))
        return answer

    return validate


async def _ask_again(
    inner: Handler, request: Request, answer: Answer, failure: CallError, why: str
) -> Answer:
    """The next answer, which carries what this one was billed. Raises `failure` for none."""
    words = (
        f"This answer does not fit the JSON Schema: {why}. Answer again: only JSON that fits it."
    )
    turns = Message("assistant", answer.text), Message("user", words)
    earlier: tuple[Billed, ...] = (*answer.earlier, (answer.usage, answer.reported_cost))
    try:
        new = await inner(replace(request, messages=(*request.messages, *turns)), None)
    except CallError as error:
        billed = () if error.usage is None else ((error.usage, error.cost),)
        failure.earlier += (*error.earlier, *billed)
        failure.attempts += error.attempts
        failure.uncertain += error.uncertain
        failure.limited += error.limited
        raise failure from error
    except asyncio.CancelledError as stop:
        unsent = CancelledAfterSending(attempts=0, uncertain=0)
        last = stop if isinstance(stop, CancelledAfterSending) else unsent
        raise CancelledAfterSending(
            attempts=answer.attempts + last.attempts,
            uncertain=answer.uncertain + last.uncertain,
            limited=answer.limited + last.limited,
            earlier=earlier + last.earlier,
        ) from stop
    return replace(
        new,
        attempts=answer.attempts + new.attempts,
        uncertain=answer.uncertain + new.uncertain,
        limited=answer.limited + new.limited,
        earlier=earlier + new.earlier,
    )


def _failure(answer: Answer, why: str) -> CallError:
    error: CallError
    if answer.finish == "content_filter":
        error = ContentFiltered("the provider's content filter cut the answer off")
    else:
        hint = "; it was cut off at the output limit, so raise --max-tokens"
        shown = hint if answer.finish == "length" else ""
        error = SchemaMismatch(f"the answer does not fit the schema: {why}{shown}")
    error.http_status, error.provider_request_id = answer.status, answer.provider_request_id
    error.usage, error.cost, error.text = answer.usage, answer.reported_cost, answer.text
    error.attempts, error.uncertain = answer.attempts, answer.uncertain
    error.limited, error.earlier = answer.limited, answer.earlier
    return error
