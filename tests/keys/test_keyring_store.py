"""The keyring: which backends are used, what they must keep, and how long they may take."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from keyring import core
from keyring.backend import KeyringBackend
from keyring.errors import InitError, KeyringLocked, NoKeyringError, PasswordSetError

from llmctl.errors import NoKeyError
from llmctl.keys import keyring_store
from llmctl.keys.key import KeySlot
from llmctl.keys.keyring_store import (
    Keyring,
    KeyringUnavailable,
    mark_stored,
    refusal,
    stored_slots,
)
from llmctl.keys.rotation import Change, KeyPair, StoredKey
from tests.keys.fakes import Failing, Forgetful, Memory, Silent

SLOT = KeySlot("openai", "https://api.openai.com:443")
KEY = "sk-test-canary-4711"
WRITE = Change(0, StoredKey(KEY, 1.0, 0))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[KeyringBackend], None]:
    """Makes this backend the one that the user configured."""
    return lambda backend: monkeypatch.setattr(core, "load_env", lambda: backend)


def of_module(name: str, kind: str, base: type = Memory) -> KeyringBackend:
    """A backend as a class of another module would be."""
    made: KeyringBackend = type(kind, (base,), {"__module__": name, "priority": 1})()
    return made


def test_written_read_and_deleted() -> None:
    """Both sides are kept apart, under the name and the origin; a deleted side is gone."""
    memory = Memory()
    vault = Keyring(memory)
    pair = vault.write(SLOT, KeyPair(), WRITE)
    pair = vault.write(SLOT, pair, Change(1, StoredKey("other", 2.0, None)))
    assert vault.read(SLOT) == pair
    assert set(memory.kept) == {
        ("llmctl https://api.openai.com:443", "openai"),
        ("llmctl https://api.openai.com:443", "openai (2)"),
    }
    assert vault.write(SLOT, pair, Change(0, None)).sides[0] is None
    assert vault.read(SLOT).sides[0] is None


@pytest.mark.parametrize(
    "other",
    [KeySlot("openai", "https://api.openai.com:8443"), KeySlot("openai", "http://api.openai.com:80"),
     KeySlot("openai", "https://evil.example:443"), KeySlot("mine", SLOT.origin)],
)  # fmt: skip
def test_bound_to_name_and_origin(other: KeySlot) -> None:
    """Another scheme, host, port or name finds nothing."""
    vault = Keyring(Memory())
    vault.write(SLOT, KeyPair(), WRITE)
    assert vault.read(other) == KeyPair()


def test_what_keeps_nothing_is_found_out() -> None:
    """A backend that accepts a key and does not keep it is an error, never a success."""
    with pytest.raises(KeyringUnavailable, match="did not keep"):
        Keyring(Forgetful()).write(SLOT, KeyPair(), WRITE)


def test_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that does not return is given up after the limit, which is 3 s."""
    assert keyring_store.LIMIT == 3.0  # the contract's
    monkeypatch.setattr(keyring_store, "LIMIT", 0.05)
    silent = Silent()
    try:
        with pytest.raises(KeyringUnavailable, match=r"did not answer within 0\.05 s"):
            Keyring(silent).read(SLOT)
    finally:
        silent.released.set()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoKeyringError("No recommended backend was available."), "there is none"),
        (KeyringLocked("Failed to unlock the collection!"), "locked; unlock it"),
        (InitError("Failed to create the collection: Prompt dismissed.."), "cannot be opened"),
        (PasswordSetError(f"cannot store {KEY}"), r"PasswordSetError: cannot store \[key\]"),
        (ValueError("MAC check failed"), "password of the encrypted file is not right"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_backends_errors(error: Exception, words: str) -> None:
    """Whatever a backend raises is exit 4, says why, names the three ways on, and no key."""
    with pytest.raises(NoKeyError, match=words) as caught:
        Keyring(Failing(error)).write(SLOT, KeyPair(), WRITE)
    assert caught.value.exit_code == 4
    for way in ("the environment", "another program", "an encrypted file"):
        assert way in caught.value.message
    assert KEY not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("keyrings.alt.file", "PlaintextKeyring"),
        ("keyrings.alt.pyfs", "BasicKeyring"),
        ("keyrings.alt.pyfs", "PlaintextKeyring"),
        ("keyrings.alt.Windows", "RegistryKeyring"),
        ("keyrings.cryptfile.file", "PlaintextKeyring"),
        ("somebody.elses", "PlainTextKeyring"),
    ],
)
def test_plaintext_is_refused(
    use: Callable[[KeyringBackend], None], module: str, kind: str
) -> None:
    """A backend that writes keys down for anybody to read is not used."""
    use(of_module(module, kind))
    with pytest.raises(KeyringUnavailable, match="plain text"):
        Keyring.open({}, None)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("keyring.backends.SecretService", "Keyring"),
        ("keyring.backends.macOS", "Keyring"),
        ("keyring.backends.Windows", "WinVaultKeyring"),
        ("keyring.backends.kwallet", "DBusKeyring"),
        ("keyrings.cryptfile.cryptfile", "CryptFileKeyring"),
        ("keyrings.alt.file", "EncryptedKeyring"),
        ("keyring_pass", "PasswordStoreBackend"),
    ],
)
def test_what_is_used(module: str, kind: str) -> None:
    """The systems' own keyrings, encrypted files and others that keep a secret are."""
    assert refusal(of_module(module, kind)) is None


