"""The keyring: which backends are used, what they must keep, and how long they may take."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest
from keyring import core
from keyring.backend import KeyringBackend
from keyring.errors import InitError, KeyringLocked, NoKeyringError, PasswordSetError

from llmctl.errors import NoKeyError
from llmctl.keys import keyring_store
from llmctl.keys.key import Change, KeyPair, KeySlot, StoredKey
from llmctl.keys.keyring_store import Keyring, KeyringUnavailable, mark_stored, stored_slots
from tests.keys.fakes import Memory, failing

SLOT = KeySlot("openai", "https://api.openai.com:443")
KEY = "sk-test-canary-4711"
WRITE = Change(0, StoredKey(KEY, 1.0, 0))


def of_module(place: str) -> KeyringBackend:
    """A backend as a class of another module would be."""
    module, _, kind = place.rpartition(".")
    made: KeyringBackend = type(kind, (Memory,), {"__module__": module, "priority": 1})()
    return made


def test_written_read_and_deleted() -> None:
    """Both sides are kept apart, under the name and the origin: another scheme, host, port or
    name finds nothing; a deleted side is gone."""
    memory = Memory()
    keyring = Keyring(memory)
    pair = keyring.write(SLOT, KeyPair(), WRITE)
    pair = keyring.write(SLOT, pair, Change(1, StoredKey("other", 2.0, None)))
    assert keyring.read(SLOT) == pair
    assert set(memory.kept) == {
        ("llmctl https://api.openai.com:443", "openai"),
        ("llmctl https://api.openai.com:443", "openai (2)"),
    }
    for origin in ("https://api.openai.com:8443", "http://api.openai.com:80", "https://evil:443"):
        assert keyring.read(KeySlot("openai", origin)) == KeyPair()
    assert keyring.read(KeySlot("mine", SLOT.origin)) == KeyPair()
    assert keyring.write(SLOT, pair, Change(0, None)).sides[0] is None
    assert keyring.read(SLOT).sides[0] is None


def test_what_keeps_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that accepts a key and does not keep it is an error, never a success."""
    monkeypatch.setattr(Memory, "set_password", lambda *_: None)
    with pytest.raises(KeyringUnavailable, match="did not keep"):
        Keyring(Memory()).write(SLOT, KeyPair(), WRITE)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoKeyringError("No recommended backend was available."), "there is none"),
        (KeyringLocked("Failed to unlock the collection!"), "locked; unlock it"),
        (InitError("Failed to create the collection: Prompt dismissed.."), "Prompt dismissed"),
        (PasswordSetError(f"cannot store {KEY}"), r"PasswordSetError: cannot store \[key\]"),
        (ValueError("MAC check failed"), "password of the encrypted file is not right"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_backends_errors(error: Exception, words: str) -> None:
    """Whatever a backend raises is exit 4, says why, names the three ways on, and no key."""
    with pytest.raises(NoKeyError, match=words) as caught:
        Keyring(failing(error)).write(SLOT, KeyPair(), WRITE)
    assert caught.value.exit_code == 4
    for way in ("the environment", "another program", "an encrypted file"):
        assert way in caught.value.message
    assert KEY not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("keyrings.alt.file.PlaintextKeyring", "plain text"),
        ("keyrings.alt.Windows.RegistryKeyring", "plain text"),
        ("keyrings.cryptfile.file.PlaintextKeyring", "plain text"),
        ("somebody.elses.PlainTextKeyring", "plain text"),
        ("keyring.backends.null.Keyring", "keeps nothing"),
        ("keyring.backends.fail.Keyring", "there is none"),
        ("keyring.backends.chainer.ChainerBackend", "name one of them alone"),
        ("keyring.backends.SecretService.Keyring", None),
        ("keyrings.cryptfile.cryptfile.CryptFileKeyring", None),
        ("keyrings.alt.file.EncryptedKeyring", None),
        ("keyring_pass.PasswordStoreBackend", None),
    ],
)
def test_which_backends_are_used(
    monkeypatch: pytest.MonkeyPatch, place: str, why: str | None
) -> None:
    """The systems' own keyrings, encrypted files and others that keep a secret are; those that
    keep keys as plain text, or nothing, are not, nor is a chain of backends, which writes to a
    plain file when the others refuse."""
    monkeypatch.setattr(core, "load_env", lambda: of_module(place))
    if why is None:
        Keyring.open({}).write(SLOT, KeyPair(), WRITE)
        return
    with pytest.raises(KeyringUnavailable, match=why):
        Keyring.open({})


