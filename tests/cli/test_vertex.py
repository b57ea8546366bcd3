"""`ask`, `batch` and `models` on Vertex AI, as a process with a service account's file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time

import pytest

from tests.cli.jsonl import read
from tests.conftest import Run
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.google_cloud import ACCOUNT, GoogleCloud
from tests.simulator.reply import Reply
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
SCHEMA = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'

both = pytest.mark.parametrize("provider", ["vertex", "vertex-claude"])


@pytest.fixture
def google() -> Iterator[GoogleCloud]:
    """Google Cloud's token server on loopback."""
    with GoogleCloud() as cloud:
        yield cloud


@pytest.fixture
def at(
    home: Path, environ: dict[str, str], sim: Simulator, google: GoogleCloud
) -> Callable[[str], dict[str, str]]:
    """The environment with a default profile `v` of this provider, and an account for it."""

    def make(provider: str) -> dict[str, str]:
        folder = home / ".config" / "llmctl"
        folder.mkdir(parents=True)
        google.service_account(folder / "account.json", quota_project_id="of-the-file")
        (folder / "config.yaml").write_text(
            f"""
default: v
profiles:
  v:
    provider: {provider}
    base_url: {sim.origin}{BASES[provider]}
    model: sim-small
    auth: {{gcp: {{credentials: account.json, quota_project: billed}}}}
    retry: {{max_wait: 0.01}}
    price: {{input: 1, output: 2}}
""",
            encoding="utf-8",
        )
        return environ

    return make


At = Callable[[str], dict[str, str]]


@both
def test_everything_is_there(
    run: Run, at: At, sim: Simulator, google: GoogleCloud, tmp_path: Path, provider: str
) -> None:
    """Answers, structured ones, attachments, the models and the provider's own count. A command
    buys one token, and the quota is the profile's."""
    env = at(provider)
    (tmp_path / "a.png").write_bytes(PNG)
    assert run("ask", "one two", env=env).stdout == "echo: one two"
    assert sim.calls[-1].headers["authorization"] == f"Bearer {google.given[-1]}"
    assert sim.calls[-1].headers["x-goog-user-project"] == "billed"
    sim.reply = lambda _: Reply('{"city":"Paris"}')
    done = run("ask", "where?", "--schema", SCHEMA, "-a", "a.png", "--json", env=env)
    assert json.loads(done.stdout)["parsed"] == {"city": "Paris"}
    asked = sim.calls[-1].ask
    assert asked is not None
    assert (len(asked.files), asked.schema is not None) == (1, True)
    listed = json.loads(run("models", "--json", env=env).stdout)
    assert [model["id"] for model in listed] == ["sim-large", "sim-small"]
    assert len(google.given) == 3
    assert run("ask", "hi", "--dry-run", env=env).returncode == 0
    assert len(google.given) == 3
    assert run("ask", "hi", "--dry-run", "--exact", env=env).returncode == 0
    assert sim.calls[-1].path.endswith((":countTokens", "count-tokens:rawPredict"))


@both
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, 4, "Request had invalid authentication credentials"),
        (403, 4, rf"roles/aiplatform.user there \(profile v, .* the service account {ACCOUNT}\)"),
        (404, 1, "Publisher Model .*`llmctl models -p v`"),
        (429, 5, "Resource exhausted"),
    ],
)
def test_what_google_refuses(
    run: Run, at: At, sim: Simulator, provider: str, status: int, code: int, said: str
) -> None:
    """Google's own errors are told with account and role, whoever made the model."""
    sim.fault = errors.status(status, "no")
    done = run("ask", "hi", env=at(provider))
    assert done.returncode == code
    assert re.search(said, " ".join(done.stderr.split())), done.stderr


def test_an_account_that_google_refuses(
    run: Run, at: At, sim: Simulator, google: GoogleCloud
) -> None:
    """Nothing is sent without a token; who was refused, and what to do, is said."""
    google.refusal = lambda _: (400, {"error": "invalid_grant", "error_description": "No account"})
    done = run("ask", "hi", env=at("vertex"))
    assert (done.returncode, sim.calls) == (4, [])
    assert f"the service account {ACCOUNT}" in " ".join(done.stderr.split())


def test_a_machine_in_the_cloud(run: Run, at: At, google: GoogleCloud) -> None:
    """Without a file the metadata server gives the token."""
    env = {**at("vertex"), "GCE_METADATA_HOST": google.host, "GCE_METADATA_IP": google.host}
    config = Path(env["HOME"]) / ".config/llmctl/config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("credentials: account.json, ", ""), encoding="utf-8")
    assert run("ask", "hi", env=env).stdout == "echo: hi"
    google.account = None
    done = run("ask", "again", env=env)
    assert done.returncode == 4
    elsewhere = run("ask", "again", env={**env, "NO_GCE_CHECK": "true"})
    assert elsewhere.returncode == 4
    assert "gcloud auth application-default login" in " ".join(elsewhere.stderr.split())


def test_a_token_that_expires_in_the_middle(
    run: Run, at: At, sim: Simulator, google: GoogleCloud, tmp_path: Path
) -> None:
    """500 calls, 50 at a time: one refresh for all of them, and no call fails."""
    env = at("vertex")
    ends: list[float] = []

    def lifetime() -> float:
        lives = 3600 if ends else 2
        ends.append(time() + lives)
        return lives

    def expired(call: Call) -> Fault | None:
        return (
            errors.unauthorized() if time() > ends[google.given.index(str(call.api_key))] else None
        )

    google.lifetime = lifetime
    sim.fault, sim.latency = expired, 0.3
    rows = "".join(f'{{"prompt": "{number}"}}\n' for number in range(500))
    (tmp_path / "in.jsonl").write_text(rows, encoding="utf-8")
    done = run("batch", "in.jsonl", "--concurrency", "50", env=env)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "in.out.jsonl")) == len(sim.calls) == 500
    assert {call.api_key for call in sim.calls} == set(google.given)
    assert len(google.given) == 2
