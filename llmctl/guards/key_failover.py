"""Key failover: a key that the provider refuses in mid-run is replaced, if there is another."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl.errors import AuthFailed, CallError
from llmctl.keys.resolver import RotatingKey
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Billed, Request


def key_failover(inner: Handler, key: RotatingKey) -> Handler:
    """The guard: sends a request again with the key that a rotation left beside the refused one. A
    401 is not billed; each key of a run is tried once, so this ends."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        attempts = uncertain = limited = 0
        earlier: tuple[Billed, ...] = ()
        while True:
            using = key.value  # the call itself reads it later, but never an older one
            try:
                answer = await inner(request, emit)
            except CallError as error:
                error.attempts += attempts
                error.uncertain += uncertain
                error.limited += limited
                error.earlier = earlier = earlier + error.earlier
                if not isinstance(error, AuthFailed) or not await key.refused(using):
                    raise
                if error.usage is not None:
                    earlier += ((error.usage, error.cost),)
                attempts, uncertain, limited = error.attempts, error.uncertain, error.limited
            else:
                return replace(
                    answer,
                    attempts=attempts + answer.attempts,
                    uncertain=uncertain + answer.uncertain,
                    limited=limited + answer.limited,
                    earlier=earlier + answer.earlier,
                )

    return handle
