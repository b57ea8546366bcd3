"""`llmctl models --for …`, run as a process: what is ranked, and why others are left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.simulator.server import Simulator

KEYS = {"OPENAI_API_KEY": "sk-a", "GEMINI_API_KEY": "g", "ANTHROPIC_API_KEY": "sk-b"}


def test_models_with_a_key_are_ranked_by_price(
    run: Run, environ: dict[str, str], sim: Simulator
) -> None:
    """Only profiles with a key; the cheapest first; the others with a reason; nobody is asked."""
    done = run("models", "--for", "document analysis", "--json", env={**environ, **KEYS})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["needs"], said["window"]) == (["pdf"], 128_000)
    prices = [each["price"]["input"] for each in said["models"] if each["price"]]
    assert prices == sorted(prices)
    assert {each["profile"] for each in said["models"]} == {"openai", "gemini", "anthropic"}
    assert all("pdf" in each["abilities"] and each["source"] for each in said["models"])
    assert all(each["why"] for each in said["left_out"])
    assert not sim.calls


def test_price_need_and_region_leave_out(run: Run, environ: dict[str, str]) -> None:
    """Each says why; with none left it is exit 1."""
    env = {**environ, **KEYS}
    done = run("models", "--need", "video", "--max-price", "1/M", env=env)
    assert done.returncode == 0, done.stderr
    assert "gemini-3.8-flash" in done.stdout
    assert "claude-sonnet-5-5 of anthropic: it is not said to have video" in done.stderr
    done = run("models", "--need", "vision", "--region", "eu", env=env)
    assert done.returncode == 1
    assert "its region is not stated" in done.stderr


REGIONS = """
profiles:
  mistral-eu: {provider: mistral, base_url: "https://api.eu.mistral.ai/v1",
    model: mistral-medium-latest, key: {env: MISTRAL_API_KEY}}
  openai-eu: {provider: openai, base_url: "https://eu.api.openai.com/v1",
    key: {env: OPENAI_API_KEY}}
  vertex-nl: {provider: vertex, region: europe-west4, project: p}
  bedrock-eu: {provider: bedrock, region: eu-central-1, model: eu.anthropic.claude-sonnet-5-5,
    auth: aws}
  bedrock-london: {provider: bedrock, region: eu-west-2, model: anthropic.claude-sonnet-5-5,
    auth: aws}
  bedrock-anywhere: {provider: bedrock, region: eu-central-1, auth: aws}
"""


def test_a_region_is_that_of_the_address_the_cloud_or_the_model(
    run: Run, environ: dict[str, str], home: Path
) -> None:
    """Clouds' regions lie in areas; Europe is wider than the EU; a model that may answer anywhere
    is in no region; a provider with an address there is said to have one."""
    (home / ".config/llmctl").mkdir(parents=True)
    (home / ".config/llmctl/config.yaml").write_text(REGIONS, encoding="utf-8")
    env = {**environ, **KEYS, "MISTRAL_API_KEY": "m"}
    found = {}
    for region in ("eu", "europe"):
        done = run("models", "--need", "vision", "--region", region, "--json", env=env)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        found[region] = {each["profile"] for each in said["models"]}
        assert all(each["abilities"] and each["source"] for each in said["models"])
    assert found["eu"] == {"mistral-eu", "vertex-nl", "bedrock-eu"}
    assert found["europe"] == found["eu"] | {"openai-eu", "bedrock-london"}
    why = {each["profile"]: each["why"] for each in said["left_out"]}
    assert "`base_url: https://eu.api.openai.com/v1` is in europe (https://" in why["openai"]
    assert why["bedrock-anywhere"].startswith("its region is global")


@pytest.mark.parametrize(
    "args", [("--for", "poetry"), ("--need", "sight"), ("--max-price", "cheap")]
)
def test_what_is_not_understood_is_exit_2(
    run: Run, environ: dict[str, str], args: tuple[str, str]
) -> None:
    """With what may be written instead."""
    done = run("models", *args, env=environ)
    assert done.returncode == 2
    assert args[1] in done.stderr
