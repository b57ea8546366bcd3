"""Tokens of Microsoft Entra ID, from what azure-identity finds: a client secret, workload identity,
a managed identity, or the login of the Azure CLI."""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from llmctl.auth.extras import needs_extra
from llmctl.auth.token_holder import Token, TokenHolder
from llmctl.clock import Clock
from llmctl.errors import AuthFailed, CallError, ConnectionFailed, ServerFailed
from llmctl.redact import redact_possible_keys, remember
from llmctl.threads import awaited

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

COGNITIVE_SERVICES = "https://cognitiveservices.azure.com/.default"
KEY_VAULT = "https://vault.azure.net/.default"

CONNECT, READ = 3.0, 5.0
"""Seconds until a token server is connected, and until it replies; azure-core would wait 300."""
_RETRIES = 2

_MEND = (
    "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, run `az login`, or run on Azure "
    "with a managed identity"
)
_CHECK = "check the tenant, the client id and the client secret at the application's registration"
_SAID = re.compile(r"(AADSTS[0-9]+): (.+?)(?:\. |\.?$)", re.MULTILINE)
"""An error of Entra ID: its code and its first sentence
(learn.microsoft.com/entra/identity-platform/reference-error-codes)."""
_LATER = re.compile(r"HTTP Error: 5|temporarily_unavailable|AADSTS900(?:06|33|55)\b")
"""What is to be asked again: a failure, or too many requests."""


class AzureCredentials:
    """What azure-identity finds, once. `tenant`, `client_id` and `secret` name an application; each
    of them that is None is looked for in `environ` (`AZURE_TENANT_ID`…), and what is missing then
    in azure-identity's usual places. Raises `SetupError` where that is not installed."""

    def __init__(
        self,
        tenant: str | None = None,
        client_id: str | None = None,
        secret: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        needs_extra("azure", "azure.identity", "azure-identity")
        known = environ.get("AZURE_CLIENT_ID")
        self._asked_for = tenant
        self._tenant = tenant or environ.get("AZURE_TENANT_ID")
        self._client_id = client_id or known
        self._others = known not in {None, self._client_id}  # the environment's application
        self._secret = secret or (None if self._others else environ.get("AZURE_CLIENT_SECRET"))
        self._authority = environ.get("AZURE_AUTHORITY_HOST")
        if self._secret:
            remember(self._secret)

    def holder(self, clock: Clock, scope: str = COGNITIVE_SERVICES) -> TokenHolder:
        """Holds a token for the scope."""
        return TokenHolder(lambda: self.token(scope), clock, "Entra ID's credentials")

    @cached_property
    def _chain(self) -> Sequence[TokenCredential]:
        """The credentials, in the order in which they are asked. Raises `ValueError`."""
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        for name in ("azure", "msal"):  # what they would warn of is raised, too
            logging.getLogger(name).setLevel(logging.CRITICAL)
        store = ssl.get_default_verify_paths()  # by SSL_CERT_FILE and SSL_CERT_DIR, or the system's
        options: dict[str, Any] = {
            "connection_verify": store.cafile or store.capath or True,
            "connection_timeout": CONNECT,
            "read_timeout": READ,
            "retry_total": _RETRIES,
        }
        if self._authority:
            options["authority"] = self._authority
            # Microsoft is asked whether it knows the authority: not of one that the user names.
            options["disable_instance_discovery"] = True
        if self._tenant and self._client_id and self._secret:
            return [ClientSecretCredential(self._tenant, self._client_id, self._secret, **options)]
        if self._client_id:
            options["managed_identity_client_id"] = self._client_id
        if self._tenant:
            options["workload_identity_tenant_id"] = self._tenant
        found = DefaultAzureCredential(
            exclude_environment_credential=self._others,
            exclude_shared_token_cache_credential=True,
            exclude_visual_studio_code_credential=True,
            exclude_interactive_browser_credential=True,
            **options,
        )
        return cast("Sequence[TokenCredential]", found.credentials)

    async def token(self, scope: str) -> Token:
        """A new token. Raises `AuthFailed` where there are no credentials, or Entra ID refuses
        them, `ConnectionFailed` and `ServerFailed`."""
        return await awaited(lambda: self._fetch(scope), "azure")

    def _fetch(self, scope: str) -> Token:
        # `DefaultAzureCredential.get_token` would tell a refusal and a failure to connect alike.
        from azure.core.exceptions import AzureError
        from azure.identity import CredentialUnavailableError

        unavailable: list[str] = []
        tenant: dict[str, Any] = {"tenant_id": self._asked_for} if self._asked_for else {}
        try:
            for each in self._chain:
                try:
                    found = each.get_token(scope, **tenant)
                except CredentialUnavailableError as error:
                    unavailable.append(str(error))
                    continue
                self._chain = [each]
                return Token(found.token, float(found.expires_on))
        except (AzureError, ValueError, OSError) as error:
            raise self._error(error) from None
        # A place that replied says why; the others are just not there.
        replied = [text.partition("rror: ")[2] for text in unavailable if "rror: " in text]
        why = f" ({redact_possible_keys(_line(replied[0]))})" if replied else ""
        raise AuthFailed(f"no credentials of Azure{why}; {_MEND}", sent=False)

    def _error(self, error: Exception) -> CallError:
        """Our error for one of azure-identity, which hides the cause where MSAL was in between."""
        from azure.core.exceptions import ServiceRequestError, ServiceResponseError

        said, text = _SAID.search(str(error)), str(error).removeprefix("Authentication failed: ")
        shown = redact_possible_keys(_line(text))
        for each in (error, error.__cause__):
            if isinstance(each, ServiceRequestError | ServiceResponseError):
                return ConnectionFailed(f"Entra ID cannot be reached: {shown}", sent=False)
        if _LATER.match(text):
            return ServerFailed(f"Entra ID gives no token now: {shown}", sent=False)
        if said:  # its code would count as a possible key
            shown = f"{said[1]}: {redact_possible_keys(_line(said[2]))}"
        if self._client_id:
            who = f"the application {self._client_id} of the tenant {self._tenant}"
            return AuthFailed(f"Entra ID refuses {who}: {shown}; {_CHECK}", sent=False)
        return AuthFailed(f"Entra ID gives no token: {shown}; {_MEND}", sent=False)


def _line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(". \r")
