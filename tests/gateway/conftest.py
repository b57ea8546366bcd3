"""What the tests of the gateway share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import KEY, LLMCTL
from tests.gateway.serving import Gateway, configure, serving
from tests.simulator.server import Simulator

Serve = Callable[..., Gateway]


@pytest.fixture
def team(home: Path, environ: dict[str, str], sim: Simulator) -> dict[str, str]:
    """The environment of a host with profiles at the simulator: one of each dialect."""
    configure(home, sim)
    return {**environ, "SIM_KEY": KEY}


@pytest.fixture
def token(team: dict[str, str]) -> Callable[..., str]:
    """Makes a virtual key: `token("web", "--rpm", "60")` gives its secret."""

    def make(name: str, *flags: str) -> str:
        done = subprocess.run(
            [LLMCTL, "tokens", "create", name, *flags],
            env=team,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    return make


@pytest.fixture
def serve(team: dict[str, str]) -> Iterator[Serve]:
    """Starts a gateway: `serve("--workers", "2")`; it ends with the test."""
    with ExitStack() as stack:

        def start(*flags: str) -> Gateway:
            return stack.enter_context(serving(team, *flags))

        yield start
