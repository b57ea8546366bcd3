"""Secrets of Vault, read from a real server of its API (OpenBao)."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from llmctl.config.settings import parse_secret_uri
from llmctl.errors import ConfigError, NoKeyError
from llmctl.keys import secrets
from llmctl.keys.key import Key
from llmctl.keys.secrets import SecretReader, SecretSource
from llmctl.keys.vault_secrets import Vault
from tests.conformance.http_peer import Line, Peer
from tests.conformance.secret_reader import NEW, OLD, SLOT, SecretReaderSuite
from tests.gateway.issuer import rsa_key
from tests.gateway.test_server import made_certificate
from tests.keys.openbao import OpenBao, closed_port
from tests.support import FakeClock


class VaultManager:
    """The server as the suite knows managers: who asks has a token of the policy `reader`."""

    def __init__(self, server: OpenBao) -> None:
        self.server = server
        self.environ = {"VAULT_ADDR": server.address, "VAULT_TOKEN": server.token()}

    def uri(self, name: str) -> str:
        """The address of the field `key`."""
        return f"vault://secret/suite/{name}#key"

    def put(self, name: str, value: str) -> None:
        """Store it beside another field."""
        self.server.put(f"suite/{name}", key=value, note="not a key")

    def deny(self, name: str) -> None:
        """Change the policy."""
        self.server.deny(f"suite/{name}")

    def stop(self) -> None:
        """The server goes on for other tests: the address becomes one where nobody listens."""
        self.environ["VAULT_ADDR"] = f"http://127.0.0.1:{closed_port()}"


@pytest.fixture
def manager(openbao: OpenBao) -> VaultManager:
    """OpenBao."""
    return VaultManager(openbao)


class TestVault(SecretReaderSuite):
    """The suite."""

    name = "Vault"
    allow = "its policy must allow `read` of secret/data/suite/denied"


def find(
    uri: str, environ: dict[str, str], reader: SecretReader | None = None, *, reserve: bool = False
) -> Key:
    """The key at an address."""
    parsed = parse_secret_uri(uri)
    assert parsed
    readers = {"vault": reader} if reader else {}
    return asyncio.run(SecretSource(parsed, readers, environ).find(SLOT, reserve=reserve))


@pytest.mark.parametrize(
    ("path", "stored", "source"),
    [
        ("kv1/llm/openai", "kv1/llm/openai", ""),
        ("team/kv/llm/openai", "team/kv/data/llm/openai", " (version 2)"),
        ("secret/with space/a@b", "secret/data/with%20space/a@b", " (version 2)"),
    ],
)
def test_engines(openbao: OpenBao, path: str, stored: str, source: str) -> None:
    """Both versions of the engine are told apart, wherever it is mounted; the first one keeps no
    previous version."""
    for value in (OLD, NEW):
        body: dict[str, Any] = {"key": value}
        openbao.ask("POST", stored, {"data": body} if "data" in stored else body)
    environ = {"BAO_ADDR": f"{openbao.address}/", "BAO_TOKEN": openbao.token()}
    uri = f"vault://{path}#key"
    found = find(uri, environ, reserve=True)
    assert (found.value, found.source) == (NEW, uri + source)
    assert (found.previous.value if found.previous else None) == (OLD if source else None)


def test_a_path_as_the_api_has_it(openbao: OpenBao) -> None:
    """Who writes `data/` into the path is told the address without it."""
    environ = {"VAULT_ADDR": openbao.address, "VAULT_TOKEN": openbao.token()}
    with pytest.raises(NoKeyError, match="write vault://secret/llm/openai#key, without `data/`"):
        find("vault://secret/data/llm/openai#key", environ)


def test_a_deleted_version(manager: VaultManager) -> None:
    """The newest one being deleted is said; one before it that was deleted is no reserve."""
    server, uri = manager.server, manager.uri("deleted")
    for value in (OLD, NEW):
        manager.put("deleted", value)
    server.ask("POST", "secret/delete/suite/deleted", {"versions": [1]})
    found = find(uri, manager.environ, reserve=True)
    assert (found.value, found.previous) == (NEW, None)
    server.ask("POST", "secret/delete/suite/deleted", {"versions": [2]})
    with pytest.raises(NoKeyError, match="its newest version, 2, is deleted; store another one"):
        find(uri, manager.environ)


def test_a_wrong_field(manager: VaultManager) -> None:
    """The names of the fields there are, and no value, are said."""
    manager.put("fields", NEW)
    with pytest.raises(NoKeyError, match=r"has no field openai \(key, note\); check") as caught:
        find("vault://secret/suite/fields#openai", manager.environ)
    assert "sk-" not in caught.value.message
    body = {"data": {"key": {"inner": NEW}}}
    manager.server.ask("POST", "secret/data/suite/fields", body)
    with pytest.raises(NoKeyError, match="field key is no text") as caught:
        find("vault://secret/suite/fields#key", manager.environ)
    assert "sk-" not in caught.value.message


def an_approle(server: OpenBao, **options: Any) -> dict[str, str]:
    """The environment of a new AppRole."""
    server.ask("POST", "auth/approle/role/llmctl", {"token_policies": ["reader"], **options})
    role = server.ask("GET", "auth/approle/role/llmctl/role-id")["data"]["role_id"]
    made = server.ask("POST", "auth/approle/role/llmctl/secret-id", {})["data"]["secret_id"]
    return {"VAULT_ADDR": server.address, "VAULT_ROLE_ID": role, "VAULT_SECRET_ID": made}


def test_login_by_approle(manager: VaultManager, tmp_path: Path) -> None:
    """Its token is kept until its lease is half over, and then got anew by another login; a wrong
    secret ID, which may be in a file, is refused by a sentence without it."""
    manager.put("approle", NEW)
    environ, uri = an_approle(manager.server, token_ttl="10m"), manager.uri("approle")
    clock = FakeClock(time.time())
    reader = Vault(environ, clock)
    for passed, used in ((0, 1), (200, 1), (200, 2)):
        clock.now += passed
        assert find(uri, environ, reader).value == NEW
        accessors = manager.server.ask("LIST", "auth/token/accessors")["data"]["keys"]
        looked = [
            manager.server.ask("POST", "auth/token/lookup-accessor", {"accessor": each})["data"]
            for each in accessors
        ]
        assert len([each for each in looked if each["path"] == "auth/approle/login"]) == used
    file = tmp_path / "secret-id"
    file.write_text("wrong-secret-id-0001\n")
    del environ["VAULT_SECRET_ID"]
    environ["VAULT_SECRET_ID_FILE"] = str(file)
    with pytest.raises(NoKeyError, match="login at auth/approle is refused") as caught:
        find(uri, environ)
    assert "check VAULT_ROLE_ID and VAULT_SECRET_ID" in caught.value.message
    assert "0001" not in caught.value.message


def test_a_revoked_login_is_made_again(manager: VaultManager) -> None:
    """A token of a login that is revoked before its end is refused: another login gets the next
    one, and the read succeeds."""
    manager.put("revoked", NEW)
    environ, uri = an_approle(manager.server, token_ttl="1h"), manager.uri("revoked")
    clock = FakeClock(time.time())
    reader = Vault(environ, clock)
    assert find(uri, environ, reader).value == NEW
    manager.server.ask("POST", "sys/leases/revoke-prefix/auth/approle/login", {})
    clock.now += 60
    assert find(uri, environ, reader).value == NEW


def test_login_by_jwt(manager: VaultManager, tmp_path: Path) -> None:
    """A JWT, which may be in a file (Kubernetes renews it there) is exchanged at the mount that is
    named; a wrong one is refused by a sentence without it."""
    manager.put("jwt", NEW)
    key, server = rsa_key(), manager.server
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    server.ask("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [pem]})
    role = {"role_type": "jwt", "bound_audiences": ["bao"], "user_claim": "sub"}
    server.ask("POST", "auth/jwt/role/ci", {**role, "token_policies": ["reader"]})
    said = {"aud": "bao", "sub": "ci", "exp": int(time.time()) + 60}
    file = tmp_path / "token"
    file.write_text(jwt.encode(said, key, "RS256") + "\n")
    environ = {"VAULT_ADDR": server.address, "VAULT_ROLE": "ci", "VAULT_JWT_FILE": str(file)}
    assert find(manager.uri("jwt"), {**environ, "VAULT_AUTH_MOUNT": "jwt"}).value == NEW
    wrong = jwt.encode(said, rsa_key(), "RS256")
    with pytest.raises(NoKeyError, match="login at auth/jwt is refused") as caught:
        find(manager.uri("jwt"), {**environ, "VAULT_JWT": wrong})
    assert wrong not in caught.value.message
    with pytest.raises(NoKeyError, match="login at auth/kubernetes is refused"):
        find(manager.uri("jwt"), {**environ, "VAULT_AUTH_MOUNT": "kubernetes"})


def test_the_token_of_vault_login(manager: VaultManager, tmp_path: Path) -> None:
    """`~/.vault-token` is who asks where no variable says so; where it is missing, the ways are
    named."""
    manager.put("file", NEW)
    environ = {"VAULT_ADDR": manager.server.address, "HOME": str(tmp_path)}
    with pytest.raises(NoKeyError, match=r"nothing says who asks: set VAULT_TOKEN, or .*`vault lo"):
        find(manager.uri("file"), environ)
    (tmp_path / ".vault-token").write_text(manager.environ["VAULT_TOKEN"] + "\n")
    assert find(manager.uri("file"), environ).value == NEW


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"VAULT_ADDR": ""}, "VAULT_ADDR is not set; set it to the server's address"),
        ({"VAULT_ADDR": "http://vault.example:8200"}, r"\$VAULT_ADDR is not https://"),
        ({"BAO_ADDR": "https://ann:secret@vault"}, r"\$BAO_ADDR is not https:// .*without user"),
        ({"VAULT_ADDR": "https://[::1"}, r"\$VAULT_ADDR is not https://"),
        ({"VAULT_TOKEN": "wrong-token-0001"}, r"in \$VAULT_TOKEN may not read .*permission denied"),
        ({"VAULT_TOKEN": "", "VAULT_ROLE_ID": "x"}, "VAULT_SECRET_ID is not set, nor VAULT_SECRET"),
        ({"VAULT_NAMESPACE": "elsewhere"}, "vault://secret/suite/said#key: "),
    ],
)
def test_what_is_said_wrong(manager: VaultManager, changed: dict[str, str], message: str) -> None:
    """An address that a secret may not come from, a token that is none: one sentence names the
    variable, and shows no secret."""
    manager.put("said", NEW)
    with pytest.raises(NoKeyError, match=message) as caught:
        find(manager.uri("said"), {**manager.environ, **changed})
    assert caught.value.exit_code == 4
    assert "secret@" not in caught.value.message
    assert "0001" not in caught.value.message


def test_a_sealed_server(tmp_path: Path) -> None:
    """A server that must be unsealed says so."""
    with OpenBao(tmp_path) as server:
        environ = {"VAULT_ADDR": server.address, "VAULT_TOKEN": server.token()}
        server.ask("PUT", "sys/seal")
        with pytest.raises(NoKeyError, match=r"it is sealed .*somebody must unseal it"):
            find("vault://secret/any#key", environ)


def http(status: int, body: str, *headers: str) -> bytes:
    """A reply."""
    lines = [f"HTTP/1.1 {status} It", f"content-length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("reply", "message", "asked"),
    [
        (
            http(307, "", "location: https://vault-2.example:8200/v1/x"),
            r"not the active node; set VAULT_ADDR to that \(vault-2.example:8200\)",
            1,
        ),
        (http(429, '{"errors": ["slow"]}'), r"is asked too often \(slow\)", 2),
        (http(500, '{"errors": ["sk-echo-4711-0001"]}'), r"it failed \(HTTP 500\) \(\[key\]\)", 2),
        (http(502, "<html>"), r"it failed \(HTTP 502\)", 2),
        (http(400, '{"errors": ["odd"]}'), r"it replied HTTP 400 \(odd\)", 1),
        (http(200, "<html>"), "what replies is no such manager", 2),
        (http(200, '{"data": 1}'), "its reply is not of the form", 2),
    ],
)
def test_other_replies(reply: bytes, message: str, asked: int) -> None:
    """What is no secret is one sentence; what may pass is asked for once more."""
    uri = parse_secret_uri("vault://secret/any#key")
    assert uri

    async def speak(line: Line) -> None:
        await line.head()
        line.say(reply)
        await line.end()

    async def read() -> int:
        async with Peer(speak) as peer:
            environ = {"VAULT_ADDR": peer.url.removesuffix("/v1"), "VAULT_TOKEN": "any"}
            with pytest.raises(NoKeyError, match=message):
                await SecretSource(uri, {}, environ).find(SLOT)
            return len(peer.lines)

    assert asyncio.run(read()) == asked


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has three seconds for all of a read, login included, twice; then the manager is named."""
    assert secrets.LIMIT == 3.0
    monkeypatch.setattr(secrets, "LIMIT", 0.3)
    uri = parse_secret_uri("vault://secret/any#key")
    assert uri

    async def speak(line: Line) -> None:
        await line.end()

    async def read() -> tuple[float, int]:
        async with Peer(speak) as peer:
            environ = {"VAULT_ADDR": peer.url.removesuffix("/v1"), "VAULT_TOKEN": "any"}
            began = time.monotonic()
            with pytest.raises(NoKeyError, match=r"Vault, vault://secret/any#key: no reply within"):
                await SecretSource(uri, {}, environ).find(SLOT)
            return time.monotonic() - began, len(peer.lines)

    seconds, asked = asyncio.run(read())
    assert 0.6 <= seconds < 2
    assert asked == 2


def test_a_private_certificate(tmp_path: Path) -> None:
    """The certificates of `VAULT_CACERT` are trusted; without it, or with a file that holds none,
    nothing is sent."""
    uri = parse_secret_uri("vault://secret/any#key")
    assert uri
    certificate, key = made_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    both = {"path": "secret/", "options": {"version": "1"}, "key": NEW}
    reply = http(200, json.dumps({"data": both}))

    async def speak(line: Line) -> None:
        await line.head()
        line.say(reply)
        await line.end()

    async def read(trusted: Path | None) -> str:
        async with Peer(speak, tls) as peer:
            environ = {"VAULT_ADDR": peer.url.removesuffix("/v1"), "VAULT_TOKEN": "any"}
            environ |= {"VAULT_CACERT": str(trusted)} if trusted else {}
            return (await SecretSource(uri, {}, environ).find(SLOT)).value

    assert asyncio.run(read(certificate)) == NEW
    with pytest.raises(NoKeyError, match=r"certificate verify failed.*see that it can be reached"):
        asyncio.run(read(None))
    with pytest.raises(ConfigError, match="certificates cannot be loaded"):
        asyncio.run(read(tmp_path / "none.pem"))
