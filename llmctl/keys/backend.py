"""Which keyring backend is used, and which are refused.

`keyring` costs 0.1 to 0.2 s to import: only what needs a stored key comes here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llmctl.keys.bounds import (
    FILE_BACKED,
    PASSWORD,
    NoVaultError,
    bounded,
    file_of,
    guarded,
    reason,
)

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

WINDOWS_LIMIT = 1280
"""Characters of one secret: CRED_MAX_CREDENTIAL_BLOB_SIZE is 2,560 bytes, kept as UTF-16."""

_CRYPTFILE = "keyrings.cryptfile.cryptfile.CryptFileKeyring"
_OF_OTHERS = (
    "keyring.backends.SecretService.Keyring",
    "keyring.backends.kwallet.DBusKeyring",
    "keyring.backends.libsecret.Keyring",
    _CRYPTFILE,
)
_OF_SYSTEM = {
    "darwin": ("keyring.backends.macOS.Keyring", _CRYPTFILE),
    "win32": ("keyring.backends.Windows.WinVaultKeyring", _CRYPTFILE),
}
"""The backends of a system, the best first; others are used when the user names them in
PYTHON_KEYRING_BACKEND or in keyring's own configuration file."""


def open_backend(environ: Mapping[str, str], ask: Callable[[str], str] | None) -> KeyringBackend:
    """The backend that `keyring` is configured for, or finds; ready for use.

    `ask` gets a hidden answer from a person at a terminal, None where there is none. Raises
    `NoVaultError` when there is no backend or none that keeps a secret secret.
    """
    try:
        backend = bounded(_found)
    except NoVaultError:
        raise
    except Exception as error:
        raise NoVaultError(reason(error)) from error
    if why := refused(backend):
        raise NoVaultError(why)
    if hasattr(type(backend), "keyring_key"):  # the property itself would ask
        password = environ.get(PASSWORD) or (_asked(ask, file_of(backend)) if ask else None)
        if not password:
            raise NoVaultError(f"{name(backend)} needs its password in {PASSWORD}")
        guarded(backend, lambda: setattr(backend, "keyring_key", password), password)
    return backend


def _asked(ask: Callable[[str], str], file: Path | None) -> str:
    """The password of the encrypted file; typed twice for a file that is made now."""
    password = ask(f"Password of the encrypted file {file}: ")
    if file and not file.exists() and ask("The same again, for the file is new: ") != password:
        raise NoVaultError("the two passwords are not the same")
    return password


def _found() -> KeyringBackend:
    """What the user configured for `keyring`, else the first of this system's that works.

    `keyring.get_keyring` would import every backend of every system: slower, and the one of
    macOS starts a C compiler on Linux (`ctypes.util.find_library`), which inherits the
    environment with all the keys in it. It may also answer with a chain of backends, which
    writes to a plain file when the others refuse.
    """
    from keyring import core

    if configured := core.load_env() or core.load_config():
        return configured
    for place in _OF_SYSTEM.get(sys.platform, _OF_OTHERS):
        try:
            return core.load_keyring(place)
        except Exception:  # noqa: BLE001, S112 - not installed, not running, not for here
            continue
    return core.load_keyring("keyring.backends.fail.Keyring")


def refused(backend: KeyringBackend) -> str | None:
    """Why this backend is not used; None when it may be."""
    module, kind = type(backend).__module__, type(backend).__name__
    if module == "keyring.backends.fail":
        return "there is none on this machine"
    if module == "keyring.backends.null":
        return "the null backend keeps nothing"
    if module == "keyring.backends.chainer":
        return "a chain of backends may write to a plain file; name one of them alone"
    plain = "plaintext" in kind.lower() or (
        module.startswith(FILE_BACKED) and "crypt" not in kind.lower()
    )
    return f"{module}.{kind} keeps keys as plain text" if plain else None


def name(backend: KeyringBackend) -> str:
    """The backend as a person knows it."""
    module = type(backend).__module__
    known = {
        "keyring.backends.SecretService": "the Secret Service",
        "keyring.backends.libsecret": "the Secret Service",
        "keyring.backends.kwallet": "KWallet",
        "keyring.backends.macOS": "the macOS Keychain",
        "keyring.backends.Windows": "the Windows Credential Manager",
    }
    if module in known:
        return known[module]
    file = file_of(backend)
    return f"the encrypted file {file}" if file else f"{module}.{type(backend).__name__}"


def room(backend: KeyringBackend) -> int | None:
    """Characters that one entry may have; None: no limit is known."""
    return WINDOWS_LIMIT if type(backend).__module__ == "keyring.backends.Windows" else None
