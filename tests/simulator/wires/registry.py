"""The list of endpoints: a new provider's wires are added here, the more specific path first."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulator.batches_anthropic import ANTHROPIC
from tests.simulator.batches_gemini import GEMINI
from tests.simulator.batches_mistral import MISTRAL
from tests.simulator.batches_openai import GROQ, OPENAI
from tests.simulator.batches_openrouter import OPENROUTER

from . import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    groq,
    mistral,
    openrouter,
    vertex,
    vertex_claude,
)
from .openai import Chat
from .openai_other import Embeddings, Models
from .openai_responses import InputTokens, Responses
from .wire import Wire

BASES = {
    "openai": "/v1",
    "anthropic": "/anthropic/v1",
    "gemini": "/gemini/v1beta",
    "cohere": "/cohere/v2",
    "mistral": "/mistral/v1",
    "openrouter": "/openrouter/api/v1",
    "groq": "/groq/openai/v1",
    "bedrock": "/bedrock",
    "vertex": "/vertex/v1/projects/sim/locations/europe-west1/publishers/google",
    "vertex-claude": "/vertex-claude/v1/projects/sim/locations/eu/publishers/anthropic",
}
"""Where each provider's base URL lies below the simulator's origin: its name, then its own path."""


_WIRES: dict[str, tuple[type[Wire], ...]] = {
    "openai": (Chat, InputTokens, Responses, Embeddings, Models, *OPENAI),
    "anthropic": (anthropic.Messages, anthropic.CountTokens, anthropic.Models, *ANTHROPIC),
    "gemini": (gemini.Generate, gemini.CountTokens, gemini.Models, *GEMINI),
    "cohere": (cohere.Chat, cohere.Tokenize, cohere.CheckKey, cohere.Models),
    "mistral": (mistral.MistralChat, mistral.Models, *MISTRAL),
    "openrouter": (openrouter.OpenRouterChat, openrouter.Key, openrouter.Models, *OPENROUTER),
    "groq": (groq.GroqChat, groq.Models, *GROQ),
    "bedrock": (bedrock.Converse, bedrock.CountTokens, bedrock.Models, bedrock.Profiles),
    "vertex": (vertex.Generate, vertex.CountTokens, vertex.Models),
    "vertex-claude": (vertex_claude.CountTokens, vertex_claude.Messages, vertex_claude.Models),
}


class Registry:
    """Finds the wire of a request; `models` is what the models endpoints list.

    The first part of a path names the provider; whatever names none is OpenAI's.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self._wires_of = {
            name: tuple(kind(models) for kind in kinds) for name, kinds in _WIRES.items()
        }
        self._found: dict[tuple[str, str], Wire | None] = {}

    def default(self, path: str) -> Wire:
        """The wire whose error shape answers unknown paths."""
        return self._wires(path)[0]

    def find(self, method: str, path: str) -> Wire | None:
        """Find the endpoint of a request, or None."""
        place = method, path
        if place not in self._found:
            serving = (wire for wire in self._wires(path) if wire.serves(method, path))
            self._found[place] = next(serving, None)
        return self._found[place]

    def _wires(self, path: str) -> tuple[Wire, ...]:
        provider = path.lstrip("/").partition("/")[0]
        return self._wires_of.get(provider) or self._wires_of["openai"]
