"""Parameters that a family of models refuses, by the model's name. Pure.

Sources, read in November 2026, each confirmed by replies with status 400 in public issues:
platform.openai.com/docs/guides/latest-model ("parameter compatibility"),
learn.microsoft.com/azure/ai-foundry/openai/how-to/reasoning ("not supported"),
platform.claude.com/docs/en/about-claude/models/migration-guide, …/models/sonnet-5/migration-guide,
…/models/haiku-5-5/migration-guide, …/build-with-claude/extended-thinking,
console.groq.com/docs/openai. OpenRouter leaves out by itself what a model does not take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llmctl.errors import InvalidRequest
from llmctl.types import Request, Target

_DEFAULTS: Mapping[str, Any] = {
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
}
"""Sampling parameters of OpenAI's; with these values they say nothing, and are accepted."""

_SAMPLING = frozenset({*_DEFAULTS, "topP", "top_k"})
"""All that any model refuses."""

_DATE = r"(-\d{4}-\d\d-\d\d)?"
_ALWAYS_THINKS = re.compile(
    rf"(o\d\b(?!.*audio).*|codex-mini.*|gpt-5(-mini|-nano)?{_DATE}"
    r"|gpt-\d+(\.\d+)?-(pro|codex|astra).*)\Z"
)
_MAY_THINK = re.compile(r"gpt-(5\.\d+|6)(?!.*-(chat|image|search))")
_THINKS_ON_DEMAND = re.compile(r"gpt-5\.[1-4]\b")  # its effort is `none` where none is named
_MAX_COMPLETION_TOKENS = re.compile(r"o\d\b|codex-mini|gpt-[5-9]")
_CLAUDE_ONE_OF_TWO = re.compile(r"claude-(opus-4-[156]|sonnet-4-[56]|haiku-4-5)\b")
_CLAUDE_NO_SAMPLING = re.compile(r"claude-(opus-4-[789]|[a-z]+-[5-9])\b")


@lru_cache(maxsize=1024)
def _name(model: str) -> str:
    """The model's own name: gateways put their provider's before it."""
    return model.lower().rpartition("/")[2].rpartition("anthropic.")[2].removeprefix("ft:")


def is_reasoning_model(target: Target) -> bool:
    """Whether it is a model of OpenAI's that can think: it refuses `max_tokens`, also behind a
    gateway, and as a deployment whose profile says `price: {as: …}`."""
    return bool(_MAX_COMPLETION_TOKENS.match(_name(target.known_as[1])))


def refused(request: Request) -> dict[str, str]:
    """The parameters of the request that its model refuses, each with what to do about it."""
    said = dict(request.parameters)
    if request.raw is None and request.temperature is not None:
        said["temperature"] = request.temperature
    if _SAMPLING.isdisjoint(said):  # most rows: asked four times for each
        return {}
    name, adapter = _name(request.target.known_as[1]), request.target.adapter
    found: dict[str, str] = {}
    if adapter == "groq":
        found = dict.fromkeys(("logprobs", "top_logprobs", "logit_bias"), "leave it out")
    elif adapter in ("openai", "anthropic", "vertex-claude", "bedrock"):
        claude = name.startswith("claude")
        found = _of_claude(name, said, request) if claude else _of_openai(name, said)
    return {key: do for key, do in found.items() if said.get(key) not in (None, _DEFAULTS.get(key))}


def _of_openai(name: str, said: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    if _ALWAYS_THINKS.match(name):
        found = dict.fromkeys(_DEFAULTS, "leave it out")
    elif _MAY_THINK.match(name):
        effort, reasoning = said.get("reasoning_effort"), said.get("reasoning")
        if isinstance(reasoning, Mapping):  # of responses
            effort = reasoning.get("effort", effort)
        if (effort or ("none" if _THINKS_ON_DEMAND.match(name) else None)) != "none":
            found = dict.fromkeys(_DEFAULTS, "leave it out, or ask for the reasoning effort `none`")
    return found


def _of_claude(name: str, said: Mapping[str, Any], request: Request) -> dict[str, str]:
    thinking = said.get("thinking")
    if _CLAUDE_NO_SAMPLING.match(name):
        return dict.fromkeys(("temperature", "top_p", "topP", "top_k"), "leave it out")
    if isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive"):
        return dict.fromkeys(("temperature", "top_k"), "leave it out while the model thinks")
    if _CLAUDE_ONE_OF_TWO.match(name) and None not in map(said.get, ("temperature", "top_p")):
        theirs = "top_p" in request.own and "temperature" not in request.own
        return {"temperature" if theirs else "top_p": "give one of temperature and top_p"}
    return {}


def require_accepted(request: Request) -> None:
    """Raises `InvalidRequest`, unsent, for a parameter that the model is known to refuse."""
    for name, do in refused(request).items():
        value = request.parameters.get(name, request.temperature)
        raise InvalidRequest(
            f"{request.target.model} refuses {name} ({value!r}): {do}; nothing was sent", sent=False
        )
