"""The local engine keeps what every engine promises, and every engine of workers."""

from __future__ import annotations

from pathlib import Path

from llmctl.engines.local import LocalEngine
from llmctl.protocols import Engine
from llmctl.runner import Runner
from llmctl.shutdown import Stop
from tests.conformance.engine import EngineSuite, WorkersSuite
from tests.support import FakeClock


class TestLocalEngine(EngineSuite, WorkersSuite):
    """Workers of asyncio."""

    def engine(self, live: Runner, stop: Stop, folder: Path) -> Engine:  # noqa: ARG002
        """Four workers."""
        return LocalEngine(4, stop, live.clock)

    @staticmethod
    def make(concurrency: int, stop: Stop, clock: FakeClock) -> Engine:
        """The engine."""
        return LocalEngine(concurrency, stop, clock)
