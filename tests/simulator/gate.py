"""A gate that holds answers until a test lets them go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Moment = Literal["received", "billed"]


class Gate:
    """Holds calls `received` (nothing is billed yet) or `billed` (the answer is made, not sent).

    `held` is the moment at which calls are held, None for no holding; any thread may set it.
    `enter` and `open` belong to the server's thread.
    """

    def __init__(self) -> None:
        self.held: Moment | None = None
        self._waiting: list[Callable[[], None]] = []

    def enter(self, moment: Moment, go_on: Callable[[], None]) -> None:
        """Go on now, or when the gate opens."""
        if self.held == moment:
            self._waiting.append(go_on)
        else:
            go_on()

    def open(self) -> None:
        """Let every held call go on, in the order they came; later ones obey `held`."""
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()
