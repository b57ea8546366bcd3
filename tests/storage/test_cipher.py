"""What is encrypted on this machine can be read with its key, in its place, and nowhere else."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from llmctl.auth import extras
from llmctl.errors import DiskError, NoKeyError, SetupError
from llmctl.storage.cipher import Cipher, StoreCipher, WrongKeyError, create_file, open_file

SECRET, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
ON = StoreCipher({"LLMCTL_STORE_KEY": SECRET}, on=True)
OFF = StoreCipher({"LLMCTL_STORE_KEY": SECRET})
STRANGER = StoreCipher({"LLMCTL_STORE_KEY": OTHER}, on=True)
KEYLESS = StoreCipher({"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}, on=True)


def test_only_the_key_and_the_place_open_it() -> None:
    """Encrypted twice it looks different, and both come back; another key, place or bit is told."""
    cipher = Cipher(b"k" * 32)
    one, two = (cipher.encrypt(b"canary", b"here") for _ in range(2))
    assert one != two
    assert cipher.decrypt(one, b"here") == cipher.decrypt(two, b"here") == b"canary"
    changed = bytes([*one[:-1], one[-1] ^ 1])
    for other, data, place in (
        (Cipher(b"l" * 32), one, b"here"),
        (cipher, one, b"there"),
        (cipher, changed, b"here"),
        (cipher, b"", b"here"),
        (cipher, b"x" * 20, b"here"),
    ):
        with pytest.raises(WrongKeyError):
            other.decrypt(data, place)


def test_a_name_needs_the_key() -> None:
    """The same thing has the same name under a key, and another one under another."""
    ours, theirs = Cipher(b"k" * 32), Cipher(b"l" * 32)
    assert ours.name(b"question") == Cipher(b"k" * 32).name(b"question") != ours.name(b"other")
    assert ours.name(b"question") != theirs.name(b"question")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, and without the library, it is said what to do; off, nothing is needed."""
    assert StoreCipher(KEYLESS._environ).writing is None
    with pytest.raises(NoKeyError, match="set LLMCTL_STORE_KEY"):
        assert KEYLESS.writing
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match="pip install cryptography"):
        assert StoreCipher({"LLMCTL_STORE_KEY": SECRET}, on=True).writing


def written(path: Path, store: StoreCipher, *pieces: bytes) -> bytes:
    """What the file holds in the end."""
    with create_file(path, store) as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000])
def test_files_come_back(tmp_path: Path, size: int) -> None:
    """Whole, by lines and by pieces, also while encryption is off by now; 0600, and without a word
    of it; one in clear is read while encryption is on."""
    path = tmp_path / "lines.jsonl"
    lines = [b"canary %d\n" % n for n in range(size // 10)]
    raw = written(path, ON, b"x" * (size % 10) + b"\n", *lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"canary" not in raw
    for store in (ON, OFF):
        with open_file(path, store) as file:
            assert [*file] == [b"x" * (size % 10) + b"\n", *lines]
    with open_file(path, ON) as file:
        assert b"".join(iter(lambda: file.read(1000), b"")).endswith(b"".join(lines))
    assert b"canary\n" in written(path, OFF, b"canary\n")
    with open_file(path, ON) as file:
        assert file.read() == b"canary\n"


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    """Another key is told from damage: a changed byte, a file under another file's name, pieces in
    another order, one that is cut."""
    path, big = tmp_path / "results-0.jsonl", tmp_path / "results-1.jsonl"
    raw = written(path, ON, b"canary\n" * 9)
    with pytest.raises(NoKeyError, match="another store key"):
        open_file(path, STRANGER)
    pieces = written(big, ON, b"a" * 65_536, b"b" * 65_536)
    head, piece = len(pieces) % (65_536 + 32), 65_536 + 32
    first, second = pieces[head : head + piece], pieces[head + piece :]
    damaged = {
        path: [raw[:-1] + bytes([raw[-1] ^ 1]), raw[:-1], raw[:-30]],
        big: [raw, pieces[:head] + second + first],
    }
    for file, contents in damaged.items():
        for content in contents:
            file.write_bytes(content)
            with open_file(file, ON) as opened, pytest.raises(DiskError, match="is damaged"):
                opened.read()


def test_a_reader_is_a_file(tmp_path: Path) -> None:
    """It can be read only, and is closed with its file."""
    written(tmp_path / "a", ON, b"canary")
    file = open_file(tmp_path / "a", ON)
    assert file.readable()
    assert not file.writable()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()
    with create_file(tmp_path / "b", ON) as made, pytest.raises(io.UnsupportedOperation):
        made.read()
