"""Callers by JWT: the good one gets in, and nothing that was ever tried against JWTs does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmctl.config.settings import Allowance, Caps, JwtSettings, Secret
from llmctl.errors import ConfigError
from llmctl.gateway.callers import AuthUnavailable, Caller, Unauthenticated
from llmctl.gateway.jwt_auth import JwtVerifier, KeySet, algorithms_of, jwt_verifier, usable_keys
from llmctl.http import HttpClient
from tests.conformance.http_peer import driven
from tests.gateway.issuer import (
    AUDIENCE,
    ISSUER,
    Issuer,
    claims,
    ec_key,
    forged,
    key_set,
    public,
    rsa_key,
    signed,
)
from tests.support import FakeClock, done

RSA, OTHER, EC = rsa_key(), rsa_key(), ec_key()
SETTINGS = JwtSettings(ISSUER, (AUDIENCE, "other"))
SECRET = "0123456789abcdef0123456789abcdef"
SHARED = replace(SETTINGS, secret=Secret("JWT_SECRET"))
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Desk:
    """A verifier, and what is around it."""

    verify: JwtVerifier
    issuer: Issuer
    clock: FakeClock
    warnings: list[str] = field(default_factory=list)

    async def refusal(self, token: str) -> str:
        """The reason why nobody is let in."""
        with pytest.raises(Unauthenticated) as caught:
            await self.verify(token)
        return caught.value.reason


@asynccontextmanager
async def desk(
    settings: JwtSettings = SETTINGS, *, keys: bytes | None = None, path: Path | None = None
) -> AsyncIterator[Desk]:
    """A verifier whose keys come from a server, from a file, or are a secret."""
    clock, warnings = FakeClock(time.time()), list[str]()
    entries = public(RSA, kid="one"), public(EC, kid="curve"), public(OTHER, kid="two")
    issuer = Issuer(key_set(*entries) if keys is None else keys)
    async with issuer.serving() as client:
        if settings.secret is None:
            settings = replace(settings, jwks=issuer.url if path is None else str(path))
        verify = jwt_verifier(settings, {"JWT_SECRET": SECRET}, client, clock, warnings.append)
        yield Desk(verify, issuer, clock, warnings)


@driven
async def test_a_good_token() -> None:
    """Of either algorithm, for one of the audiences; its claims describe the caller, and the key
    set is fetched once."""
    async with desk() as at:
        said = claims(team="backend", profiles=["fast"], budget="5/day", aud=["x", "other"])
        assert await at.verify(signed(RSA, said)) == Caller(
            "ann", team="backend", profiles=frozenset({"fast"}),
            caps=Caps(budget=(Allowance(Decimal(5), "day"),)),
        )  # fmt: skip
        assert await at.verify(signed(EC, claims(), "ES256", kid="curve")) == Caller("ann")
        assert len(at.issuer.requests) == 1
        assert at.issuer.requests[0][0].startswith("GET /v1 HTTP/1.1\r\n")


def hs256_with_the_public_key() -> str:
    """The classic: the public key, which everybody has, as the secret of an HMAC."""
    head, said, _ = forged({"alg": "HS256", "kid": "one"}, claims()).split(".")
    mac = hmac.digest(PEM, f"{head}.{said}".encode(), hashlib.sha256)
    return forged({"alg": "HS256", "kid": "one"}, claims(), mac)


def extended() -> str:
    """A token that is good but for an extension, which changes nothing."""
    token = forged({"alg": "RS256", "kid": "one", "crit": ["b64"], "b64": True}, claims())
    signature = RSA.sign(token.rpartition(".")[0].encode(), PKCS1v15(), SHA256())
    return token + base64.urlsafe_b64encode(signature).decode().rstrip("=")


def embedded() -> str:
    """A token that brings the key it is signed with."""
    return signed(ATTACKER, claims(), jwk=public(ATTACKER))


ATTACKER = rsa_key()
ATTACKS: dict[str, Callable[[], str]] = {
    "expired": lambda: signed(RSA, claims(exp=1_700_000_000)),
    "not yet valid": lambda: signed(RSA, claims(nbf=4_000_000_000)),
    "wrong audience": lambda: signed(RSA, claims(aud="somebody")),
    "audiences that are none of ours": lambda: signed(RSA, claims(aud=["a", "llmctl2"])),
    "wrong issuer": lambda: signed(RSA, claims(iss="https://evil.example")),
    "without exp": lambda: signed(RSA, claims(exp=None)),
    "without aud": lambda: signed(RSA, claims(aud=None)),
    "without iss": lambda: signed(RSA, claims(iss=None)),
    "without sub": lambda: signed(RSA, claims(sub=None)),
    "exp that is no number": lambda: signed(RSA, claims(exp="never")),
    "none": lambda: forged({"alg": "none", "kid": "one"}, claims()),
    "nOnE": lambda: forged({"alg": "nOnE", "kid": "one"}, claims()),
    "no algorithm": lambda: forged({"kid": "one"}, claims()),
    "algorithms": lambda: forged({"alg": ["RS256"], "kid": "one"}, claims()),
    "HS256 with the public key": hs256_with_the_public_key,
    "HS256 with a secret": lambda: signed(SECRET, claims(), "HS256"),
    "another algorithm of RSA": lambda: signed(RSA, claims(), "RS512"),
    "PS256": lambda: signed(RSA, claims(), "PS256"),
    "a key of another type": lambda: signed(RSA, claims(), kid="curve"),
    "another one's key": lambda: signed(OTHER, claims()),
    "an attacker's key": lambda: signed(ATTACKER, claims()),
    "the key in the header": embedded,
    "jku": lambda: signed(ATTACKER, claims(), jku="http://127.0.0.1:1/keys", kid="x"),
    "x5u": lambda: signed(ATTACKER, claims(), x5u="http://127.0.0.1:1/cert", kid="x"),
    "an unknown kid": lambda: signed(RSA, claims(), kid="three"),
    "kid as a path": lambda: signed(RSA, claims(), kid="../../../../dev/null"),
    "kid as a URL": lambda: signed(RSA, claims(), kid="http://127.0.0.1:1/"),
    "kid as SQL": lambda: signed(RSA, claims(), kid="one' OR '1'='1"),
    "kid as a number": lambda: forged({"alg": "RS256", "kid": 1}, claims()),
    "no kid among several keys": lambda: forged({"alg": "RS256"}, claims()),
    "an extension": lambda: signed(RSA, claims(), crit=["exp"], exp=1),
    "an extension that PyJWT knows": extended,
    "a changed claim": lambda: swapped(1, claims(sub="root")),
    "a cut signature": lambda: signed(RSA, claims())[:-8],
    "no signature": lambda: signed(RSA, claims()).rpartition(".")[0] + ".",
    "a claim that is malformed": lambda: signed(RSA, claims(budget=5)),
    "deep nesting": lambda: "W1tb" * 3000 + ".e30.AA",
    "nothing": lambda: "..",
    "no ASCII": lambda: "é.é.é",
    "half of a pair": lambda: "\ud800.a.b",
}


def swapped(part: int, said: dict[str, Any]) -> str:
    """A signed token, one part of which is another."""
    parts = signed(RSA, claims()).split(".")
    parts[part] = forged({}, said).split(".")[1]
    return ".".join(parts)


@pytest.mark.parametrize("attack", ATTACKS)
@driven
async def test_attacks(attack: str) -> None:
    """None gets in, the answer is the same for all, the reason quotes nothing of the token, and
    nothing but the key set is ever fetched."""
    async with desk() as at:
        token = ATTACKS[attack]()
        with pytest.raises(Unauthenticated) as caught:
            await at.verify(token)
        assert caught.value.message == Unauthenticated("").message
        assert caught.value.reason.startswith(("a JWT", "the claim budget"))
        assert len(at.issuer.requests) <= 1
        assert await at.verify(signed(RSA, claims())) == Caller("ann")


@given(st.text("abc.-_=AZ09é ", max_size=40))
def test_any_text_is_refused(text: str) -> None:
    """With a reason, not with an error."""

    async def ask() -> None:
        verify = jwt_verifier(SHARED, {"JWT_SECRET": SECRET}, HttpClient(), FakeClock(), print)
        with pytest.raises(Unauthenticated):
            await verify(text)

    done(ask)


@driven
async def test_a_shared_secret() -> None:
    """Signs with HS256; then no public key counts, whatever the token says of it."""
    async with desk(SHARED) as at:
        assert await at.verify(signed(SECRET, claims(), "HS256")) == Caller("ann")
        assert "not allowed" in await at.refusal(signed(RSA, claims()))
        assert "InvalidSignature" in await at.refusal(signed(SECRET[::-1], claims(), "HS256"))


def test_algorithms_of_both_kinds_never_count_together() -> None:
    """A configuration cannot make a public key a secret."""
    both = ("RS256", "ES256", "HS256")
    assert algorithms_of(SETTINGS) == ("RS256", "ES256")
    assert algorithms_of(replace(SETTINGS, algorithms=both)) == ("RS256", "ES256")
    assert algorithms_of(replace(SETTINGS, algorithms=("ES256",))) == ("ES256",)
    assert algorithms_of(replace(SHARED, algorithms=both)) == ("HS256",)


@pytest.mark.parametrize(
    ("value", "said"),
    [("", "is not set"), ("short", "fewer than 32 bytes"), (PEM.decode(), "file")],
)
def test_secrets_that_protect_nothing(value: str, said: str) -> None:
    """Are mistakes of the configuration, which name the variable and not the value."""
    with pytest.raises(ConfigError, match=f"JWT_SECRET .*{said}") as caught:
        jwt_verifier(SHARED, {"JWT_SECRET": value}, HttpClient(), FakeClock(), print)
    assert not value or value not in caught.value.message


@driven
async def test_leeway() -> None:
    """Clocks may differ by 30 seconds, and not by more."""
    async with desk() as at:
        now = int(at.clock.wall())
        assert await at.verify(signed(RSA, claims(exp=now - 20))) == Caller("ann")
        assert "Expired" in await at.refusal(signed(RSA, claims(exp=now - 40)))


@driven
async def test_a_new_key_is_found_at_once_and_not_asked_for_all_the_time() -> None:
    """A key id that is not known is looked for, at most once a minute, by one request for any
    number of calls."""
    async with desk(keys=key_set(public(RSA, kid="one"))) as at:
        await at.verify(signed(RSA, claims()))
        new = signed(OTHER, claims(), kid="two")
        at.issuer.body = key_set(public(RSA, kid="one"), public(OTHER, kid="two"))
        assert "unknown key" in await at.refusal(new)
        at.clock.now += 60
        callers = await asyncio.gather(*(at.verify(new) for _ in range(50)))
        assert set(callers) == {Caller("ann")}
        assert len(at.issuer.requests) == 2
        for number in range(50):
            await at.refusal(signed(OTHER, claims(), kid=f"x{number}"))
        assert len(at.issuer.requests) == 2


@driven
async def test_a_withdrawn_key_is_forgotten() -> None:
    """Ten minutes later the set is read again, and no call waits for that."""
    async with desk() as at:
        await at.verify(signed(OTHER, claims(), kid="two"))
        at.issuer.body = key_set(public(RSA, kid="one"))
        at.clock.now += 600
        fresh = signed(OTHER, claims(jti="b"), kid="two")
        await at.verify(fresh)
        assert isinstance(at.verify._keys, KeySet)
        assert at.verify._keys._reading is not None
        await at.verify._keys._reading
        at.clock.now += 60
        assert "unknown key" in await at.refusal(fresh)


@driven
async def test_known_keys_stay_while_the_issuer_is_down() -> None:
    """Calls go on, and somebody is told; a key that is not known is refused as ever."""
    async with desk() as at:
        await at.verify(signed(RSA, claims()))
        at.issuer.status = 503
        at.clock.now += 3600
        assert "unknown key" in await at.refusal(signed(RSA, claims(), kid="three"))
        assert await at.verify(signed(RSA, claims(jti="b"))) == Caller("ann")
        (said,) = at.warnings
        assert said.endswith("cannot be read: the answer is HTTP 503")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "Expecting value"),
        (b"[]", "no public RSA or P-256 key"),
        (b'{"keys": [1, {}, {"kty": "RSA"}]}', "no public RSA or P-256 key"),
        (b"[" * 100_000, "recursion"),
        (b" " * (1 << 20) + b"{}", "Expecting value"),
    ],
)
@driven
async def test_nobody_is_let_in_without_keys(body: bytes, said: str) -> None:
    """While no key could be read the answer is to try again, not that the token is wrong; five
    seconds later it is read again."""
    async with desk(keys=body) as at:
        for _ in range(3):
            with pytest.raises(AuthUnavailable) as caught:
                await at.verify(signed(RSA, claims()))
            assert said in caught.value.reason
        assert len(at.issuer.requests) == 1
        at.issuer.body = key_set(public(RSA, kid="one"))
        at.clock.now += 5
        assert await at.verify(signed(RSA, claims())) == Caller("ann")


@driven
async def test_a_call_that_hangs_up_does_not_end_the_others_wait() -> None:
    """The fetch goes on for those who stay."""
    async with desk() as at:
        token = signed(RSA, claims())
        first, second = (asyncio.ensure_future(at.verify(token)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == Caller("ann")
        assert len(at.issuer.requests) == 1


@driven
async def test_keys_in_a_file(tmp_path: Path) -> None:
    """Are read like those of an address, again when a new one is put there."""
    path = tmp_path / "keys.json"
    async with desk(path=path) as at:
        with pytest.raises(AuthUnavailable) as caught:
            await at.verify(signed(RSA, claims()))
        assert "No such file" in caught.value.reason
        path.write_bytes(key_set(public(RSA, kid="one")))
        at.clock.now += 5
        assert await at.verify(signed(RSA, claims())) == Caller("ann")
        assert await at.verify(forged_without_kid()) == Caller("ann")
        assert at.issuer.requests == []


@driven
async def test_a_token_is_verified_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a minute, but not after its end, it is known by its digest."""
    async with desk() as at:
        token, brief = signed(RSA, claims()), signed(RSA, claims(exp=int(at.clock.wall()) + 10))
        for each in (token, brief):
            await at.verify(each)
        monkeypatch.setattr("jwt.decode", lambda *_, **__: 1 / 0)
        at.clock.now += 9
        assert await at.verify(token) == await at.verify(brief) == Caller("ann")
        at.clock.now += 1
        with pytest.raises(ZeroDivisionError):
            await at.verify(brief)
        at.clock.now += 50
        with pytest.raises(ZeroDivisionError):
            await at.verify(token)


