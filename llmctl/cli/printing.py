"""How an answer reaches stdout."""

from __future__ import annotations

import os
import sys

from llmctl.cli.render import Safe, colours, is_tty, write_stdout
from llmctl.errors import Cancelled, DiskError


class Printer:
    """Prints the pieces of one answer.

    On a terminal control and escape sequences are stripped, and the answer ends with a newline;
    into a pipe it goes byte for byte. `closed` tells whether the reader of stdout has gone,
    `failure` why stdout takes no more for another reason.
    """

    def __init__(self, *, markdown: bool) -> None:
        self._tty = is_tty(sys.stdout)
        self._safe = Safe()
        self._markdown: list[str] | None = [] if markdown and self._tty else None
        self._last = "\n"
        self.closed = False
        self.failure: DiskError | None = None

    def __call__(self, text: str) -> None:
        """The next piece. Raises `Cancelled` when nobody reads any more."""
        if self._markdown is not None:
            self._markdown.append(text)
            return
        text = self._safe(text) if self._tty else text
        if not text:
            return
        self._last = text[-1]
        self.write(text)

    def end(self) -> None:
        """After the last piece."""
        if self._markdown is not None:
            text = "".join(self._markdown)
            self._markdown = []
            if text:
                _render(text)
        elif self._tty and self._last != "\n":
            self._last = "\n"
            self.write("\n")

    def write(self, text: str) -> None:
        """`text` as it is. Raises `Cancelled` when stdout takes no more."""
        if self.closed:
            return
        try:
            write_stdout(text)
        except OSError as error:
            self.closed = True
            if not isinstance(error, BrokenPipeError):
                self.failure = DiskError(f"stdout cannot be written ({error.strerror})")
            # Python flushes stdout once more when it ends, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Cancelled("stdout was closed before the answer ended") from error


def _render(text: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    from llmctl.cli.render import safe

    Console(no_color=not colours(sys.stdout)).print(Markdown(safe(text), hyperlinks=False))
