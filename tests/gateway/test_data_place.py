"""The rules of where data may go, as callers of the gateway meet them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.gateway.site import CHAT, MESSAGE, Site, site

RULES = """
data: {classes: {phi: [claude], pci: [claude, sim]}}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with two classes of data."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    with site(tmp_path_factory.mktemp("host"), kept, RULES) as made:
        yield made


def test_a_call_asks_by_headers(host: Site) -> None:
    """It goes where its class may go; elsewhere it is refused, unsent, with the rule and nothing
    of the configuration."""
    assert host.post(None, CHAT, **{"x-llmctl-data-class": "pci"}).status_code == 200
    before = host.sim.record.requests
    other = {**CHAT, "messages": [{"role": "user", "content": "another, which is not kept"}]}
    refused = host.post(None, other, **{"x-llmctl-data-class": "phi"})
    assert refused.status_code == 403
    assert "(class phi)" in refused.json()["error"]["message"]
    assert "claude" not in refused.text
    region = host.post(None, other, **{"x-llmctl-data-region": "eu"})
    assert (region.status_code, host.sim.record.requests) == (403, before)
    path = "/v1/messages"
    assert host.post(None, MESSAGE, path, **{"x-llmctl-data-class": "phi"}).status_code == 200


def test_counting_tokens_sends_the_prompt_too(host: Site) -> None:
    """So it is refused as a call is."""
    body = {name: MESSAGE[name] for name in ("model", "messages")}
    before = host.sim.record.requests
    path = "/v1/messages/count_tokens"
    refused = host.post(None, body, path, **{"x-llmctl-data-retention": "none"})
    assert (refused.status_code, host.sim.record.requests) == (403, before)
    assert "retention none" in refused.json()["error"]["message"]
