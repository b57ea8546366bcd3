"""Keys in AWS Secrets Manager and in Systems Manager's parameters, against moto's server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmctl.config.settings import SecretUri, parse_secret_uri
from llmctl.errors import AuthFailed, CallError, LlmctlError, NoKeyError, RateLimited, ServerFailed
from llmctl.keys.aws_secrets import ParameterStore, SecretsManager
from llmctl.keys.secrets import Secret
from tests.conformance.secret_reader import NEW, OLD, Manager, SecretReaderSuite, find
from tests.keys.aws_servers import (
    KEYS,
    REGION,
    Answer,
    AwsStub,
    MotoServer,
    error,
    free_port,
    signed_at,
)


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    """A real server."""
    with MotoServer() as server:
        yield server


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file and no metadata server of this machine is read."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class _Aws:
    """A `Manager`: moto, or what stands at its address after `deny` and `stop`."""

    def __init__(self, moto: MotoServer, client: Any) -> None:
        self.client, self._url = client, moto.url
        self._stubs: list[AwsStub] = []

    @property
    def environ(self) -> Mapping[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self._url}

    def deny(self, name: str) -> None:
        """A server that says so: moto holds nobody to a policy in these services."""
        denied = error("AccessDeniedException", f"User: arn:aws:iam::1:user/x may not read {name}")
        stub = AwsStub(lambda *_: denied)
        self._stubs.append(stub.__enter__())
        self._url = stub.url

    def stop(self) -> None:
        """Nobody listens at the address."""
        self._url = f"http://127.0.0.1:{free_port()}"

    def close(self) -> None:
        """End what `deny` began."""
        for stub in self._stubs:
            stub.__exit__()


class _Secrets(_Aws):
    def uri(self, name: str) -> str:
        return f"aws-sm://{REGION}/llm/{name}"

    def put(self, name: str, value: str) -> None:
        try:
            self.client.create_secret(Name=f"llm/{name}", SecretString=value)
        except self.client.exceptions.ResourceExistsException:
            self.client.put_secret_value(SecretId=f"llm/{name}", SecretString=value)


class _Parameters(_Aws):
    def uri(self, name: str) -> str:
        return f"aws-ssm://{REGION}/llm/{name}"

    def put(self, name: str, value: str) -> None:
        self.client.put_parameter(
            Name=f"/llm/{name}", Value=value, Type="SecureString", Overwrite=True
        )


@pytest.fixture
def secrets(moto: MotoServer) -> Iterator[_Secrets]:
    """Secrets Manager."""
    manager = _Secrets(moto, moto.client("secretsmanager"))
    yield manager
    manager.close()


@pytest.fixture
def parameters(moto: MotoServer) -> Iterator[_Parameters]:
    """The parameter store."""
    manager = _Parameters(moto, moto.client("ssm"))
    yield manager
    manager.close()


class TestSecretsManager(SecretReaderSuite):
    """The suite, on Secrets Manager."""

    name = "AWS Secrets Manager"
    allow = "secretsmanager:GetSecretValue"

    @pytest.fixture
    def manager(self, secrets: _Secrets) -> Manager:
        """The server."""
        return secrets


class TestParameterStore(SecretReaderSuite):
    """The suite, on parameters."""

    name = "AWS Systems Manager"
    allow = "ssm:GetParameter"

    @pytest.fixture
    def manager(self, parameters: _Parameters) -> Manager:
        """The server."""
        return parameters


def uri(text: str) -> SecretUri:
    """The address of a secret."""
    found = parse_secret_uri(text)
    assert found, text
    return found


def read(manager: _Aws, text: str, *, previous: bool = False) -> Secret | None:
    """What a new reader finds."""
    kind = SecretsManager if isinstance(manager, _Secrets) else ParameterStore
    return asyncio.run(kind(manager.environ).read(uri(text), previous=previous))


def test_a_field_of_a_secret(secrets: _Secrets) -> None:
    """`#FIELD` picks one of a JSON secret; one that cannot be picked is refused with the names of
    those that there are, and no value is shown."""
    secrets.put("fields", json.dumps({"key": NEW, "user": OLD, "port": 5432}))
    assert find(secrets, "fields#key").value == NEW
    secrets.put("plain", NEW)
    for name, words in {
        "fields#api": "the field api is not there; the secret's fields: key, user, port",
        "fields#port": "the field port is no text",
        "plain#key": "no JSON object",
    }.items():
        with pytest.raises(NoKeyError, match=words) as caught:
            find(secrets, name)
        assert "sk-" not in caught.value.message


def test_a_binary_secret(secrets: _Secrets) -> None:
    """Bytes are no key."""
    secrets.client.create_secret(Name="llm/binary", SecretBinary=b"\x00\x01")
    with pytest.raises(NoKeyError, match="binary; store the key as text"):
        find(secrets, "binary")


def test_versions_are_named(secrets: _Secrets, parameters: _Parameters) -> None:
    """A secret's version is its label and the beginning of its id, a parameter's its number."""
    for manager in (secrets, parameters):
        manager.put("versions", OLD)
        manager.put("versions", NEW)
    old, new = (
        secrets.client.get_secret_value(SecretId="llm/versions", VersionStage=stage)["VersionId"][
            :8
        ]
        for stage in ("AWSPREVIOUS", "AWSCURRENT")
    )
    where = secrets.uri("versions")
    assert read(secrets, where) == Secret(NEW, f"AWSCURRENT {new}")
    assert read(secrets, where, previous=True) == Secret(OLD, f"AWSPREVIOUS {old}")
    where = parameters.uri("versions")
    assert read(parameters, where) == Secret(NEW, "version 2")
    assert read(parameters, where, previous=True) == Secret(OLD, "version 1")


def test_names_as_aws_writes_them(secrets: _Secrets, parameters: _Parameters) -> None:
    """A secret may be named by its ARN, a parameter outside a hierarchy has no slash before it, and
    one that is no SecureString is read, too."""
    arn = secrets.client.create_secret(Name="llm/arn", SecretString=NEW)["ARN"]
    assert read(secrets, f"aws-sm://{REGION}/{arn}")
    parameters.client.put_parameter(Name="llm_key", Value=NEW, Type="String")
    assert read(parameters, f"aws-ssm://{REGION}/llm_key") == Secret(NEW, "version 1")


def test_a_rotation_that_is_set_up(secrets: _Secrets) -> None:
    """It is begun, and the id of the version that it makes comes back; nothing happens to a secret
    without one."""
    secrets.put("turning", OLD)
    reader, where = SecretsManager(secrets.environ), uri(secrets.uri("turning"))
    assert asyncio.run(reader.rotate(where)) is None
    assert asyncio.run(reader.rotate(uri(secrets.uri("nothing")))) is None
    before = read(secrets, secrets.uri("turning"))
    rules = {"AutomaticallyAfterDays": 30}
    secrets.client.rotate_secret(SecretId="llm/turning", RotationRules=rules)
    secrets.put("turning", OLD)
    made = asyncio.run(reader.rotate(where))
    assert made is not None
    after = secrets.client.describe_secret(SecretId="llm/turning")["VersionIdsToStages"]
    assert after[made] == ["AWSCURRENT"]
    assert before is not None
    assert before.version != f"AWSCURRENT {made[:8]}"


def test_what_aws_holds_and_moto_does_not() -> None:
    """A rotation is asked for with a token of its own; a parameter outside a hierarchy goes without
    a slash, and there is no version before the first."""
    asked: list[dict[str, Any]] = []

    def reply(headers: Mapping[str, str], body: dict[str, Any]) -> Answer:
        asked.append(body)
        if headers["x-amz-target"] == "AmazonSSM.GetParameter":
            return 200, {"Parameter": {"Value": NEW, "Version": 1}}
        return 200, {"RotationEnabled": True, "VersionId": "v2"}

    with AwsStub(reply) as stub:
        environ = {**KEYS, "AWS_ENDPOINT_URL": stub.url}
        assert asyncio.run(SecretsManager(environ).rotate(uri(f"aws-sm://{REGION}/x"))) == "v2"
        where = uri(f"aws-ssm://{REGION}/llm_key")
        assert asyncio.run(ParameterStore(environ).read(where, previous=True)) is None
    assert len(asked.pop(1)["ClientRequestToken"]) >= 32
    assert asked == [{"SecretId": "x"}, {"Name": "llm_key", "WithDecryption": True}]


def test_the_age_of_a_secret(secrets: _Secrets) -> None:
    """It is counted from the newest version; what is not there has none."""
    secrets.put("aged", OLD)
    reader = SecretsManager(secrets.environ)
    age = asyncio.run(reader.age(uri(secrets.uri("aged"))))
    assert age is not None
    assert 0 <= age < 60
    assert asyncio.run(reader.age(uri(secrets.uri("nothing")))) is None


def test_addresses() -> None:
    """A region has an address, China's in its own domain; the variables of one service come before
    the variable of all."""
    reader = SecretsManager({})
    assert reader._service._address("eu-west-1") == "https://secretsmanager.eu-west-1.amazonaws.com"
    beijing = ParameterStore({})._service._address("cn-north-1")
    assert beijing == "https://ssm.cn-north-1.amazonaws.com.cn"
    environ = {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://one"}
    assert SecretsManager(environ)._service._address("eu-west-1") == "http://one"
    assert ParameterStore(environ)._service._address("eu-west-1") == "http://all"


@pytest.mark.parametrize(
    ("answer", "kind", "retryable"),
    [
        (error("ThrottlingException"), RateLimited, True),
        (error("InternalServiceError", status=500), ServerFailed, True),
        (error("DecryptionFailure", "cannot decrypt"), NoKeyError, None),
        (error("UnrecognizedClientException", "The security token is invalid"), AuthFailed, False),
        (error("com.amazonaws#AccessDeniedException", "no KMS"), AuthFailed, False),
    ],
)
def test_refusals(answer: Answer, kind: type[LlmctlError], retryable: bool | None) -> None:  # noqa: FBT001
    """What AWS refuses is told apart, and asked again where that may help; its words are shown, but
    nothing in them that could be a key."""
    answer[1]["message"] += " for wJalrXUtnFEMIK7MDENGbPxRfiCY"
    with AwsStub(lambda *_: answer) as stub:
        reader = SecretsManager({**KEYS, "AWS_ENDPOINT_URL": stub.url})
        with pytest.raises(kind) as caught:
            asyncio.run(reader.read(uri(f"aws-sm://{REGION}/x"), previous=False))
    said = caught.value.message
    assert answer[1]["__type"].rpartition("#")[2] in said
    assert "wJalr" not in said
    if isinstance(caught.value, CallError):
        assert caught.value.retryable is retryable
        assert len(stub.calls) == 1


def test_a_clock_that_is_wrong() -> None:
    """A reply that comes from an hour ahead gives the time of the next signature."""

    def reply(headers: Mapping[str, str], _: dict[str, Any]) -> Answer:
        if abs(signed_at(headers) - time.time() - 3600) > 300:
            return error("InvalidSignatureException", "Signature expired")
        return 200, {"SecretString": NEW, "VersionId": "0123456789"}

    with AwsStub(reply, clock=3600) as stub:
        reader = SecretsManager({**KEYS, "AWS_ENDPOINT_URL": stub.url})
        found = asyncio.run(reader.read(uri(f"aws-sm://{REGION}/x"), previous=False))
    assert found == Secret(NEW, "AWSCURRENT 01234567")
    assert len(stub.calls) == 2


def test_credentials_that_were_replaced_meanwhile(tmp_path: Path) -> None:
    """Those that AWS no longer knows are looked up anew; the same ones are not sent again."""
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id=AKIAOLD\naws_secret_access_key=old-secret\n")

    def reply(headers: Mapping[str, str], _: dict[str, Any]) -> Answer:
        if "AKIAOLD" not in headers["authorization"]:
            return 200, {"SecretString": NEW, "VersionId": "0123456789"}
        file.write_text(file.read_text().replace("AKIAOLD", "AKIANEW"))
        return error("ExpiredTokenException", "The security token has expired")

    with AwsStub(reply) as stub:
        reader = SecretsManager({"AWS_ENDPOINT_URL": stub.url})
        assert asyncio.run(reader.read(uri(f"aws-sm://{REGION}/x"), previous=False))
    assert len(stub.calls) == 2
