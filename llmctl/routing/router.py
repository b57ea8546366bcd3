"""Where a question goes: rules, then a scorer, then the cascade; a function of it and the files."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from llmctl.config.route import RouteSettings, When
from llmctl.routing.language import language_of
from llmctl.routing.scorer_file import ScorerFile
from llmctl.types import JSON, Request

_MASK = re.compile(r"\[\[([A-Z]+)_[0-9a-z]+\]\]")  # of masking: another one in every run


class Choice(Struct, frozen=True):
    """A profile that a question goes `to`, and what decided; `checked`: its answer is checked."""

    to: str
    by: Literal["rule", "score", "cascade", "default"]
    score: float | None = None
    checked: bool = False


class Router(Struct, frozen=True, kw_only=True):
    """How the questions of a profile, the strong one, are routed.

    Attributes:
        strong: its name; `model` its model: a question that names another one is its own choice.
        settings: rules, threshold, cascade.
        scorer: None where there is none, or it is void.
        tokens: the input of a request, counted.
        bound: no less than that, and cheap.

    """

    strong: str
    model: str
    settings: RouteSettings
    scorer: ScorerFile | None
    tokens: Callable[[Request], int]
    bound: Callable[[Request], int]

    def choose(self, request: Request) -> Choice:
        """Where it goes. Less than 1 ms, unless a rule counts tokens."""
        settings = self.settings
        if request.target.model != self.model:
            return Choice(self.strong, "default")
        question = question_text(request)
        for rule in settings.rules:
            if self._holds(rule.when, request, question):
                return Choice(rule.to, "rule")
        checked = settings.cascade is not None
        if self.scorer is not None:
            score, least = self.scorer.score(question), settings.threshold
            if score >= (self.scorer.threshold if least is None else least):
                return Choice(self.strong, "score", score)
            return Choice(settings.cheap, "cascade" if checked else "score", score, checked)
        if checked:
            return Choice(settings.cheap, "cascade", checked=True)
        return Choice(self.strong, "default")

    def _holds(self, when: When, request: Request, question: str) -> bool:
        said = (
            (when.attachments, has_attachments),
            (when.tools, has_tools),
            (when.schema, wants_schema),
        )
        if any(wanted is not None and wanted is not has(request) for wanted, has in said):
            return False
        tags = when.tag or {}
        if any(request.tags.get(name) != value for name, value in tags.items()):
            return False
        if when.matches is not None and not re.search(when.matches, question):
            return False
        if when.language is not None and language_of(question) != when.language:
            return False
        over = when.tokens_over
        return over is None or (self.bound(request) > over and self.tokens(request) > over)


def question_text(request: Request) -> str:
    """What the user says in a request; what was masked by its kind alone."""
    turns = [turn.text for turn in request.messages if turn.role == "user"]
    return _MASK.sub(r"\1", "\n".join(turns))


def has_attachments(request: Request) -> bool:
    """Whether there is an image, sound or a file in it."""
    return any(
        part.get("type") != "text"
        for turn in request.messages
        if isinstance(turn.content, tuple)
        for part in turn.content
    )


def has_tools(request: Request) -> bool:
    """Whether it lets the model call tools."""
    return bool(request.parameters.get("tools") or request.parameters.get("functions"))


def wants_schema(request: Request) -> bool:
    """Whether its answer must fit a JSON Schema."""
    return request.schema is not None or _format(request).get("type") == "json_schema"


def wants_json(request: Request) -> bool:
    """Whether its answer must be JSON."""
    return wants_schema(request) or _format(request).get("type") == "json_object"


def _format(request: Request) -> JSON:
    found = request.parameters.get("response_format")
    return found if isinstance(found, dict) else {}
