"""The key of a run: it may be rotated while the run goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmctl.config.settings import Profile
from llmctl.errors import NoKeyError
from llmctl.keys.key import Key, ending
from llmctl.keys.resolver import Finder


class LiveKey:
    """The key that calls use now. When the provider refuses it, its source is asked again: the
    keyring may hold a newer primary by now, or the previous key. Each key is tried once a run.
    """

    def __init__(
        self,
        finder: Finder,
        profile: Profile,
        first: Key | None,
        say: Callable[[str], None],
    ) -> None:
        self._finder = finder
        self._profile = profile
        self._say = say
        self._current = first
        self._refused: set[str] = set()
        self._asking = asyncio.Lock()

    @property
    def value(self) -> str | None:
        """The key, or None for a server that is called without one."""
        return self._current.value if self._current else None

    async def refused(self, value: str | None) -> bool:
        """The provider refused this key: whether there is another one to use now.

        Many calls may say so at once; one of them looks, the others wait for what it finds.
        """
        async with self._asking:
            if self.value != value:
                return True
            if value is None or value in self._refused:
                return False
            self._refused.add(value)
            for key in await self._again():
                if key.value not in self._refused:
                    self._say(self._words(value, key))
                    self._current = key
                    return True
            return False

    async def _again(self) -> tuple[Key, ...]:
        """What the source has now. A source that fails now has no other key: what ends the call
        is that its own was refused."""
        assert self._current is not None
        if self._current.source.startswith("$"):
            return ()  # a process cannot see its environment change
        try:
            return await asyncio.to_thread(self._finder.keys, self._profile)
        except NoKeyError as error:
            self._say(f"no other key: {error.message}")
            return ()

    def _words(self, old: str, key: Key) -> str:
        what = "the previous one" if key.role == "previous" else "the one it was replaced by"
        return (
            f"profile {self._profile.name}: the provider refused the key {ending(old)}; "
            f"going on with {what}, {ending(key.value)} ({key.source})"
        )
