"""Secrets of 1Password, which its own command line reads: they are encrypted to the end.

Reference: developer.1password.com/docs/cli (secret references, service accounts, Connect).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping

from llmctl.config.settings import SecretUri
from llmctl.errors import NoKeyError, SetupError
from llmctl.keys.command import output_of
from llmctl.keys.secrets import Secret

_OTHERS = re.compile(r"(?i)(?!OP_).*(KEY(?!RING)|TOKEN|SECRET|PASSWORD|JWT).*")
"""Names of variables that hold secrets of others, which `op` does not see."""


class OnePassword:
    """The reader of `op://VAULT/ITEM/FIELD`; see `SecretReader`. Who asks is said as to `op`:
    `OP_SERVICE_ACCOUNT_TOKEN`, or `OP_CONNECT_HOST` and `OP_CONNECT_TOKEN`, or its own login."""

    name = "1Password"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {
            name: value for name, value in environ.items() if not _OTHERS.fullmatch(name)
        }

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """See `SecretReader`; earlier versions are not to be had. Raises `SetupError`."""
        program = shutil.which("op", path=self._environ.get("PATH"))
        if program is None:
            raise SetupError(
                "1Password's command line, `op`, is not installed: see "
                "https://developer.1password.com/docs/cli/get-started"
            )
        if previous:
            return None
        command = (program, "read", "--no-newline", uri.text)
        try:
            return Secret(await output_of(command, self._environ, "`op read`", "check `op`"))
        except NoKeyError as error:
            raise NoKeyError(
                f"{error.message.rstrip('. ')}; check `key.secret`, and that "
                "OP_SERVICE_ACCOUNT_TOKEN, or the login of `op`, may read that vault"
            ) from None
