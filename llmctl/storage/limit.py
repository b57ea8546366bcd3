"""The cache kept below a size, by pruning it beside the run that fills it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from llmctl.errors import LlmctlError
from llmctl.storage.choose import What
from llmctl.storage.prune import prune

_ROOM = 0.9
"""Share of the limit that pruning leaves: otherwise it would have to begin again at once."""


class SizeLimit:
    """Keeps the cache at `path` below `most` bytes: the answers used least recently go.

    It is looked at as it grows and when the run ends, and pruned in a thread of its own, so it
    may be larger for as long as that takes. `warn` is told, once, when that fails.
    """

    def __init__(self, path: Path, most: int, warn: Callable[[str], None]) -> None:
        self._path = path
        self._most = most
        self._warn = warn
        self._thread: threading.Thread | None = None
        self._failed = False

    def grown(self, size: int) -> None:
        """The file has `size` bytes now."""
        if size <= self._most or self._failed or (self._thread and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._prune, name="llmctl-prune", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The run has ended, and has closed the file. Returns when it is small enough."""
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self.grown(self._path.stat().st_size)
        if self._thread is not None:
            self._thread.join()

    def _prune(self) -> None:
        try:
            prune(self._path, What(max_bytes=round(self._most * _ROOM)))
        except LlmctlError as error:
            self._failed = True
            self._warn(f"the cache could not be made smaller: {error.message}")
