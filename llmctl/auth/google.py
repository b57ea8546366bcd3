"""Tokens of Google Cloud, from what google-auth finds: a service account's file, workload identity
federation, the login of `gcloud`, or the metadata server of a machine in the cloud.

google-auth needs `requests` for the last of them; what it sends goes over httpx2 all the same.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from datetime import UTC
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from llmctl.auth.extras import needs_extra
from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.auth.token_holder import Token, TokenHolder
from llmctl.clock import Clock
from llmctl.errors import AuthFailed, CallError, ConnectionFailed
from llmctl.redact import printable, redact_known_keys, redact_possible_keys, remember
from llmctl.threads import awaited

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
QUOTA_PROJECT = "x-goog-user-project"
"""The header that names the project whose quota is used (docs.cloud.google.com/docs/quotas)."""

LIMIT = 10.0  # seconds of one request for a token
DETECTION = 1.0  # seconds in which a metadata server replies where there is one

_MEND = (
    "name a credentials file with GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth "
    "application-default login`, or run on Google Cloud"
)
_REFUSED = (
    "see that the account is there and its key was not revoked, or log in again with `gcloud auth "
    "application-default login`"
)
_SECRETS = ("assertion", "subject_token", "actor_token", "refresh_token", "client_secret")
"""Fields of a request for a token that its reply may echo."""


class GoogleCredentials:
    """What google-auth finds, once.

    `file` is a credentials file of any of Google's kinds instead of the usual places, which are
    `$GOOGLE_APPLICATION_CREDENTIALS`, the login of `gcloud` and the metadata server;
    `quota_project` takes the place of the credentials' own. Raises `SetupError`.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        file: Path | None = None,
        quota_project: str | None = None,
    ) -> None:
        for module, package in (("google.auth", "google-auth"), ("requests", "requests")):
            needs_extra("gcp", module, package)
        self._file = str(file or environ.get("GOOGLE_APPLICATION_CREDENTIALS", ""))
        self._quota_project = quota_project
        self.source = "Google Cloud's credentials"
        """Whose they are, for people; the account once it is known."""

    def holder(self, clock: Clock) -> TokenHolder:
        """Holds a token of these credentials."""
        return TokenHolder(self.token, clock, self.source)

    def headers(self, token: str) -> Mapping[str, str]:
        """The headers that carry a token, which was fetched before."""
        project = self._quota_project or getattr(self._found, "quota_project_id", None)
        return {**bearer(token), **({QUOTA_PROJECT: project} if project else {})}

    @cached_property
    def _found(self) -> Any:
        import google.auth
        from google.auth.credentials import with_scopes_if_required
        from google.auth.exceptions import GoogleAuthError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a file should not come from a stranger
                # Scopes come later: with them google-auth asks for the project, and needs a token.
                auth: Any = google.auth  # half of it has no types
                if self._file:
                    found, _ = auth.load_credentials_from_file(self._file)
                else:
                    found, _ = auth.default(request=_Transport(detecting=True))
                return with_scopes_if_required(found, [SCOPE])  # type: ignore[no-untyped-call]
        except (GoogleAuthError, OSError, ValueError) as error:
            said = str(error if isinstance(error, OSError) or not error.args else error.args[0])
            why = redact_known_keys(printable(re.split(r"\.\s", said)[0])).rstrip(".")
            raise AuthFailed(
                f"no credentials of Google Cloud: {why}; {_MEND}", sent=False
            ) from None

    async def token(self) -> Token:
        """A new token. Raises `AuthFailed` where there are no credentials or Google refuses them,
        and `ConnectionFailed` where it cannot be asked."""
        return await awaited(self._refresh, "google")

    def _refresh(self) -> Token:
        from google.auth.exceptions import GoogleAuthError

        found = self._found
        self._name_account()
        try:
            found.refresh(_Transport())
        except (GoogleAuthError, OSError, ValueError) as error:
            raise self._refusal(error) from None
        self._name_account()  # the metadata server has said it by now
        end = float("inf")
        if found.expiry is not None:
            end = found.expiry.replace(tzinfo=UTC).timestamp()
        return Token(str(found.token), end)

    def _name_account(self) -> None:
        for name, what in (("service_account_email", "service account"), ("account", "account")):
            account = getattr(self._found, name, None)
            if account and account != "default":
                self.source = f"the {what} {printable(str(account))}"
                return

    def _refusal(self, error: Exception) -> CallError:
        """The error of a token that was not given. The metadata server's are wrapped once more."""
        from google.auth.exceptions import TransportError

        inner = error.args[0] if error.args else error
        why = redact_possible_keys(printable(str(inner).partition("\n")[0])).rstrip(". ")
        unheard = isinstance(error, TransportError) or isinstance(inner, TransportError)
        if unheard and len(getattr(inner, "args", ())) < 2:  # else it has the reply
            return ConnectionFailed(f"Google's token server cannot be reached: {why}")
        if getattr(error, "retryable", False):
            return ConnectionFailed(f"Google's token server gives no token now: {why}")
        return AuthFailed(f"Google gives {self.source} no token: {why}; {_REFUSED}", sent=False)


class GoogleAuth(KeyAuth):
    """`Auth` by a token of Google Cloud."""

    def __init__(self, credentials: GoogleCredentials, clock: Clock) -> None:
        super().__init__(credentials.headers, credentials.holder(clock))
        self._credentials = credentials

    @property
    def source(self) -> str:
        """The account."""
        return self._credentials.source


class _Reply(Struct, frozen=True):
    """A reply as google-auth reads it."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class _Transport:
    """Sends google-auth's requests, each on a connection of its own. While it is `detecting` a
    metadata server, one that does not reply is not there: google-auth would try it three times."""

    def __init__(self, *, detecting: bool = False) -> None:
        self._detecting = detecting

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Reply:
        import httpx2
        from google.auth.exceptions import TransportError

        _remember_secrets(body)
        limit = DETECTION if self._detecting else min(timeout or LIMIT, LIMIT)
        try:
            # The metadata server, alone without TLS, is never behind a proxy.
            with httpx2.Client(timeout=limit, trust_env=url.startswith("https:")) as client:
                reply = client.request(method, url, content=body, headers=headers)
                return _Reply(reply.status_code, reply.headers, reply.content)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if self._detecting:
                return _Reply(503, {}, b"")
            why = f"{urlsplit(url).netloc}: {str(error) or type(error).__name__}"
            raise TransportError(why) from error  # type: ignore[no-untyped-call]


def _remember_secrets(body: bytes | str | None) -> None:
    """Let what proves who asks be cut out of what the reply says."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    fields = parse_qs(text)
    for name in _SECRETS:
        for value in fields.get(name, ()):
            remember(value)
