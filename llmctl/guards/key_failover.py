"""Key failover: a key that the provider refuses in mid-run is replaced, if there is another."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl.errors import AuthFailed
from llmctl.keys.resolver import RotatingKey
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Billed, Request


def key_failover(inner: Handler, key: RotatingKey) -> Handler:
    """The guard: sends a request again with the key that a rotation left beside the refused one. A
    401 is not billed; each key of a run is tried once, so this ends."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        attempts = uncertain = 0
        earlier: tuple[Billed, ...] = ()
        while True:
            using = key.value  # the call itself reads it later, but never an older one
            try:
                answer = await inner(request, emit)
            except AuthFailed as error:
                error.attempts += attempts
                error.uncertain += uncertain
                error.earlier = earlier = earlier + error.earlier
                if not await key.refused(using):
                    raise
                if error.usage is not None:
                    earlier += ((error.usage, error.cost),)
                attempts, uncertain = error.attempts, error.uncertain
            else:
                attempts, uncertain = attempts + answer.attempts, uncertain + answer.uncertain
                earlier += answer.earlier
                return replace(answer, attempts=attempts, uncertain=uncertain, earlier=earlier)

    return handle
