"""Vertex AI: what differs from the APIs that Google and Anthropic serve themselves."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from time import time
from typing import Any

import orjson
import pytest

from llmctl.auth.google import GoogleAuth, GoogleCredentials
from llmctl.clock import SystemClock
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    PermissionRefused,
    RateLimited,
)
from llmctl.pricing import Prices
from llmctl.protocols import Codec
from llmctl.providers.models_api import probe
from llmctl.providers.registry import PRESETS, codec, speaks
from llmctl.types import Message, RawRequest, Request, Target, Usage
from tests.configuring import World
from tests.simulator.google_cloud import GoogleCloud
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES
from tests.support import done

GEMINI, CLAUDE = codec("vertex"), codec("vertex-claude")
both = pytest.mark.parametrize("spoken", [GEMINI, CLAUDE], ids=["gemini", "claude"])


def asked(model: str = "claude-haiku-4-5@20251001", **more: Any) -> Request:
    """A request to Claude."""
    target = Target("v", "vertex-claude", "vertex-claude", "http://127.0.0.1:1", model)
    return Request("a", target, (Message("user", "hi"),), **more)


@pytest.mark.parametrize(
    ("more", "version"),
    [
        ({}, "2026-10-21"),
        ({"temperature": 0.0}, "vertex-2023-10-16"),
        ({"options": {"top_p": 0.5}}, "vertex-2023-10-16"),
        ({"options": {"top_k": 5}}, "vertex-2023-10-16"),
    ],
)
def test_the_version_takes_what_is_sent(more: dict[str, Any], version: str) -> None:
    """The version of Anthropic's SDK refuses sampling parameters: with them the one before it is
    named."""
    body = CLAUDE.encode(asked(**more), stream=False).body
    assert body
    assert body["anthropic_version"] == version


def test_a_message_as_it_is() -> None:
    """A body of the Messages API goes on as it is, but for its model; its betas stay."""
    assert speaks("vertex-claude", "chat", "/messages")
    body = {"model": "mine", "max_tokens": 5, "messages": [], "metadata": {"user_id": "u"}}
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "b-1"}
    wire = CLAUDE.encode(asked(raw=RawRequest("/messages", body, headers=headers)), stream=True)
    assert wire.path == "/models/claude-haiku-4-5@20251001:streamRawPredict"
    assert wire.headers == {"anthropic-beta": "b-1"}
    kept = {name: value for name, value in body.items() if name != "model"}
    assert wire.body == {**kept, "stream": True, "anthropic_version": "2026-10-21"}


def test_models_that_refuse_a_temperature() -> None:
    """What a model of Claude refuses is refused here, too, before anything is sent."""
    with pytest.raises(InvalidRequest, match="claude-sonnet-5-5 refuses temperature"):
        CLAUDE.encode(asked("claude-sonnet-5-5", temperature=0.5), stream=False)


@both
@pytest.mark.parametrize(
    ("status", "word", "message", "kind"),
    [
        (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", AuthFailed),
        (403, "PERMISSION_DENIED", "Vertex AI API has not been used.", PermissionRefused),
        (404, "NOT_FOUND", "Publisher Model was not found.", NotFound),
        (429, "RESOURCE_EXHAUSTED", "Quota exceeded for requests per base model.", RateLimited),
        (400, "INVALID_ARGUMENT", "The input token count exceeds the maximum", ContextTooLong),
    ],
)
def test_googles_errors(
    spoken: Codec, status: int, word: str, message: str, kind: type[Exception]
) -> None:
    """Google's errors are the same whoever made the model, plain or in a list as for a stream."""
    error = {"error": {"code": status, "status": word, "message": message}}
    for body in (error, [error]):
        found = spoken.failure(status, {}, orjson.dumps(body))
        assert type(found) is kind
        assert "roles/" not in str(found)


