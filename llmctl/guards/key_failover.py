"""Key failover: a key that the provider refuses in mid-run is replaced, if there is another."""

from __future__ import annotations

from msgspec.structs import replace

from llmctl.errors import AuthFailed, CallError
from llmctl.protocols import Auth, Emit, Handler
from llmctl.types import Answer, Billed, Request


def key_failover(inner: Handler, auth: Auth) -> Handler:
    """The guard: sends a request again with the key that a rotation left beside the refused one. A
    401 is not billed; each key of a run is tried once, so this ends."""

    async def handle(request: Request, emit: Emit | None) -> Answer:
        attempts = uncertain = limited = 0
        earlier: tuple[Billed, ...] = ()
        while True:
            using = auth.mark  # the call itself reads it later, but never an older one
            try:
                answer = await inner(request, emit)
            except CallError as error:
                error.attempts += attempts
                error.uncertain += uncertain
                error.limited += limited
                error.earlier = earlier = earlier + error.earlier
                if not isinstance(error, AuthFailed) or not await _other(auth, using, error):
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


async def _other(auth: Auth, mark: str | None, error: AuthFailed) -> bool:
    """Whether there is something else to use now. What is raised where that cannot be found out
    has the attempts and the bill of the refused call."""
    try:
        return await auth.refused(mark, error)
    except CallError as failed:
        failed.attempts, failed.uncertain = error.attempts, error.uncertain
        failed.limited, failed.earlier, failed.sent = error.limited, error.earlier, error.sent
        if error.usage is not None:
            failed.earlier += ((error.usage, error.cost),)
        raise failed from error
