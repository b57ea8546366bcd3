"""The token exchanges of OpenAI's and Anthropic's own SDKs and llmctl, side by side: the request
for the token, and the call that follows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.auth.oidc import OidcExchange
from llmctl.clock import SystemClock
from llmctl.config.settings import OidcAuth, Profile, Timeouts, TokenPlace
from llmctl.http import HttpClient
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.registry import codec
from llmctl.types import Message, Target, Usage
from tests.simulator.oidc import Asked, Exchanges, serving, subject
from tests.support import request

JOB = subject("job")
SAID = ("authorization", "content-type", "anthropic-beta", "x-api-key")
"""The headers that say who asks, and what."""


@pytest.fixture
def server() -> Iterator[Exchanges]:
    """It knows the job."""
    with serving() as exchanges:
        exchanges.subjects.add(JOB)
        yield exchanges


def call(profile: Profile, auth: OidcAuth, environ: dict[str, str], **options: Any) -> str:
    """The answer to one question, asked with a token of the exchange."""

    async def ask() -> str:
        client, speaks = HttpClient(), codec(profile.adapter)
        endpoint = Endpoint(
            codec=speaks,
            http=client,
            base_url=profile.base_url,
            auth=OidcExchange(auth, profile, environ).auth(SystemClock()),
            timeouts=Timeouts(),
            clock=SystemClock(),
            estimate=lambda _, __: Usage(),
            heard=lambda _: None,
        )
        target = Target("p", profile.provider, profile.adapter, profile.base_url, "m")
        asked = request(target=target, messages=(Message("user", "q"),), options=options)
        try:
            return (await endpoint(asked, None)).text
        finally:
            await client.close()

    return asyncio.run(ask())


def same(theirs: Asked, ours: Asked) -> None:
    """Assert that two requests say the same."""
    assert (ours.method, ours.path, ours.query) == (theirs.method, theirs.path, theirs.query)
    for name in SAID:
        assert ours.headers.get(name) == theirs.headers.get(name), name
    assert ours.body == theirs.body


@pytest.mark.parametrize("kind", ["jwt", "id_token"])
def test_openai(server: Exchanges, tmp_path: Path, kind: Any) -> None:
    """The exchange and the call after it are those of `workload_identity`."""
    sdk = pytest.importorskip("openai")
    workload = pytest.importorskip("openai.auth._workload")
    file = tmp_path / "token"
    file.write_text(f"{JOB}\n")
    provider = workload.k8s_service_account_token_provider(file)
    if kind == "id_token":
        provider["token_type"] = "id"
    identity = {
        "identity_provider_id": "idp_1",
        "service_account_id": "sa_1",
        "provider": provider,
    }
    client = sdk.OpenAI(workload_identity=identity, base_url=f"{server.origin}/v1", max_retries=0)
    # The SDK has no public setting for the address of the exchange.
    client._workload_identity_auth.token_exchange_url = f"{server.origin}/oauth/token"
    with client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "q"}])
    profile = Profile("p", "openai", "openai", f"{server.origin}/v1", "m")
    auth = OidcAuth(
        token=TokenPlace(file=file),
        token_type=kind,
        identity_provider_id="idp_1",
        service_account_id="sa_1",
        url=f"{server.origin}/oauth/token",
    )
    assert call(profile, auth, {}) == "hi"
    same(*server.at("/oauth/token"))
    theirs, ours = server.at("/v1/chat/completions")
    assert theirs.headers["authorization"] == f"Bearer {server.issued[0]}"
    assert ours.headers["authorization"] == f"Bearer {server.issued[1]}"
    assert ours.body == theirs.body


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("betas", [None, ["one-2025", "oauth-2025-04-20"], ["one-2025"]])
def test_anthropic(
    server: Exchanges, monkeypatch: pytest.MonkeyPatch, betas: list[str] | None, *, whole: bool
) -> None:
    """The exchange and the call after it are those of the SDK, which finds the same variables; the
    flags of a request stay."""
    sdk = pytest.importorskip("anthropic")
    environ = {
        "ANTHROPIC_FEDERATION_RULE_ID": "fdrl_1",
        "ANTHROPIC_ORGANIZATION_ID": "00000000-0000-4000-8000-000000000000",
        "ANTHROPIC_IDENTITY_TOKEN": JOB,
    }
    if whole:
        environ |= {"ANTHROPIC_SERVICE_ACCOUNT_ID": "svac_1", "ANTHROPIC_WORKSPACE_ID": "wrkspc_1"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    message = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "q"}]}
    headers = {"anthropic-beta": ",".join(betas)} if betas else {}
    with sdk.Anthropic(base_url=server.origin, max_retries=0) as client:
        client.messages.create(**message, extra_headers=headers)
    profile = Profile("p", "anthropic", "anthropic", f"{server.origin}/v1", "m")
    options = {"betas": betas} if betas else {}
    assert call(profile, OidcAuth(), environ, **options) == "hi"
    same(*server.at("/v1/oauth/token"))
    theirs, ours = server.at("/v1/messages")
    assert theirs.headers["authorization"] == f"Bearer {server.issued[0]}"
    assert ours.headers["authorization"] == f"Bearer {server.issued[1]}"
    assert ours.headers["anthropic-beta"] == theirs.headers["anthropic-beta"]
    assert "x-api-key" not in ours.headers
