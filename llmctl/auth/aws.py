"""Signatures of Amazon Web Services (SigV4), by the credential chain of botocore: environment,
shared files, single sign-on, web identity, the metadata servers of containers and machines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llmctl.auth.extras import needs_extra
from llmctl.clock import Clock
from llmctl.errors import AuthFailed, CallError, ConnectionFailed
from llmctl.redact import redact_known_keys, redact_possible_keys, remember
from llmctl.threads import awaited

if TYPE_CHECKING:
    import httpx2

AGAIN = 60.0
"""Seconds between two attempts to renew credentials that still hold, and between two refusals that
are mended in the same way: what is refused again at once is refused for another reason."""

MOST_SKEW = 300.0
"""Seconds that a signature's time may differ from Amazon's clock
(docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html)."""

_LIMITS = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 2}}
_SIGNED = ("host", "content-type", "x-amz-target")
_MEND = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile of ~/.aws/config with "
    "AWS_PROFILE, run `aws sso login`, or run on AWS with a role"
)


class AwsCredentials:
    """What botocore's chain finds, renewed before it expires: once for all who wait for it.

    `profile` is one of ~/.aws, which then comes before the variables of `environ`; `region` is
    where roles are assumed if ~/.aws says nothing of it.
    """

    def __init__(
        self, clock: Clock, environ: Mapping[str, str], region: str, profile: str | None = None
    ) -> None:
        needs_extra("aws", "botocore", "botocore")
        self._clock, self._environ = clock, environ
        self._region, self._chosen = region, profile
        self._profile = profile or environ.get("AWS_PROFILE") or None
        self._found: Any = None  # botocore's, which renew themselves when they are read
        self._frozen: Any = None
        self._again = self._replaced = float("-inf")  # monotonic times: see AGAIN
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renewing = asyncio.Lock()

    async def current(self) -> Any:
        """Access key, secret key and token, as botocore freezes them. Raises `AuthFailed` where
        there are none, `ConnectionFailed` where who gives them cannot be reached."""
        if not self._fresh():
            async with self._lock():
                if not self._fresh():
                    await awaited(lambda: self._renew(self._found), "aws")
        return self._frozen

    async def replace(self, refused: Any) -> bool:
        """AWS refused these credentials: whether the chain, asked anew, has others by now. Raises
        as `current` does."""
        async with self._lock():
            now = self._clock.monotonic()
            if now >= self._replaced:
                self._replaced = now + AGAIN
                await awaited(lambda: self._renew(None), "aws")
            return bool(self._frozen != refused)

    def _lock(self) -> asyncio.Lock:
        """The lock of the running event loop: commands may run several, one after the other."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._renewing = loop, asyncio.Lock()
        return self._renewing

    def _fresh(self) -> bool:
        """Whether what is known will do; while it holds, one attempt to renew it has its time."""
        needed = getattr(self._found, "refresh_needed", None)
        if self._frozen is None or needed is None or not needed():
            return self._frozen is not None
        return self._clock.monotonic() < self._again and not needed(0)

    def _renew(self, found: Any) -> None:
        """Read credentials, of a new look-up where none were `found`, which may take seconds. Those
        `found` go on where they cannot be renewed and still hold."""
        from botocore.exceptions import BotoCoreError, ClientError

        self._again = self._clock.monotonic() + AGAIN
        try:
            found = found or self._look_up()
            frozen = found.get_frozen_credentials()
        # botocore lets through what a token's file (OSError), a process's output (ValueError) and
        # a clock that is ahead (RuntimeError: "still expired") bring about
        except (BotoCoreError, ClientError, OSError, ValueError, RuntimeError) as error:
            if found is None or self._frozen is None or found.refresh_needed(0):
                raise self._failure(error) from None
            return
        for value in filter(None, (frozen.secret_key, frozen.token)):
            remember(value)
        self._frozen = frozen  # first: with older ones beside it, they would not count as renewed
        self._found = found

    def _look_up(self) -> Any:
        from botocore.config import Config
        from botocore.credentials import EnvProvider
        from botocore.exceptions import NoCredentialsError
        from botocore.session import Session

        found = None if self._chosen else EnvProvider(self._environ).load()
        if found is None:
            session = Session(profile=self._profile)
            session.set_default_client_config(Config(**_LIMITS))
            if not session.get_config_variable("region"):
                session.set_config_variable("region", self._region)
            found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found

    def _failure(self, error: Exception) -> CallError:
        """The error in our words, with what mends it."""
        from botocore import exceptions as known

        why = str(error).partition("\n")[0].rstrip(". ")
        if isinstance(error, known.ProfileNotFound):  # its name is the user's own
            why, mend = redact_known_keys(why), "`aws configure list-profiles` lists what there is"
        elif isinstance(error, (known.ConnectionError, known.HTTPClientError)):
            return ConnectionFailed(f"AWS gives no credentials now: {redact_possible_keys(why)}")
        elif isinstance(error, (known.SSOError, known.TokenRetrievalError)):
            login = f"aws sso login --profile {self._profile}" if self._profile else "aws sso login"
            why, mend = redact_possible_keys(why), f"run `{login}`"
        elif isinstance(error, known.NoCredentialsError):
            return AuthFailed(f"no credentials of AWS; {_MEND}", sent=False)
        else:
            why, mend = redact_possible_keys(why), _MEND
        return AuthFailed(f"no credentials of AWS: {why}; {mend}", sent=False)


