"""Looks for a secret in every form and place it could have leaked to."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, quote_plus

_SHORTEST = 8


def forms(secret: str) -> list[bytes]:
    """The secret raw, in URLs, in JSON, reversed, in hex, and in base64 wherever it may begin."""
    raw = secret.encode()
    urls = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    urls |= {re.sub("%..", lambda found: found[0].lower(), url) for url in urls}
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), raw[::-1]}
    found |= {url.encode() for url in urls}
    found |= {json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            first, end = (offset * 8 + 5) // 6, (offset + len(raw)) * 8 // 6
            found.add(encode(b"\0" * offset + raw)[first:end])
    assert all(len(form) >= _SHORTEST for form in found)
    return sorted(found)


class Scan:
    """`hits` collects what was found, as `place: form`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._forms = [form for secret in secrets for form in forms(secret)]
        self.hits: list[str] = []

    def text(self, place: str, content: bytes) -> None:
        """Look into some bytes."""
        self.hits += [f"{place}: {form!r}" for form in self._forms if form in content]

    def folder(self, top: Path) -> int:
        """Look into every file below, names included; how many there were."""
        count = 0
        for path in _files(top):
            count += 1
            self.text(str(path), os.fsencode(path) + b"\n" + path.read_bytes())
        return count


def _files(top: Path) -> Iterator[Path]:
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


class Watch:
    """While open, looks over and over at the command lines of all processes, and at the
    environment of the descendants of processes that run `program`."""

    def __init__(self, scan: Scan, program: str) -> None:
        self._scan = scan
        self._program = program.encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rounds = 0
        self.children: set[bytes] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._look()
            self.rounds += 1

    def _look(self) -> None:
        parents: dict[int, int] = {}
        lines: dict[int, bytes] = {}
        for entry in (path.name for path in Path("/proc").iterdir()):
            if not entry.isdigit():
                continue
            try:
                line = Path("/proc", entry, "cmdline").read_bytes()
                state = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            self._scan.text(f"/proc/{entry}/cmdline", line)
            lines[int(entry)], parents[int(entry)] = line, int(state[1])
        for pid, line in lines.items():
            above = parents.get(pid)
            if above in lines and self._program in lines[above] and self._program not in line:
                try:
                    environ = Path(f"/proc/{pid}/environ").read_bytes()
                except OSError:
                    continue
                self.children.add(line)
                self._scan.text(f"/proc/{pid}/environ of {line!r}", environ)
