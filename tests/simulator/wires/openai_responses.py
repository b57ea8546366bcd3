"""OpenAI `POST …/responses`, plain and streamed."""

from __future__ import annotations

from itertools import count

from tests.simulator.call import Ask, Json
from tests.simulator.reply import Problem, Usage

from .openai import OpenAI
from .wire import Turn, named_event, spoken

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class InputTokens(OpenAI):
    """`POST …/responses/input_tokens`: the provider's own count of a request."""

    billing = "free"
    place = "POST", "/responses/input_tokens"

    def read(self, body: Json, path: str) -> Ask:
        """Read what would be asked."""
        return Responses().read(body | {"stream": False}, path)

    def whole(self, turn: Turn) -> Json:
        """Give the count."""
        return {"object": "response.input_tokens", "input_tokens": turn.usage.input}


class Responses(OpenAI):
    """`POST …/responses`, under any prefix."""

    place = "POST", "/responses"

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read input (a text or items), instructions and the limit."""
        given = body["input"]
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        instructions = body.get("instructions")
        opening = [("system", instructions)] if isinstance(instructions, str) else []
        form = (body.get("text") or {}).get("format") or {}
        return spoken(
            [*opening, *((item.get("role", ""), item.get("content")) for item in items)],
            model=body["model"],
            max_tokens=body.get("max_output_tokens"),
            stream=bool(body.get("stream")),
            temperature=body.get("temperature"),
            schema=form.get("schema"),
        )

    def whole(self, turn: Turn) -> Json:
        """Give a `response` that is completed or incomplete."""
        reason = turn.reply.word or _INCOMPLETE.get(turn.reply.finish)
        return _response(turn, "incomplete" if reason else "completed") | {
            "incomplete_details": {"reason": reason} if reason else None,
            "output": _output(turn),
            "usage": _usage(turn.usage),
        }

    def events(self, turn: Turn) -> tuple[bytes, ...]:
        """Give named events from `response.created` to `response.completed` or `.incomplete`."""
        started = _response(turn, "in_progress") | {"output": [], "usage": None}
        steps: list[Json] = [
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
        ]
        for index, item in enumerate(_output(turn)):
            if item["type"] == "reasoning":
                where = {"item_id": item["id"], "output_index": index, "summary_index": 0}
                delta = {"type": "response.reasoning_summary_text.delta", "delta": turn.thought}
                steps.append(delta | where)
                continue
            steps.append(
                {"type": "response.output_item.added", "output_index": index}
                | {"item": item | {"status": "in_progress", "content": []}}
            )
            if item["type"] == "message":
                steps += _text_steps(turn, index, item)
            else:
                where = {"item_id": item["id"], "output_index": index}
                kind = "response.function_call_arguments"
                steps.append({"type": f"{kind}.delta", "delta": item["arguments"]} | where)
                steps.append({"type": f"{kind}.done", "arguments": item["arguments"]} | where)
            steps.append({"type": "response.output_item.done", "output_index": index, "item": item})
        ended = self.whole(turn)
        steps.append({"type": f"response.{ended['status']}", "response": ended})
        return tuple(_event(step, number) for step, number in zip(steps, count(), strict=False))

    def unknown_event(self) -> bytes:
        """Give an event of a kind nobody has heard of."""
        return _event({"type": "response.unheard.delta", "delta": "unheard"}, 999)

    def error_event(self, problem: Problem) -> bytes:
        """Give an `error` event."""
        named = {"code": problem.code, "message": problem.message, "param": problem.param}
        return _event({"type": "error"} | named, 0)


def _event(step: Json, number: int) -> bytes:
    named = step | {"sequence_number": number}
    return named_event(named)


def _text_steps(turn: Turn, index: int, item: Json) -> list[Json]:
    where = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = item["content"][0]
    kind = "refusal" if part["type"] == "refusal" else "output_text"
    pieces = turn.pieces if kind == "output_text" else (part["refusal"],)
    field = "text" if kind == "output_text" else "refusal"
    empty = part | {field: ""}
    return [
        {"type": "response.content_part.added", "part": empty} | where,
        *({"type": f"response.{kind}.delta", "delta": piece} | where for piece in pieces),
        {"type": f"response.{kind}.done", field: part[field]} | where,
        {"type": "response.content_part.done", "part": part} | where,
    ]


def _response(turn: Turn, status: str) -> Json:
    return {
        "id": f"resp_{turn.call.index:08d}",
        "object": "response",
        "created_at": turn.created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "max_output_tokens": turn.ask.max_tokens,
        "model": turn.model,
        "parallel_tool_calls": True,
        "service_tier": "default",
    }


def _output(turn: Turn) -> list[Json]:
    reply, number = turn.reply, turn.call.index
    items: list[Json] = []
    if turn.thought:
        summary = {"type": "summary_text", "text": turn.thought}
        items.append({"id": f"rs_{number:08d}", "type": "reasoning", "summary": [summary]})
    if reply.text or not reply.tool_calls:
        content: Json = {"type": "output_text", "text": reply.text, "annotations": []}
        if reply.refusal is not None:
            content = {"type": "refusal", "refusal": reply.refusal}
        items.append(
            {
                "id": f"msg_{number:08d}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [content],
            }
        )
    items += [
        {
            "id": f"fc_{number:08d}_{position}",
            "type": "function_call",
            "status": "completed",
            "call_id": tool.id,
            "name": tool.name,
            "arguments": tool.arguments,
        }
        for position, tool in enumerate(reply.tool_calls)
    ]
    return items


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.written,
        },
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }
