"""Batches of Mistral keep the one contract."""

from __future__ import annotations

from tests.conformance.batch_api import BatchApiSuite


class TestMistral(BatchApiSuite):
    """The suite."""

    adapter = "mistral"
    tells_usage = False
    tells_queue = False
