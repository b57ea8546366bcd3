"""What every reader of a secrets manager holds: run by each manager's own test module, which has
the fixture `manager`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar, Protocol

import pytest

from llmctl.config.settings import SecretUri, parse_secret_uri
from llmctl.errors import CallError, NoKeyError
from llmctl.keys.key import Key, KeySlot
from llmctl.keys.secrets import Secret, SecretReader, SecretSource
from llmctl.redact import redact_known_keys

OLD, NEW = "sk-suite-old+0001/x", "sk-suite-new+0002/y"
SLOT = KeySlot("any", "https://any:443")


class Manager(Protocol):
    """A manager under test. Every test asks for names of its own, of letters and digits: one server
    may do for all of them. A name that was not `put` is missing."""

    @property
    def environ(self) -> Mapping[str, str]:
        """What a reader is made with: where the manager is, and who asks."""

    def uri(self, name: str) -> str:
        """The address of the secret `name`, as `key.secret` says it."""

    def put(self, name: str, value: str) -> None:
        """The newest version of the secret is this value: a second one rotates it."""

    def deny(self, name: str) -> None:
        """Who asks may not read this secret, which there is."""

    def stop(self) -> None:
        """Nobody listens any more at the address that `environ` names."""


def source_of(
    manager: Manager, name: str, readers: dict[str, SecretReader] | None = None
) -> SecretSource:
    """The `KeySource` of a secret."""
    uri = parse_secret_uri(manager.uri(name))
    assert uri, manager.uri(name)
    return SecretSource(uri, {} if readers is None else readers, manager.environ)


def find(manager: Manager, name: str, *, reserve: bool = False) -> Key:
    """The key that a new reader finds, in an event loop of its own."""
    return asyncio.run(source_of(manager, name).find(SLOT, reserve=reserve))


class SecretReaderSuite:
    """Subclasses say what their manager's words are."""

    name: ClassVar[str]
    """The manager, for people."""

    allow: ClassVar[str]
    """What the words for a denial name: the right that is missing."""

    versions: ClassVar[bool] = True
    """Whether a version can be named, and the one before it read."""

    def test_the_newest_version_is_read(self, manager: Manager) -> None:
        """After a rotation the new value is the key, whose source is the address and the version;
        the value is in no repr, and cut out of all messages."""
        manager.put("newest", OLD)
        assert find(manager, "newest").value == OLD
        manager.put("newest", NEW)
        found = find(manager, "newest")
        assert (found.value, found.managed, found.previous) == (NEW, True, None)
        uri = manager.uri("newest")
        assert found.source.startswith(f"{uri} (" if self.versions else uri)
        source = source_of(manager, "newest")
        secret = asyncio.run(source.reader.read(source.uri, previous=False))
        assert secret is not None
        assert bool(secret.version) is self.versions
        for shown in (repr(found), repr(secret), found.source):
            assert NEW not in shown
        assert NEW not in redact_known_keys(f"they said {NEW}")

    def test_the_version_before_is_the_reserve(self, manager: Manager) -> None:
        """The value that a rotation replaced is the previous key, where one is wanted and the
        manager keeps it; of a secret that was never rotated there is none."""
        manager.put("reserve", OLD)
        assert find(manager, "reserve", reserve=True).previous is None
        manager.put("reserve", NEW)
        found = find(manager, "reserve", reserve=True)
        assert found.value == NEW
        assert (found.previous.value if found.previous else None) == (
            OLD if self.versions else None
        )
        manager.put("reserve", NEW)  # the same once more
        assert find(manager, "reserve", reserve=True).previous is None

    def test_one_reader_serves_event_loops_and_many_reads(self, manager: Manager) -> None:
        """A reader is made once a process: its next event loop, and ten reads at a time, get
        answers, too."""
        manager.put("many", NEW)
        readers: dict[str, SecretReader] = {}

        async def ten() -> list[Key]:
            source = source_of(manager, "many", readers)
            return await asyncio.gather(*(source.find(SLOT) for _ in range(10)))

        for _ in range(2):
            assert {key.value for key in asyncio.run(ten())} == {NEW}
        assert len(readers) == 1

    def test_a_missing_secret(self, manager: Manager) -> None:
        """There is no such secret: said with the manager, the address and where to look."""
        with pytest.raises(NoKeyError) as caught:
            find(manager, "missing")
        said = caught.value.message
        assert said.startswith(f"{self.name}, {manager.uri('missing')}: ")
        assert "check `key.secret`" in said

    def test_a_denied_secret(self, manager: Manager) -> None:
        """Who may not read it is told what must be allowed; it is not said that the manager cannot
        be reached, and nothing of the secret."""
        manager.put("denied", NEW)
        manager.deny("denied")
        with pytest.raises(NoKeyError) as caught:
            find(manager, "denied")
        said = caught.value.message
        assert said.startswith(f"{self.name}, {manager.uri('denied')}: ")
        assert self.allow in said
        assert "reached" not in said
        assert NEW not in said
        assert caught.value.exit_code == 4

    def test_a_manager_that_is_down(self, manager: Manager) -> None:
        """The reader says that asking again may help; the source asks once more, and names the
        manager and the address."""
        manager.put("down", NEW)
        source = source_of(manager, "down")
        assert asyncio.run(source.find(SLOT)).value == NEW
        manager.stop()
        source = source_of(manager, "down")
        with pytest.raises((CallError, TimeoutError)) as refused:
            asyncio.run(source.reader.read(source.uri, previous=False))
        assert not isinstance(refused.value, CallError) or refused.value.retryable
        counting = Counting(source.reader)
        with pytest.raises(NoKeyError) as caught:
            asyncio.run(
                SecretSource(source.uri, {source.uri.scheme: counting}, source.environ).find(SLOT)
            )
        said = caught.value.message
        assert said.startswith(f"{self.name}, {manager.uri('down')}: ")
        assert said.endswith("see that it can be reached")
        assert counting.reads == 2
        assert caught.value.exit_code == 4

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_line_end_is_no_part_of_the_key(self, manager: Manager, end: str) -> None:
        """A secret that was stored from a file ends its line."""
        manager.put(f"line{len(end)}", NEW + end)
        assert find(manager, f"line{len(end)}").value == NEW

    @pytest.mark.parametrize(
        ("name", "value"), [("json", '{"key": "sk-inside-4711"\n}'), ("space", f" {NEW}")]
    )
    def test_what_cannot_be_a_key(self, manager: Manager, name: str, value: str) -> None:
        """A value that no header can carry is refused with the reason, without showing it."""
        manager.put(name, value)
        with pytest.raises(NoKeyError, match=r"the secret .*; store the key alone") as caught:
            find(manager, name)
        assert caught.value.message.startswith(f"{self.name}, {manager.uri(name)}: ")
        assert "sk-" not in caught.value.message.replace(manager.uri(name), "")


class Counting:
    """A reader that counts how often it is asked."""

    def __init__(self, reader: SecretReader) -> None:
        self._reader = reader
        self.name = reader.name
        self.reads = 0

    async def read(self, uri: SecretUri, *, previous: bool) -> Secret | None:
        """As the reader does."""
        self.reads += 1
        return await self._reader.read(uri, previous=previous)
