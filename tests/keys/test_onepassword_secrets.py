"""Secrets of 1Password: what is asked of its command line, `op`, which a program of ours plays."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from llmctl.errors import NoKeyError, SetupError
from tests.conformance.secret_reader import NEW, Manager, SecretReaderSuite, find

OP = """#!{python}
import json, os, sys
folder = os.path.dirname(__file__)
kept = json.load(open(folder + "/kept"))
json.dump([sys.argv[1:], dict(os.environ)], open(folder + "/seen", "w"))
*words, reference = sys.argv[1:]
assert words == ["read", "--no-newline"], words
if os.environ.get("OP_SERVICE_ACCOUNT_TOKEN") != "ops_token-4711":
    sys.exit("[ERROR] 2026/11/29 12:00:00 You are not currently signed in.")
value = kept.get(reference)
if value is None:
    sys.exit("[ERROR] 2026/11/29 12:00:00 could not read secret " + reference + ": it isn't there.")
sys.stdout.write(value)
"""


class OnePasswordManager:
    """A folder with a program `op`, and what it knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "op"
        program.write_text(OP.format(python=sys.executable))
        program.chmod(0o700)
        self._kept: dict[str, str] = {}
        self._write()
        self.environ = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "OP_SERVICE_ACCOUNT_TOKEN": "ops_token-4711",
            "OPENAI_API_KEY": "sk-other",
            "VAULT_SECRET_ID": "other",
            "LANG": "C",
        }

    def _write(self) -> None:
        (self.folder / "kept").write_text(json.dumps(self._kept))

    def uri(self, name: str) -> str:
        """A reference, which may hold spaces."""
        return f"op://Team Vault/{name}/credential"

    def put(self, name: str, value: str) -> None:
        """Store it."""
        self._kept[self.uri(name)] = value
        self._write()

    def deny(self, name: str) -> None:
        """`op` says alike of what is not there and of what may not be read."""
        del self._kept[self.uri(name)]
        self._write()

    def stop(self) -> None:
        """Nobody is asked any more: its login is gone."""
        self.environ["OP_SERVICE_ACCOUNT_TOKEN"] = ""


@pytest.fixture
def manager(tmp_path: Path) -> OnePasswordManager:
    """A program that plays `op`."""
    return OnePasswordManager(tmp_path)


class TestOnePassword(SecretReaderSuite):
    """The suite. Why `op` failed is known from its words alone, so it is not run twice."""

    name = "1Password"
    allow = "OP_SERVICE_ACCOUNT_TOKEN, or the login of `op`, may read that vault"
    versions = False

    def test_a_manager_that_is_down(self, manager: Manager) -> None:
        """What `op` says is said, with the manager and the address."""
        manager.stop()
        with pytest.raises(
            NoKeyError, match=r"^1Password, op://Team Vault/down/cred.*not currently"
        ):
            find(manager, "down")


def test_what_op_sees(manager: OnePasswordManager) -> None:
    """The reference is its last argument; its own token comes by the environment, and no other
    secret does."""
    manager.put("seen", NEW)
    assert find(manager, "seen").value == NEW
    arguments, environ = json.loads((manager.folder / "seen").read_text())
    assert arguments == ["read", "--no-newline", "op://Team Vault/seen/credential"]
    assert environ["OP_SERVICE_ACCOUNT_TOKEN"] == "ops_token-4711"
    assert environ["LANG"] == "C"
    assert not {"OPENAI_API_KEY", "VAULT_SECRET_ID"} & environ.keys()


def test_op_is_not_installed(manager: OnePasswordManager) -> None:
    """One sentence says where it is to be had."""
    manager.environ["PATH"] = str(manager.folder / "empty")
    with pytest.raises(SetupError, match=r"`op`, is not installed: see https://developer.1passw"):
        find(manager, "any")
