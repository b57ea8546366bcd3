"""Callers by JWT: keys from a key set (JWKS) or a shared secret, claims → caller.

Nothing of a token is believed before its signature fits. `alg` is only compared with what the
configuration allows, `kid` only looked up among the keys that are known, and what else a header
may say about where keys come from (`jku`, `jwk`, `x5u`) is never read.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmctl.clock import Clock
from llmctl.config.settings import Algorithm, JwtSettings
from llmctl.errors import ConfigError, LlmctlError
from llmctl.gateway.callers import (
    AuthUnavailable,
    Caller,
    Unauthenticated,
    Verdicts,
    caller_of,
    digest_of,
)
from llmctl.http import HttpClient, build
from llmctl.redact import remember

if TYPE_CHECKING:
    import jwt

_REQUIRED = ["exp", "iss", "aud", "sub"]
_KINDS: Mapping[Algorithm, Mapping[str, str]] = {
    "RS256": {"kty": "RSA"},
    "ES256": {"kty": "EC", "crv": "P-256"},
}
_SHORTEST_SECRET = 32  # bytes (RFC 7518, 3.2)
_LARGEST_SET = 1024 * 1024  # bytes
_AGAIN = 60.0  # seconds between two fetches for keys that are not known
_FIRST_AGAIN = 5.0  # the same while no key is known
_OLD = 600.0  # seconds after which keys are fetched again: the issuer may have withdrawn one
_KEEP = 60.0  # seconds for which a token that was verified is not verified again


class Keys(Protocol):
    """Where the keys of signatures are."""

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id, for this algorithm alone. Raises `AuthUnavailable`."""


