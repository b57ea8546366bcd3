"""Encryption of what is kept on this machine: AES-256-GCM (NIST SP 800-38D).

What is encrypted is bound to its place (the key of its row, its file) as associated data, so that
it is no good in another one.
"""

from __future__ import annotations

import hmac
import io
import os
import secrets
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from llmctl.auth.extras import needs_extra
from llmctl.errors import DiskError, NoKeyError
from llmctl.keys.store_key import store_key
from llmctl.storage.files import open_private

_NONCE = 12  # bytes, random: good for 2^32 texts under one key (SP 800-38D, 8.3)
_MARK = b"llmctl encrypted 1\n"  # begins an encrypted file
_SHORT = 16  # bytes that tell one key from another
_LENGTH = 4  # bytes
_PIECE = 1 << 16  # bytes of a file that are encrypted together


class WrongKeyError(ValueError):
    """What is decrypted was encrypted with another key, for another place, or was changed."""


class Cipher:
    """Encrypts and names things under a key, 32 bytes, that is good for both."""

    def __init__(self, key: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aes = AESGCM(hmac.digest(key, b"encryption", "sha256"))
        self._naming = hmac.digest(key, b"names", "sha256")
        self._refusal = InvalidTag

    def encrypt(self, data: bytes, place: bytes) -> bytes:
        """A nonce, and the data encrypted with it for that place: 28 bytes more."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aes.encrypt(nonce, data, place)

    def decrypt(self, data: bytes, place: bytes) -> bytes:
        """What was encrypted for that place. Raises `WrongKeyError`."""
        try:
            return self._aes.decrypt(data[:_NONCE], data[_NONCE:], place)
        except (self._refusal, ValueError) as error:
            raise WrongKeyError("it was encrypted with another key, or was changed") from error

    def name(self, data: bytes) -> str:
        """An HMAC in hex: without the key nobody can tell what it is the name of, or try."""
        return hmac.digest(self._naming, data, "sha256").hex()


class StoreCipher:
    """The cipher of the store key, opened when it is first needed. `on`: what is written is
    encrypted."""

    def __init__(self, environ: Mapping[str, str], *, on: bool = False) -> None:
        self._environ = environ
        self.on = on

    @cached_property
    def cipher(self) -> Cipher:
        """A keyring takes up to some seconds. Raises `SetupError` without `cryptography`,
        `NoKeyError` without a store key, and `DiskError`."""
        needs_extra("pii", "cryptography", "cryptography")
        return Cipher(store_key(self._environ, "store"))

    @property
    def writing(self) -> Cipher | None:
        """What encrypts; None where nothing is to be. Raises as `cipher` does."""
        return self.cipher if self.on else None


# --- Files that are written once


def create_file(path: Path, store: StoreCipher) -> BinaryIO:
    """A new file of 0600 instead of an old one, to write from its start to its end; encrypted in
    pieces. Raises `OSError`, and as `StoreCipher.cipher`."""
    cipher = store.writing
    raw = os.fdopen(open_private(path, os.O_WRONLY | os.O_TRUNC)[0], "wb")
    if cipher is None:
        return raw
    return io.BufferedWriter(_Writer(raw, cipher, path.name), _PIECE)


def open_file(path: Path, store: StoreCipher) -> BinaryIO:
    """The file from its start, whether it is encrypted or not. Raises `OSError`, as
    `StoreCipher.cipher`, and `NoKeyError` for a file of another key; reading raises `DiskError`
    for one that was changed."""
    raw = path.open("rb")
    try:
        if raw.read(len(_MARK)) == _MARK:
            return io.BufferedReader(_Reader(raw, store.cipher, path), _PIECE)
        raw.seek(0)
    except BaseException:
        raw.close()
        raise
    return raw


class _Writer(io.RawIOBase):
    """Encrypts what one `write` gets as one piece, for its place: the file's name and a number."""

    def __init__(self, raw: BinaryIO, cipher: Cipher, name: str) -> None:
        self._raw, self._cipher, self._name, self._number = raw, cipher, name, 0
        self._raw.write(_MARK + bytes.fromhex(cipher.name(b"file"))[:_SHORT])

    def writable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def fileno(self) -> int:
        """The file's descriptor, for who syncs it."""
        return self._raw.fileno()

    def write(self, data: Any, /) -> int:
        """Encrypt all of it, and hand it to the system."""
        piece = self._cipher.encrypt(bytes(data), _place(self._name, self._number))
        self._number += 1
        self._raw.write(len(piece).to_bytes(_LENGTH, "big") + piece)
        self._raw.flush()
        return len(data)

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._raw.close()


class _Reader(io.RawIOBase):
    """Decrypts a file, a piece at a time."""

    def __init__(self, raw: BinaryIO, cipher: Cipher, path: Path) -> None:
        self._raw, self._cipher, self._path, self._number, self._rest = raw, cipher, path, 0, b""
        if raw.read(_SHORT) != bytes.fromhex(cipher.name(b"file"))[:_SHORT]:
            raise NoKeyError(
                f"{path} was encrypted with another store key: use that one again; or remove the "
                "file, and what it holds is made or fetched anew"
            )

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with what comes next; 0 at the end."""
        while not self._rest and (head := self._raw.read(_LENGTH)):
            piece = self._raw.read(int.from_bytes(head, "big"))
            try:
                self._rest = self._cipher.decrypt(piece, _place(self._path.name, self._number))
            except WrongKeyError as error:
                raise DiskError(
                    f"{self._path} is damaged: remove it, and run the same command again; what it "
                    "holds is made or fetched anew"
                ) from error
            self._number += 1
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._raw.close()


def _place(name: str, number: int) -> bytes:
    return f"{name}/{number}".encode()
