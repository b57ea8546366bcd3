"""Microsoft Entra ID on loopback, and an environment in which nothing else is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulator.entra import Entra
from tests.simulator.loopback import certificate, closed_port


@pytest.fixture(scope="session")
def loopback_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by nobody, with its key in the same file."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def closed() -> Iterator[str]:
    """An address on loopback at which nobody listens."""
    with closed_port() as address:
        yield address


@pytest.fixture
def entra(loopback_certificate: Path) -> Iterator[Entra]:
    """Entra ID."""
    with Entra(loopback_certificate) as made:
        yield made


@pytest.fixture
def azure(entra: Entra, loopback_certificate: Path, closed: str, tmp_path: Path) -> dict[str, str]:
    """Variables that lead to `entra`, and to no credentials at all."""
    return entra.places(loopback_certificate, tmp_path, closed)
