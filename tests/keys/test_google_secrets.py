"""Google Secret Manager, as every manager of secrets, and what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llmctl.config.settings import parse_secret_uri
from llmctl.errors import AuthFailed, BadResponse, NoKeyError
from llmctl.keys.google_secrets import ENDPOINT, SecretManager
from llmctl.keys.secrets import Secret
from tests.conformance.secret_reader import SecretReaderSuite
from tests.simulator.google_cloud import ACCOUNT, GoogleCloud

URI = "gcp-sm://sim/openai"


class Manager:
    """Secret Manager on loopback, asked by a service account."""

    def __init__(self, cloud: GoogleCloud, folder: Path) -> None:
        self.cloud = cloud
        self._file = cloud.service_account(folder / "account.json")

    @property
    def environ(self) -> Mapping[str, str]:
        """Where it is, and who asks."""
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(self._file), ENDPOINT: self.cloud.origin}

    def uri(self, name: str) -> str:
        """The address of a secret."""
        return f"gcp-sm://sim/{name}"

    def put(self, name: str, value: str) -> None:
        """Add a version."""
        self.cloud.secrets.setdefault(("sim", name), []).append(value)

    def deny(self, name: str) -> None:
        """Nobody may read it."""
        self.cloud.denied.add(name)

    def stop(self) -> None:
        """Nobody listens."""
        self.cloud.stop()

    def read(self, uri: str = URI, *, previous: bool = False) -> Secret | None:
        """What a new reader reads."""
        found = parse_secret_uri(uri)
        assert found
        return asyncio.run(SecretManager(self.environ).read(found, previous=previous))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A Secret Manager without secrets."""
    with GoogleCloud() as cloud:
        yield Manager(cloud, tmp_path)


class TestSecretManager(SecretReaderSuite):
    """It keeps the suite."""

    name = "Google Secret Manager"
    allow = "roles/secretmanager.secretAccessor"


def test_a_version_by_its_number(manager: Manager) -> None:
    """`/VERSION` reads that one, and the one below it as the reserve."""
    manager.cloud.secrets["sim", "openai"] = ["one", "two", "three"]
    assert manager.read(f"{URI}/2") == Secret("two", "version 2")
    assert manager.read(f"{URI}/2", previous=True) == Secret("one", "version 1")
    assert manager.read(f"{URI}/4") is None


def test_versions_that_are_none_any_more(manager: Manager) -> None:
    """The reserve is the nearest version that is enabled; a few are looked at."""
    manager.cloud.secrets["sim", "openai"] = ["one", "two", "DESTROYED", "DISABLED", "five"]
    assert manager.read(previous=True) == Secret("two", "version 2")
    manager.cloud.secrets["sim", "openai"] = ["one", *["DISABLED"] * 3, "five"]
    assert manager.read(previous=True) is None


def test_a_newest_version_that_is_disabled(manager: Manager) -> None:
    """No older one takes its place unasked: it is said."""
    manager.cloud.secrets["sim", "openai"] = ["one", "DISABLED"]
    with pytest.raises(NoKeyError, match=r"versions/2\] is in DISABLED state; enable it"):
        manager.read()


def test_a_denial_names_who_asked(manager: Manager) -> None:
    """Whom to grant the role is said."""
    manager.cloud.denied.add("openai")
    with pytest.raises(AuthFailed, match=f"the service account {ACCOUNT} may not read it"):
        manager.read()


def test_one_token_for_many_reads(manager: Manager) -> None:
    """A reader asks for a token once, not once for a secret."""
    manager.put("openai", "one")
    uri = parse_secret_uri(URI)
    assert uri

    async def read_ten() -> None:
        reader = SecretManager(manager.environ)
        await asyncio.gather(*(reader.read(uri, previous=False) for _ in range(10)))

    asyncio.run(read_ten())
    assert len(manager.cloud.given) == 1


def test_what_is_no_text(manager: Manager) -> None:
    """A secret of bytes that are no text is none of ours."""
    manager.cloud.secrets["sim", "openai"] = [b"\xff\xfe"]
    with pytest.raises(NoKeyError, match="version 1 is no text"):
        manager.read()


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"payload": {"data": "c2s="}},
        {"name": "projects/7/secrets/n/versions/1", "payload": {"data": "c2s"}},
        {"name": "projects/7/secrets/n/versions/new", "payload": {"data": "c2s="}},
    ],
)
def test_a_reply_that_is_none(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, reply: dict[str, object]
) -> None:
    """What is not built as a secret is not taken for one."""
    monkeypatch.setattr(manager.cloud, "_version", lambda *_: (200, reply))
    with pytest.raises(BadResponse):
        manager.read()
