"""`route:` of a profile: which questions a cheaper one is asked instead, and what checks that."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, Struct

Language = Literal["de", "en", "es", "fr", "it", "nl", "pt", "ar", "el", "he", "hi", "ja", "ko",
                   "ru", "th", "zh"]  # fmt: skip
"""Languages that are told apart (`routing/language.py`)."""


def parse_pattern(text: str) -> re.Pattern[str] | None:
    """None also for what matches empty text, which every prompt holds, and for what a later
    Python reads otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = re.compile(text)
    except (re.error, OverflowError, RecursionError, Warning):
        return None
    return None if found.search("") else found


def _as_written(text: str) -> str | None:
    """The text of a regular expression; None as of `parse_pattern`."""
    return None if parse_pattern(text) is None else text


def parse_command(text: str) -> tuple[str, ...] | None:
    """The words of one line, split as a shell would split it, without being run by one."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return None


_Name = Annotated[str, Meta(pattern=r"\S", description="the name of a profile")]
_Pattern = Annotated[
    str,
    Meta(
        description="a regular expression in Python's syntax that does not match empty text",
        extra={"parse": _as_written},
    ),
]
_Tag = Annotated[str, Meta(pattern=r"\A[^=]+\Z", description="printable names without =")]
_Value = Annotated[str, Meta(description="text on one line, without control characters")]
_Word = Annotated[str, Meta(pattern=r"\S", description="text on one line, not empty")]


class When(Struct, frozen=True):
    """What a question is like: all that is given must hold.

    Attributes:
        tokens_over: it has more tokens of input.
        attachments, tools, schema: it has such, or (false) has none.
        language: what its words are of, most likely; of a short text none is told.
        matches: a regular expression that is found in what the user says.
        tag: tags that it has, with these values.

    """

    tokens_over: Annotated[int, Meta(ge=0, le=1_000_000_000)] | None = None
    attachments: bool | None = None
    tools: bool | None = None
    schema: bool | None = None
    language: Language | None = None
    matches: _Pattern | None = None
    tag: Mapping[_Tag, _Value] | None = None


class Rule(Struct, frozen=True):
    """Questions like `when` go `to` a profile, whatever scorer and checks say."""

    when: When
    to: _Name


class Plain(Struct, frozen=True):
    """A check that says nothing more than its name."""


class Check(Struct, frozen=True):
    """What is checked of the cheap profile's answer: exactly one.

    Attributes:
        schema: it is JSON where JSON was asked for; that it fits its schema is always checked.
        refusal: it does not refuse, nor is it empty.
        matches: the regular expression is found in it.
        command: the program, which gets it on stdin, ends with exit code 0, within 10 s.
        agree: of so many answers to the same question more than half say the same.
        scorer: a file of `route train --answers` expects no more of the strong profile.

    """

    words: ClassVar[frozenset[str]] = frozenset({"schema", "refusal"})

    schema: Plain | None = None
    refusal: Plain | None = None
    matches: _Pattern | None = None
    command: (
        Annotated[
            tuple[_Word, ...],
            Meta(
                min_length=1,
                description="a program and its arguments",
                extra={"parse": parse_command},
            ),
        ]
        | None
    ) = None
    agree: Annotated[int, Meta(ge=2, le=9)] | None = None
    scorer: Path | None = None


class Cascade(Struct, frozen=True):
    """The cheap profile is asked first; an answer that fails a `check`, or no answer, and the
    strong one is asked, too."""

    check: tuple[
        Annotated[
            Check,
            Meta(
                description="schema, refusal, or one of {matches: REGEX}, {command: […]}, "
                "{agree: N} and {scorer: FILE}"
            ),
        ],
        ...,
    ]


class RouteSettings(Struct, frozen=True):
    """Where questions for a profile, the strong one, go instead: the first of the `rules` that
    holds decides, then the `scorer`, then the `cascade`; where none does, the strong one is asked.

    Attributes:
        cheap: the profile that is asked where the strong one is not needed.
        scorer: a file of `route train`; None: no scorer.
        threshold: the score from which on the strong one is asked; None: the one in the file.
        cascade: how the cheap one's answers are checked; None: they are not.

    """

    cheap: _Name
    rules: tuple[Rule, ...] = ()
    scorer: Path | None = None
    threshold: Annotated[float, Meta(ge=-10, le=10)] | None = None
    cascade: Cascade | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The profiles that questions may go to, each once."""
        return tuple(dict.fromkeys((self.cheap, *(rule.to for rule in self.rules))))


def scorer_places(said: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections of a route, as read, that may name a scorer's file."""
    return [said, *((said.get("cascade") or {}).get("check") or ())]


def route_mistake(
    name: str, routes: Mapping[str, RouteSettings | None], fallback: Sequence[str]
) -> str | None:
    """What is wrong with the route of a profile, all of which are there: an error's end."""
    route = routes[name]
    if route is None:
        return None
    if route.cheap == name:
        return "has this profile itself as `cheap`: name a cheaper one"
    if route.cascade is not None and not route.cascade.check:
        return "has a cascade without a check: name one, such as refusal"
    for other in (*route.names, *fallback):
        if other != name and routes.get(other) is not None:
            how = "falls back" if other in fallback else "leads"
            return f"{how} to {other}, which has a `route:` of its own: leave one of them out"
    return None
