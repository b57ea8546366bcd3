"""Names of keys that a provider was asked for and that may not be stored, in the state folder."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct

from llmctl.keys.key import KeySlot
from llmctl.storage.files import private_folder, write_private

_FILE = "keys_requested.json"


class RequestedKeys(Struct, frozen=True):
    """A name for each slot at most, noted before the key is made and kept until that is the
    primary: what a killed process left at the provider, and nothing else there, is found by it."""

    state: Path

    def name(self, slot: KeySlot) -> str | None:
        """The name noted for the slot; None also when the file is missing or damaged."""
        return self._read().get(slot)

    def note(self, slot: KeySlot, name: str | None) -> None:
        """Note a name; None: there is none any more. Raises `DiskError`."""
        if name == self.name(slot):
            return
        names = {**self._read(), slot: name}
        rows = [{**each._asdict(), "key": one} for each, one in sorted(names.items()) if one]
        text = json.dumps({"version": 1, "requested": rows}, indent=2)
        write_private(private_folder(self.state) / _FILE, text.encode())

    def _read(self) -> dict[KeySlot, str]:
        try:
            rows = json.loads((self.state / _FILE).read_bytes())["requested"]
            return {KeySlot(str(r["name"]), str(r["origin"])): str(r["key"]) for r in rows}
        except (OSError, ValueError, TypeError, KeyError):
            return {}