class JwtVerifier:
    """A `callers.Verifier`. Dates go by the machine's clock, as PyJWT reads it."""

    def __init__(self, settings: JwtSettings, keys: Keys, clock: Clock) -> None:
        self._settings, self._keys, self._clock = settings, keys, clock
        self._algorithms = algorithms_of(settings)
        self._verdicts = Verdicts(clock)

    async def __call__(self, credential: str) -> Caller:
        """The caller. Raises `Unauthenticated` and `AuthUnavailable`."""
        digest = digest_of(credential)
        known = self._verdicts.get(digest)
        if isinstance(known, Caller):
            return known
        claims = await self._verified(credential)
        caller = caller_of(claims, self._settings.claims)
        self._verdicts.put(digest, caller, min(int(claims["exp"]), self._clock.wall() + _KEEP))
        return caller

    async def _verified(self, credential: str) -> dict[str, Any]:
        import jwt

        try:
            header = jwt.get_unverified_header(credential)
            algorithm = header.get("alg")
            if algorithm not in self._algorithms:
                raise Unauthenticated("a JWT of an algorithm that is not allowed")
            if "crit" in header:
                raise Unauthenticated("a JWT with extensions")
            key = await self._keys.find(header.get("kid"), algorithm)
            if key is None:
                raise Unauthenticated("a JWT of an unknown key")
            return jwt.decode(
                credential,
                key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            # The name alone: PyJWT's sentences quote the token.
            raise Unauthenticated(f"a JWT that is refused: {type(error).__name__}") from error


def algorithms_of(settings: JwtSettings) -> tuple[Algorithm, ...]:
    """The algorithms that are accepted: never those of a public and of a shared key together."""
    fitting: tuple[Algorithm, ...] = ("HS256",) if settings.secret else tuple(_KINDS)
    return tuple(each for each in fitting if each in (settings.algorithms or fitting))


def jwt_verifier(
    settings: JwtSettings,
    environ: Mapping[str, str],
    client: HttpClient,
    clock: Clock,
    warn: Callable[[str], None],
) -> JwtVerifier:
    """The verifier that the settings describe. Raises `ConfigError` for a secret that is missing
    or too weak; a key set is read when the first token comes."""
    if settings.secret is None:
        keys: Keys = KeySet(settings.jwks or "", client, clock, warn)
    else:
        keys = SharedSecret(
            environ.get(settings.secret.env, "").rstrip("\r\n"), settings.secret.env
        )
    return JwtVerifier(settings, keys, clock)


class SharedSecret:
    """The one key of both sides, as `Keys`. Raises `ConfigError` when nobody should rely on it."""

    def __init__(self, secret: str, variable: str) -> None:
        import jwt

        raw = secret.encode()
        remember(secret)
        if len(raw) < _SHORTEST_SECRET:
            what = "is not set" if not raw else f"holds fewer than {_SHORTEST_SECRET} bytes"
            raise ConfigError(
                f"serve.jwt.secret: {variable} {what}: set it to a random secret, such as "
                "`openssl rand -base64 48` prints"
            )
        if b"-----BEGIN" in raw:
            raise ConfigError(
                f"serve.jwt.secret: {variable} holds a key file, which is no shared secret; name "
                "public keys by serve.jwt.jwks"
            )
        said = {"kty": "oct", "k": base64.urlsafe_b64encode(raw).decode().rstrip("=")}
        self._key = jwt.PyJWK(said, "HS256")

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The secret, whatever it is called."""
        del kid
        return self._key if algorithm == self._key.algorithm_name else None


class KeySet:
    """The keys at an address or in a file, as `Keys`.

    They are read when the first is needed, every ten minutes while they are used, and for a key
    that is not among them, then at most once a minute; by one task at a time. What is known stays
    in use when they cannot be read, which `warn` is told.
    """

    def __init__(
        self, source: str, client: HttpClient, clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._source, self._client, self._clock, self._warn = source, client, clock, warn
        self._keys: Sequence[tuple[str | None, jwt.PyJWK]] = ()
        self._read_at = self._tried_at = float("-inf")
        self._failure = ""
        self._reading: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id, or the only one where a token names none. Raises `AuthUnavailable`
        while no key could be read."""
        now = self._clock.monotonic()
        key = self._known(kid, algorithm)
        if key is not None:
            if now >= max(self._read_at + _OLD, self._tried_at + _AGAIN):
                self._read()  # and nobody waits for it
            return key
        if now >= self._tried_at + (_AGAIN if self._keys else _FIRST_AGAIN):
            await asyncio.shield(self._read())
        elif self._reading is not None:
            await asyncio.shield(self._reading)
        if not self._keys:
            raise AuthUnavailable(self._failure)
        return self._known(kid, algorithm)

    def _known(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [key for name, key in self._keys if kid in {None, name}]
        fitting = [key for key in fitting if key.algorithm_name == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _read(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._tried_at = self._clock.monotonic()
            self._reading = asyncio.get_running_loop().create_task(self._try_to_read())
        return self._reading

    async def _try_to_read(self) -> None:
        try:
            self._keys = usable_keys(await self._bytes())
            self._read_at = self._clock.monotonic()
        except (LlmctlError, OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error).partition(";")[0]
            self._failure = f"serve.jwt.jwks: the keys of {self._source} cannot be read: {why}"
            self._warn(self._failure)
        finally:
            self._reading = None

    async def _bytes(self) -> bytes:
        if "://" not in self._source:
            return await asyncio.to_thread(Path(self._source).read_bytes)
        request = build("GET", self._source, {"accept": "application/json"})
        async with self._client.send(request, connect=5, first_byte=5, total=10) as reply:
            if reply.status != 200:
                raise ValueError(f"the answer is HTTP {reply.status}")
            return await reply.read(_LARGEST_SET)


def usable_keys(raw: bytes) -> Sequence[tuple[str | None, jwt.PyJWK]]:
    """The public keys of a key set (RFC 7517) that may verify signatures, with their ids. Each is
    for one algorithm, which its type says. Raises `ValueError` where there is none."""
    import jwt

    found = []
    listed = json.loads(raw)
    for each in listed.get("keys", ()) if isinstance(listed, dict) else ():
        algorithm = _algorithm(each) if isinstance(each, dict) else None
        kid = each.get("kid") if algorithm else None
        if algorithm and isinstance(kid, str | None):
            try:
                found.append((kid, jwt.PyJWK(each, algorithm)))
            except (jwt.PyJWTError, ValueError, TypeError):
                continue  # the issuer's others are still good
    if not found:
        raise ValueError("it holds no public RSA or P-256 key for signatures")
    return found


def _algorithm(key: Mapping[str, Any]) -> str | None:
    """What a key of the set is for; None for one that is not for us."""
    if key.get("use", "sig") != "sig" or "d" in key:
        return None
    for algorithm, kind in _KINDS.items():
        if all(key.get(name) == value for name, value in kind.items()):
            return algorithm if key.get("alg", algorithm) == algorithm else None
    return None
