"""Looks for a secret in every form and place it could have leaked to."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote, quote_plus

import psutil

_SHORTEST = 8
_PIECE = 12  # characters of a secret that are as bad as all of them


def forms(secret: str) -> list[bytes]:
    """The secret raw, its first and last 12 characters, the secret in URLs, in JSON, reversed, in
    hex, and in base64 wherever it may begin."""
    raw = secret.encode()
    urls = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    urls |= {re.sub("%..", lambda found: found[0].lower(), url) for url in urls}
    found = {
        raw,
        raw[:_PIECE],
        raw[-_PIECE:],
        raw.hex().encode(),
        raw.hex().upper().encode(),
        raw[::-1],
    }
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
        files = [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
        for path in files:
            self.text(str(path), os.fsencode(path) + b"\n" + path.read_bytes())
        return len(files)


class Watch:
    """While open, looks over and over at the command lines of all processes that have begun since,
    and at the environment of the descendants of processes that run `program`."""

    def __init__(self, scan: Scan, program: str) -> None:
        self._scan = scan
        self._program = program
        self._before = set(psutil.pids())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rounds = 0
        self.children: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._look()
            self.rounds += 1

    def _look(self) -> None:
        lines, parents = dict[int, str](), dict[int, int]()
        for pid in set(psutil.pids()) - self._before:
            with suppress(psutil.Error):  # it has ended
                process = psutil.Process(pid)
                lines[pid], parents[pid] = " ".join(process.cmdline()), process.ppid()
        for pid, line in lines.items():
            self._scan.text(f"cmdline of {pid}", os.fsencode(line))
            if self._program in lines.get(parents[pid], "") and self._program not in line:
                with suppress(psutil.Error):
                    environ = "\n".join(psutil.Process(pid).environ().values())
                    self.children.add(line)
                    self._scan.text(f"environ of {line}", os.fsencode(environ))
