"""The system's keyring: its backend, bounded calls to it, and the index of keys.

`keyring` takes 0.1 to 0.2 s to import: only opening a keyring does.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llmctl.errors import NoKeyError
from llmctl.keys.key import Change, KeyPair, KeySlot, StoredKey
from llmctl.redact import redact, remember
from llmctl.storage.files import private_folder, scratch, write_private
from llmctl.threads import in_background

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

LIMIT = 3.0  # seconds of one call: a bus may hang, or ask on a screen that nobody sees
FILE_LIMIT = 10.0  # seconds for an encrypted file: Argon2 takes 0.8 s of processor time, or more

PASSWORD = "LLMCTL_KEYRING_PASSWORD"  # noqa: S105 - the name of a variable
"""The variable that opens an encrypted file."""

_BACKENDS = {"darwin": ("macOS.Keyring",), "win32": ("Windows.WinVaultKeyring",)}
_OTHER_BACKENDS = ("SecretService.Keyring", "kwallet.DBusKeyring", "libsecret.Keyring")
_ENCRYPTED_FILE = "keyrings.cryptfile.cryptfile.CryptFileKeyring"
_FILE_BACKED = ("keyrings.cryptfile.", "keyrings.alt.")
_REFUSED = {
    "keyring.backends.fail": "there is none on this machine",
    "keyring.backends.null": "the null backend keeps nothing",
    "keyring.backends.chainer": "a chain of backends may write to a plain file; name one of them "
    "alone",
}
_REASONS = {  # how the errors of backends begin
    "NoKeyringError": "there is none on this machine",
    "KeyringLocked": "it is locked; unlock it first",
    "ValueError: MAC check": "the password of the encrypted file is not right",
}
_SUFFIXES = ("", " (2)")  # of the user name, by side; a key's name cannot hold a space


class KeyringUnavailable(NoKeyError):
    """No keyring can be used; the message says why and names the three ways on. `variable`: the
    profile's own, where it has one."""

    def __init__(self, why: str, variable: str | None = None) -> None:
        self.why = why
        export = f"export {variable or 'NAME'}=…"
        if variable is None:
            export += " and key: {env: NAME} in the profile"
        file = f"its password in {PASSWORD}"
        if not _has_encrypted_file():
            file = f"pip install keyrings.cryptfile, and {file}"
        super().__init__(
            f"no keyring can be used: {why}.\nThree ways on:\n"
            f"  1. the environment:   {export}\n"
            '  2. another program:   key: {command: "op read op://…"} in the profile\n'
            f"  3. an encrypted file: {file}"
        )


def _has_encrypted_file() -> bool:
    try:
        return find_spec("keyrings.cryptfile") is not None
    except ModuleNotFoundError:  # no `keyrings` either
        return False


class Keyring:
    """Key pairs in the system's keyring, each under its name and origin.

    Every call is bounded in time, and raises `KeyringUnavailable` for whatever a backend raises.
    """

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, environ: Mapping[str, str]) -> Self:
        """The keyring that is configured for `keyring`, or found; ready for use.

        Raises `KeyringUnavailable` also when the backend does not keep a secret secret.
        """
        backend = _bounded(_find_backend)
        module, kind = type(backend).__module__, type(backend).__name__.lower()
        if module in _REFUSED:
            raise KeyringUnavailable(_REFUSED[module])
        if "plaintext" in kind or (module.startswith(_FILE_BACKED) and "crypt" not in kind):
            raise KeyringUnavailable(f"{backend.name} keeps keys as plain text")
        opened = cls(backend)
        if hasattr(type(backend), "keyring_key"):  # the property itself would ask
            password = environ.get(PASSWORD)
            if not password:
                raise KeyringUnavailable(f"{opened.where} needs its password in {PASSWORD}")
            opened._change(lambda copied: setattr(copied, "keyring_key", password), password)
        return opened

    @property
    def where(self) -> str:
        """The backend as a person knows it."""
        return f"the encrypted file {self._file}" if self._file else str(self._backend.name)

    def read(self, slot: KeySlot) -> KeyPair:
        """Both sides of the slot."""
        return KeyPair((self._get(slot, 0), self._get(slot, 1)))

    def write(self, slot: KeySlot, pair: KeyPair, change: Change) -> KeyPair:
        """Write or delete one side, read it back, and return the pair after that."""
        name = _names(slot, change.side)
        if change.key is None:
            self._change(lambda backend: backend.delete_password(*name))
        else:
            text = change.key.to_text()
            self._change(lambda backend: backend.set_password(*name, text), change.key.key)
        if self._get(slot, change.side) != change.key:
            raise KeyringUnavailable(f"{self.where} did not keep what was written")
        return pair.after(change)

    def _get(self, slot: KeySlot, side: int) -> StoredKey | None:
        text = self._call(lambda: self._backend.get_password(*_names(slot, side)))
        if not text:
            return None
        stored = StoredKey.from_text(text)
        remember(stored.key)
        return stored

    @property
    def _file(self) -> Path | None:
        """The one file that the backend rewrites, if it is of those that do."""
        path: Any = getattr(self._backend, "file_path", None)
        return Path(path) if path else None

    def _change(self, work: Callable[[KeyringBackend], object], secret: str | None = None) -> None:
        """A bounded change of what the backend keeps.

        A backend that rewrites its one file in place would leave no key at all when it is killed
        in the middle. So a copy of it works on a copy of the file, which takes the file's place
        once the work has ended in time: an abandoned thread holds copies that nobody else uses.
        """
        path = self._file
        if path is None:
            self._call(lambda: work(self._backend), secret)
            return
        backend: Any = copy.copy(self._backend)
        private_folder(path.parent)
        with scratch(path) as folder:
            copied = folder / path.name
            before = path.read_bytes() if path.exists() else b""
            if before:  # the backend asks whether there is a file
                copied.write_bytes(before)
            backend.file_path = str(copied)
            self._call(lambda: work(backend), secret)
            after = copied.read_bytes() if copied.exists() else b""
            if after and after != before:
                write_private(path, after)
            backend.file_path = str(path)
            self._backend = backend

    def _call(self, work: Callable[[], T], secret: str | None = None) -> T:
        return _bounded(work, FILE_LIMIT if self._file else LIMIT, secret)