def test_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured one the best backend of the system is taken that works; of other
    systems' backends nothing is even imported."""
    tried: list[str] = []

    def load(place: str) -> KeyringBackend:
        tried.append(place.removeprefix("keyring.backends."))
        if "fail" not in place and "kwallet" not in place:
            raise RuntimeError("not here")
        return of_module(place)

    monkeypatch.setattr(core, "load_env", lambda: None)
    monkeypatch.setattr(core, "load_config", lambda: None)
    monkeypatch.setattr(core, "load_keyring", load)
    monkeypatch.setattr(sys, "platform", "linux")
    assert Keyring.open({}).where == "kwallet DBusKeyring"
    assert tried == ["SecretService.Keyring", "kwallet.DBusKeyring"]
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(KeyringUnavailable, match="there is none"):
        Keyring.open({})
    assert tried[2] == "macOS.Keyring"


def test_the_index_of_stored_slots(tmp_path: Path) -> None:
    """The index lists the slots with a stored key; a missing or damaged one lists none."""
    other = KeySlot("mine", "http://localhost:80")
    assert stored_slots(tmp_path) == frozenset()
    for slot in (SLOT, other, SLOT):
        mark_stored(tmp_path, slot, stored=True)
    for _ in range(2):
        mark_stored(tmp_path, other, stored=False)
    assert stored_slots(tmp_path) == {SLOT}
    (tmp_path / "keys.json").write_text("[]")
    assert stored_slots(tmp_path) == frozenset()


class FileKeyring(Memory):
    """A backend that rewrites its one file in place, and may hang in the middle of it."""

    __module__ = "keyrings.cryptfile.tests"
    priority = 1

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file_path = str(file)
        self.hangs = False
        self.hanging, self.released, self.done = (threading.Event() for _ in range(3))

    def _rows(self) -> dict[str, str]:
        file = Path(self.file_path)
        rows: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        return rows

    def get_password(self, service: str, username: str) -> str | None:
        """Read it from the file."""
        return self._rows().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Write the file anew, in two pieces."""
        text = json.dumps({**self._rows(), f"{service} {username}": password})
        try:
            with Path(self.file_path).open("w") as out:
                out.write(text[:9])
                if self.hangs:
                    self.hanging.set()
                    self.released.wait()
                out.write(text[9:])
        finally:
            self.done.set()


def test_a_write_that_comes_too_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A write to an encrypted file that was given up changes nothing, whenever it ends; the next
    write works on the file itself, and neither leaves a copy behind."""
    file = tmp_path / "keys.cfg"
    keyring = Keyring(FileKeyring(file))
    assert keyring.where == f"the encrypted file {file}"
    pair = keyring.write(SLOT, KeyPair(), WRITE)
    before = file.read_bytes()
    slow = keyring._backend
    assert isinstance(slow, FileKeyring)
    slow.hangs = True
    slow.done.clear()
    candidate = Change(1, StoredKey("other", 2.0, None))
    with monkeypatch.context() as patch:
        patch.setattr(keyring_store, "FILE_LIMIT", 0.2)
        with pytest.raises(KeyringUnavailable, match="did not answer"):
            keyring.write(SLOT, pair, candidate)
    assert slow.hanging.wait(10)
    assert keyring_store.LIMIT == 3.0  # the contract's, for what is no file
    assert file.read_bytes() == before
    assert slow.file_path == str(file)
    slow.hangs = False
    after = keyring.write(SLOT, pair, candidate)
    slow.released.set()
    assert slow.done.wait(10)
    assert keyring.read(SLOT) == after
    assert [path.name for path in tmp_path.iterdir()] == ["keys.cfg"]
    assert file.stat().st_mode & 0o777 == 0o600
