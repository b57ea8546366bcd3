"""A cluster of two real nodes, and the command that uses it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cluster.two_nodes import TwoNodes, two_nodes
from tests.conftest import KEY, Run, configure
from tests.simulator.server import Simulator


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Two nodes, on which the key is. Skipped where ray is missing, but never in CI."""
    if find_spec("ray") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("pip install '.[ray]'")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path_factory.mktemp("node"))}
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        two_nodes({**environ, "SIM_KEY": KEY}, Path(folder)) as cluster,
    ):
        yield cluster


@pytest.fixture
def batch(run: Run, home: Path, environ: dict[str, str], sim: Simulator, nodes: TwoNodes) -> Run:
    """`llmctl batch in.jsonl` on the cluster, with arguments; the driver has no key."""
    configure(home, sim.base_url, "{env: SIM_KEY}", more="    limits: {concurrency: 20}")
    words = "batch", "in.jsonl", "--engine", "ray", "--address", nodes.address
    return partial(run, *words, env=environ)
