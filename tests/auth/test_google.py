"""Google Cloud's credentials: each kind gives a token, and what is wrong with one is said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import httpx2
import jwt
import pytest

from llmctl.auth.google import QUOTA_PROJECT, SCOPE, GoogleAuth, GoogleCredentials
from llmctl.clock import SystemClock
from llmctl.errors import AuthFailed, CallError, ConnectionFailed
from tests.simulator.google_cloud import ACCOUNT, POOL, GoogleCloud, Reply
from tests.support import done


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleCloud]:
    """Google Cloud on loopback; of a person's login google-auth reads no address."""
    with GoogleCloud() as cloud:
        place = "google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT"
        monkeypatch.setattr(place, f"{cloud.origin}/token")
        yield cloud


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a login, of a machine that is in no cloud."""
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:1")
    return tmp_path


def signed(credentials: GoogleCredentials) -> httpx2.Request:
    """A request with a token of the credentials."""
    auth = GoogleAuth(credentials, SystemClock())
    return done(auth.sign, httpx2.Request("POST", "https://vertex.example/v1"))


def refused(credentials: GoogleCredentials) -> CallError:
    """What is said where there is no token."""
    with pytest.raises(CallError) as caught:
        signed(credentials)
    assert not caught.value.sent or isinstance(caught.value, ConnectionFailed)
    return caught.value


def test_a_service_account(google: GoogleCloud, tmp_path: Path) -> None:
    """A service account's file signs an assertion for the whole platform, which buys a token."""
    file = google.service_account(tmp_path / "key.json")
    request = signed(GoogleCredentials({}, file))
    assert request.headers["authorization"] == f"Bearer {google.given[0]}"
    claims = jwt.decode(google.forms[0]["assertion"], options={"verify_signature": False})
    assert (claims["iss"], claims["scope"]) == (ACCOUNT, SCOPE)


def test_the_login_of_gcloud(google: GoogleCloud, home: Path) -> None:
    """Where nothing is named, the file that `gcloud auth application-default login` left counts."""
    folder = home / ".config/gcloud"
    folder.mkdir(parents=True)
    google.user(folder / "application_default_credentials.json")
    assert signed(GoogleCredentials({})).headers["authorization"].endswith(google.given[0])
    assert google.forms[0]["grant_type"] == "refresh_token"


def test_workload_identity_federation(google: GoogleCloud, tmp_path: Path) -> None:
    """The token of another identity provider is exchanged, read anew each time; nothing else is
    asked, such as which project it is."""
    subject = tmp_path / "oidc"
    subject.write_text("first", encoding="utf-8")
    credentials = GoogleCredentials({}, google.federation(tmp_path / "pool.json", subject))
    signed(credentials)
    subject.write_text("second", encoding="utf-8")
    signed(credentials)
    assert [form["subject_token"] for form in google.forms] == ["first", "second"]
    assert google.forms[0]["audience"] == POOL
    assert google.asked == [("POST", "/v1/token")] * 2


