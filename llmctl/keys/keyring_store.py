"""The system's keyring: its backend, bounded calls to it, and the index of keys.

Calls are bounded in time, a backend's errors become sentences, and an encrypted file is replaced
whole or not at all. `keyring` takes 0.1 to 0.2 s to import: only opening a keyring does.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llmctl.errors import NoKeyError
from llmctl.keys.key import KeySlot
from llmctl.keys.rotation import Change, KeyPair, StoredKey
from llmctl.redact import redact
from llmctl.storage.files import disk, private_folder, write_private

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

LIMIT = 3.0
"""Seconds of one call to the keyring (gh bounds its calls alike): a session bus that hangs, or a
dialogue that nobody sees, must not hang the program."""

FILE_LIMIT = 10.0
"""Seconds for an encrypted file: nobody is waited for there, the time goes into deriving the key
from its password (Argon2: 0.8 s of processor time, more on a small or busy machine)."""

PASSWORD = "LLMCTL_KEYRING_PASSWORD"  # noqa: S105 - the name of a variable
"""The variable that opens an encrypted file where nobody can be asked."""

WINDOWS_LIMIT = 1280
"""Characters of one secret: CRED_MAX_CREDENTIAL_BLOB_SIZE is 2,560 bytes, kept as UTF-16."""

_FILE_BACKED = ("keyrings.cryptfile.", "keyrings.alt.")
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

_NAMES = {
    "keyring.backends.SecretService": "the Secret Service",
    "keyring.backends.libsecret": "the Secret Service",
    "keyring.backends.kwallet": "KWallet",
    "keyring.backends.macOS": "the macOS Keychain",
    "keyring.backends.Windows": "the Windows Credential Manager",
}
_REFUSED = {
    "keyring.backends.fail": "there is none on this machine",
    "keyring.backends.null": "the null backend keeps nothing",
    "keyring.backends.chainer": "a chain of backends may write to a plain file; name one of them "
    "alone",
}

_SUFFIXES = ("", " (2)")
"""What the sides of a slot add to the user name; a key's name cannot hold a space."""

_WAYS_ON = f"""Three ways on:
  1. the environment:   export OPENAI_API_KEY=… (or the variable of your provider)
  2. another program:   key: {{command: "op read op://…"}} in the profile
  3. an encrypted file: pip install 'llmctl[cryptfile]', and its password in {PASSWORD}"""


class KeyringUnavailable(NoKeyError):
    """No keyring can be used; the message says why and names the three ways on."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no keyring can be used: {why}.\n{_WAYS_ON}")
        self.why = why


class Keyring:
    """Key pairs in the system's keyring, each under its name and origin."""

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    @classmethod
    def open(cls, environ: Mapping[str, str], ask: Callable[[str], str] | None = None) -> Self:
        """The keyring that is configured for `keyring`, or found; ready for use.

        `ask` gets a hidden answer from a person at a terminal, None where there is none. Raises
        `KeyringUnavailable` when there is no backend, or none that keeps a secret secret.
        """
        backend = _bounded(_find_backend)
        if why := refusal(backend):
            raise KeyringUnavailable(why)
        opened = cls(backend)
        if hasattr(type(backend), "keyring_key"):  # the property itself would ask
            password = environ.get(PASSWORD) or (_ask_password(ask, opened._file) if ask else None)
            if not password:
                raise KeyringUnavailable(f"{opened.where} needs its password in {PASSWORD}")
            opened._change(lambda copied: setattr(copied, "keyring_key", password), password)
        return opened

    @property
    def where(self) -> str:
        """The backend as a person knows it."""
        kind = type(self._backend)
        if kind.__module__ in _NAMES:
            return _NAMES[kind.__module__]
        return f"the encrypted file {self._file}" if self._file else _qualified(self._backend)

    def read(self, slot: KeySlot) -> KeyPair:
        """Both sides of the slot. Raises `KeyringUnavailable`."""
        return KeyPair((self._get(slot, 0), self._get(slot, 1)))

    def write(self, slot: KeySlot, pair: KeyPair, change: Change) -> KeyPair:
        """Write or delete one side, and read it back.

        The null backend accepts and keeps nothing. Raises `NoKeyError`; a key too long for the
        backend is not written.
        """
        service, user = _names(slot, change.side)
        if change.key is None:
            self._change(lambda backend: backend.delete_password(service, user))
        else:
            text, secret = change.key.to_text(), change.key.key
            windows = type(self._backend).__module__ == "keyring.backends.Windows"
            if windows and len(text) > WINDOWS_LIMIT:
                raise NoKeyError(
                    f"the key has {len(secret):,} characters; {self.where} keeps at most "
                    f"{WINDOWS_LIMIT - (len(text) - len(secret)):,}: use an environment variable "
                    "or `key: {command: …}` for this one"
                )
            self._change(lambda backend: backend.set_password(service, user, text), secret)
        if self._get(slot, change.side) != change.key:
            raise KeyringUnavailable(f"{self.where} did not keep what was written")
        return pair.after(change)

    def _get(self, slot: KeySlot, side: int) -> StoredKey | None:
        service, user = _names(slot, side)
        text = self._call(lambda: self._backend.get_password(service, user))
        return StoredKey.from_text(text) if text else None

    @property
    def _file(self) -> Path | None:
        """The file that the backend keeps secrets in, if it is one of those."""
        path: Any = getattr(self._backend, "file_path", None)
        return Path(path) if isinstance(path, str) else None

    @property
    def _rewrites_a_file(self) -> bool:
        return type(self._backend).__module__.startswith(_FILE_BACKED) and self._file is not None

    def _change(self, work: Callable[[KeyringBackend], object], secret: str | None = None) -> None:
        """A bounded change of what the backend keeps.

        A backend that rewrites its one file in place would leave an empty file and no key at all
        when it is killed in the middle. So a copy of the backend works on a copy of the file,
        which takes the file's place only after the work has ended in time: a thread that was
        abandoned holds the copies, and nobody else ever uses them.
        """
        if not self._rewrites_a_file:
            self._call(lambda: work(self._backend), secret)
            return
        path = self._file
        assert path is not None
        private_folder(path.parent)
        with disk("write", path), _scratch_folder(path.parent) as folder:
            copied = folder / path.name
            if path.exists():  # the backend asks whether there is one
                shutil.copyfile(path, copied)
            before = copied.read_bytes() if copied.exists() else None
            backend: Any = copy.copy(self._backend)
            backend.file_path = str(copied)
            self._call(lambda: work(backend), secret)
            after = copied.read_bytes() if copied.exists() else None
            if after is not None and after != before:
                write_private(path, after)
            backend.file_path = str(path)
            self._backend = backend

    def _call(self, work: Callable[[], T], secret: str | None = None) -> T:
        return _bounded(work, FILE_LIMIT if self._rewrites_a_file else LIMIT, secret)


