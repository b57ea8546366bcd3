"""Microsoft Entra ID on loopback, over TLS as azure-identity wants it, and a managed identity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.simulator.loopback import Asked, Loopback, Said

TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
SECRET = "entra-secret-canary-4711~Q"
TOKEN = "entra-token-canary-{}"
COGNITIVE = "https://cognitiveservices.azure.com"

REFUSED = {
    "error": "invalid_client",
    "error_description": (
        "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the "
        "request is the client secret value, not the client secret ID, for a secret added to app "
        f"'{CLIENT}'. Trace ID: 0a1b2c3d-0000-0000-0000-000000000000 Correlation ID: "
        "0a1b2c3d-1111-1111-1111-111111111111 Timestamp: 2026-11-29 10:00:00Z"
    ),
    "error_codes": [7000215],
}
"""What Entra ID says of a secret that is wrong, with status 401."""


class Entra(Loopback):
    """Gives out tokens by the client secret `SECRET` or any assertion.

    `lives` are the seconds of a token; `refusal` is said instead of one, with `status`.
    """

    def __init__(self, certificate: Path) -> None:
        super().__init__(certificate)
        self.lives = 3600
        self.refusal: Mapping[str, Any] | None = None
        self.status = 401

    def places(self, certificate: Path, folder: Path, closed: str) -> dict[str, str]:
        """Variables that lead to this server and to no other credentials: `folder` has no `az`,
        and at `closed` nobody listens."""
        (folder / "bin").mkdir()
        return {
            "AZURE_AUTHORITY_HOST": self.origin,
            "SSL_CERT_FILE": str(certificate),
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{closed}",
            "PATH": str(folder / "bin"),
            "HOME": str(folder),
        }

    @property
    def granted(self) -> list[Asked]:
        """The requests for a token."""
        return [asked for asked in self.asked if asked.method == "POST"]

    def reply(self, asked: Asked) -> Said:
        """The metadata of a tenant, or a token."""
        tenant = asked.path.split("/")[1]
        if asked.path.endswith("/.well-known/openid-configuration"):
            base = f"{self.origin}/{tenant}/oauth2/v2.0"
            return 200, {}, {
                "issuer": f"{self.origin}/{tenant}/v2.0",
                "authorization_endpoint": f"{base}/authorize",
                "token_endpoint": f"{base}/token",
            }  # fmt: skip
        if self.refusal:
            return self.status, {}, self.refusal
        if asked.form.get("client_secret", SECRET) != SECRET:
            return 401, {}, REFUSED
        token = TOKEN.format(len(self.granted))
        return 200, {}, {"token_type": "Bearer", "expires_in": self.lives, "access_token": token}


class ManagedIdentity(Loopback):
    """The metadata server of a virtual machine (IMDS), and that of App Service; says `refusal`
    where there is one, with status 400."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal: Mapping[str, Any] | None = None

    def reply(self, asked: Asked) -> Said:
        """A token for the `resource`."""
        assert asked.headers.get("metadata") == "true" or "x-identity-header" in asked.headers
        if self.refusal:
            return 400, {}, self.refusal
        token = TOKEN.format(len(self.asked))
        said = {"access_token": token, "token_type": "Bearer", "resource": asked.query["resource"]}
        at = {"expires_in": "3600", "expires_on": "4102444800"}
        return 200, {}, {**said, **at}
