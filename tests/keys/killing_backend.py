"""The Secret Service, with a process that dies at a chosen change: a keyring backend that tests
name in PYTHON_KEYRING_BACKEND.

`KILL_AT` is `before:N` or `after:N`: SIGKILL just before, or just after, the N-th write or
deletion of the process has reached the keyring. Without it nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from keyring.backends.SecretService import Keyring as SecretService

_changes = 0


def _deadly(change: Callable[[], None]) -> None:
    global _changes  # noqa: PLW0603 - one process, one life
    _changes += 1
    for moment, work in (("before", change), ("after", lambda: None)):
        if os.environ.get("KILL_AT") == f"{moment}:{_changes}":
            os.kill(os.getpid(), signal.SIGKILL)
        work()


class Killing(SecretService):
    """Dies when it is told to."""

    priority = 9

    def set_password(self, service: str, username: str, password: str) -> None:
        """Write, or die before or after it."""
        write: Any = super().set_password
        _deadly(lambda: write(service, username, password))

    def delete_password(self, service: str, username: str) -> None:
        """Delete, or die before or after it."""
        delete: Any = super().delete_password
        _deadly(lambda: delete(service, username))