def _bounded(work: Callable[[], T], seconds: float = LIMIT, secret: str | None = None) -> T:
    """What `work` returns, if that takes at most `seconds`.

    Raises `KeyringUnavailable` when it takes longer or raises anything, with a message that does
    not hold `secret`. It runs in a daemon thread that can be abandoned: a call that hangs in a
    bus or in a system library cannot be interrupted.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    threading.Thread(target=run, name="keyring", daemon=True).start()
    if not wait([future], seconds).done:
        raise KeyringUnavailable(
            f"it did not answer within {seconds:g} s (is it locked, or asking something on a "
            "screen nobody sees?)"
        )
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        # without its cause: a foreign message may repeat what it was given
        raise KeyringUnavailable(redact(_reason(error), secret)) from None


@contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """A private folder that goes away; an abandoned thread may still write into it."""
    folder = Path(tempfile.mkdtemp(prefix=".llmctl-keyring-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refusal(backend: KeyringBackend) -> str | None:
    """Why this backend is not used; None when it may be."""
    module, kind = type(backend).__module__, type(backend).__name__.lower()
    if module in _REFUSED:
        return _REFUSED[module]
    plain = "plaintext" in kind or (module.startswith(_FILE_BACKED) and "crypt" not in kind)
    return f"{_qualified(backend)} keeps keys as plain text" if plain else None


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
    for place in _OF_SYSTEM.get(sys.platform, _OF_OTHERS):
        try:
            return core.load_keyring(place)
        except Exception:  # noqa: BLE001, S112 - not installed, not running, not for here
            continue
    return core.load_keyring("keyring.backends.fail.Keyring")


def _ask_password(ask: Callable[[str], str], file: Path | None) -> str:
    """The password of the encrypted file; typed twice for a file that is made now."""
    password = ask(f"Password of the encrypted file {file}: ")
    if file and not file.exists() and ask("The same again, for the file is new: ") != password:
        raise KeyringUnavailable("the two passwords are not the same")
    return password


def _reason(error: Exception) -> str:
    """A backend's error in words."""
    kind = type(error).__name__
    said = str(error).strip().rstrip(".") or kind
    known = {
        "NoKeyringError": "there is none on this machine",
        "KeyringLocked": "it is locked; unlock it first",
        "InitError": f"it cannot be opened ({said})",
    }
    if kind == "ValueError" and any(word in said for word in ("MAC check", "Incorrect Password")):
        return "the password of the encrypted file is not right"
    return known.get(kind, f"{kind}: {said}" if said != kind else kind)


def _qualified(backend: KeyringBackend) -> str:
    return f"{type(backend).__module__}.{type(backend).__name__}"


def _names(slot: KeySlot, side: int) -> tuple[str, str]:
    """Service and user name of one side."""
    return f"llmctl {slot.origin}", f"{slot.name}{_SUFFIXES[side]}"


_INDEX = "keys.json"


def stored_slots(state: Path) -> frozenset[KeySlot]:
    """The slots that have a stored key, from the index in the state folder: a hint.

    The keyring is the truth, but not every system's can be asked what it holds, and asking
    costs. A slot is added before its key is written, and removed after it has been deleted: a
    crash leaves a slot too many, never one too few. Nothing when the file is missing or damaged.
    """
    try:
        rows = json.loads((state / _INDEX).read_bytes())["keys"]
        return frozenset(KeySlot(str(row["name"]), str(row["origin"])) for row in rows)
    except (OSError, ValueError, TypeError, KeyError):
        return frozenset()


def mark_stored(state: Path, slot: KeySlot, *, stored: bool) -> None:
    """Add a slot to the index, or remove it.

    Called before a key is stored, and after the last one has been deleted. Raises `DiskError`.
    """
    slots = stored_slots(state)
    if (slot in slots) is not stored:
        rows = [{"name": one.name, "origin": one.origin} for one in sorted(slots ^ {slot})]
        text = json.dumps({"version": 1, "keys": rows}, indent=2)
        write_private(private_folder(state) / _INDEX, text.encode())
