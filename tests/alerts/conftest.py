"""Sinks on loopback, and Prometheus' Alertmanager."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.alerts.receiver import Receiver
from tests.keys.openbao import closed_port

_PROGRAM = "prometheus-alertmanager"  # as Debian calls it
_PATIENCE = 20.0


@pytest.fixture
def alertmanager(receiver: Receiver, tmp_path: Path) -> Iterator[str]:
    """The address of an Alertmanager that hands on to `receiver` at once. Skipped where Debian's
    package is missing, but never in CI."""
    if shutil.which(_PROGRAM) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"apt-get install {_PROGRAM}")
    config = tmp_path / "alertmanager.yml"
    config.write_text(
        f"""
route: {{receiver: test, group_by: [alertname], group_wait: 0s, group_interval: 1s}}
receivers:
  - name: test
    webhook_configs: [{{url: "{receiver.url}/am", send_resolved: true}}]
"""
    )
    address = f"127.0.0.1:{closed_port()}"
    process = subprocess.Popen(
        [
            _PROGRAM, f"--config.file={config}", f"--storage.path={tmp_path / 'am'}",
            f"--web.listen-address={address}", "--cluster.listen-address=",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(f"http://{address}/-/ready")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _wait(url: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            if httpx2.get(url).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.05)
    raise TimeoutError(url)
