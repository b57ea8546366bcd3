"""The key of what is kept on this machine: from the environment, or the keyring."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmctl.config.load import load
from llmctl.errors import NoKeyError
from llmctl.keys import store_key as module
from llmctl.keys.keyring_store import Keyring, KeyringUnavailable
from llmctl.keys.store_key import store_key
from llmctl.redact import redact_known_keys
from tests.configuring import World
from tests.keys.fakes import Memory

SECRET = "0123456789abcdef" * 4


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A keyring that keeps what it is given."""
    backend = Memory()
    monkeypatch.setattr(Keyring, "open", classmethod(lambda _, __: Keyring(backend)))
    return backend


def test_one_secret_many_keys(tmp_path: Path) -> None:
    """A secret of the environment gives 32 bytes for each purpose, always the same; it is cut from
    messages, and nothing is written."""
    environ = {"LLMCTL_STORE_KEY": f"{SECRET}\n", "HOME": str(tmp_path)}
    audit = store_key(environ, "audit")
    assert (len(audit), audit) == (32, store_key({"LLMCTL_STORE_KEY": SECRET}, "audit"))
    assert audit != store_key(environ, "history")
    assert SECRET not in redact_known_keys(f"it is {SECRET}")
    assert not [*tmp_path.iterdir()]


def test_the_environment_comes_first(memory: Memory, tmp_path: Path) -> None:
    """The keyring is not asked where the environment has the secret; an empty variable is none."""
    store_key({"LLMCTL_STORE_KEY": SECRET}, "audit")
    assert memory.reads == 0
    store_key({"LLMCTL_STORE_KEY": " ", "HOME": str(tmp_path)}, "audit")
    assert memory.reads > 0


def test_made_on_first_use(memory: Memory, tmp_path: Path) -> None:
    """Who asks first makes the secret, however many ask at once; it is in the keyring alone."""
    environ = {"HOME": str(tmp_path)}
    with ThreadPoolExecutor(4) as pool:
        keys = set(pool.map(lambda _: store_key(environ, "audit"), range(8)))
    assert len(keys) == 1
    (text,) = memory.kept.values()
    secret = Keyring(memory).read(module._SLOT).primary
    assert secret is not None
    assert len(secret.key) == 64
    assert secret.key in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["keys.lock"]
    assert files[0].read_bytes() == b""


def test_neither_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a secret and a keyring the error names both ways on, and a short secret is none."""

    def refuse(*_: object) -> Keyring:
        raise KeyringUnavailable("there is none on this machine")

    monkeypatch.setattr(Keyring, "open", refuse)
    with pytest.raises(NoKeyError) as caught:
        store_key({}, "audit")
    assert caught.value.exit_code == 4
    assert "set LLMCTL_STORE_KEY" in caught.value.message
    assert "there is none on this machine" in caught.value.message
    with pytest.raises(NoKeyError, match="shorter than 32") as caught:
        store_key({"LLMCTL_STORE_KEY": "hunter2"}, "audit")
    assert "hunter2" not in caught.value.message


def test_commands_do_not_see_it(world: World) -> None:
    """A program that gives a provider's key does not see the secret."""
    world.user("profiles: {openai: {key: {command: pass openai}}}")
    key = load(environ=world.environ, cwd=world.repo).profiles["openai"].key
    assert key is not None
    assert "LLMCTL_STORE_KEY" in key.hidden
