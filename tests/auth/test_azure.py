"""Tokens of Microsoft Entra ID, from each place where azure-identity finds credentials."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path

import httpx2
import pytest

from llmctl.auth import azure as room
from llmctl.auth.azure import COGNITIVE_SERVICES, AzureCredentials
from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.auth.token_holder import Token
from llmctl.clock import SystemClock
from llmctl.errors import AuthFailed, ConnectionFailed, ServerFailed
from tests.conftest import KEY, Run
from tests.simulator.entra import CLIENT, SECRET, TENANT, TOKEN, Entra, ManagedIdentity
from tests.simulator.server import Simulator

APPLICATION = {
    "AZURE_TENANT_ID": TENANT,
    "AZURE_CLIENT_ID": CLIENT,
    "AZURE_CLIENT_SECRET": SECRET,
}


@pytest.fixture(autouse=True)
def environment(azure: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """azure-identity looks into the process's own environment."""
    for name in [n for n in os.environ if n.startswith(("AZURE_", "IDENTITY_", "MSI_", "IMDS_"))]:
        monkeypatch.delenv(name)
    for name, value in azure.items():
        monkeypatch.setenv(name, value)


def token(
    tenant: str | None = None, client_id: str | None = None, secret: str | None = None
) -> Token:
    """A token of the application, or of what is found."""
    return asyncio.run(AzureCredentials(tenant, client_id, secret).token(COGNITIVE_SERVICES))


def test_an_application(entra: Entra) -> None:
    """Tenant, client id and secret of the configuration get a token for the scope."""
    found = token(TENANT, CLIENT, SECRET)
    assert found.value == TOKEN.format(1)
    assert found.expires == pytest.approx(time.time() + 3600, abs=60)
    (asked,) = entra.granted
    assert asked.path == f"/{TENANT}/oauth2/v2.0/token"
    assert asked.form["scope"] == COGNITIVE_SERVICES
    assert asked.form["grant_type"] == "client_credentials"
    assert (asked.form["client_id"], asked.form["client_secret"]) == (CLIENT, SECRET)


@pytest.mark.parametrize(
    ("tenant", "client_id"), [(None, None), (TENANT, None), (TENANT, CLIENT), (None, CLIENT)]
)
def test_an_application_of_the_environment(
    entra: Entra, azure: dict[str, str], tenant: str | None, client_id: str | None
) -> None:
    """What the configuration leaves out of an application is looked for in the environment given,
    which may be the process's own with a `.env` file's."""
    found = AzureCredentials(tenant, client_id, environ={**azure, **APPLICATION})
    assert asyncio.run(found.token(COGNITIVE_SERVICES)).value == TOKEN.format(1)
    (asked,) = entra.granted
    assert asked.form["client_secret"] == SECRET


def test_the_environments_secret_is_of_its_own_application(
    entra: Entra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent for another application that the configuration names."""
    for name, value in APPLICATION.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AuthFailed):
        token(TENANT, "99999999-0000-0000-0000-000000000000")
    assert entra.asked == []


def test_workload_identity(entra: Entra, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A federated token in a file (Kubernetes, GitHub) is exchanged for a token."""
    file = tmp_path / "token"
    file.write_text("federated-token", encoding="ascii")
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(file))
    assert token().value == TOKEN.format(1)
    (asked,) = entra.granted
    assert asked.form["client_assertion"] == "federated-token"


def test_the_identity_of_a_virtual_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metadata server is asked for a token for the resource."""
    with ManagedIdentity() as machine:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", machine.origin)
        assert token(None, CLIENT).value == TOKEN.format(1)
        (asked,) = machine.asked
    assert asked.path == "/metadata/identity/oauth2/token"
    assert asked.query["resource"] == COGNITIVE_SERVICES.removesuffix("/.default")
    assert asked.query["client_id"] == CLIENT


def test_the_identity_of_an_app_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables name the server and what to say to it."""
    with ManagedIdentity() as service:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{service.origin}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "header-canary")
        assert token().value == TOKEN.format(1)
        (asked,) = service.asked
    assert (asked.path, asked.headers["x-identity-header"]) == ("/msi/token", "header-canary")


def az(folder: Path, script: str) -> None:
    """An Azure CLI in the folder that is a Python `script`."""
    command = folder / "bin" / "az"
    command.write_text(f"#!{sys.executable}\n{script}\n", encoding="utf-8")
    command.chmod(0o755)


def test_the_login_of_the_azure_cli(tmp_path: Path) -> None:
    """Last, `az` is asked, for the tenant that the configuration names."""
    az(
        tmp_path,
        "import json, sys\nprint(json.dumps({'accessToken': ' '.join(sys.argv[1:]), "
        "'expires_on': 4102444800}))",
    )
    found = token(TENANT)
    assert found.value.startswith("account get-access-token")
    assert found.value.endswith(f"--tenant {TENANT}")
    assert found.expires == 4_102_444_800


def test_an_azure_cli_that_is_not_logged_in(tmp_path: Path) -> None:
    """The message says how to log in."""
    az(tmp_path, "import sys\nsys.exit('ERROR: Please run az login to setup account.')")
    with pytest.raises(
        AuthFailed, match=r"no credentials of Azure; set AZURE.*`az login`"
    ) as error:
        token()
    assert (error.value.exit_code, error.value.sent) == (4, False)


