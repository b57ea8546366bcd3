"""Amazon Bedrock by the installed command."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from tests.conftest import KEY, Run
from tests.ledgers import calls_of
from tests.simulator.errors import Status
from tests.simulator.reply import Problem, Reply
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

MODEL = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
SCHEMA = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'


@pytest.fixture
def bed(environ: dict[str, str], home: Path, sim: Simulator) -> dict[str, str]:
    """The environment with Amazon's variables, and a profile `bed` that names no key."""
    folder = home / ".config/llmctl"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"""
profiles:
  bed:
    provider: bedrock
    region: eu-central-1
    base_url: {sim.origin}{BASES["bedrock"]}
    model: {MODEL}
    price: {{input: 1, output: 2}}
  keyed:
    provider: bedrock
    region: eu-central-1
    base_url: {sim.origin}{BASES["bedrock"]}
    model: {MODEL}
    key: {{env: BEDROCK_KEY}}
"""
    )
    sim.keys = [KEY]
    return {
        **environ,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": "canary-secret-access-key",
        "BEDROCK_KEY": KEY,
    }


def test_questions_are_signed_and_answered(
    run: Run, bed: dict[str, str], sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """Plain, streamed and in a batch, for the model in the path, signed for the region; the bill
    is kept."""
    for option in ("--no-stream", "--stream"):
        done = run("ask", "-p", "bed", option, "--no-cache", "hello", env=bed)
        assert (done.returncode, done.stdout) == (0, "echo: hello"), done.stderr
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "hello"}')
    done = run("batch", "in.jsonl", "-p", "bed", "--no-cache", env=bed)
    assert done.returncode == 0, done.stderr
    paths = [call.path.removeprefix(BASES["bedrock"]) for call in sim.calls]
    where = f"/model/{MODEL.replace(':', '%3A')}"
    assert paths == [f"{where}/converse", f"{where}/converse-stream", f"{where}/converse"]
    for call in sim.calls:
        scope = r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/eu-central-1/bedrock/aws4_request, "
        assert re.match(scope, call.headers["authorization"])
    rows = calls_of(home)
    assert [row["estimated"] for row in rows] == [0, 0, 0]
    assert sum(row["output_tokens"] for row in rows) == sim.billed.output_tokens


def test_a_schema_and_an_attachment(
    run: Run, bed: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """They go out as Converse's structured output and image."""
    (tmp_path / "a.png").write_bytes(PNG)
    sim.reply = lambda _: Reply('{"city":"Paris"}')
    options = ("--schema", SCHEMA, "--attach", "a.png", "--json")
    done = run("ask", "-p", "bed", *options, "where?", env=bed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parsed"] == {"city": "Paris"}
    (call,) = sim.calls
    assert call.ask is not None
    assert call.ask.files == (("image/png", base64.b64encode(PNG).decode()),)
    assert call.ask.schema is not None


def test_the_models(run: Run, bed: dict[str, str]) -> None:
    """Those that are called by their own id, and inference profiles."""
    done = run("models", "-p", "bed", "--json", env=bed)
    assert done.returncode == 0, done.stderr
    assert [model["id"] for model in json.loads(done.stdout)] == ["sim-large", "sim-small"]


def test_a_dry_run_asks_nobody(run: Run, bed: dict[str, str], sim: Simulator) -> None:
    """It shows where the question would go; no credentials are looked for."""
    nobody = {name: value for name, value in bed.items() if not name.startswith("AWS_")}
    done = run("ask", "-p", "bed", "--dry-run", "hello", env=nobody)
    assert done.returncode == 0, done.stderr
    assert f"bed/{MODEL}" in done.stdout
    assert not sim.calls


def test_unknown_credentials_are_a_refused_key(
    run: Run, bed: dict[str, str], sim: Simulator
) -> None:
    """Credentials that Amazon does not know are a key that is refused, with nothing shown of
    them."""
    sim.keys = ["another"]
    done = run("ask", "-p", "bed", "hello", env=bed)
    assert done.returncode == 4
    assert "the security token is invalid" in done.stderr.lower()
    assert KEY not in done.stderr
    assert "canary" not in done.stderr


DENIED = (
    "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:ListFoundationModels "
    "because no identity-based policy allows the bedrock:ListFoundationModels action"
)


@pytest.mark.parametrize(
    ("status", "problem", "code"),
    [
        (403, Problem(DENIED, "permission_error"), 0),
        (403, Problem("Please make sure your API Key is valid.", "permission_error"), 4),
        (403, Problem("", "permission_error"), 4),
        (503, Problem(""), 5),
    ],
)
def test_the_key_check_knows_yes_and_no(
    run: Run, bed: dict[str, str], sim: Simulator, status: int, problem: Problem, code: int
) -> None:
    """A key that may not list models is a good one: Amazon says whose it is."""
    assert run("keys", "check", "keyed", env=bed).returncode == 0
    sim.fault = lambda _: Status(status=status, problem=problem)
    done = run("keys", "check", "keyed", env=bed)
    assert done.returncode == code, done.stderr
