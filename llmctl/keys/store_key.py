"""Keys of what is kept on this machine (the audit's chain, encrypted files), from one secret.

The secret is in the environment or in the system's keyring, never on the disk in clear.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from llmctl.config.paths import STORE_KEY, find_folders
from llmctl.errors import NoKeyError
from llmctl.keys.key import Change, KeySlot, StoredKey
from llmctl.keys.keyring_store import Keyring, KeyringUnavailable
from llmctl.redact import remember
from llmctl.storage.files import LockedFile, private_folder

_SLOT = KeySlot("llmctl-store", "store")
_SHORTEST = 32  # characters of a secret that nobody guesses
_PATIENCE = 15.0  # seconds to wait for another process that makes it


def store_key(environ: Mapping[str, str], purpose: str) -> bytes:
    """The key for a purpose (`audit`), 32 bytes; always the same from the same secret.

    The secret is `LLMCTL_STORE_KEY`, else what the keyring holds, made there when it is first
    asked for. A keyring takes up to some seconds. Raises `NoKeyError` that names both ways, and
    `DiskError`.
    """
    secret = environ.get(STORE_KEY, "").strip() or None
    if secret is None:
        secret = _of_keyring(environ, purpose)
    elif len(secret) < _SHORTEST:
        raise NoKeyError(
            f"{STORE_KEY} is shorter than {_SHORTEST} characters; make one with "
            "`openssl rand -hex 32`, and keep it: what was written with another cannot be read"
        )
    remember(secret)
    return hmac.digest(secret.encode("utf-8", "surrogateescape"), purpose.encode(), "sha256")


def _of_keyring(environ: Mapping[str, str], purpose: str) -> str:
    """The secret in the keyring, made where there is none yet."""
    try:
        keyring = Keyring.open(environ)
        if found := keyring.read(_SLOT).primary:
            return found.key
        state = private_folder(find_folders(environ, Path.cwd()).state)
        with LockedFile.wait(state / "keys.lock", _PATIENCE):
            pair = keyring.read(_SLOT)  # another process may have made it meanwhile
            if pair.primary is None:
                made = StoredKey(secrets.token_hex(_SHORTEST), time.time())
                remember(made.key)
                pair = keyring.write(_SLOT, pair, Change(0, made))
    except KeyringUnavailable as error:
        raise NoKeyError(
            f"there is no store key ({purpose}): set {STORE_KEY} (make it with "
            "`openssl rand -hex 32`, and keep it), or let a keyring be used, where one is made: "
            f"{error.why}"
        ) from None
    assert pair.primary is not None
    return pair.primary.key
