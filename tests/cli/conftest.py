"""Commands run where a provider is configured."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.cli.provider_batches import Provider
from tests.cli.stored_keys import StoredKeys
from tests.conftest import KEY, Run
from tests.simulator.server import Simulator


@pytest.fixture
def llmctl(run: Run, configured: dict[str, str]) -> Run:
    """Run `llmctl` with the default profile `sim`, which points at the simulator."""
    return partial(run, env=configured)


@pytest.fixture
def llmctl_keyed(run: Run, keyed: dict[str, str]) -> Run:
    """Run `llmctl` with a keyring and the default profile `sim`, whose key is stored there."""
    return partial(run, env=keyed)


@pytest.fixture
def stored(
    home: Path, keyed: dict[str, str], sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> StoredKeys:
    """What the keyring holds of `sim`."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", keyed["DBUS_SESSION_BUS_ADDRESS"])
    return StoredKeys(home, sim.origin)


@pytest.fixture
def provider(
    sim: Simulator, run: Run, home: Path, tmp_path: Path, environ: dict[str, str]
) -> Provider:
    """A configured profile `sim` whose provider, the simulator, has batches."""
    made = Provider(sim, run, home, tmp_path, {**environ, "SIM_KEY": KEY})
    made.configure()
    return made
