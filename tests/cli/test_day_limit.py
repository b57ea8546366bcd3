"""A batch whose day of requests is used up, over midnight: the clock is replaced."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.conftest import KEY, Run, configure, ledger
from tests.simulator.server import Simulator

_CLOCK = """\
import os, time
_since = time.monotonic()
time.time = lambda: float(os.environ["NOW"]) + time.monotonic() - _since
"""


@pytest.mark.parametrize(
    ("provider", "evening", "morning", "midnight"),
    [
        ("openai", "2026-11-30T23:29:30+00:00", "2026-12-01T00:00:01+00:00", "00:00 UTC"),
        (
            "gemini", "2026-12-01T07:29:30+00:00", "2026-12-01T08:00:01+00:00",
            "00:00 America/Los_Angeles",
        ),
    ],
)  # fmt: skip
def test_the_same_command_goes_on_the_next_day(
    run: Run, environ: dict[str, str], home: Path, sim: Simulator, tmp_path: Path,
    provider: str, evening: str, morning: str, midnight: str,
) -> None:  # fmt: skip
    """In the evening the run ends with exit 5, the time that is left and an error row for each row
    that was not sent, and again sends nothing; after the provider's midnight it sends those, and
    those alone."""
    base_url = {"openai": sim.base_url, "gemini": f"{sim.origin}/gemini/v1beta"}[provider]
    configure(home, base_url, "{env: SIM_KEY}", "    limits: {rpd: 3, concurrency: 1}")
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("provider: openai", f"provider: {provider}"))
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(_CLOCK, encoding="utf-8")
    source, output = write(tmp_path / "in.jsonl", prompts(5)), tmp_path / "in.out.jsonl"

    def at(moment: str) -> tuple[int, dict[str, object], str]:
        now = str(datetime.fromisoformat(moment).timestamp())
        env = {**environ, "SIM_KEY": KEY, "PYTHONPATH": str(tmp_path / "clock"), "NOW": now}
        done = run("batch", str(source), "--json", env=env)
        return done.returncode, json.loads(done.stdout), done.stderr

    for sent, ok in ((3, 3), (3, 0)):
        code, summary, stderr = at(evening)
        assert (code, len(sim.calls)) == (5, sent), stderr
        assert (summary["ok"], summary["failed"], summary["errors"]) == (ok, 2, {"quota": 2})
        assert f"the next day begins in 0.5 h, at {midnight}: run the same command" in stderr
        errors = read(tmp_path / "in.out.errors.jsonl")
        assert {row["error"]["type"] for row in errors} == {"quota"}
        assert len(read(output)) == 3
        assert [call["status"] for call in ledger(home) if call["cost_pico"]] == ["ok"] * 3
    code, summary, stderr = at(morning)
    assert (code, summary["ok"], summary["skipped"], len(sim.calls)) == (0, 2, 3, 5), stderr
    assert sorted(row["id"] for row in read(output)) == [f"r{n}" for n in range(5)]
    assert not (tmp_path / "in.out.errors.jsonl").exists()
