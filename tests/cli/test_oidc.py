"""Keyless CI: commands whose proof is the OIDC token of the job they run in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.simulator.oidc import ASKING, Exchanges, serving, subject
from tests.simulator.server import Simulator

JOB = subject("job")


@pytest.fixture
def server() -> Iterator[Exchanges]:
    """It gives jobs a token for `llm`, and takes that."""
    with serving() as exchanges:
        exchanges.jobs["llm"] = JOB
        exchanges.subjects.add(JOB)
        yield exchanges


@pytest.fixture
def job(home: Path, environ: dict[str, str], sim: Simulator, server: Exchanges) -> dict[str, str]:
    """The environment of a job that has no key; the provider takes what the exchange gave."""
    sim.keys = server.issued
    folder = home / ".config/llmctl"
    folder.mkdir(parents=True)
    ours, theirs = f"{server.origin}/oauth/token", f"{server.origin}/v1/oauth/token"
    (folder / "config.yaml").write_text(
        f"""
default: ci
profiles:
  ci:
    provider: openai
    base_url: {sim.base_url}
    retry: {{max_wait: 0.01}}
    auth:
      oidc:
        {{audience: llm, identity_provider_id: idp, service_account_id: sa, url: "{ours}"}}
  claude:
    provider: anthropic
    base_url: {sim.origin}/anthropic/v1
    auth:
      oidc:
        {{audience: llm, federation_rule_id: r, organization_id: o, url: "{theirs}"}}
""",
        encoding="utf-8",
    )
    return {**environ, **server.github}


def test_ask_and_batch_need_no_key(
    run: Run, job: dict[str, str], server: Exchanges, sim: Simulator, tmp_path: Path
) -> None:
    """Both answer with a token that they exchange once, at OpenAI and at Anthropic; neither token
    is written anywhere."""
    done = run("ask", "q", env=job)
    assert (done.returncode, done.stdout) == (0, "echo: q"), done.stderr
    rows = [json.dumps({"id": str(n), "prompt": f"say {n}"}) for n in range(200)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    for profile in ("ci", "claude"):
        words = ("batch", "in.jsonl", "-p", profile, "-o", f"{profile}.jsonl")
        done = run(*words, "--concurrency", "50", env=job)
        assert done.returncode == 0, done.stderr
    assert (len(server.issued), sim.billed.requests) == (3, 401)
    assert {call.headers["anthropic-beta"] for call in sim.calls if "/anthropic" in call.path} == {
        "oauth-2025-04-20"
    }
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(token.encode() in kept for token in (*server.issued, JOB, ASKING))


def test_a_token_that_ends_in_mid_batch(
    run: Run, job: dict[str, str], server: Exchanges, sim: Simulator, tmp_path: Path
) -> None:
    """Tokens of a second: there is a new one before each end, and every row is answered."""
    server.life, sim.latency = 1, 0.05
    rows = [json.dumps({"id": str(n), "prompt": f"say {n}"}) for n in range(500)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    done = run("batch", "in.jsonl", "--concurrency", "10", "--json", env=job)
    assert done.returncode == 0, done.stderr
    assert sim.billed.requests == 500
    assert 3 <= len(server.issued) < 20


@pytest.mark.parametrize("lacking", ["permission", "trust"])
def test_a_job_that_is_not_let_in(
    run: Run, job: dict[str, str], server: Exchanges, sim: Simulator, lacking: str
) -> None:
    """Exit 4 with the line that mends the job, or who refused it; nothing is sent to the
    provider."""
    if lacking == "permission":
        job = {**job, "ACTIONS_ID_TOKEN_REQUEST_URL": ""}
    else:
        server.subjects.clear()
    done = run("ask", "q", env=job)
    assert done.returncode == 4, done.stderr
    words = {"permission": "permissions: {id-token: write}", "trust": "OpenAI gives no token"}
    assert words[lacking] in done.stderr
    assert JOB not in done.stderr
    assert sim.calls == []


def test_a_refusal_names_the_exchange(run: Run, job: dict[str, str], sim: Simulator) -> None:
    """A token that the provider does not take: exit 4 says whose credentials they were, and asks
    for no other key."""
    sim.accept_keys(["another"])
    done = run("ask", "q", env=job)
    assert done.returncode == 4
    said = " ".join(done.stderr.split())
    assert "with the credentials of OpenAI's token exchange); see that their account" in said
    assert len(sim.calls) == 1
