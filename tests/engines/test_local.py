"""The local engine keeps what every engine promises."""

from __future__ import annotations

from llmctl.engines.local import LocalEngine
from llmctl.protocols import Engine
from llmctl.shutdown import Stop
from tests.conformance.engine import EngineSuite
from tests.support import FakeClock


class TestLocalEngine(EngineSuite):
    """Workers of asyncio."""

    @staticmethod
    def make(concurrency: int, stop: Stop, clock: FakeClock) -> Engine:
        """The engine."""
        return LocalEngine(concurrency, stop, clock)
