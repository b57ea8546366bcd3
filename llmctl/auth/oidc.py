"""Keyless CI: the OIDC token of a job, exchanged at OpenAI or Anthropic for a short-lived one.

References: developers.openai.com/api/docs/guides/workload-identity-federation,
platform.claude.com/docs/en/manage-claude/workload-identity-federation,
docs.github.com/en/actions/reference/security/oidc.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.auth.token_holder import EARLY, Token, TokenHolder
from llmctl.clock import Clock
from llmctl.config.settings import OidcAuth, Profile, TokenPlace, parse_endpoint
from llmctl.errors import (
    AuthFailed,
    CallError,
    CallTimeout,
    ConfigError,
    ConnectionFailed,
    NoKeyError,
    ServerFailed,
)
from llmctl.http import build, fetch
from llmctl.protocols import Auth
from llmctl.redact import printable, redact, redact_possible_keys

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

LIMIT = 10.0  # seconds of one request for a token

_LARGEST = 16 * 1024  # bytes of an OIDC token; real ones have less than 4,000
_MOST = 64 * 1024  # bytes of a reply that are read
_GRANT = "urn:ietf:params:oauth:grant-type:"
_TYPE = "urn:ietf:params:oauth:token-type:"
_BETA = "oauth-2025-04-20"  # lets Anthropic's API take a bearer token
_GITHUB = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")
_SDK_TOKEN = ("ANTHROPIC_IDENTITY_TOKEN_FILE", "ANTHROPIC_IDENTITY_TOKEN")


class Exchange(Struct, frozen=True):
    """What one provider's exchange needs.

    Attributes:
        name: of the provider, for people.
        subject: the field of the body for the OIDC token.
        needs, takes: fields of `auth.oidc` that it cannot do without, and further ones.
        variables: of the vendor's SDK, by the field that they stand in for.
        early: seconds before its end at which a token is exchanged anew.
        page: where the provider says more about a refusal.

    """

    name: str
    grant: str
    subject: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    page: str
    variables: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    early: float = EARLY


_EXCHANGES = {
    "openai": Exchange(
        name="OpenAI",
        grant="token-exchange",
        subject="subject_token",
        needs=("identity_provider_id", "service_account_id"),
        takes=("token_type",),
        page="the workload identity provider in its settings",
        early=1200.0,
    ),
    "anthropic": Exchange(
        name="Anthropic",
        grant="jwt-bearer",
        subject="assertion",
        needs=("federation_rule_id", "organization_id"),
        takes=("service_account_id", "workspace_id"),
        page="the events on the Console's page Workload identity",
        variables={
            "federation_rule_id": "ANTHROPIC_FEDERATION_RULE_ID",
            "organization_id": "ANTHROPIC_ORGANIZATION_ID",
            "service_account_id": "ANTHROPIC_SERVICE_ACCOUNT_ID",
            "workspace_id": "ANTHROPIC_WORKSPACE_ID",
        },
        headers={"anthropic-beta": f"{_BETA},oidc-federation-2026-04-01"},
    ),
}
"""By wire format."""

_OWN = {name for each in _EXCHANGES.values() for name in (*each.needs, *each.takes)}


class Granted(Struct, frozen=True):
    """The reply of an exchange (RFC 6749, 5.1); `expires_in` seconds."""

    access_token: Annotated[str, Meta(pattern=r"\A[!-~]+\Z")]
    expires_in: Annotated[float, Meta(gt=0)]
    token_type: Annotated[str, Meta(pattern=r"\A(?i:bearer)\Z")] = "Bearer"  # noqa: S105 - a kind


class Given(Struct, frozen=True):
    """GitHub's reply to a job that asks for an OIDC token."""

    value: str


class AnthropicAuth(KeyAuth):
    """`Auth` by Anthropic's own token, which is in beta: its flag joins those of the request."""

    async def sign(self, request: httpx2.Request) -> httpx2.Request:
        """The request with the token. Raises what the exchange raises."""
        request = await super().sign(request)
        flags = [flag.strip() for flag in request.headers.get("anthropic-beta", "").split(",")]
        if _BETA not in flags:
            request.headers["anthropic-beta"] = ",".join(filter(None, [*flags, _BETA]))
        return request


