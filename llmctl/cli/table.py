"""A table on stdout: for a person at a terminal, or plain for a pipe."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from llmctl.cli.render import colours, is_tty


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line a row. On a terminal the widest columns are cut to fit it; into a pipe nothing
    is cut."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    if is_tty(sys.stdout):
        room = max(40, shutil.get_terminal_size().columns) - 2 * (len(head) - 1)
        while sum(widths) > room:
            widths[widths.index(max(widths))] -= 1
    bold = ("\x1b[1m", "\x1b[0m") if colours(sys.stdout) else ("", "")
    for row in (head, *rows):
        cells = (
            (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        line = "  ".join(cells).rstrip()
        print(f"{bold[0]}{line}{bold[1]}" if row is head else line)
