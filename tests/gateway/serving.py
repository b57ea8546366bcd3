"""A gateway as tests use it: the installed command on loopback, with profiles at the simulator."""

from __future__ import annotations

import os
import queue
import re
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.conftest import LLMCTL
from tests.simulator.server import Simulator

_START = 30.0  # seconds that a busy machine may take to start it
_AT = re.compile(r" on (https?://\S+)")

PROFILES = """
default: sim
profiles:
  sim: &openai
    provider: openai
    base_url: {base_url}
    model: gpt-5-mini
    key: {{env: SIM_KEY}}
    retry: {{attempts: 1}}
    price: {{input: 1, output: 2}}
  answers: {{extends: sim, api: responses}}
  claude:
    provider: anthropic
    base_url: {origin}/anthropic/v1
    model: claude-sonnet-5-5
    key: {{env: SIM_KEY}}
    retry: {{attempts: 1}}
    price: {{input: 1, output: 2}}
  google:
    provider: gemini
    base_url: {origin}/gemini/v1beta
    model: gemini-3.8-flash
    key: {{env: SIM_KEY}}
    retry: {{attempts: 1}}
    price: {{input: 1, output: 2}}
"""


def configure(home: Path, sim: Simulator, serve: str = "") -> Path:
    """Write a configuration with a profile a dialect, and `serve:` as YAML; the file."""
    file = home / ".config/llmctl/config.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    profiles = PROFILES.format(base_url=sim.base_url, origin=sim.origin).replace("&openai", "")
    file.write_text(profiles + serve, encoding="utf-8")
    return file


@dataclass
class Gateway:
    """A running `llmctl serve`; `lines` is what it has said on stderr."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)
    _more: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def wait_for(self, words: str, seconds: float = _START) -> str:
        """The next line that holds the words. Raises `AssertionError` where none comes."""
        while True:
            try:
                line = self._more.get(timeout=seconds)
            except queue.Empty:
                line = None
            assert line is not None, f"no line with {words!r}:\n{''.join(self.lines)}"
            if words in line:
                return line

    def client(
        self, token: str | None = None, *, verify: ssl.SSLContext | bool = True
    ) -> httpx2.Client:
        """An HTTP client at the gateway's address."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return httpx2.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=verify
        )

    def stop(self, number: int = signal.SIGTERM, seconds: float = _START) -> int:
        """Signal it, and give its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(environ: Mapping[str, str], *flags: str) -> Iterator[Gateway]:
    """A gateway on a free port of loopback; killed with all its workers on leaving."""
    process = subprocess.Popen(
        [LLMCTL, "serve", "--port", "0", *flags],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    gateway = Gateway(process, "")

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            gateway.lines.append(line)
            gateway._more.put(line)
        gateway._more.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        found = _AT.search(gateway.wait_for(" on http"))
        assert found is not None
        gateway.url = found[1]
        yield gateway
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_START)
        reader.join(_START)
        if process.stderr is not None:
            process.stderr.close()