@both
def test_a_role_that_is_missing(spoken: Codec) -> None:
    """What Google denies for want of a role names the role."""
    said = "Permission 'aiplatform.endpoints.predict' denied on resource 'x' (or it may not exist)."
    body = {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": said}}
    found = spoken.failure(403, {}, orjson.dumps(body))
    assert isinstance(found, PermissionRefused)
    assert "roles/aiplatform.user" in str(found)


@both
def test_pages_of_models(spoken: Codec) -> None:
    """A page names its models with their publisher, and the next page; one of nothing is empty."""
    page = {"publisherModels": [{"name": "publishers/p/models/m-1"}], "nextPageToken": "a/b"}
    models, after = spoken.decode_models(orjson.dumps(page))
    assert ([model.id for model in models], after) == (["m-1"], "a/b")
    assert spoken.models(after).path.endswith("/models?pageToken=a%2Fb")
    assert spoken.decode_models(b"{}") == ([], None)
    with pytest.raises(BadResponse):
        spoken.decode_models(b'{"hello": 1}')


@pytest.mark.parametrize("name", ["vertex", "vertex-claude"])
def test_a_probe_with_a_token(world: World, tmp_path: Path, name: str) -> None:
    """A good account passes, for nothing; one whose token is not taken does not."""
    with GoogleCloud() as google, Simulator() as sim:
        file = google.service_account(tmp_path / "account.json")
        address = sim.origin + BASES[name]
        world.user(f"profiles: {{v: {{provider: {name}, base_url: '{address}', auth: gcp}}}}")
        profile = world.load().profiles["v"]
        clock = SystemClock()
        done(probe, profile, GoogleAuth(GoogleCredentials({}, file), clock), clock)
        publisher = profile.base_url.rpartition("/")[2]
        assert sim.calls[-1].path == f"/{name}/v1beta1/publishers/{publisher}/models"
        sim.accept_keys({"another"})
        with pytest.raises(AuthFailed):
            done(probe, profile, GoogleAuth(GoogleCredentials({}, file), clock), clock)
        assert sim.billed.requests == 0


@pytest.mark.parametrize(
    ("preset", "model", "read", "window"),
    [
        ("vertex", "gemini-2.5-flash", "0.3", 1_048_576),
        ("vertex-claude", "claude-sonnet-4-5@20250929", "3", 200_000),
        ("vertex-claude", "claude-opus-4-5", "5", 200_000),
        ("vertex", "of-our-own", None, None),
    ],
)
def test_prices_and_windows(preset: str, model: str, read: str | None, window: int | None) -> None:
    """Models have their price and window under the names that Vertex AI gives them; of one that
    nobody lists both stay unknown."""
    address = PRESETS[preset].address
    assert address
    target = Target("v", preset, preset, address("global", "p"), model)
    found = Prices().per_million(target, None, time())
    assert (found and found[0]) == (read and Decimal(read))
    assert Prices().window(target.base_url, model) == window


@pytest.mark.parametrize(
    ("region", "model", "read"),
    [
        ("global", "claude-sonnet-4-5@20250929", "3"),
        ("europe-west1", "claude-sonnet-4-5@20250929", "3.3"),
        ("eu", "claude-opus-5-5", None),
        ("europe-west1", "claude-opus-4-1@20250805", "15"),
    ],
)
def test_claude_costs_more_in_a_region(region: str, model: str, read: str | None) -> None:
    """Since Claude 4.5 an answer from one region, or one of several, costs a tenth more than from
    anywhere; the cache, too."""
    address, prices = PRESETS["vertex-claude"].address, Prices()
    assert address
    here, anywhere = (
        Target("v", "vertex-claude", "vertex-claude", address(place, "p"), model)
        for place in (region, "global")
    )
    found = prices.per_million(here, None, time())
    assert found
    assert read is None or found[0] == Decimal(read)
    used = Usage(input=100, output=10, cached_input=50, cache_write=20, reasoning=5)
    costs = [prices.price(each, None, used, time()) for each in (here, anywhere)]
    assert costs[0]
    assert costs[1]
    more = costs[0] / costs[1]
    assert more == (1 if region == "global" or "4-1" in model else Decimal("1.1"))