def test_the_metadata_server(google: GoogleCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine in the cloud its own account is used, and no proxy stands in between."""
    on_google_cloud(google, monkeypatch)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    credentials = GoogleCredentials({})
    assert signed(credentials).headers["authorization"].endswith(google.given[0])
    assert credentials.source == f"the service account {ACCOUNT}"


def test_a_machine_without_an_account(google: GoogleCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metadata server that has no account says no: asking again would not help."""
    on_google_cloud(google, monkeypatch)
    google.account = None
    assert isinstance(refused(GoogleCredentials({})), AuthFailed)


def on_google_cloud(google: GoogleCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """google-auth reads one of the addresses when it is imported."""
    monkeypatch.setenv("GCE_METADATA_IP", google.host)
    monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", google.host)


def test_which_file_counts(google: GoogleCloud, tmp_path: Path) -> None:
    """The file of the profile goes before that of the environment."""
    ours = google.service_account(tmp_path / "ours.json")
    theirs = google.service_account(tmp_path / "theirs.json", client_email="other@sim.example")
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(theirs)}
    for file, account in ((None, "other@sim.example"), (ours, ACCOUNT)):
        credentials = GoogleCredentials(environ, file)
        signed(credentials)
        assert credentials.source == f"the service account {account}"


def test_the_quota_project(
    google: GoogleCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project whose quota is used: the profile's, the environment's, or the file's own; without
    one nothing is sent of it."""
    plain = google.user(tmp_path / "plain.json")
    named = google.user(tmp_path / "named.json", quota_project_id="of-the-file")
    assert QUOTA_PROJECT not in signed(GoogleCredentials({}, plain)).headers
    assert signed(GoogleCredentials({}, named)).headers[QUOTA_PROJECT] == "of-the-file"
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "of-the-environment")
    assert signed(GoogleCredentials({}, named)).headers[QUOTA_PROJECT] == "of-the-environment"
    assert signed(GoogleCredentials({}, named, "ours")).headers[QUOTA_PROJECT] == "ours"


def test_no_credentials() -> None:
    """Where there are none at all, the three ways to some are named."""
    said = str(refused(GoogleCredentials({})))
    for way in ("GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth application-default login"):
        assert way in said
    assert "see https" not in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "was not found"),
        ("{", "not a valid json file"),
        ('{"type": "key"}', "does not have a valid type"),
        ('{"type": "service_account", "client_email": "x"}', "service account"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, why: str) -> None:
    """What is wrong with the file is said, with its name."""
    file = tmp_path / "project-4711-credentials.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    error = refused(GoogleCredentials({}, file))
    assert (type(error), error.exit_code) == (AuthFailed, 4)
    assert why in str(error)
    assert str(file) in str(error)


def test_google_refuses_an_account(google: GoogleCloud, tmp_path: Path) -> None:
    """The error names the account and says what to look at; it repeats no assertion."""

    def revoked(form: dict[str, str]) -> Reply:
        said = f"Invalid JWT Signature of {form['assertion']}"
        return 400, {"error": "invalid_grant", "error_description": said}

    google.refusal = revoked
    error = refused(GoogleCredentials({}, google.service_account(tmp_path / "key.json")))
    assert isinstance(error, AuthFailed)
    assert f"the service account {ACCOUNT}" in str(error)
    assert "invalid_grant" in str(error)
    assert "revoked" in str(error)
    for piece in google.forms[0]["assertion"].split("."):
        assert piece[:20] not in str(error)


def test_nothing_of_a_login_is_repeated(google: GoogleCloud, tmp_path: Path) -> None:
    """A refresh token and a client's secret are cut out of what the token server says."""

    def echo(form: dict[str, str]) -> Reply:
        return 400, {"error": "invalid_grant", "error_description": " ".join(form.values())}

    google.refusal = echo
    secrets = {"refresh_token": "refreshing-canary", "client_secret": "secretive-canary"}
    file = google.user(tmp_path / "login.json", **secrets)
    said = str(refused(GoogleCredentials({}, file)))
    assert "canary" not in said
    assert "invalid_grant" in said


def test_a_token_server_that_is_down(
    google: GoogleCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Google cannot be reached, or is busy, the call may succeed later."""
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)
    file = google.service_account(tmp_path / "key.json")
    google.refusal = lambda _: (503, {"error": "backend_error"})
    down = google.service_account(tmp_path / "down.json", token_uri="http://127.0.0.1:1/token")
    for each, why in ((file, "gives no token now"), (down, "127.0.0.1:1")):
        error = refused(GoogleCredentials({}, each))
        assert (type(error), error.retryable) == (ConnectionFailed, True)
        assert why in str(error)


def test_a_machine_in_no_cloud_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes connections at the metadata server's address and says nothing is none; it is
    tried once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{silent.getsockname()[1]}")
        started = monotonic()
        assert isinstance(refused(GoogleCredentials({})), AuthFailed)
    assert monotonic() - started < 2.5


@pytest.mark.parametrize("module", ["google.auth", "requests"])
def test_without_the_extra(module: str) -> None:
    """What is missing is named, with the command that installs it."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from llmctl.auth.google import GoogleCredentials\n"
        "from llmctl.errors import SetupError\n"
        "try:\n    GoogleCredentials({})\n"
        "except SetupError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"`pip install {module.replace('.', '-')}`" in done.stdout
    assert "extra `gcp`" in done.stdout