def test_what_a_machine_says_of_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of identities that refuses is quoted."""
    with ManagedIdentity() as machine:
        machine.refusal = {"error": "invalid_request", "error_description": "Identity not found"}
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", machine.origin)
        with pytest.raises(AuthFailed, match=r"no credentials of Azure .*Identity not found"):
            token()


def test_a_refused_secret(caplog: pytest.LogCaptureFixture) -> None:
    """The error names tenant, application and the code with its sentence, and no secret; nothing
    is logged beside it."""
    with pytest.raises(AuthFailed) as error:
        token(TENANT, CLIENT, "wrong-secret-canary-99~Q")
    said = error.value.message
    assert f"the application {CLIENT} of the tenant {TENANT}" in said
    assert ": AADSTS7000215: Invalid client secret provided; check" in said
    assert "canary" not in said
    assert "Trace" not in said
    assert (error.value.exit_code, error.value.sent) == (4, False)
    assert caplog.records == []


def test_an_error_that_repeats_the_secret(entra: Entra) -> None:
    """It is cut out."""
    entra.refusal = {"error": "x", "error_description": f"AADSTS1: no {SECRET}, no. Trace ID: 1"}
    with pytest.raises(AuthFailed, match=r"AADSTS1: no \[key\], no; check"):
        token(TENANT, CLIENT, SECRET)


def test_a_tenant_that_is_none() -> None:
    """What azure-identity objects to is an error of the credentials."""
    with pytest.raises(AuthFailed, match="of the tenant a b: Invalid tenant ID"):
        token("a b", CLIENT, SECRET)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_entra_id_fails(entra: Entra, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A server that fails has not refused anybody: the call may be tried again."""
    monkeypatch.setattr(room, "_RETRIES", 0)
    entra.refusal, entra.status = {"error": "temporarily_unavailable"}, status
    with pytest.raises(ServerFailed) as error:
        token(TENANT, CLIENT, SECRET)
    assert error.value.retryable


def test_entra_id_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    """Nor does one at which nobody listens refuse."""
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://{closed}")
    with pytest.raises(ConnectionFailed, match="Entra ID cannot be reached") as error:
        token(TENANT, CLIENT, SECRET)
    assert error.value.retryable


def test_an_untrusted_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entra ID is believed only by a certificate that the system trusts."""
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
        token(TENANT, CLIENT, SECRET)


@pytest.mark.parametrize("where", ["AZURE_AUTHORITY_HOST", "AZURE_POD_IDENTITY_AUTHORITY_HOST"])
def test_a_silent_server(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A token server that takes a connection and says nothing is given up after `READ` seconds a
    try, where azure-core would wait for 300."""
    monkeypatch.setattr(room, "READ", 0.2)
    monkeypatch.setattr(room, "_RETRIES", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        scheme = "https" if where == "AZURE_AUTHORITY_HOST" else "http"
        monkeypatch.setenv(where, f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        application = (TENANT, CLIENT, SECRET) if scheme == "https" else ()
        with pytest.raises(ConnectionFailed if application else AuthFailed):
            token(*application)
    assert time.monotonic() - started < 4


def test_one_token_for_all_calls(entra: Entra) -> None:
    """Fifty calls at once wait for one token, and each carries it."""
    entra_id = AzureCredentials(TENANT, CLIENT, SECRET)

    async def sign_all() -> set[str]:
        auth = KeyAuth(bearer, entra_id.holder(SystemClock()))
        requests = [httpx2.Request("GET", "http://127.0.0.1/") for _ in range(50)]
        signed = await asyncio.gather(*(auth.sign(request) for request in requests))
        return {request.headers["authorization"] for request in signed}

    assert asyncio.run(sign_all()) == {f"Bearer {TOKEN.format(1)}"}
    assert len(entra.granted) == 1


def configure(home: Path, sim: Simulator, auth: str) -> None:
    """A default profile at the simulator, as at Azure OpenAI."""
    folder = home / ".config" / "llmctl"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "default: az\nprofiles:\n  az:\n    provider: openai\n    model: mine\n"
        f"    base_url: {sim.origin}/openai/v1\n    auth: {auth}\n    retry: {{attempts: 1}}\n",
        encoding="utf-8",
    )


def test_a_question(
    run: Run,
    home: Path,
    sim: Simulator,
    entra: Entra,
    azure: dict[str, str],
    environ: dict[str, str],
) -> None:
    """`auth: {azure: …}` asks with a token; nothing of token or secret is kept."""
    configure(
        home,
        sim,
        f"{{azure: {{tenant: {TENANT}, client_id: {CLIENT}, client_secret: {{env: S}}}}}}",
    )
    done = run("ask", "hi", env={**environ, **azure, "HOME": str(home), "S": SECRET})
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: hi", ""), done.stderr
    (call,) = sim.calls
    assert call.headers["authorization"] == f"Bearer {TOKEN.format(1)}"
    assert "api-key" not in call.headers
    assert len(entra.granted) == 1
    for file in home.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert SECRET.encode() not in data
            assert TOKEN.format(1).encode() not in data


def test_a_question_without_credentials(
    run: Run, home: Path, sim: Simulator, azure: dict[str, str], environ: dict[str, str]
) -> None:
    """Exit 4 and one line with the next step; nothing is sent, nothing of azure-identity's own
    warnings is printed."""
    configure(home, sim, "azure")
    done = run("ask", "hi", env={**environ, **azure, "HOME": str(home)})
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1
    assert "no credentials of Azure; set AZURE_TENANT_ID" in done.stderr
    assert sim.calls == []


def test_azure_identity_is_imported_only_where_it_is_used(
    run: Run, home: Path, sim: Simulator, environ: dict[str, str]
) -> None:
    """A profile with a key imports nothing of Azure's."""
    configure(home, sim, "azure")
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("auth: azure", "key: {env: K}"))
    done = run("ask", "hi", env={**environ, "K": KEY, "PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    assert "httpx2" in done.stderr
    assert "azure.identity" not in done.stderr
    assert "msal" not in done.stderr