def test_null_and_fail_are_refused(use: Callable[[KeyringBackend], None]) -> None:
    """The null backend, and the one that stands for none, are no keyring."""
    use(of_module("keyring.backends.null", "Keyring"))
    with pytest.raises(KeyringUnavailable, match="keeps nothing"):
        Keyring.open({}, None)
    use(of_module("keyring.backends.fail", "Keyring"))
    with pytest.raises(KeyringUnavailable, match="there is none"):
        Keyring.open({}, None)


def test_a_chain_is_refused(use: Callable[[KeyringBackend], None]) -> None:
    """A chain of backends is not used: it writes to a plain file when the others refuse."""
    use(of_module("keyring.backends.chainer", "ChainerBackend"))
    with pytest.raises(KeyringUnavailable, match="name one of them alone"):
        Keyring.open({}, None)


def test_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configured one the best backend of the system is taken that works; of other
    systems' backends nothing is even imported."""
    tried: list[str] = []
    good = Memory()

    def load(place: str) -> KeyringBackend:
        tried.append(place)
        if "fail" in place:
            return of_module("keyring.backends.fail", "Keyring")
        if "kwallet" not in place:
            raise RuntimeError("not here")
        return good

    monkeypatch.setattr(core, "load_env", lambda: None)
    monkeypatch.setattr(core, "load_config", lambda: None)
    monkeypatch.setattr(core, "load_keyring", load)
    monkeypatch.setattr(sys, "platform", "linux")
    assert Keyring.open({}, None)._backend is good
    assert tried == ["keyring.backends.SecretService.Keyring",
                     "keyring.backends.kwallet.DBusKeyring"]  # fmt: skip
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(KeyringUnavailable, match="there is none"):
        Keyring.open({}, None)
    assert tried[2] == "keyring.backends.macOS.Keyring"


def test_windows_holds_1280_characters() -> None:
    """A key too long for the Windows Credential Manager is refused with both figures before it
    is written; one that fits is kept."""
    windows = of_module("keyring.backends.Windows", "WinVaultKeyring")
    assert keyring_store.WINDOWS_LIMIT == 1280
    long = Change(0, StoredKey("x" * 1280, 1.0, 0))
    Keyring(Memory()).write(SLOT, KeyPair(), long)
    with pytest.raises(NoKeyError, match=r"1,280 characters; .* keeps at most 1,2\d\d") as caught:
        Keyring(windows).write(SLOT, KeyPair(), long)
    assert "xxx" not in caught.value.message
    assert Keyring(windows).read(SLOT) == KeyPair()
    Keyring(windows).write(SLOT, KeyPair(), Change(0, StoredKey("x" * 1000, 1.0, 0)))


def test_keyring_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library there is no keyring, and a sentence says so."""
    broken = types.ModuleType("keyring")
    monkeypatch.setitem(sys.modules, "keyring", broken)
    with pytest.raises(KeyringUnavailable):
        Keyring.open({}, None)


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

    def get_password(self, service: str, username: str) -> str | None:
        """Read it from the file."""
        file = Path(self.file_path)
        kept: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        return kept.get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        """Write the file anew, in two pieces."""
        file = Path(self.file_path)
        kept = json.loads(file.read_text()) if file.exists() else {}
        text = json.dumps({**kept, f"{service} {username}": password})
        try:
            with file.open("w") as out:
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
    assert file.read_bytes() == before
    assert slow.file_path == str(file)
    slow.hangs = False
    after = keyring.write(SLOT, pair, candidate)
    slow.released.set()
    assert slow.done.wait(10)
    assert keyring.read(SLOT) == after
    assert [path.name for path in tmp_path.iterdir()] == ["keys.cfg"]
    assert file.stat().st_mode & 0o777 == 0o600
