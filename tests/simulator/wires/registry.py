"""The list of endpoints: a new provider's wires are added here, the more specific path first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .openai import Chat
from .openai_other import Embeddings, Models
from .openai_responses import Responses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .wire import Wire


class Registry:
    """Finds the wire of a request; `models` is what the models endpoints list."""

    def __init__(self, models: Sequence[str]) -> None:
        self._wires: tuple[Wire, ...] = (Chat(), Responses(), Embeddings(), Models(models))
        self._found: dict[tuple[str, str], Wire | None] = {}

    @property
    def default(self) -> Wire:
        """The wire whose error shape answers unknown paths."""
        return self._wires[0]

    def find(self, method: str, path: str) -> Wire | None:
        """Find the endpoint of a request, or None."""
        place = method, path
        if place not in self._found:
            serving = (wire for wire in self._wires if wire.serves(method, path))
            self._found[place] = next(serving, None)
        return self._found[place]
