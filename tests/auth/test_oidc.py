"""The exchange of an OIDC token: where it is found, what is refused, and what is never shown."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.auth import oidc
from llmctl.auth.oidc import OidcExchange
from llmctl.config.settings import OidcAuth, Profile, TokenPlace
from llmctl.errors import (
    AuthFailed,
    CallError,
    ConfigError,
    ConnectionFailed,
    LlmctlError,
    NoKeyError,
    ServerFailed,
)
from tests.simulator.oidc import ASKING, Exchanges, serving, subject
from tests.support import FakeClock

JOB = subject("job")
OPENAI = Profile("p", "openai", "openai", "https://api.openai.com/v1", "m")
ANTHROPIC = Profile("p", "anthropic", "anthropic", "https://api.anthropic.com/v1", "m")
RULE = OidcAuth(federation_rule_id="fdrl_1", organization_id="org")
ACCOUNT = OidcAuth(identity_provider_id="idp", service_account_id="sa")
FIELD = OidcAuth(token=TokenPlace(env="CI_TOKEN"))


@pytest.fixture
def server() -> Iterator[Exchanges]:
    """It knows the job."""
    with serving() as exchanges:
        exchanges.subjects.add(JOB)
        yield exchanges


@pytest.fixture
def token(server: Exchanges) -> Callable[..., str]:
    """The token that a profile of OpenAI's gets from the server."""

    def get(environ: Mapping[str, str], clock: FakeClock | None = None, **changes: Any) -> str:
        auth = replace(ACCOUNT, url=f"{server.origin}/oauth/token", **changes)
        made = OidcExchange(auth, OPENAI, environ)
        return asyncio.run(made.token(clock or FakeClock())).value

    return get


def test_a_job_of_github_asks_for_its_token(server: Exchanges, token: Callable[..., str]) -> None:
    """GitHub gives one for the audience, which may be an address; without one, for its own."""
    audience = "https://api.openai.com/v1?a&b"
    server.jobs = {audience: JOB}
    assert token(server.github, audience=audience) == server.issued[0]
    (asked,) = server.at("/github/token")
    assert asked.query == {"api-version": ["2.0"], "audience": [audience]}
    with pytest.raises(AuthFailed):
        token(server.github)
    assert "audience" not in server.at("/github/token")[1].query


def test_a_file_is_read_anew(server: Exchanges, token: Callable[..., str], tmp_path: Path) -> None:
    """Kubernetes replaces the token in its file: each exchange takes the one of the moment."""
    place = TokenPlace(file=tmp_path / "token")
    (tmp_path / "token").write_text(f"{JOB}\n")
    assert token({}, token=place) == server.issued[0]
    (tmp_path / "token").write_text(f"{subject('later')}\n")
    server.subjects = {subject("later")}
    assert token({}, token=place) == server.issued[1]


def test_a_variable_holds_it(server: Exchanges, token: Callable[..., str]) -> None:
    """As GitLab's `id_tokens:` do; it ends so many seconds after it was asked for."""
    server.life = 900
    clock = FakeClock()
    made = OidcExchange(
        replace(ACCOUNT, token=FIELD.token, url=f"{server.origin}/oauth/token"),
        OPENAI,
        {"CI_TOKEN": JOB},
    )
    granted = asyncio.run(made.token(clock))
    assert (granted.value, granted.expires) == (server.issued[0], clock.wall() + 900)
    assert token({"CI_TOKEN": f" {JOB}\n"}, token=FIELD.token) == server.issued[1]


def test_anthropics_file_comes_before_its_variable(server: Exchanges, tmp_path: Path) -> None:
    """As in its SDK; what the profile says comes before both."""
    (tmp_path / "token").write_text(JOB)
    environ = {
        "ANTHROPIC_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
        "ANTHROPIC_IDENTITY_TOKEN": "one",
        "CI_TOKEN": "two",
        "ANTHROPIC_FEDERATION_RULE_ID": "none",
    }
    profile = replace(ANTHROPIC, base_url=f"{server.origin}/v1")
    asyncio.run(OidcExchange(RULE, profile, environ).token(FakeClock()))
    assert server.asked[0].body["federation_rule_id"] == "fdrl_1"
    own = OidcExchange(replace(RULE, token=FIELD.token), profile, environ)
    with pytest.raises(AuthFailed):
        asyncio.run(own.token(FakeClock()))
    assert server.asked[1].body["assertion"] == "two"


