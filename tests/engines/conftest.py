"""Engines run where a provider with batches is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.provider_batches import Provider
from tests.conftest import KEY, Run
from tests.simulator.server import Simulator


@pytest.fixture
def provider(
    sim: Simulator, run: Run, home: Path, tmp_path: Path, environ: dict[str, str]
) -> Provider:
    """A configured profile `sim` whose provider, the simulator, has batches."""
    made = Provider(sim, run, home, tmp_path, {**environ, "SIM_KEY": KEY})
    made.configure()
    return made
