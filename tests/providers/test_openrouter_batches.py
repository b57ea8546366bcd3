"""Batches of OpenRouter keep the one contract."""

from __future__ import annotations

from tests.conformance.batch_api import BatchApiSuite


class TestOpenRouter(BatchApiSuite):
    """The suite."""

    adapter = "openrouter"
    uploads = False
    cancels = False
    tells_queue = False