class SigV4Auth:
    """`Auth` by AWS Signature Version 4 for a `service` in a `region`."""

    may_change = True
    is_key = False
    source = "the AWS credentials"

    def __init__(
        self, credentials: AwsCredentials, service: str, region: str, clock: Clock
    ) -> None:
        self._credentials, self._service, self._region = credentials, service, region
        self._clock = clock
        self._skew = 0.0  # seconds that Amazon's clock is ahead of ours
        self._adjustable = float("-inf")  # monotonic time from which it may be set again
        self._used: Any = None  # the credentials of the last signature
        self._changes = 0

    @property
    def mark(self) -> str:
        """How often credentials or clock have changed."""
        return str(self._changes)

    async def sign(self, request: httpx2.Request) -> httpx2.Request:
        """The request with its signature. Raises as `AwsCredentials.current` does."""
        frozen = await self._credentials.current()

        from botocore.auth import SigV4Auth as Signer
        from botocore.awsrequest import AWSRequest

        if frozen != self._used:
            self._changes += self._used is not None
            self._used = frozen
        headers = {n: request.headers[n] for n in _SIGNED if n in request.headers}
        unsigned = AWSRequest(request.method, str(request.url), headers, request.content)
        at = datetime.fromtimestamp(self._clock.wall() + self._skew, UTC)
        unsigned.context["timestamp"] = at.strftime("%Y%m%dT%H%M%SZ")
        # `add_auth` does these steps at the machine's own time.
        signer = Signer(frozen, self._service, self._region)
        signer._modify_request_before_signing(unsigned)  # noqa: SLF001 - see pyproject.toml
        canonical = signer.canonical_request(unsigned)
        signature = signer.signature(signer.string_to_sign(unsigned, canonical), unsigned)
        signer._inject_signature_to_request(unsigned, signature)  # noqa: SLF001
        for name, value in unsigned.headers.items():
            request.headers[name] = value
        return request

    async def refused(self, mark: str | None, error: CallError) -> bool:
        """AWS refused a signature: whether another one can be made now, by its own clock where that
        is far from ours, or by newer credentials."""
        if mark != self.mark or self._adjust(error.server_time):
            return True
        return await self._credentials.replace(self._used)

    def _adjust(self, server_time: float | None) -> bool:
        """Take the clock of the reply, where signatures of ours are out of its bounds."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        if server_time is None or now < self._adjustable:
            return False
        if abs(server_time - wall - self._skew) <= MOST_SKEW:
            return False
        self._skew, self._adjustable = server_time - wall, now + AGAIN
        self._changes += 1
        return True