def test_what_of_a_key_set_counts() -> None:
    """Public keys for signatures of the two types; secrets, private keys, keys for encryption and
    of other curves do not, nor do broken ones keep the others from counting."""
    private = {**public(RSA), "d": "AQAB"}
    entries: list[dict[str, Any]] = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {**private, "kid": "private"},
        public(RSA, kid="enc", use="enc"),
        public(RSA, kid="ps", alg="PS256"),
        public(RSA, kid=7),
        {"kty": "RSA", "n": "%", "e": "AQAB", "kid": "broken"},
        {**public(EC, kid="curve"), "crv": "P-384"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "okp"},
        public(EC, kid="ec", use="sig", alg="ES256"),
        public(RSA, kid="rsa"),
    ]
    found = {kid: key.algorithm_name for kid, key in usable_keys(key_set(*entries))}
    assert found == {"ec": "ES256", "rsa": "RS256"}


def test_a_short_key_is_refused() -> None:
    """An RSA key of 1,024 bits can be factored."""
    short = rsa_key(1024)

    async def ask() -> str:
        async with desk(keys=key_set(public(short, kid="one"))) as at:
            return await at.refusal(signed(short, claims()))

    with pytest.warns(Warning, match="1024"):
        assert "InvalidKey" in done(ask)


def forged_without_kid() -> str:
    """A good token that names no key."""
    import jwt

    return jwt.encode(claims(), RSA, "RS256")
