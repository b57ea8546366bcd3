"""AWS signatures: botocore's own to the letter, by credentials that are renewed once for all, and
by Amazon's clock."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmctl.auth.aws import AGAIN, AwsCredentials, SigV4Auth
from llmctl.clock import Clock, SystemClock
from llmctl.config.settings import Timeouts
from llmctl.errors import AuthFailed, CallError, ConnectionFailed
from llmctl.guards.key_failover import key_failover
from llmctl.http import HttpClient, build
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.registry import codec
from llmctl.redact import redact_known_keys
from llmctl.types import Answer as Reply
from llmctl.types import Usage
from tests.keys.aws_servers import KEYS, REGION, Answer, AwsStub, free_port, signed_at
from tests.support import FakeClock, request

NOW = 1_790_000_000.0
TOKEN = "IQoJb3JpZ2luX2VjEJr-session-0815"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No file and no metadata server of this machine is read; the folder of those that are."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def signing(
    environ: Mapping[str, str] = KEYS,
    service: str = "bedrock",
    clock: Clock | None = None,
    profile: str | None = None,
) -> SigV4Auth:
    """What signs."""
    clock = clock or SystemClock()
    return SigV4Auth(AwsCredentials(clock, environ, REGION, profile), service, REGION, clock)


def sign(auth: SigV4Auth, url: str = "https://h/", body: bytes = b"{}") -> Mapping[str, str]:
    """The headers of a signed request."""
    unsigned = build("POST", url, {"content-type": "application/json"}, body)
    return asyncio.run(auth.sign(unsigned)).headers


# --- Signatures -----------------------------------------------------------------------------------


def botocores(
    service: str, call: str, token: str | None, monkeypatch: pytest.MonkeyPatch, **arguments: Any
) -> Any:
    """The request that botocore's own client would send at the time NOW."""
    import botocore.auth
    from botocore.awsrequest import AWSResponse
    from botocore.session import Session

    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC)
    )
    sent = []

    def keep(request: Any, **_: object) -> AWSResponse:
        sent.append(request)
        return AWSResponse(request.url, 400, {}, None)

    client = Session().create_client(
        service,
        region_name=REGION,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=token,
    )
    with closing(client):
        client.meta.events.register("before-send", keep)
        with pytest.raises(Exception):  # noqa: B017, PT011 - the reply is none
            getattr(client, call)(**arguments)
    return sent[0]


CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Grüße"}]}]}
ARN = "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude"
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("bedrock-runtime", "converse", {"modelId": "amazon.nova", **CONVERSE}),
    ("bedrock-runtime", "converse", {"modelId": "anthropic.claude-v1:0", **CONVERSE}),
    ("bedrock-runtime", "converse_stream", {"modelId": ARN, **CONVERSE}),
    ("bedrock", "list_foundation_models", {"byProvider": "Meta & co", "byInferenceType": "ON"}),
    ("secretsmanager", "get_secret_value", {"SecretId": "a/b", "VersionStage": "AWSCURRENT"}),
    ("ssm", "get_parameter", {"Name": "/a/b", "WithDecryption": True}),
]


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(("service", "call", "arguments"), CALLS)
def test_the_signature_is_botocores(
    service: str,
    call: str,
    arguments: dict[str, Any],
    token: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For the same request at the same time: model ids with `:` and `/` in the path, a query,
    the actions of JSON services, with and without a session token."""
    theirs = botocores(service, call, token, monkeypatch, **arguments)
    given = {
        name.lower(): value.decode() if isinstance(value, bytes) else value
        for name, value in theirs.headers.items()
    }
    named = {n: v for n, v in given.items() if n in ("content-type", "x-amz-target")}
    environ = KEYS | ({"AWS_SESSION_TOKEN": token} if token else {})
    auth = signing(environ, service.removesuffix("-runtime"), FakeClock(NOW))
    body = theirs.body or b""
    unsigned = build(theirs.method, theirs.url, named, body.encode() if body == "" else body)
    ours = asyncio.run(auth.sign(unsigned))
    assert str(ours.url) == theirs.url
    for name in ("authorization", "x-amz-date", "x-amz-security-token"):
        assert ours.headers.get(name) == given.get(name), name


def test_no_secret_is_shown() -> None:
    """The secret key and the session token are cut out of all messages."""
    sign(signing({**KEYS, "AWS_SESSION_TOKEN": TOKEN}))
    shown = redact_known_keys(f"{KEYS['AWS_SECRET_ACCESS_KEY']} {TOKEN}")
    assert shown == "[key] [key]"


# --- Credentials ----------------------------------------------------------------------------------


class Process:
    """A `credential_process` of a profile `made`, whose output a test sets; it counts its runs."""

    def __init__(self, folder: Path) -> None:
        self._output, self._runs = folder / "output", folder / "runs"
        script = folder / "give"
        script.write_text(f"#!/bin/sh\necho run >> {self._runs}\ncat {self._output}\n")
        script.chmod(0o700)
        (folder / "config").write_text(f"[profile made]\ncredential_process = {script}\n")

    def gives(self, key: str, minutes: float) -> None:
        """Credentials that live so long."""
        end = datetime.now(UTC) + timedelta(minutes=minutes)
        given = {
            "Version": 1,
            "AccessKeyId": key,
            "SecretAccessKey": f"secret-of-{key}",
            "SessionToken": f"token-of-{key}",
            "Expiration": end.isoformat(),
        }
        self._output.write_text(json.dumps(given))

    def fails(self) -> None:
        """There is nothing that it could give."""
        self._output.unlink()

    @property
    def runs(self) -> int:
        """How often it was asked."""
        return len(self._runs.read_text().splitlines())


@pytest.fixture
def process(elsewhere: Path) -> Process:
    """Credentials that end."""
    return Process(elsewhere)


async def many(auth: SigV4Auth, calls: int = 500) -> set[str]:
    """The access keys of signatures that are made at the same time."""

    async def one() -> str:
        signed = await auth.sign(build("POST", "https://h/", {}, b"{}"))
        return signed.headers["authorization"].partition("Credential=")[2].partition("/")[0]

    return set(await asyncio.gather(*(one() for _ in range(calls))))


def soon(auth: SigV4Auth, minutes: float) -> None:
    """Let the credentials end in so many minutes, without waiting for it."""
    auth._credentials._found._expiry_time = datetime.now(UTC) + timedelta(minutes=minutes)


def test_one_look_up_for_all(process: Process) -> None:
    """500 calls that begin together, 500 whose credentials are about to end, and 500 whose have
    ended, make one look-up each."""
    clock = FakeClock()
    auth = signing({}, clock=clock, profile="made")

    async def run() -> None:
        process.gives("AKIAFIRST", minutes=60)
        assert await many(auth) == {"AKIAFIRST"}
        assert process.runs == 1
        soon(auth, minutes=5)
        process.gives("AKIASECOND", minutes=60)
        clock.now += AGAIN
        assert await many(auth) <= {"AKIAFIRST", "AKIASECOND"}  # both hold
        assert process.runs == 2
        soon(auth, minutes=0)
        process.gives("AKIATHIRD", minutes=60)
        clock.now += AGAIN
        assert await many(auth) == {"AKIATHIRD"}
        assert process.runs == 3
        clock.now += AGAIN
        await many(auth)
        assert process.runs == 3

    asyncio.run(run())


def test_a_failed_renewal_ends_no_call(process: Process) -> None:
    """Credentials that still hold go on, and are not asked for by every call meanwhile; those that
    have ended are an error."""
    clock = FakeClock()
    auth = signing({}, clock=clock, profile="made")

    async def run() -> None:
        process.gives("AKIAFIRST", minutes=60)
        await many(auth, 1)
        process.fails()
        soon(auth, minutes=5)
        clock.now += AGAIN
        assert await many(auth, 50) == {"AKIAFIRST"}
        assert process.runs == 2
        soon(auth, minutes=0)
        with pytest.raises(AuthFailed, match="no credentials of AWS"):
            await many(auth, 1)

    asyncio.run(run())


def test_no_thread_for_credentials_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are known: a signature costs no thread."""
    auth = signing()

    async def run() -> None:
        await many(auth, 1)
        monkeypatch.setattr(asyncio, "to_thread", None)
        await many(auth, 2)

    asyncio.run(run())


def test_a_look_up_does_not_stop_the_others(process: Process) -> None:
    """The event loop goes on while a process is asked for credentials."""
    process.gives("AKIAFIRST", minutes=60)
    ticks = 0

    async def run() -> None:
        nonlocal ticks
        signed = asyncio.ensure_future(many(signing({}, profile="made"), 1))
        while not signed.done():
            ticks += 1
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert ticks > 3


def test_a_process_with_several_event_loops(process: Process) -> None:
    """Commands run one after the other in the same process."""
    auth = signing({}, clock=FakeClock(), profile="made")
    for key in ("AKIAFIRST", "AKIASECOND"):
        process.gives(key, minutes=5)
        auth._credentials._frozen = None
        auth._credentials._found = None
        assert asyncio.run(many(auth, 5)) == {key}


# --- What is missing ------------------------------------------------------------------------------


def refusal(auth: SigV4Auth) -> CallError:
    """The error of a signature."""
    with pytest.raises(CallError) as caught:
        sign(auth)
    return caught.value


SSO = """
[profile work]
sso_start_url = https://nobody.awsapps.example/start
sso_region = eu-central-1
sso_account_id = 123456789012
sso_role_name = dev
[profile broken]
credential_process = /nowhere/give
"""


@pytest.mark.parametrize(
    ("environ", "profile", "words"),
    [
        ({}, None, "no credentials of AWS; set AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "AKIA1"}, None, "AWS_SECRET_ACCESS_KEY"),
        ({}, "wrokk", r"\(wrokk\) could not be found; `aws configure list-profiles`"),
        ({"AWS_PROFILE": "wrokk"}, None, r"\(wrokk\) could not be found"),
        ({}, "work", "run `aws sso login --profile work`$"),
        ({"AWS_PROFILE": "work"}, None, "run `aws sso login --profile work`$"),
        ({}, "broken", "/nowhere/give"),
    ],
)
def test_what_is_missing(
    environ: dict[str, str], profile: str | None, words: str, elsewhere: Path
) -> None:
    """No credentials, half of them, a profile that is not there, a sign-on that has ended and a
    program that cannot be run are told apart, with the next step: exit code 4, nothing was sent."""
    (elsewhere / "config").write_text(SSO)
    error = refusal(signing(environ, profile=profile))
    assert error.message.startswith("no credentials of AWS")
    assert (error.exit_code, error.sent) == (4, False)
    with pytest.raises(AuthFailed, match=words):
        raise error


def test_a_chosen_profile_comes_before_variables(elsewhere: Path) -> None:
    """The profile that llmctl's own names is used although the environment has keys; AWS_PROFILE
    comes after them, as botocore has it."""
    (elsewhere / "credentials").write_text(
        "[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = s3cret\n"
    )
    assert "AKIAWORK" in sign(signing(profile="work"))["authorization"]
    assert "AKIAWORK" in sign(signing({"AWS_PROFILE": "work"}))["authorization"]
    both = signing({**KEYS, "AWS_PROFILE": "work"})
    assert KEYS["AWS_ACCESS_KEY_ID"] in sign(both)["authorization"]


def test_a_token_server_that_cannot_be_reached(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the credentials: another attempt may help."""
    (elsewhere / "token").write_text("a.jwt.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(elsewhere / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{free_port()}")
    error = refusal(signing({}))
    assert isinstance(error, ConnectionFailed)
    assert error.retryable


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A metadata server that never answers; the connections that it was offered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[Any] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        port = server.getsockname()[1]
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{port}/")
        yield taken
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for line in taken:
            line.close()


def test_the_metadata_server_is_waited_for_briefly(
    silent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off the cloud nobody answers: a second for each of two questions, no attempt more; and
    with AWS_EC2_METADATA_DISABLED it is not asked."""
    assert "no credentials" in refusal(signing({})).message
    assert not silent
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    started = time.monotonic()
    assert "no credentials" in refusal(signing({})).message
    assert time.monotonic() - started < 10
    assert len(silent) == 2


def test_without_botocore() -> None:
    """The message names the package and the extra."""
    program = """
import sys
sys.modules["botocore"] = None
from llmctl.auth.aws import AwsCredentials
from llmctl.clock import SystemClock
from llmctl.errors import SetupError
try:
    AwsCredentials(SystemClock(), {}, "eu-central-1")
except SetupError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("botocore is not installed: `pip install botocore`")
    assert "'.[aws]'" in said


# --- Refusals -------------------------------------------------------------------------------------


ANSWER = {
    "model": "m",
    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
EXPIRED: Answer = (401, {"error": {"message": "Signature expired"}})


def ask(stub: AwsStub, auth: SigV4Auth, calls: int) -> list[Reply | BaseException]:
    """What comes of calls at the same time, through the guard that reports refusals."""

    async def run() -> list[Reply | BaseException]:
        client = HttpClient()
        endpoint = Endpoint(
            codec=codec("openai", "chat"),
            http=client,
            base_url=f"{stub.url}/v1",
            auth=auth,
            timeouts=Timeouts(),
            clock=SystemClock(),
            estimate=lambda _request, _text: Usage(),
            heard=lambda _: None,
        )
        handler = key_failover(endpoint, auth)
        try:
            return await asyncio.gather(
                *(handler(request(), None) for _ in range(calls)), return_exceptions=True
            )
        finally:
            await client.close()

    return asyncio.run(run())


def test_a_clock_that_is_wrong_fails_no_call() -> None:
    """Calls that are refused because this machine's clock is an hour behind are signed again by the
    clock of the reply: once each, and later ones are right at once."""

    def reply(headers: Mapping[str, str], _: dict[str, Any]) -> Answer:
        late = abs(signed_at(headers) - time.time() - 3600) > 300
        return EXPIRED if late else (200, ANSWER)

    with AwsStub(reply, clock=3600) as stub:
        auth = signing()
        found = ask(stub, auth, 20)
        assert [reply.text for reply in found if isinstance(reply, Reply)] == ["hi"] * 20
        assert len(stub.calls) <= 40
        before = len(stub.calls)
        ask(stub, auth, 5)
        assert len(stub.calls) == before + 5


def test_a_clock_that_is_right_is_left_alone() -> None:
    """A refusal for another reason, by a server whose clock is four minutes off, is final at
    once."""
    with AwsStub(lambda *_: EXPIRED, clock=240) as stub:
        auth = signing()
        (error,) = ask(stub, auth, 1)
        assert isinstance(error, AuthFailed)
        assert len(stub.calls) == 1
        assert auth._skew == 0


def test_a_refusal_that_nothing_mends_ends() -> None:
    """A server whose clock jumps with every reply, and refuses every signature, is asked twice by
    each call at the most."""
    with AwsStub(lambda *_: EXPIRED, clock=0) as stub:
        jumps = iter(range(3600, 10**9, 3600))
        stub.ahead = lambda: float(next(jumps))
        found = ask(stub, signing(), 10)
        assert all(isinstance(error, AuthFailed) for error in found)
        assert len(stub.calls) <= 20


def test_credentials_that_ended_early_are_looked_up_once(process: Process) -> None:
    """Calls refused with credentials that AWS no longer takes make one look-up, and go on with what
    it gives; refused again at once, they look no more."""
    process.gives("AKIAFIRST", minutes=60)
    auth = signing({}, profile="made")
    asyncio.run(many(auth, 1))
    process.gives("AKIASECOND", minutes=60)

    def reply(headers: Mapping[str, str], _: dict[str, Any]) -> Answer:
        return (200, ANSWER) if "AKIASECOND" in headers["authorization"] else EXPIRED

    with AwsStub(reply) as stub:
        assert all(isinstance(found, Reply) for found in ask(stub, auth, 20))
        assert process.runs == 2
        assert len(stub.calls) <= 40
    with AwsStub(lambda *_: EXPIRED) as stub:
        assert isinstance(ask(stub, auth, 1)[0], AuthFailed)
        assert process.runs == 2
