"""How the keyring is called: bounded in time, its errors in our words, its file never torn."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from llmctl.errors import NoKeyError
from llmctl.redact import redact

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

LIMIT = 3.0
"""Seconds one call to the keyring may take (gh bounds its calls alike): a session bus that
hangs, or a dialogue that nobody sees, must not hang the program."""

FILE_LIMIT = 10.0
"""Seconds for an encrypted file: nobody is waited for there, the time goes into deriving the key
from its password (Argon2: 0.8 s of processor time, more on a small or busy machine)."""

PASSWORD = "LLMCTL_KEYRING_PASSWORD"  # noqa: S105 - the name of a variable
"""The variable that opens an encrypted file where nobody can be asked."""

FILE_BACKED = ("keyrings.cryptfile.", "keyrings.alt.")

WAYS_ON = f"""Three ways on:
  1. the environment:   export OPENAI_API_KEY=… (or the variable of your provider)
  2. another program:   key: {{command: "op read op://…"}} in the profile
  3. an encrypted file: pip install 'llmctl[cryptfile]', and its password in {PASSWORD}"""


class NoVaultError(NoKeyError):
    """No keyring can be used; says why and names the three ways on."""

    def __init__(self, why: str) -> None:
        super().__init__(f"no keyring can be used: {why}.\n{WAYS_ON}")
        self.why = why


def bounded(work: Callable[[], T], seconds: float = LIMIT) -> T:
    """What `work` returns or raises. Raises `NoVaultError` when it takes longer.

    It runs in a thread that can be abandoned: a call that hangs in a bus or in a system library
    cannot be interrupted.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
            errors.append(error)

    thread = threading.Thread(target=run, name="keyring", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise NoVaultError(
            f"it did not answer within {seconds:g} s (is it locked, or asking something on a "
            "screen nobody sees?)"
        )
    return results[0]


def file_of(backend: KeyringBackend) -> Path | None:
    """The file that the backend keeps secrets in, if it is one of those."""
    path: Any = getattr(backend, "file_path", None)
    return Path(path) if isinstance(path, str) else None


def is_file(backend: KeyringBackend) -> bool:
    """Whether the backend is one that rewrites a file of its own."""
    return type(backend).__module__.startswith(FILE_BACKED)


def guarded(backend: KeyringBackend, work: Callable[[], T], secret: str | None = None) -> T:
    """A bounded call; every foreign error becomes a `NoVaultError` that does not hold `secret`."""

    def run() -> T:
        with _atomically(backend):
            return work()

    try:
        return bounded(run, FILE_LIMIT if is_file(backend) else LIMIT)
    except NoKeyError:
        raise
    except Exception as error:  # noqa: BLE001 - a backend may raise anything
        # without its cause: a foreign message may repeat what it was given
        raise NoVaultError(redact(reason(error), secret)) from None


def reason(error: Exception) -> str:
    """What a backend's error means."""
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


@contextlib.contextmanager
def _atomically(backend: KeyringBackend) -> Iterator[None]:
    """Let a backend that rewrites its one file in place do so on a copy, which then takes the
    file's place: killed in the middle, it would leave an empty file and no key at all."""
    path = file_of(backend)
    if path is None or not is_file(backend):
        yield
        return
    box: Any = backend
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, copy = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(fd)
    try:
        if path.exists():
            shutil.copyfile(path, copy)
        else:
            Path(copy).unlink()  # the backend asks whether there is one
        before = Path(copy).read_bytes() if path.exists() else None
        box.file_path = copy
        yield
        written = Path(copy).read_bytes() if Path(copy).exists() else None
        if written is not None and written != before:
            with open(copy, "rb") as file:  # noqa: PTH123 - a descriptor to sync
                os.fsync(file.fileno())
            Path(copy).chmod(0o600)
            Path(copy).replace(path)
            if sys.platform != "win32":
                folder = os.open(path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
    finally:
        box.file_path = str(path)
        Path(copy).unlink(missing_ok=True)
