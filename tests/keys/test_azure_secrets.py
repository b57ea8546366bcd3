"""Keys in Azure Key Vault, at a vault and an Entra ID on loopback."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.config.settings import SecretUri, parse_secret_uri
from llmctl.errors import AuthFailed, CallError, ConnectionFailed, NoKeyError
from llmctl.keys import azure_secrets
from llmctl.keys.key import Key, KeySlot
from llmctl.keys.secrets import Secret, SecretSource
from tests.conftest import Run, configure
from tests.simulator.entra import CLIENT, SECRET, TENANT, TOKEN, Entra
from tests.simulator.key_vault import KeyVault, Version, refused
from tests.simulator.loopback import Asked, Said, certificate, closed_port
from tests.simulator.server import Simulator

VALUE = "sk-vault-canary-{}"
THREE = [
    Version("b2", VALUE.format(2), 200),
    Version("c3", VALUE.format(3), 300),
    Version("a1", VALUE.format(1), 100),
]
"""Versions as Key Vault lists them: in no order of time."""


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of vault and Entra ID."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def entra(trusted: Path) -> Iterator[Entra]:
    """Entra ID."""
    with Entra(trusted) as made:
        yield made


@pytest.fixture
def vault(trusted: Path, entra: Entra) -> Iterator[KeyVault]:
    """A vault with a secret `openai` of three versions."""
    with KeyVault(trusted, f"{entra.origin}/{TENANT}") as made:
        made.secrets["openai"] = list(THREE)
        yield made


@pytest.fixture
def places(
    entra: Entra, trusted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The environment of an application that Entra ID knows."""
    for name in [n for n in os.environ if n.startswith(("AZURE_", "IDENTITY_", "MSI_", "IMDS_"))]:
        monkeypatch.delenv(name)
    with closed_port() as closed:
        found = entra.places(trusted, tmp_path, closed)
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        application = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT}
        yield {**found, **application, "AZURE_CLIENT_SECRET": SECRET}


def uri(vault: KeyVault, name: str = "openai") -> SecretUri:
    """The address of a secret in the vault."""
    found = parse_secret_uri(f"azure-kv://{vault.host}/{name}")
    assert found
    return found


def read(
    vault: KeyVault, places: dict[str, str], name: str = "openai", *, previous: bool = False
) -> Secret | None:
    """The secret as the reader gets it."""
    reader = azure_secrets.KeyVault(places)
    return asyncio.run(reader.read(uri(vault, name), previous=previous))


def find(vault: KeyVault, places: dict[str, str], *, reserve: bool = False) -> Key:
    """The secret as the source of a key."""
    source = SecretSource(uri(vault), {}, places)
    return asyncio.run(source.find(KeySlot("x", "http://127.0.0.1"), reserve=reserve))


def test_the_newest_version(vault: KeyVault, places: dict[str, str]) -> None:
    """It is read with its name."""
    assert read(vault, places) == Secret(VALUE.format(3), "c3")
    assert vault.asked[-1].path == "/secrets/openai/"


def test_a_scope_that_the_vault_asks_for(
    vault: KeyVault, places: dict[str, str], entra: Entra
) -> None:
    """A host that is named whole is asked without a token first, and gets one for its own domain;
    after that it is asked once."""
    reader = azure_secrets.KeyVault(places)

    async def twice() -> None:
        for _ in range(2):
            assert await reader.read(uri(vault), previous=False)

    asyncio.run(twice())
    assert [asked.headers.get("authorization") for asked in vault.asked] == [
        None, f"Bearer {TOKEN.format(1)}", f"Bearer {TOKEN.format(1)}"
    ]  # fmt: skip
    (granted,) = entra.granted
    assert granted.form["scope"] == f"{vault.resource}/.default"


def test_a_scope_of_somebody_else(vault: KeyVault, places: dict[str, str], entra: Entra) -> None:
    """No token for another service is fetched, let alone sent."""
    vault.resource = "https://management.azure.com"
    with pytest.raises(AuthFailed, match="the tenant that the vault belongs to"):
        read(vault, places)
    assert entra.granted == []
    assert len(vault.asked) == 1


def test_a_token_that_is_not_taken(vault: KeyVault, places: dict[str, str]) -> None:
    """A second 401 is an end."""
    vault.stale.add(TOKEN.format(1))
    with pytest.raises(AuthFailed, match="it answers 401"):
        read(vault, places)
    assert len(vault.asked) == 2


