"""SIGINT and SIGTERM as the program means them: `128 + signal` is the exit code."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def caught(on_signal: Callable[[int], None]) -> Iterator[None]:
    """While open, `on_signal` gets the number of every SIGINT and SIGTERM, in the event loop."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _CAUGHT}
    for number in _CAUGHT:
        try:
            loop.add_signal_handler(number, on_signal, int(number))
        except NotImplementedError:  # Windows has no such loop; plain handlers do there
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(on_signal, n))
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)
