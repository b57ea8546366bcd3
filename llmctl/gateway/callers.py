"""Who calls: the credential of a request, and the caller that it stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.config.settings import Allowance, Caps, Claims, parse_allowance
from llmctl.errors import LlmctlError
from llmctl.storage.virtual_keys import PREFIX, Token, TokenStore

_LONGEST = 16 * 1024  # characters of a credential
_LONGEST_NAME = 256  # characters of who a claim says somebody is
_MOST_VERDICTS = 10_000
_KEY_HEADERS = ("x-api-key", "api-key")  # as Anthropic's and Azure's SDKs send it


class Caller(Struct, frozen=True):
    """Somebody who may call.

    Attributes:
        user, team, organisation: whom the calls are counted for.
        token: the name of the virtual key; None for others.
        profiles: those it may use; None: all that are served.
        caps: what it may use; without any it has those of `serve: caller:`.
        weight: its share of turns where callers wait for a provider, 1 to 100.
        admin: whether it may see what other callers used.

    """

    user: str
    token: str | None = None
    team: str | None = None
    organisation: str | None = None
    profiles: frozenset[str] | None = None
    caps: Caps = Caps()
    weight: int = 1
    admin: bool = False


class Unauthenticated(LlmctlError):
    """Nobody is known by what a request brought: 401. The message is one for all causes, so that
    it tells an attacker nothing; `reason` is for the log, and quotes nothing of the request."""

    type = "auth"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "no valid credential: send a token of this gateway as `Authorization: Bearer …` or "
            "`x-api-key: …`"
        )
        self.reason = reason


class AuthUnavailable(LlmctlError):
    """Whether a credential is valid cannot be found out at the moment: 503. `reason` is for the
    log; `retry_after` are seconds."""

    type = "server"
    retry_after = 5.0

    def __init__(self, reason: str) -> None:
        super().__init__("callers cannot be checked at the moment: try again in a few seconds")
        self.reason = reason


Verifier = Callable[[str], Awaitable[Caller]]
"""The caller that a credential of one kind stands for. Raises `Unauthenticated` and
`AuthUnavailable`."""


def anonymous(user: str) -> Caller:
    """The caller of a gateway that serves only the user who runs it."""
    return Caller(user, admin=True)


class Authenticator:
    """Finds the caller of a request. `jwt` checks credentials of the shape of a JWT, where it is
    given, `introspection` all others that are no virtual keys."""

    def __init__(
        self,
        tokens: TokenStore,
        clock: Clock,
        *,
        jwt: Verifier | None = None,
        introspection: Verifier | None = None,
    ) -> None:
        self._tokens, self._clock = tokens, clock
        self._jwt, self._introspection = jwt, introspection

    async def __call__(self, headers: Mapping[str, str]) -> Caller:
        """The caller by a request's headers, whose names are lower case. Raises `Unauthenticated`
        and `AuthUnavailable`."""
        credential = credential_in(headers)
        if credential.startswith(PREFIX):
            return self._holder(credential)
        if self._jwt is not None and credential.count(".") == 2:
            return await self._jwt(credential)
        if self._introspection is not None:
            return await self._introspection(credential)
        raise Unauthenticated("a credential of no kind that is accepted here")

    def _holder(self, secret: str) -> Caller:
        try:
            token = self._tokens.find(secret)
        except LlmctlError as error:
            raise AuthUnavailable(error.message) from error
        if token is None:
            raise Unauthenticated("an unknown token")
        state = token.state(self._clock.wall())
        if state != "active":
            raise Unauthenticated(f"the token {token.name} is {state}")
        self._tokens.note_use(token)
        return _of_token(token)


def _of_token(token: Token) -> Caller:
    profiles = None if token.profiles is None else frozenset(token.profiles)
    return Caller(
        token.user,
        token.name,
        token.team,
        token.organisation,
        profiles,
        token.caps,
        token.weight,
        token.admin,
    )


def credential_in(headers: Mapping[str, str]) -> str:
    """The one credential that the headers bring, in whichever of them. Raises `Unauthenticated`
    for none, a scheme other than Bearer, and two that differ."""
    found = {headers[name].strip() for name in _KEY_HEADERS if name in headers}
    if "authorization" in headers:
        scheme, _, value = headers["authorization"].strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("an Authorization header of another scheme than Bearer")
        found.add(value.strip())
    if len(found) > 1:
        raise Unauthenticated("credentials that differ")
    credential = found.pop() if found else ""
    if not credential:
        raise Unauthenticated("no credential")
    if len(credential) > _LONGEST:
        raise Unauthenticated("a credential that is too long")
    return credential


def caller_of(claims: Mapping[str, Any], names: Claims) -> Caller:
    """The caller that verified claims describe. One that is missing or null restricts nothing; one
    that is malformed lets nobody in. Raises `Unauthenticated`."""
    user = _name(claims, names.user)
    if user is None:
        raise Unauthenticated(f"the claim {names.user} is missing")
    profiles = _words(claims, names.profiles)
    return Caller(
        user,
        team=_name(claims, names.team),
        organisation=_name(claims, names.organisation),
        profiles=None if profiles is None else frozenset(profiles),
        caps=Caps(budget=_budget(claims, names.budget)),
    )


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this very name, which may hold dots, or else the one its dots lead to."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _name(claims: Mapping[str, Any], name: str) -> str | None:
    value = _claim(claims, name)
    if value is None:
        return None
    fits = isinstance(value, str) and value.isprintable() and value.strip()
    if not fits or len(value) > _LONGEST_NAME:
        raise Unauthenticated(f"the claim {name} is no name")
    return str(value)


def _words(claims: Mapping[str, Any], name: str) -> list[str] | None:
    value = _claim(claims, name)
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if value is None or (isinstance(value, list) and all(isinstance(w, str) for w in value)):
        return value
    raise Unauthenticated(f"the claim {name} is no list of names")


def _budget(claims: Mapping[str, Any], name: str) -> tuple[Allowance, ...]:
    found = [parse_allowance(word) for word in _words(claims, name) or ()]
    if None in found:
        raise Unauthenticated(f"the claim {name} is no allowance such as 5/day")
    return tuple(each for each in found if each is not None)


Verdict = Caller | str
"""What became of a credential: its caller, or the reason why there is none."""


class Verdicts:
    """Verdicts on credentials that were looked at before, by their digest, each until its moment
    (seconds since the epoch). The oldest make room for new ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[bytes, tuple[Verdict, float]] = {}

    def get(self, digest: bytes) -> Verdict | None:
        """What is known."""
        verdict, until = self._known.get(digest, (None, 0.0))
        return verdict if self._clock.wall() < until else None

    def put(self, digest: bytes, verdict: Verdict, until: float) -> None:
        """Keep a verdict."""
        self._known.pop(digest, None)
        if len(self._known) >= _MOST_VERDICTS:
            del self._known[next(iter(self._known))]
        self._known[digest] = verdict, until


def digest_of(credential: str) -> bytes:
    """What verdicts are kept under: not the credential, which others could use."""
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