def _bounded(work: Callable[[], T], seconds: float = LIMIT, secret: str | None = None) -> T:
    """What `work` returns. Raises `KeyringUnavailable` when it raises anything, or takes longer.

    The message does not hold `secret`. It runs in a daemon thread that can be abandoned: a call
    that hangs in a bus or in a system library cannot be interrupted.
    """
    future = in_background(work, "keyring")
    if not wait([future], seconds).done:
        raise KeyringUnavailable(
            f"it did not answer within {seconds:g} s (is it locked, or asking something on a "
            "screen nobody sees?)"
        )
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        said = f"{type(error).__name__}: {error}".strip(" .:")
        why = next((why for start, why in _REASONS.items() if said.startswith(start)), said)
        # without its cause: a foreign message may repeat what it was given
        raise KeyringUnavailable(redact(why, secret)) from None


def _find_backend() -> KeyringBackend:
    """The backend that the user configured, else the system's first that works.

    `keyring.get_keyring` would import every backend of every system: slower, and the one of
    macOS starts a C compiler on Linux (`ctypes.util.find_library`), which inherits the
    environment with all the keys in it. It may also answer with a chain of backends, which
    writes to a plain file when the others refuse.
    """
    from keyring import core

    if configured := core.load_env() or core.load_config():
        return configured
    names = _BACKENDS.get(sys.platform, _OTHER_BACKENDS)
    for place in (*(f"keyring.backends.{name}" for name in names), _ENCRYPTED_FILE):
        try:
            return core.load_keyring(place)
        except Exception:  # noqa: BLE001, S112 - not installed, not running, not for here
            continue
    return core.load_keyring("keyring.backends.fail.Keyring")


def _names(slot: KeySlot, side: int) -> tuple[str, str]:
    """Service and user name of one side."""
    return f"llmctl {slot.origin}", f"{slot.name}{_SUFFIXES[side]}"


_INDEX = "keys.json"


def stored_slots(state: Path) -> frozenset[KeySlot]:
    """The slots that have a stored key, from the index in the state folder: a hint.

    The keyring is the truth, but cannot be asked what it holds everywhere. A slot is added before
    its key is written and removed after: a crash leaves one too many, never one too few. Nothing
    when the file is missing or damaged.
    """
    try:
        rows = json.loads((state / _INDEX).read_bytes())["keys"]
        return frozenset(KeySlot(str(row["name"]), str(row["origin"])) for row in rows)
    except (OSError, ValueError, TypeError, KeyError):
        return frozenset()


def mark_stored(state: Path, slot: KeySlot, *, stored: bool) -> None:
    """Add a slot to the index, or remove it. Raises `DiskError`."""
    slots = stored_slots(state)
    if (slot in slots) is not stored:
        rows = [one._asdict() for one in sorted(slots ^ {slot})]
        text = json.dumps({"version": 1, "keys": rows}, indent=2)
        write_private(private_folder(state) / _INDEX, text.encode())
