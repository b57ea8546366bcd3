"""`Auth` by a key or a token in a header, and what holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from llmctl.auth.token_holder import TokenHolder
from llmctl.errors import CallError, InvalidRequest
from llmctl.redact import remember

if TYPE_CHECKING:
    import httpx2


class KeyHolder(Protocol):
    """Where the key or token of an attempt is, which may change during a run."""

    @property
    def value(self) -> str | None:
        """The key now; None: requests go without, or there is none yet."""

    @property
    def source(self) -> str | None:
        """Where it was found, for people."""

    @property
    def may_change(self) -> bool:
        """Whether there may be another one during the run."""

    async def current(self) -> str | None:
        """The key for the next request, renewed first where that is due. Raises `CallError`."""

    async def refused(self, value: str | None) -> bool:
        """The provider refused this key: whether there is another one to use now."""


class FixedKey(Struct, frozen=True):
    """A key that does not change."""

    value: str | None
    source: str | None = None
    may_change: bool = False

    async def current(self) -> str | None:
        """The key."""
        return self.value

    async def refused(self, _: str | None) -> bool:
        """There is no other one."""
        return False


def bearer(token: str) -> Mapping[str, str]:
    """The header that carries an OAuth 2.0 token (RFC 6750, 2.1)."""
    return {"authorization": f"Bearer {token}"}


class KeyAuth:
    """`Auth` by the key or token of `holder`, in the codec's `headers` for a key or in the one
    `header` (Azure's `api-key`)."""

    def __init__(
        self,
        headers: Callable[[str], Mapping[str, str]],
        holder: KeyHolder,
        header: str | None = None,
    ) -> None:
        self._headers, self._holder, self._header = headers, holder, header
        self._key: str | None = None
        self._signed: Mapping[str, str] = {}

    @property
    def source(self) -> str | None:
        """Where the key was found, or who gives the token."""
        return self._holder.source

    @property
    def is_key(self) -> bool:
        """Whether it is no token of somebody's credentials."""
        return not isinstance(self._holder, TokenHolder)

    @property
    def mark(self) -> str | None:
        """The key now."""
        return self._holder.value

    @property
    def may_change(self) -> bool:
        """Whether there may be another one during the run."""
        return self._holder.may_change

    async def sign(self, request: httpx2.Request) -> httpx2.Request:
        """The request with the key, which is cut out of all foreign text from now on. Raises
        `InvalidRequest` for a key that HTTP cannot carry."""
        key = await self._holder.current() if self._holder.may_change else self._holder.value
        if key and key != self._key:
            if not key.isascii():
                raise InvalidRequest("the key has a character that is not ASCII", sent=False)
            remember(key)
            self._key = key
            self._signed = {self._header: key} if self._header else self._headers(key)
        for name, value in self._signed.items() if key else ():
            request.headers[name] = value
        return request

    async def refused(self, mark: str | None, error: CallError) -> bool:  # noqa: ARG002
        """The provider refused this key: whether there is another one to use now."""
        return await self._holder.refused(mark)
