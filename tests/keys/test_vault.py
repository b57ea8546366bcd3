"""The keyring: which backends are used, what they must keep, and how long they may take."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest
from keyring import core
from keyring.backend import KeyringBackend
from keyring.errors import InitError, KeyringLocked, NoKeyringError, PasswordSetError

from llmctl.errors import NoKeyError
from llmctl.keys import bounds
from llmctl.keys.backend import open_backend, refused, room
from llmctl.keys.bounds import NoVaultError, bounded
from llmctl.keys.key import Slot
from llmctl.keys.keyring_store import Keyring
from llmctl.keys.rotation import Change, Entry, Pair
from tests.keys.fakes import Failing, Forgetful, Memory, Silent

SLOT = Slot("openai", "https://api.openai.com:443")
KEY = "sk-test-canary-4711"
WRITE = Change(0, Entry(KEY, 1.0, 0))


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
    pair = vault.make(SLOT, Pair(), WRITE)
    pair = vault.make(SLOT, pair, Change(1, Entry("other", 2.0, None)))
    assert vault.read(SLOT) == pair
    assert set(memory.kept) == {
        ("llmctl https://api.openai.com:443", "openai"),
        ("llmctl https://api.openai.com:443", "openai (2)"),
    }
    assert vault.make(SLOT, pair, Change(0, None)).sides[0] is None
    assert vault.read(SLOT).sides[0] is None


@pytest.mark.parametrize(
    "other",
    [Slot("openai", "https://api.openai.com:8443"), Slot("openai", "http://api.openai.com:80"),
     Slot("openai", "https://evil.example:443"), Slot("mine", SLOT.origin)],
)  # fmt: skip
def test_bound_to_name_and_origin(other: Slot) -> None:
    """Another scheme, host, port or name finds nothing."""
    vault = Keyring(Memory())
    vault.make(SLOT, Pair(), WRITE)
    assert vault.read(other) == Pair()


def test_what_keeps_nothing_is_found_out() -> None:
    """A backend that accepts a key and does not keep it is an error, never a success."""
    with pytest.raises(NoVaultError, match="did not keep"):
        Keyring(Forgetful()).make(SLOT, Pair(), WRITE)


def test_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that does not return is given up after the limit, which is 3 s."""
    assert bounds.LIMIT == 3.0  # the contract's
    monkeypatch.setattr(bounds, "LIMIT", 0.05)
    silent = Silent()
    try:
        with pytest.raises(NoVaultError, match=r"did not answer within 0\.05 s"):
            bounded(lambda: silent.get_password("a", "b"), bounds.LIMIT)
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
        Keyring(Failing(error)).make(SLOT, Pair(), WRITE)
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
    with pytest.raises(NoVaultError, match="plain text"):
        open_backend({}, None)


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
    assert refused(of_module(module, kind)) is None


def test_null_and_fail_are_refused(use: Callable[[KeyringBackend], None]) -> None:
    """The null backend, and the one that stands for none, are no keyring."""
    use(of_module("keyring.backends.null", "Keyring"))
    with pytest.raises(NoVaultError, match="keeps nothing"):
        open_backend({}, None)
    use(of_module("keyring.backends.fail", "Keyring"))
    with pytest.raises(NoVaultError, match="there is none"):
        open_backend({}, None)


def test_a_chain_is_refused(use: Callable[[KeyringBackend], None]) -> None:
    """A chain of backends is not used: it writes to a plain file when the others refuse."""
    use(of_module("keyring.backends.chainer", "ChainerBackend"))
    with pytest.raises(NoVaultError, match="name one of them alone"):
        open_backend({}, None)


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
    assert open_backend({}, None) is good
    assert tried == ["keyring.backends.SecretService.Keyring",
                     "keyring.backends.kwallet.DBusKeyring"]  # fmt: skip
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NoVaultError, match="there is none"):
        open_backend({}, None)
    assert tried[2] == "keyring.backends.macOS.Keyring"


def test_windows_holds_1280_characters() -> None:
    """A key too long for the Windows Credential Manager is refused with both figures before it
    is written; one that fits is kept."""
    windows = of_module("keyring.backends.Windows", "WinVaultKeyring")
    assert room(windows) == 1280
    assert room(Memory()) is None
    with pytest.raises(NoKeyError, match=r"1,280 characters; .* keeps at most 1,2\d\d") as caught:
        Keyring(windows).make(SLOT, Pair(), Change(0, Entry("x" * 1280, 1.0, 0)))
    assert "xxx" not in caught.value.message
    assert Keyring(windows).read(SLOT) == Pair()
    Keyring(windows).make(SLOT, Pair(), Change(0, Entry("x" * 1000, 1.0, 0)))


def test_keyring_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library there is no keyring, and a sentence says so."""
    broken = types.ModuleType("keyring")
    monkeypatch.setitem(sys.modules, "keyring", broken)
    with pytest.raises(NoVaultError):
        open_backend({}, None)
