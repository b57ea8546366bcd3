"""Secrets in AWS Secrets Manager, and parameters of AWS Systems Manager.

Reference: docs.aws.amazon.com/secretsmanager/latest/apireference,
docs.aws.amazon.com/systems-manager/latest/APIReference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson

from llmctl.auth.aws import AwsCredentials, SigV4Auth
from llmctl.auth.extras import needs_extra
from llmctl.clock import SystemClock
from llmctl.config.settings import SecretUri
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    LlmctlError,
    NoKeyError,
    RateLimited,
    ServerFailed,
)
from llmctl.http import WholeReply, build, fetch
from llmctl.keys.secrets import LIMIT, Secret
from llmctl.redact import cut, redact_possible_keys

_MISSING = {"ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound"}
_DENIED = {"AccessDeniedException", "AccessDenied"}
_UNKNOWN = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_BUSY = {"ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException"}
_SHOWN = 300  # characters of AWS's own words that an error repeats


class _Service:
    """One of AWS's services that speak JSON. `target` begins its actions' names on the wire,
    `variable` names its endpoint."""

    def __init__(self, environ: Mapping[str, str], name: str, target: str, variable: str) -> None:
        needs_extra("aws", "botocore", "botocore")
        self._environ, self._clock = environ, SystemClock()
        self._name, self._target, self._variable = name, target, variable
        self._auths: dict[str, SigV4Auth] = {}

    async def call(
        self, region: str, action: str, body: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """What an action gives; None where there is nothing of that name. Raises as
        `SecretReader.read` does."""
        auth = self._auth(region)
        while True:
            using = auth.mark
            try:
                return await self._attempt(region, action, body)
            except AuthFailed as error:
                if not await auth.refused(using, error):
                    raise

    async def _attempt(
        self, region: str, action: str, body: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"{self._target}.{action}",
        }
        request = build("POST", self._address(region), headers, orjson.dumps(body))
        reply = await fetch(await self._auth(region).sign(request), LIMIT)
        try:
            found = orjson.loads(reply.body)
        except ValueError:
            found = None
        if reply.status != 200:
            error = self._failure(reply, found if isinstance(found, dict) else {}, action)
            if error is not None:
                raise error
            return None
        if not isinstance(found, dict):
            raise BadResponse("the reply is no JSON object", retryable=False)
        return found

    def _auth(self, region: str) -> SigV4Auth:
        if region not in self._auths:
            chain = AwsCredentials(self._clock, self._environ, region)
            self._auths[region] = SigV4Auth(chain, self._name, region, self._clock)
        return self._auths[region]

    def _address(self, region: str) -> str:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        own = self._environ.get(self._variable) or self._environ.get("AWS_ENDPOINT_URL")
        return own or f"https://{self._name}.{region}.{domain}"

    def _failure(
        self, reply: WholeReply, found: Mapping[str, Any], action: str
    ) -> LlmctlError | None:
        """The mapped error of a reply that is no success; None: nothing has that name."""
        code = str(found.get("__type", "")).rpartition("#")[2]
        if code in _MISSING:
            return None
        said = str(found.get("message") or found.get("Message") or "no reason given")
        why = f"{code or reply.status}: {redact_possible_keys(cut(said, _SHOWN)).rstrip('. ')}"
        error: LlmctlError = NoKeyError(why)
        if code in _DENIED:
            error = AuthFailed(f"{why}; allow {self._name}:{action}, and kms:Decrypt of its key")
        elif code in _UNKNOWN or reply.status in (401, 403):
            error = AuthFailed(
                f"the AWS credentials are refused, {why}; see `aws sts get-caller-identity`"
            )
        elif code in _BUSY or reply.status == 429:
            error = RateLimited(why)
        elif reply.status >= 500:
            error = ServerFailed(why)
        if isinstance(error, CallError):
            error.http_status, error.server_time = reply.status, reply.server_time
        return error


class SecretsManager:
    """`SecretReader` of `aws-sm://REGION/NAME#FIELD`; the previous version has the label
    AWSPREVIOUS. Raises `SetupError` without botocore."""

    name = "AWS Secrets Manager"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._service = _Service(
            environ, "secretsmanager", "secretsmanager", "AWS_ENDPOINT_URL_SECRETS_MANAGER"
        )

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """See `SecretReader`. `version` is the label and the beginning of the version's id."""
        found = await self._value(uri, "AWSPREVIOUS" if previous else "AWSCURRENT")
        if found is None:
            return None
        value = found.get("SecretString")
        if not isinstance(value, str):
            raise NoKeyError("the secret is binary; store the key as text")
        stage, version = "AWSPREVIOUS" if previous else "AWSCURRENT", str(found.get("VersionId"))
        return Secret(_field(value, uri.field), f"{stage} {version[:8]}")

    async def age(self, uri: SecretUri) -> float | None:
        """Seconds since the newest version was made; None where there is none. Raises as `read`."""
        found = await self._value(uri, "AWSCURRENT")
        made = found and found.get("CreatedDate")
        return max(0.0, SystemClock().wall() - made) if isinstance(made, (int, float)) else None

    async def rotate(self, uri: SecretUri) -> str | None:
        """Begin the rotation that is set up for the secret: the id of the version that it makes,
        which becomes AWSCURRENT when AWS is done. None where none is set up. Raises as `read`."""
        region, name = uri.parts
        known = await self._service.call(region, "DescribeSecret", {"SecretId": name})
        if not known or not known.get("RotationEnabled"):
            return None
        body = {"SecretId": name, "ClientRequestToken": str(uuid4())}
        begun = await self._service.call(region, "RotateSecret", body)
        return str(begun["VersionId"]) if begun and begun.get("VersionId") else None

    async def _value(self, uri: SecretUri, stage: str) -> dict[str, Any] | None:
        region, name = uri.parts
        body = {"SecretId": name, "VersionStage": stage}
        return await self._service.call(region, "GetSecretValue", body)


class ParameterStore:
    """`SecretReader` of `aws-ssm://REGION/NAME`, plain text or SecureString; the previous version
    is the one of the number before. Raises `SetupError` without botocore."""

    name = "AWS Systems Manager"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._service = _Service(environ, "ssm", "AmazonSSM", "AWS_ENDPOINT_URL_SSM")

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """See `SecretReader`. `version` is its number."""
        region, name = uri.parts
        if "/" in name and not name.startswith("/"):
            name = f"/{name}"  # a name in a hierarchy is written from its root
        found = await self._parameter(region, name)
        if found is not None and previous:
            before = int(found["Version"]) - 1
            found = await self._parameter(region, f"{name}:{before}") if before else None
        if found is None:
            return None
        return Secret(found["Value"], f"version {found['Version']}")

    async def _parameter(self, region: str, name: str) -> dict[str, Any] | None:
        body = {"Name": name, "WithDecryption": True}
        reply = await self._service.call(region, "GetParameter", body)
        found = reply and reply.get("Parameter")
        return found if isinstance(found, dict) else None


def _field(text: str, name: str | None) -> str:
    """A field of a JSON secret, or all of it. Raises `NoKeyError`, which names fields and shows no
    value."""
    if name is None:
        return text
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise NoKeyError(
            f"the secret is no JSON object, so it has no field {name}; leave #{name} out"
        )
    value = found.get(name)
    if not isinstance(value, str):
        what = "is no text" if name in found else "is not there"
        raise NoKeyError(
            f"the field {name} {what}; the secret's fields: {', '.join(found) or 'none'}"
        )
    return value
