"""Trust in a project's configuration: the user's word for one file as it is, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from llmctl.config.settings import Folders
from llmctl.config.yaml_nodes import Node
from llmctl.errors import ConfigError
from llmctl.storage.files import private_folder, write_private

_FILE = "trust.json"


class Untrusted(ConfigError):
    """A project's file, `path`, says what `needs` the user's trust: `asks`, one place each."""

    def __init__(self, needs: tuple[Node, ...], path: Path, raw: bytes, own: Path) -> None:
        what = "needs your trust in a project's configuration; read the file, then run "
        more = f"`llmctl profiles trust`, or put it into your own file, {own}"
        super().__init__(str(needs[0].error(what + more)))
        self.path = path
        self.raw = raw
        self.asks = places(needs)


def places(needs: tuple[Node, ...]) -> tuple[str, ...]:
    """What needs trust, one `file:line: key` each."""
    return tuple(f"{node.where}: {node.path}" for node in needs)


def is_trusted(folders: Folders, path: Path, raw: bytes) -> bool:
    """Whether the user trusts this file with exactly these bytes."""
    return _read(folders).get(os.path.realpath(path)) == hashlib.sha256(raw).hexdigest()


def record(folders: Folders, path: Path, raw: bytes) -> str:
    """Trust the file as it is; its SHA-256 in hex. Raises `DiskError`."""
    digest = hashlib.sha256(raw).hexdigest()
    _write(folders, {**_read(folders), os.path.realpath(path): digest})
    return digest


def forget(folders: Folders, path: Path) -> bool:
    """Trust the file no more; whether it was trusted. Raises `DiskError`."""
    known = _read(folders)
    if known.pop(os.path.realpath(path), None) is None:
        return False
    _write(folders, known)
    return True


def _read(folders: Folders) -> dict[str, str]:
    """The record: digests by path. One that is missing or damaged trusts nothing."""
    try:
        return dict(json.loads((folders.state / _FILE).read_bytes())["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write(folders: Folders, files: dict[str, str]) -> None:
    private_folder(folders.state)
    text = json.dumps({"version": 1, "files": files}, indent=2)
    write_private(folders.state / _FILE, text.encode())
