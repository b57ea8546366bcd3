"""Gemini's answers and streams; pure.

Reference: ai.google.dev/api/generate-content (GenerateContentResponse, FinishReason,
BlockReason, UsageMetadata).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmctl.errors import ContentFiltered
from llmctl.providers.bodies import json_object, named, shaped, text
from llmctl.providers.gemini_errors import error_in
from llmctl.providers.usage import mapping, whole
from llmctl.types import Finish, ProviderReply, StreamChunk, Usage

_FILTERED: Finish = "content_filter"

_FINISH: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": _FILTERED,
    "RECITATION": _FILTERED,
    "BLOCKLIST": _FILTERED,
    "PROHIBITED_CONTENT": _FILTERED,
    "SPII": _FILTERED,
    "IMAGE_SAFETY": _FILTERED,
    "IMAGE_PROHIBITED_CONTENT": _FILTERED,
    "IMAGE_RECITATION": _FILTERED,
    "MODEL_ARMOR": _FILTERED,
}
"""The others (LANGUAGE, OTHER, MALFORMED_FUNCTION_CALL, UNEXPECTED_TOOL_CALL…): `other`."""

_UNSAID = ("BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")


def usage(value: object) -> Usage | None:
    """Input includes the cache in both; thoughts are beside the output there and part of it here.

    `toolUsePromptTokenCount`, what built-in tools fed back, is not in it: whether it is billed
    depends on the tool (ai.google.dev/gemini-api/docs/pricing).
    """
    found = mapping(value)
    if not found:
        return None
    thought = whole(found.get("thoughtsTokenCount"))
    return Usage(
        input=whole(found.get("promptTokenCount")),
        output=whole(found.get("candidatesTokenCount")) + thought,
        cached_input=whole(found.get("cachedContentTokenCount")),
        reasoning=thought,
    )


def reply(found: Mapping[str, Any]) -> ProviderReply:
    """The first candidate's text, without thoughts. Raises `ContentFiltered` for a blocked
    prompt, and for an answer that was stopped before it said anything."""
    spent = usage(found.get("usageMetadata"))
    _blocked(found, spent)
    candidate = found["candidates"][0]
    said, calls = _said(candidate)
    finish = _finish(candidate.get("finishReason"), calls=calls)
    if finish is None and not said and not calls:
        raise KeyError("finishReason")
    if finish == _FILTERED and not said:
        raise _stopped(candidate, spent)
    return ProviderReply(said, finish or "other", named(found, "modelVersion") or "", spent)


def _said(candidate: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of a candidate, and whether it calls a function."""
    content = candidate.get("content")
    found = (content.get("parts") or ()) if content is not None else ()
    said = "".join(text(p["text"]) for p in found if "text" in p and p.get("thought") is not True)
    return said, any("functionCall" in part for part in found)


def _finish(reason: object, *, calls: bool) -> Finish | None:
    """Gemini calls it STOP as well when a function shall be called."""
    if not isinstance(reason, str) or not reason:
        return None
    finish = _FINISH.get(reason, "other")
    return "tool_calls" if calls and finish == "stop" else finish


def _blocked(found: Mapping[str, Any], spent: Usage | None) -> None:
    feedback = mapping(found.get("promptFeedback"))
    reason = named(feedback, "blockReason")
    if found.get("candidates") or reason is None:
        return
    why = "" if reason in _UNSAID else f": {named(feedback, 'blockReasonMessage') or reason}"
    error = ContentFiltered(f"the provider refused the prompt{why}", http_status=200)
    error.usage = spent
    raise error


def _stopped(candidate: Mapping[str, Any], spent: Usage | None) -> ContentFiltered:
    ratings = candidate.get("safetyRatings")
    blocking = [
        str(mapping(rating).get("category"))
        for rating in (ratings if isinstance(ratings, list) else ())
        if mapping(rating).get("blocked") is True
    ]
    why = named(candidate, "finishMessage") or ", ".join(blocking)
    sentence = f"the provider's filter stopped the answer ({candidate.get('finishReason')})"
    error = ContentFiltered(sentence + (f": {why}" if why else ""), http_status=200)
    error.usage = spent
    return error


class Reader:
    """Reads one stream. It ends with the connection: complete once a reason to finish came.
    Every chunk counts all tokens so far."""

    def __init__(self) -> None:
        self._said = False
        self._calls = False
        self._finished = False

    def piece(self, event: str, data: str) -> StreamChunk:  # noqa: ARG002 - events have no names here
        """One chunk, built like a complete answer."""
        body = data.encode(errors="replace")
        found = json_object(200, {}, body)
        if found.get("error"):
            raise error_in(found)
        with shaped(200, {}, body):
            return self._read(found)

    def _read(self, found: Mapping[str, Any]) -> StreamChunk:
        spent, model = usage(found.get("usageMetadata")), named(found, "modelVersion")
        _blocked(found, spent)
        said, finish = "", None
        for candidate in found.get("candidates") or ():
            if whole(candidate.get("index")) != 0:
                continue  # one answer is read, the first
            said, calls = _said(candidate)
            self._said, self._calls = self._said or bool(said), self._calls or calls
            finish = _finish(candidate.get("finishReason"), calls=self._calls)
            self._finished = self._finished or finish is not None
            if finish == _FILTERED and not self._said:
                raise _stopped(candidate, spent)
        return StreamChunk(text=said, finish=finish, model=model, usage=spent)

    def end(self) -> StreamChunk:
        """Done, if the answer had finished."""
        return StreamChunk(done=self._finished)
