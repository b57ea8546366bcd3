"""A key in a secrets manager: `key: {secret: URI}` in a profile. One reader a scheme."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol

from msgspec import Struct

from llmctl.config.settings import SecretUri
from llmctl.errors import CallError, CallTimeout, ConnectionFailed, NoKeyError
from llmctl.keys.key import Key, KeySlot, usable

LIMIT = 3.0
"""Seconds that a manager has to reply; it is asked twice."""

_READERS = {
    "aws-sm": "aws_secrets:SecretsManager",
    "aws-ssm": "aws_secrets:ParameterStore",
    "azure-kv": "azure_secrets:KeyVault",
    "gcp-sm": "google_secrets:SecretManager",
    "vault": "vault_secrets:Vault",
    "op": "onepassword_secrets:OnePassword",
    "doppler": "doppler_secrets:Doppler",
}
"""Scheme → `module:Class` in this package, made with the environment; imported when it is used."""


class Secret(Struct, frozen=True):
    """A secret as a manager gives it. `version` names it there, for people; never secret itself."""

    value: str
    version: str = ""

    def __repr__(self) -> str:
        return f"Secret([key], version={self.version!r})"


class SecretReader(Protocol):
    """Reads one manager's secrets."""

    name: str
    """The manager, for people."""

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """The secret's newest version, or the one that it replaced; None where there is none.

        Raises `NoKeyError` in words that complete "MANAGER: …" where it is missing or denied, and
        `CallError` where the manager cannot be asked now (`ConnectionFailed`, `CallTimeout`…) or
        refuses who asks (`AuthFailed`, `PermissionRefused`, in such words). Bounded by the caller.
        """
        ...


def manager_of(uri: SecretUri) -> str:
    """The manager of an address, for people."""
    return _reader_class(uri.scheme).name


class SecretSource(Struct, frozen=True):
    """The `KeySource` of one secret. `readers` are those opened so far, by scheme."""

    uri: SecretUri
    readers: dict[str, SecretReader]
    environ: Mapping[str, str]

    async def find(self, _: KeySlot, *, reserve: bool = False) -> Key:
        """The newest version, with the one before it where a `reserve` is wanted. Raises
        `NoKeyError` that names the manager, and `SetupError` where its package is missing."""
        newest = await self._read(previous=False)
        if newest is None:
            raise NoKeyError(f"{self._where}: there is no such secret; check `key.secret`")
        before = await self._read(previous=True) if reserve else None
        older = self._key(before) if before and before.value != newest.value else None
        return self._key(newest, older)

    def _key(self, secret: Secret, previous: Key | None = None) -> Key:
        value = secret.value.rstrip("\r\n")
        mend = "store the key alone, and name its field with #FIELD where the secret has several"
        version = f" ({secret.version})" if secret.version else ""
        found = usable(value, f"{self._where}: the secret", mend)
        if value.startswith("{"):  # its other fields are nothing for a provider
            raise NoKeyError(f"{self._where}: the secret is JSON and no key; {mend}")
        source = f"{self.uri}{version}"
        return Key(found, source, previous, managed=True, version=secret.version)

    @property
    def reader(self) -> SecretReader:
        """The reader of the secret's scheme, made now if it was not. Raises `SetupError`."""
        scheme = self.uri.scheme
        if scheme not in self.readers:
            self.readers[scheme] = _reader_class(scheme)(self.environ)
        return self.readers[scheme]

    @property
    def _where(self) -> str:
        return f"{manager_of(self.uri)}, {self.uri}"

    async def _read(self, *, previous: bool) -> Secret | None:
        """One version; asked once more where the manager could not be asked."""
        for last in (False, True):
            try:
                # Not `asyncio.timeout`, which does not know its own end in Python 3.11 where the
                # HTTP client says that a request had been sent (`CancelledAfterSending`).
                return await asyncio.wait_for(self.reader.read(self.uri, previous=previous), LIMIT)
            except NoKeyError as error:
                raise NoKeyError(f"{self._where}: {error.message}") from error
            except (CallError, TimeoutError) as error:
                if last or (isinstance(error, CallError) and not error.retryable):
                    raise NoKeyError(f"{self._where}: {_why(error)}") from error
        raise AssertionError


class _ReaderClass(Protocol):
    name: str

    def __call__(self, environ: Mapping[str, str]) -> SecretReader: ...


def _reader_class(scheme: str) -> _ReaderClass:
    module, _, name = _READERS[scheme].partition(":")
    found: _ReaderClass = getattr(import_module(f"llmctl.keys.{module}"), name)
    return found


def _why(error: CallError | TimeoutError) -> str:
    """Why a manager could not be asked."""
    mend = "see that it can be reached"
    if isinstance(error, ConnectionFailed):  # a profile's address has nothing to do with it
        return f"{error.message.partition('; check')[0]}; {mend}"
    if isinstance(error, TimeoutError | CallTimeout):
        return f"no reply within {LIMIT:.0f} s; {mend}"
    return error.message
