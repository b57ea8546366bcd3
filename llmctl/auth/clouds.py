"""The `auth` of a profile: what proves who asks, instead of a key."""

from __future__ import annotations

from collections.abc import Mapping

from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.clock import Clock
from llmctl.config.env_file import variables_of
from llmctl.config.settings import Profile
from llmctl.errors import NoKeyError
from llmctl.protocols import Auth


def open_auth(profile: Profile, environ: Mapping[str, str], clock: Clock) -> Auth:
    """The profile's `auth`, which it has. Nothing is asked yet.

    Raises `SetupError` where its package is missing, `NoKeyError` for a variable that is not set,
    and `ConfigError` for what the profile's provider does not have.
    """
    auth, environ = profile.auth, variables_of(profile, environ)
    assert auth is not None
    if auth.gcp:
        from llmctl.auth.google import GoogleAuth, GoogleCredentials

        file, quota_project = auth.gcp.credentials, auth.gcp.quota_project
        return GoogleAuth(GoogleCredentials(environ, file, quota_project), clock)
    if auth.azure:
        from llmctl.auth.azure import AzureCredentials

        said, secret = auth.azure, None
        if said.client_secret:
            secret = environ.get(said.client_secret.env, "").strip()
            if not secret:
                raise NoKeyError(
                    f"${said.client_secret.env} is not set, the client secret of the profile "
                    f"{profile.name}; set it with `export {said.client_secret.env}=…`"
                )
        credentials = AzureCredentials(said.tenant, said.client_id, secret, environ)
        return KeyAuth(bearer, credentials.holder(clock, said.scope))
    if auth.aws:
        from llmctl.auth.aws import AwsCredentials, SigV4Auth

        assert profile.region
        chain = AwsCredentials(clock, environ, profile.region, auth.aws.profile)
        return SigV4Auth(chain, "bedrock", profile.region, clock)
    from llmctl.auth.oidc import OidcExchange

    assert auth.oidc
    return OidcExchange(auth.oidc, profile, environ).auth(clock)