def test_a_vault_that_asks_for_another_scope_each_time(
    vault: KeyVault, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is followed once."""
    reply = vault.reply

    def fickle(asked: Asked) -> Said:
        vault.resource = "https://" + vault.host.split(".", 1 + len(vault.asked) % 2)[-1]
        return reply(asked)

    vault.stale.add(TOKEN.format(1))
    monkeypatch.setattr(vault, "reply", fickle)
    with pytest.raises(AuthFailed, match="it answers 401"):
        read(vault, places)
    assert len(vault.asked) == 2


def scope(challenge: str, host: str) -> str | None:
    """The scope of a challenge."""
    return azure_secrets.challenged(challenge, host)


@pytest.mark.parametrize(
    ("challenge", "host", "wanted"),
    [
        ('Bearer authorization="a", resource="https://vault.azure.net"', "k.vault.azure.net",
         "https://vault.azure.net/.default"),
        ('Bearer authorization="a", scope="https://vault.azure.cn/.default"', "k.vault.azure.cn",
         "https://vault.azure.cn/.default"),
        ('Bearer authorization="a", resource="https://vault.usgovcloudapi.net/"',
         "K.VAULT.usgovcloudapi.net", "https://vault.usgovcloudapi.net/.default"),
        ('Bearer resource="https://vault.azure.net"', "vault.azure.net", None),
        ('Bearer resource="https://vault.azure.net"', "kvault.azure.net", None),
        ('Bearer resource="https://vault.azure.net"', "k.vault.azure.net.evil.example", None),
        ('Bearer resource="vault.azure.net"', "k.vault.azure.net", None),
        ("Bearer", "k.vault.azure.net", None),
        ("", "k.vault.azure.net", None),
    ],
)  # fmt: skip
def test_challenges(challenge: str, host: str, wanted: str | None) -> None:
    """A challenge counts where the vault is in the domain that the token would be for."""
    assert scope(challenge, host) == wanted


def test_a_vault_by_its_name(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is a vault in Azure's public cloud, over TLS."""
    asked: list[tuple[str, str]] = []

    async def ask(_: Any, host: str, path: str) -> tuple[int, dict[str, Any]]:
        asked.append((host, path))
        return 404, {}

    monkeypatch.setattr(azure_secrets.KeyVault, "_ask", ask)
    found = parse_secret_uri("azure-kv://team/openai")
    assert found
    assert asyncio.run(azure_secrets.KeyVault(places).read(found, previous=False)) is None
    assert asked == [("team.vault.azure.net", "/secrets/openai/")]


def test_the_version_before(vault: KeyVault, places: dict[str, str]) -> None:
    """It is the newest by time but the current one, whichever page it is on; a disabled one is
    none."""
    assert read(vault, places, previous=True) == Secret(VALUE.format(2), "b2")
    vault.secrets["openai"][0] = Version("b2", "x", 200, enabled=False)
    assert read(vault, places, previous=True) == Secret(VALUE.format(1), "a1")
    vault.secrets["openai"] = THREE[:1]
    assert read(vault, places, previous=True) is None


def test_versions_that_may_not_be_listed(vault: KeyVault, places: dict[str, str]) -> None:
    """Then there is the current one alone, which goes on."""
    vault.may_list = False
    assert find(vault, places, reserve=True).previous is None


def test_a_key_with_its_reserve(vault: KeyVault, places: dict[str, str]) -> None:
    """A key's source names the secret and its version, and never the value."""
    key = find(vault, places, reserve=True)
    assert key.value == VALUE.format(3)
    assert key.source == f"{uri(vault)} (c3)"
    assert key.previous is not None
    assert key.previous.value == VALUE.format(2)
    assert "canary" not in repr(Secret(key.value, "c3"))


def test_no_such_secret(vault: KeyVault, places: dict[str, str]) -> None:
    """None; as a key's source it is named."""
    assert read(vault, places, "other") is None
    vault.secrets.clear()
    with pytest.raises(NoKeyError, match=r"Azure Key Vault, azure-kv://.*no such secret"):
        find(vault, places)


RBAC = "Caller is not authorized to perform action on resource."
FIREWALL = "Client address is not authorized and caller is not a trusted service."


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (403, refused("Forbidden", RBAC, "ForbiddenByRbac"), AuthFailed, "Key Vault Secrets User"),
        (403, refused("Forbidden", FIREWALL, "ForbiddenByFirewall"), AuthFailed, "firewall"),
        (403, refused("Forbidden", "x", "SecretDisabled"), NoKeyError, "is disabled"),
        (429, refused("Throttled", "slow"), CallError, "answers 429, slow"),
        (503, {}, CallError, "answers 503"),
        (400, refused("BadParameter", "no"), CallError, "answers 400, no"),
        (200, {"id": "x"}, NoKeyError, "is empty"),
    ],
    ids=["role", "firewall", "disabled", "throttled", "down", "bad", "empty"],
)
def test_refusals(
    vault: KeyVault,
    places: dict[str, str],
    status: int,
    body: Any,
    kind: type[Exception],
    said: str,
) -> None:
    """Each says what to do; what passes may be tried again."""
    vault.refusal = status, body
    with pytest.raises(kind, match=said) as error:
        read(vault, places)
    if isinstance(error.value, CallError):
        assert error.value.retryable is (status in {429, 503})


def test_a_vault_that_is_down(vault: KeyVault, places: dict[str, str]) -> None:
    """It cannot be reached: not the same as a refusal."""
    with closed_port() as closed:
        found = parse_secret_uri(f"azure-kv://{closed}/openai")
        assert found
        with pytest.raises(ConnectionFailed):
            asyncio.run(azure_secrets.KeyVault(places).read(found, previous=False))
    assert vault.asked == []


def test_without_credentials(vault: KeyVault, places: dict[str, str]) -> None:
    """The error is Entra ID's, with the vault's name before it."""
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        del places[name]
    with pytest.raises(NoKeyError, match=r"Azure Key Vault, .*: no credentials of Azure; set"):
        find(vault, places)


def test_a_question(
    run: Run,
    home: Path,
    sim: Simulator,
    vault: KeyVault,
    places: dict[str, str],
    environ: dict[str, str],
) -> None:
    """`key: {secret: azure-kv://…}` asks with the key in the vault, which is written nowhere."""
    configure(home, sim.base_url, f'{{secret: "{uri(vault)}"}}')
    done = run("ask", "hi", env={**environ, **places, "HOME": str(home)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: hi", "")
    assert sim.calls[0].headers["authorization"] == f"Bearer {VALUE.format(3)}"
    files = [file.read_bytes() for file in home.rglob("*") if file.is_file()]
    assert not any(secret in data for data in files for secret in (b"canary", SECRET.encode()))
