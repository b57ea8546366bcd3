"""Who calls: one credential, one caller, one answer to all others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.config.settings import Allowance, Caps, Claims, Rate
from llmctl.errors import DiskError
from llmctl.gateway.callers import (
    Authenticator,
    AuthUnavailable,
    Caller,
    Unauthenticated,
    Verdicts,
    anonymous,
    caller_of,
    credential_in,
)
from llmctl.storage.virtual_keys import Token, TokenStore
from tests.support import FakeClock, done

NAMES = Claims()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[TokenStore]:
    """A store without a token."""
    with closing(TokenStore(tmp_path / "tokens.db", clock)) as opened:
        yield opened


def verifier(name: str) -> Any:
    """A verifier that knows everybody."""

    async def verify(credential: str) -> Caller:
        return Caller(f"{name}: {credential}")

    return verify


def refusal(ask: Authenticator, headers: Mapping[str, str]) -> Unauthenticated:
    """The error that a request meets."""
    with pytest.raises(Unauthenticated) as caught:
        done(ask, headers)
    return caught.value


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_the_holder_of_a_token(store: TokenStore, clock: FakeClock, header: str) -> None:
    """Is found by the header of any SDK, with all that the token says, which notes its use."""
    caps = Caps((Rate(60, "minute"),))
    token = Token("ann", "ann@x.org", 0.0, "backend", "acme", ("fast",), caps, 3, admin=True)
    secret = store.create(token)
    value = f"Bearer {secret}" if header == "authorization" else secret
    caller = done(Authenticator(store, clock), {header: value})
    assert caller == Caller(
        "ann@x.org", "ann", "backend", "acme", frozenset({"fast"}), caps, 3, admin=True
    )
    store.close()
    assert store.all()[0].last_used == clock.wall()


def test_all_refusals_are_alike(store: TokenStore, clock: FakeClock) -> None:
    """Unknown, expired, revoked, none, two, of another scheme: one message and one type; the
    reason is for the log, and quotes no credential."""
    revoked = store.create(Token("old", "u", 0.0))
    store.revoke(["old"])
    expired = store.create(Token("brief", "u", 0.0, expires=clock.wall()))
    good = store.create(Token("good", "u", 0.0))
    ask = Authenticator(store, clock)
    requests: dict[str, dict[str, str]] = {
        "an unknown token": {"x-api-key": "lk-" + "A" * 43},
        "the token old is revoked": {"x-api-key": revoked},
        "the token brief is expired": {"authorization": f"bearer {expired}"},
        "no credential": {},
        "credentials that differ": {"x-api-key": good, "authorization": f"Bearer {revoked}"},
        "a credential of no kind that is accepted here": {"x-api-key": "sk-provider-key"},
        "an Authorization header of another scheme than Bearer": {
            "authorization": "Basic x", "x-api-key": good,
        },
        "a credential that is too long": {"api-key": "lk-" * 10_000},
    }  # fmt: skip
    found = [refusal(ask, headers) for headers in requests.values()]
    assert [error.reason for error in found] == list(requests)
    assert len({(error.message, error.type, error.exit_code) for error in found}) == 1
    assert done(ask, {"x-api-key": good, "authorization": f"Bearer {good}"}).token == "good"


def test_a_credential_goes_to_whom_it_is_for(store: TokenStore, clock: FakeClock) -> None:
    """`lk-…` is a virtual key whatever else is configured; two dots make a JWT where those are
    configured; the rest is asked about where there is somebody to ask."""
    both = Authenticator(store, clock, jwt=verifier("jwt"), introspection=verifier("asked"))
    assert done(both, {"x-api-key": "a.b.c"}).user == "jwt: a.b.c"
    assert done(both, {"x-api-key": "opaque"}).user == "asked: opaque"
    assert refusal(both, {"x-api-key": "lk-a.b.c"}).reason == "an unknown token"
    jwt = Authenticator(store, clock, jwt=verifier("jwt"))
    assert "no kind" in refusal(jwt, {"x-api-key": "opaque"}).reason
    asked = Authenticator(store, clock, introspection=verifier("asked"))
    assert done(asked, {"x-api-key": "a.b.c"}).user == "asked: a.b.c"


def test_nobody_is_let_in_while_tokens_cannot_be_read(
    store: TokenStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says to try again, and what is wrong goes into the log."""

    def find(_: str) -> None:
        raise DiskError("the disk is gone")

    monkeypatch.setattr(store, "find", find)
    with pytest.raises(AuthUnavailable, match="try again") as caught:
        done(Authenticator(store, clock), {"x-api-key": "lk-x"})
    assert caught.value.reason == "the disk is gone"


