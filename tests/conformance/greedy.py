"""The most that a provider may bill for a body, read by rules of its own, and bodies to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.simulator.reply import Usage

WINDOW = 20_000
"""Tokens of input and output together of every model here."""

OWN = {
    "openai": (("max_tokens",), ("max_completion_tokens",)),
    "openai responses": (("max_output_tokens",),),
    "anthropic": (("max_tokens",),),
    "gemini": tuple(
        (config, limit)  # JSON of a protocol buffer: both spellings of every name
        for config in ("generationConfig", "generation_config")
        for limit in ("maxOutputTokens", "max_output_tokens")
    ),
    "cohere": (("max_tokens",),),
    "mistral": (("max_tokens",),),
    "openrouter": (("max_tokens",), ("max_completion_tokens",)),
    "groq": (("max_tokens",), ("max_completion_tokens",)),
}
"""The output limits that a provider obeys, by where they stand in its body."""

_LIMITS = {
    "maxtokens", "maxcompletiontokens", "maxoutputtokens", "maxnewtokens", "maxlength", "npredict",
    "numpredict",
}  # fmt: skip
_LEAST = {"budgettokens", "thinkingbudget", "mintokens"}
"""What may be written, whatever the limit."""
_ANSWERS = {"n", "bestof", "candidatecount", "numgenerations"}
_TEMPLATE = 7
"""Tokens that the shortest template adds to one turn."""
_SILENT = {"model", "role", "type"}
"""Fields whose texts the model does not read."""


def most_billed(wire: str, body: Mapping[str, Any]) -> Usage | None:
    """What the greediest provider bills: every text is read, the largest limit is used up, by as
    many answers as any field asks for. Its window is the only limit where it is given none of its
    own. None: nothing bounds it, since what is given may mean that there is no limit."""
    fields = list(_fields(body))
    limits = [value for name, value in fields if name in _LIMITS and value is not None]
    answers = [value for name, value in fields if name in _ANSWERS and value is not None]
    if not all(type(value) is int and value > 0 for value in (*limits, *answers)):
        return None
    read = sum(map(_tokens, _texts(body)))
    limits += [value for name, value in fields if name in _LEAST and type(value) is int]
    obeyed = [value for place in OWN[wire] if (value := _at(body, place)) is not None]
    write = max(limits) if obeyed else WINDOW - read - _TEMPLATE
    predicted = sum(map(_tokens, _texts(body.get("prediction"))))
    return Usage(read, (write + predicted) * max(answers, default=1))


def _tokens(digits: str) -> int:
    """Every vocabulary has tokens of at most three digits."""
    return (len(digits) + 2) // 3


def _fields(value: object) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        yield name.replace("_", "").lower(), inner
        yield from _fields(inner)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _SILENT:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _at(body: Mapping[str, Any], place: tuple[str, ...]) -> object:
    value: object = body
    for name in place:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


TEXTS = st.text("0123456789", max_size=300)
_NUMBERS = (1, 1, 3, 3, 700, 5000, 1.5, 5000.0, "5000", -1, -5000, 0, True, None)
_NUMBERED = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens",
    "max_new_tokens", "n_predict", "num_predict", "max_length", "min_tokens",
    "n", "best_of", "candidateCount", "num_generations",
)  # fmt: skip
_NESTED = ("generationConfig", "generation_config", "options", "extra_body")


def some_options(dice: Random) -> dict[str, Any]:
    """Parameters of a request, most of which make no sense, and some of which cost money."""

    def numbered() -> tuple[str, Any]:
        return dice.choice(_NUMBERED), dice.choice(_NUMBERS)

    def text() -> str:
        return str(dice.randrange(10 ** dice.randrange(1, 300)))

    kinds: tuple[Callable[[], tuple[str, Any]], ...] = (
        numbered,
        numbered,
        lambda: (dice.choice(_NESTED), dict(numbered() for _ in range(dice.randrange(3)))),
        lambda: ("documents", [{"text": text()} for _ in range(dice.randrange(3))]),
        lambda: ("prediction", {"type": "content", "content": text()}),
        lambda: ("systemInstruction", {"parts": [{"text": text()}]}),
        lambda: (dice.choice(("instructions", "preamble", "weird")), text()),
        lambda: ("thinking", {"type": "enabled", "budget_tokens": dice.randrange(1, 9000)}),
    )
    return dict(dice.choice(kinds)() for _ in range(dice.randrange(5)))


OPTIONS = st.randoms(use_true_random=False).map(some_options)
