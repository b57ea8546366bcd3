"""Key failover: a key that the provider refuses in mid-run is replaced, if there is another."""

from __future__ import annotations

from typing import Protocol

from msgspec.structs import replace

from llmctl.errors import AuthFailed
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Request


class RotatingKey(Protocol):
    """A key that may change during a run."""

    @property
    def value(self) -> str | None:
        """The key that calls use now."""
        ...

    async def refused(self, value: str | None, /) -> bool:
        """The provider refused this key: whether there is another one to use now."""
        ...


class KeyFailover:
    """Sends a request again with the key that a rotation left beside the refused one.

    A 401 is not billed, so nothing is paid twice. Each key of a run is tried once, so this ends.
    """

    def __init__(self, inner: Handler, key: RotatingKey) -> None:
        self._inner = inner
        self._key = key

    async def __call__(self, request: Request, emit: Emit | None) -> Answer:
        """The inner answer; the attempts of a refused key are counted with it."""
        attempts = uncertain = 0
        while True:
            # What the call uses is read later, but never an older key than this one.
            using = self._key.value
            try:
                answer = await self._inner(request, emit)
            except AuthFailed as error:
                error.attempts += attempts
                error.uncertain += uncertain
                if not await self._key.refused(using):
                    raise
                attempts, uncertain = error.attempts, error.uncertain
            else:
                return replace(
                    answer,
                    attempts=answer.attempts + attempts,
                    uncertain=answer.uncertain + uncertain,
                )