TEXTS = st.text("lk-Aé., \t\0:", max_size=12)
HEADERS = st.dictionaries(
    st.sampled_from(["authorization", "x-api-key", "api-key", "host"]),
    TEXTS | st.builds("Bearer {}".format, TEXTS),
)


@given(HEADERS)
def test_a_credential_is_one_or_none(headers: dict[str, str]) -> None:
    """Whatever headers hold, the credential is text of one of them, or there is none."""
    try:
        credential = credential_in(headers)
    except Unauthenticated:
        return
    assert credential
    assert all(
        credential in value for name, value in headers.items() if name != "host" and value.strip()
    )


def test_the_user_who_runs_it() -> None:
    """Without authentication there is one caller, who may see everything."""
    assert anonymous("me") == Caller("me", admin=True)


def test_claims_describe_a_caller() -> None:
    """Lists and text, claims inside others, and claims whose own name has dots."""
    names = Claims("email", "realm.team", "https://acme.example/org", "may", "spend")
    said = {
        "email": "ann@x.org",
        "realm": {"team": "backend"},
        "https://acme.example/org": "acme",
        "may": "fast claude",
        "spend": ["5/day", "100/month"],
    }
    budget = (Allowance(Decimal(5), "day"), Allowance(Decimal(100), "month"))
    profiles = frozenset({"fast", "claude"})
    assert caller_of(said, names) == Caller(
        "ann@x.org", None, "backend", "acme", profiles, Caps(budget=budget)
    )
    assert caller_of({"sub": "ann", "team": None}, NAMES) == Caller("ann")
    assert caller_of({"sub": "ann", "profiles": []}, NAMES).profiles == frozenset()
    assert caller_of({"sub": "ann", "budget": "5/day"}, NAMES).caps.budget == budget[:1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sub": ""},
        {"sub": None},
        {"sub": 7},
        {"sub": "a\nb"},
        {"sub": "a" * 257},
        {"team": ["backend"]},
        {"organisation": {"name": "acme"}},
        {"profiles": {"fast": True}},
        {"profiles": [1]},
        {"profiles": True},
        {"budget": 5},
        {"budget": "unlimited"},
        {"budget": ["5/day", "5/fortnight"]},
    ],
)
def test_malformed_claims_let_nobody_in(wrong: dict[str, Any]) -> None:
    """A cap or a restriction that cannot be read is not taken for none."""
    with pytest.raises(Unauthenticated):
        caller_of({"sub": "ann", **wrong}, NAMES)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["sub", "team", "profiles", "budget", "x"]), JSON_VALUES))
def test_any_claims_make_a_caller_or_none(claims: dict[str, Any]) -> None:
    """Nothing else is raised, and nobody becomes an administrator by a claim."""
    try:
        caller = caller_of({**claims, "admin": True}, replace(NAMES, team="team.name"))
    except Unauthenticated:
        return
    assert caller.user == claims["sub"]
    assert not caller.admin


def test_verdicts_are_kept_until_their_moment(clock: FakeClock) -> None:
    """And the oldest of very many makes room."""
    verdicts = Verdicts(clock)
    verdicts.put(b"a", "no", clock.wall() + 10)
    clock.now += 9
    assert verdicts.get(b"a") == "no"
    clock.now += 1
    assert verdicts.get(b"a") is None
    for number in range(10_001):
        verdicts.put(b"%d" % number, Caller("u"), clock.wall() + 10)
    assert verdicts.get(b"0") is None
    assert verdicts.get(b"10000") == Caller("u")
    assert len(verdicts._known) == 10_000
