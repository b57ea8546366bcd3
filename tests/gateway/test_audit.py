"""Calls through the gateway are in the audit log, by whom they were made for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conftest import LLMCTL
from tests.gateway.conftest import Serve


def test_callers_are_on_record(
    team: dict[str, str], home: Path, serve: Serve, token: Callable[..., str]
) -> None:
    """Every call of two workers has its line, with the caller's name, and the log is whole and
    complete while they run."""
    file = home / ".config/llmctl/config.yaml"
    file.write_text(f"{file.read_text()}\naudit: {{}}\n")
    team["LLMCTL_STORE_KEY"] = "a secret of the store, longer than thirty-two characters"
    secrets = {name: token(name) for name in ("web", "few")}
    gateway = serve("--workers", "2")
    for name in ("web", "few", "web"):
        with gateway.client(secrets[name]) as client:
            body = {"model": "sim", "messages": [{"role": "user", "content": "canary"}]}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
    for command in ("verify", "export"):
        done = subprocess.run(
            [LLMCTL, "audit", command], env=team, capture_output=True, text=True, check=True
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert [line["user"] for line in lines] == ["web", "few", "web"]