@pytest.mark.parametrize(
    ("kind", "profile", "auth", "environ", "words"),
    [
        (ConfigError, replace(OPENAI, provider="groq", adapter="groq"), ACCOUNT, {}, "for groq"),
        (ConfigError, OPENAI, OidcAuth(), {}, "needs identity_provider_id"),
        (ConfigError, OPENAI, OidcAuth(identity_provider_id="i"), {}, "needs service_account_id"),
        (ConfigError, ANTHROPIC, OidcAuth(), {}, r"or \$ANTHROPIC_FEDERATION_RULE_ID"),
        (ConfigError, ANTHROPIC, replace(RULE, organization_id=None), {}, "needs organization_id"),
        (ConfigError, ANTHROPIC, replace(RULE, token_type="id_token"), {}, "has token_type, which"),
        (ConfigError, OPENAI, replace(ACCOUNT, workspace_id="w"), {}, "has workspace_id, which"),
        (ConfigError, replace(ANTHROPIC, base_url="http://host/v1"), RULE, {}, "needs https://"),
        (NoKeyError, OPENAI, ACCOUNT, {}, "say where it is with `token: {env: NAME}`"),
        (NoKeyError, OPENAI, ACCOUNT, {"GITHUB_ACTIONS": "true"}, "{id-token: write}"),
        (
            NoKeyError,
            OPENAI,
            ACCOUNT,
            dict.fromkeys(
                ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"), "http://h/x"
            ),
            "is not https://",
        ),
        (NoKeyError, OPENAI, replace(ACCOUNT, token=FIELD.token), {}, r"\$CI_TOKEN is not set"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    kind: type[LlmctlError],
    profile: Profile,
    auth: OidcAuth,
    environ: dict[str, str],
    words: str,
) -> None:
    """When the profile is opened, before anything is asked: the field, or the variable."""
    with pytest.raises(kind, match=words):
        OidcExchange(auth, profile, environ)


@pytest.mark.parametrize(
    ("status", "said", "kind", "words"),
    [
        (400, {"error": "invalid_grant", "error_description": JOB}, AuthFailed, "invalid_grant"),
        (401, {"error": {"type": "t", "message": f"no {JOB}"}}, AuthFailed, "HTTP 401, t: no"),
        (403, {"error": f"x{JOB[20:-20]}"}, AuthFailed, "HTTP 403, "),
        (403, b"<html>", AuthFailed, r"\(HTTP 403\)"),
        (404, ["x"], AuthFailed, r"\(HTTP 404\)"),
        (429, {"error": "slow_down"}, ServerFailed, "gives no token now"),
        (503, b"", ServerFailed, "HTTP 503"),
        (200, {"access_token": JOB, "expires_in": "1"}, AuthFailed, "holds no token"),
        (200, {"access_token": "a b", "expires_in": 1}, AuthFailed, "holds no token"),
        (200, {"access_token": "ab", "expires_in": 0}, AuthFailed, "holds no token"),
        (200, {"access_token": "ab", "expires_in": 9, "token_type": "mac"}, AuthFailed, "no token"),
        (200, b"x" * 100_000, AuthFailed, "holds no token"),
    ],
)
def test_a_refusal(
    server: Exchanges,
    token: Callable[..., str],
    status: int,
    said: Any,
    kind: type[CallError],
    words: str,
) -> None:
    """It is told in the server's words without the OIDC token, which it may repeat, whole or in
    part; nothing was sent that is billed, and what may pass is tried again."""
    server.reply = lambda _: (status, said)  # type: ignore[method-assign,assignment]
    with pytest.raises(kind, match=words) as caught:
        token({"CI_TOKEN": JOB}, token=FIELD.token)
    assert not any(JOB[at : at + 12] in str(caught.value) for at in range(len(JOB) - 12))
    error = caught.value
    assert (error.sent, error.ambiguous) == (False, False)
    assert (error.exit_code, error.retryable) == ((4, False) if kind is AuthFailed else (5, True))


def test_github_refuses(server: Exchanges, token: Callable[..., str]) -> None:
    """It is named, without the token that it was asked with."""
    wrong = {**server.github, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "another-token-of-github"}
    with pytest.raises(AuthFailed, match=r"GitHub gives no token \(HTTP 401, unknown") as caught:
        token(wrong)
    assert "another-token" not in str(caught.value)
    assert ASKING not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a\nb", "é", "x" * 20_000])
def test_what_is_no_token(
    server: Exchanges, token: Callable[..., str], tmp_path: Path, text: str
) -> None:
    """A file with something else in it, such as a certificate, is sent nowhere."""
    (tmp_path / "token").write_text(text)
    with pytest.raises(AuthFailed, match="is no OIDC token"):
        token({}, token=TokenPlace(file=tmp_path / "token"))
    with pytest.raises(AuthFailed, match=r"cannot be read from .*: No such file"):
        token({}, token=TokenPlace(file=tmp_path / "none"))
    assert server.asked == []


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unreachable or late, it is named with the reason, and asked again by a later call."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{place.getsockname()[1]}/oauth/token"
        made = OidcExchange(replace(ACCOUNT, token=FIELD.token, url=url), OPENAI, {"CI_TOKEN": JOB})

        def fails() -> str:
            with pytest.raises(ConnectionFailed) as caught:
                asyncio.run(made.token(FakeClock()))
            error = caught.value
            assert (error.sent, error.ambiguous, error.exit_code) == (False, False, 5)
            return str(error)

        refused = fails()
        assert "OpenAI cannot be asked for a token: no connection to 127.0.0.1" in refused
        assert "base_url" not in refused
        place.listen()
        monkeypatch.setattr(oidc, "LIMIT", 0.1)
        assert "no reply within" in fails()
