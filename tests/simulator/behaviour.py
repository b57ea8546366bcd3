"""What the simulated provider does: every knob, with its unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from .call import Call
    from .reply import Reply
    from .scripts import Step


def echo(call: Call) -> str:
    """Answer `echo: ` and the last user text."""
    return f"echo: {call.ask.last if call.ask else ''}"


def rough_tokens(text: str) -> int:
    """Count a token for every four bytes, rounded up: near enough, the same everywhere."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


@dataclass(kw_only=True)
class Behaviour:
    """The knobs of a simulator.

    Those above the line may be assigned while it runs and hold from the next request on.
    Callables run in the server's thread and must not block.

    - `fault`: a fault for every request, a script that picks one, or None.
    - `before_read`: the same, asked when only the head is known (no body, no prompt): a `Status`
      is answered at once and the connection closed, any other fault resets the connection.
    - `reply`: what the model says to a call, as text or a `Reply`.
    - `latency`: seconds before each answer. `stream_interval`: seconds between SSE events.
    - `headers`: added to every answer to a request.
    - `count_tokens`: tokens of a text, for usage that a reply does not state.
    - `bill_abandoned`: whether an answer is made and billed although its client has left.
    ---
    - `keys`: accepted API keys, None for any (while it runs: `Simulator.accept_keys`).
    - `rpm`, `tpm`: requests and tokens a minute (a request counts its prompt and `max_tokens`),
      refused with an honest 429 beyond; rate headers are sent when one is set.
    - `models`: what the models endpoint lists.
    - `record_bodies`: whether calls are kept in `Simulator.calls`; without, counters only.
    - `port`: TCP port on 127.0.0.1, 0 for a free one.
    """

    fault: Step = None
    before_read: Step = None
    reply: Callable[[Call], str | Reply] = echo
    latency: float = 0.0
    stream_interval: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    count_tokens: Callable[[str], int] = rough_tokens
    bill_abandoned: bool = True

    keys: Collection[str] | None = None
    rpm: int | None = None
    tpm: int | None = None
    models: Sequence[str] = ("sim-small", "sim-large")
    record_bodies: bool = True
    port: int = 0
