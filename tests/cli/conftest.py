"""Commands run where a provider is configured."""

from __future__ import annotations

from functools import partial

import pytest

from tests.conftest import Run


@pytest.fixture
def llmctl(run: Run, configured: dict[str, str]) -> Run:
    """Run `llmctl` with the default profile `sim`, which points at the simulator."""
    return partial(run, env=configured)


@pytest.fixture
def llmctl_keyed(run: Run, keyed: dict[str, str]) -> Run:
    """Run `llmctl` with a keyring and the default profile `sim`, whose key is stored there."""
    return partial(run, env=keyed)