class OidcExchange:
    """The exchange of one profile; nothing is asked before the first `token`.

    Raises `ConfigError` for a provider that has none, for fields that are missing or another
    provider's, and for an address that is not encrypted; `NoKeyError` where the job has no OIDC
    token.
    """

    def __init__(self, auth: OidcAuth, profile: Profile, environ: Mapping[str, str]) -> None:
        self._auth, self._profile, self._environ = auth, profile, environ
        self._exchange = self._of_provider()
        self._fields = self._said()
        self._url = auth.url or self._address()
        self._place = auth.token or self._of_sdk()
        self._check_token()

    def auth(self, clock: Clock) -> Auth:
        """Signs with the token that the exchange gives."""
        made = AnthropicAuth if self._profile.adapter == "anthropic" else KeyAuth
        source = f"the credentials of {self._exchange.name}'s token exchange"
        holder = TokenHolder(lambda: self.token(clock), clock, source, self._exchange.early)
        return made(bearer, holder)

    async def token(self, clock: Clock) -> Token:
        """A new token of the provider's. Raises `AuthFailed` where it refuses the job, and
        `ConnectionFailed` or `ServerFailed` where it, or who gives the OIDC token, cannot be asked
        now."""
        subject, wants = await self._subject(), self._exchange
        body = {"grant_type": _GRANT + wants.grant, wants.subject: subject, **self._fields}
        headers = {"content-type": "application/json", **wants.headers}
        request = build("POST", self._url, headers, msgspec.json.encode(body))
        now = clock.wall()
        reply = await self._ask(request, wants.name, subject, f"see {wants.page}")
        granted = _read(reply, Granted, wants.name)
        return Token(granted.access_token, now + granted.expires_in)

    # What the profile and the environment say.

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self._profile.source}: auth.oidc of the profile {self._profile.name} {what}"
        )

    def _of_provider(self) -> Exchange:
        found = _EXCHANGES.get(self._profile.adapter)
        if found is None:
            raise self._error(
                f"is not for {self._profile.provider}: OpenAI and Anthropic exchange OIDC tokens; "
                "Google Cloud and Azure do by their own `auth: gcp` and `auth: azure`"
            )
        return found

    def _said(self) -> dict[str, str]:
        """The fields of the body that say who asks."""
        wants, found = self._exchange, dict[str, str]()
        known = (*wants.needs, *wants.takes)
        defaults = OidcAuth()
        for name in sorted(_OWN - {*known}):
            if getattr(self._auth, name) != getattr(defaults, name):
                raise self._error(f"has {name}, which {wants.name} does not know")
        for name in known:
            variable = wants.variables.get(name)
            value = getattr(self._auth, name)
            if value is None and variable:
                value = self._environ.get(variable, "").strip()
            if value:
                found[name] = value
            elif name in wants.needs:
                raise self._error(f"needs {name}{f', or ${variable}' if variable else ''}")
        if "token_type" in found:
            found["subject_token_type"] = _TYPE + found.pop("token_type")
        return found

    def _address(self) -> str:
        """Where the token is exchanged: Anthropic's API has that itself."""
        if self._profile.adapter == "openai":
            return "https://auth.openai.com/oauth/token"
        base = self._profile.base_url
        if any(parse_endpoint(url) is None for url in (base, *self._profile.servers)):
            raise self._error("needs https:// in base_url: the token would be sent in the clear")
        return f"{base}/oauth/token"

    def _of_sdk(self) -> TokenPlace | None:
        """Where the variables of Anthropic's SDK say that the token is."""
        file, variable = _SDK_TOKEN
        if self._profile.adapter != "anthropic":
            return None
        if path := self._environ.get(file, "").strip():
            return TokenPlace(file=Path(path))
        return TokenPlace(env=variable) if self._environ.get(variable, "").strip() else None

    def _check_token(self) -> None:
        """Raises `NoKeyError` where there cannot be an OIDC token, which no later look would
        find."""
        missing = f"no OIDC token for the profile {self._profile.name}: "
        place, (url, token) = self._place, _GITHUB
        if place is not None:
            if place.env and not self._environ.get(place.env, "").strip():
                raise NoKeyError(
                    f"{missing}${place.env} is not set; GitLab sets what the job names under "
                    "`id_tokens:`"
                )
        elif not all(self._environ.get(name, "").strip() for name in _GITHUB):
            if self._environ.get("GITHUB_ACTIONS"):
                raise NoKeyError(
                    f"{missing}GitHub does not let this job ask for one (${url} or ${token} is not "
                    "set); write `permissions: {id-token: write}` into the job"
                )
            raise NoKeyError(
                f"{missing}say where it is with `token: {{env: NAME}}` or `token: {{file: PATH}}` "
                "beside the other fields of auth.oidc; only a job of GitHub Actions can ask for one"
            )
        elif parse_endpoint(self._environ[url].strip()) is None:
            raise NoKeyError(f"{missing}${url} is not https://, so nothing is sent there")

    # The OIDC token, and the requests.

    async def _subject(self) -> str:
        """The OIDC token of the moment. Raises as `token` does."""
        place = self._place
        if place is None:
            found, where = await self._of_github(), "GitHub's OIDC token"
        elif place.env:
            found, where = self._environ[place.env].strip(), f"${place.env}"
        else:
            assert place.file
            found, where = await asyncio.to_thread(_of_file, place.file), f"{place.file}"
        if not found.isascii() or not found.isprintable() or not 0 < len(found) <= _LARGEST:
            raise AuthFailed(
                f"{where} is no OIDC token: one is a line of less than 16 KiB", sent=False
            )
        return found

    async def _of_github(self) -> str:
        url, token = (self._environ[name].strip() for name in _GITHUB)
        if self._auth.audience:
            url += f"{'&' if '?' in url else '?'}audience={quote(self._auth.audience, safe='')}"
        headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        reply = await self._ask(
            build("GET", url, headers), "GitHub", token, "see `permissions:` of the job"
        )
        return _read(reply, Given, "GitHub").value

    async def _ask(self, request: httpx2.Request, who: str, secret: str, mend: str) -> bytes:
        """The body of a successful reply. Its refusal is told without the `secret`, which it may
        repeat."""
        try:
            reply = await fetch(request, LIMIT, _MOST, proxy=self._profile.proxy)
        except CallError as error:  # none of it is about the call: that was not sent
            late = isinstance(error, CallTimeout)
            why = f"no reply within {LIMIT:.0f} s" if late else str(error).partition(";")[0]
            raise ConnectionFailed(
                f"{who} cannot be asked for a token: {why}", sent=False
            ) from error
        if reply.status == 200:
            return reply.body
        why = f"HTTP {reply.status}{_reason(reply.body, secret)}"
        if reply.status == 429 or reply.status >= 500:
            raise ServerFailed(f"{who} gives no token now ({why})", sent=False)
        raise AuthFailed(f"{who} gives no token ({why}); {mend}", sent=False)


def _of_file(path: Path) -> str:
    """What the file holds now: Kubernetes writes a new token before the old one ends."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST + 1).decode("latin-1").strip()
    except OSError as error:
        raise AuthFailed(
            f"the OIDC token cannot be read from {path}: {error.strerror}", sent=False
        ) from None


def _read(body: bytes, kind: type[T], who: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:  # its message may show the token
        raise AuthFailed(f"{who}'s reply holds no token", sent=False) from None


def _reason(body: bytes, secret: str) -> str:
    """What a refusal says (RFC 6749, 5.2, or as the API itself does), beginning with a comma."""
    try:
        said: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    said = said if isinstance(said, dict) else {}
    said = said["error"] if isinstance(said.get("error"), dict) else said
    words = (said.get(name) for name in ("error", "type", "error_description", "message"))
    text = ": ".join(word for word in words if isinstance(word, str))
    text = " ".join(redact_possible_keys(redact(printable(text), secret)).split())
    return f", {text[:300]}" if text else ""
