"""Output of commands: text safe for a terminal, amounts, JSON, and tables drawn by rich."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

from llmctl.errors import Cancelled, DiskError
from llmctl.redact import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmctl.types import CallRecord

_MICRO = Decimal("0.000001")
_OPEN_SEQUENCE = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*\x1b?"
    r"|\x1b[ -/]*)\Z"
)
_LONGEST_SEQUENCE = 4096


def is_tty(stream: TextIO | None) -> bool:
    """True when `stream` is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def has_colour(stream: TextIO) -> bool:
    """True when `stream` may be coloured: a terminal, or `CLICOLOR_FORCE`; never `NO_COLOR`."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in {"", "0"}:
        return True
    return is_tty(stream) and os.environ.get("TERM") != "dumb"


def money(amount: Decimal | None, unknown: int = 0, *, exact: bool = False) -> str:
    """US dollars: `$0.00021`, `$12.50`, `$?` when unknown, `$3.10+?` with `unknown` calls more.

    Two significant digits, at least cents; with `exact` all digits up to the microdollar.
    """
    if amount is None:
        return "$?"
    if exact:
        amount = amount.quantize(_MICRO).normalize()
        digits = max(2, -int(amount.as_tuple().exponent))
    else:
        digits = max(2, 1 - amount.adjusted())
    shown = f"${amount:,.{digits}f}" if amount or exact else "$0"
    return shown + ("+?" if unknown else "")


def duration(seconds: float) -> str:
    """`0.9 s`, `12 s`, `3 min 5 s`, `2 h 14 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def age(seconds: float) -> str:
    """`3 d`, `5 h`, `2 min`, `9 s`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def file_size(count: int) -> str:
    """`812 bytes`, `3.4 kB`, `1.2 GB`."""
    from rich.filesize import decimal

    return decimal(count)


def percent(share: float | None) -> str:
    """`1.2%`; a dash for none."""
    return "-" if share is None else f"{share:.1%}"


def plural(count: int, noun: str) -> str:
    """`1 call`, `1,200 calls`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def usage_line(record: CallRecord) -> str:
    """Closing line of a call: target, tokens, dollars, time, cache state."""
    from llmctl.types import Answer

    target, usage = record.request.target, record.usage
    about = "~" if usage.estimated else ""
    tokens = f"{about}{usage.input} in ({usage.cached_input} cached) + {about}{usage.output} out"
    cache = record.result.cache if isinstance(record.result, Answer) else "failed"
    where = printable(f"{target.profile}/{target.model}")
    return " · ".join((where, tokens, money(record.cost), duration(record.elapsed), cache))


def check_stream(fd: int, name: str) -> None:
    """Raise `DiskError` where nothing can be written to a standard stream."""
    if sys.platform != "win32":
        import fcntl

        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise DiskError(f"{name} is closed, nothing was sent: redirect it to a file or a pipe")


def write_stdout(text: str) -> None:
    """Write to stdout as UTF-8, byte for byte, and flush. Raises `BrokenPipeError`."""
    out = sys.stdout.buffer
    out.write(text.encode("utf-8", "replace"))
    out.flush()


def print_lines(*lines: str) -> None:
    """Print lines on stdout, safe for a terminal."""
    write_stdout("".join(f"{printable(line)}\n" for line in lines))


def json_text(value: Any, *, compact: bool = False) -> str:
    """JSON with a newline: indented, or one line when `compact`. A `Decimal` becomes a float."""
    import orjson

    option = 0 if compact else orjson.OPT_INDENT_2
    return orjson.dumps(value, option=option, default=float).decode() + "\n"


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print JSON on stdout; see `json_text`."""
    write_stdout(json_text(value, compact=compact))


def drawn(*parts: RenderableType, width: int | None = None) -> str:
    """What rich makes of the parts for stdout, without blanks at the ends of lines.

    None: as wide as the terminal, 80 columns in a pipe.
    """
    import shutil
    from io import StringIO

    from rich.console import Console

    colour, shown = has_colour(sys.stdout), StringIO()
    canvas = Console(
        file=shown,
        width=width or shutil.get_terminal_size((80, 24)).columns,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        canvas.print(part)
    return "".join(f"{line.rstrip()}\n" for line in shown.getvalue().splitlines())


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()
) -> None:
    """Print a table, a row a line; `right` names the columns aligned to the right.

    A terminal cuts the widest columns to its width; into a pipe nothing is cut.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        side: Any = "right" if name in right else "left"
        table.add_column(name, justify=side)
    for row in rows:
        # The texts do not wrap, but the columns may: only then rich cuts the widest first.
        words = (" ".join(printable(cell).split()) for cell in row)
        table.add_row(*(Text(word, no_wrap=True, overflow="ellipsis") for word in words))
    write_stdout(drawn(table, width=None if is_tty(sys.stdout) else 10_000))


class SafeText:
    """Strips control and escape sequences, also those that begin in one piece of text and end
    in the next."""

    def __init__(self) -> None:
        self._held = ""

    def __call__(self, text: str) -> str:
        """What of `text`, and of what was kept back, may be shown now."""
        text, self._held = self._held + text, ""
        match = _OPEN_SEQUENCE.search(text)
        if match and len(text) - match.start() < _LONGEST_SEQUENCE:
            text, self._held = text[: match.start()], match[0]
        return printable(text)


class AnswerPrinter:
    """Prints one answer, piece by piece: safe on a terminal, byte for byte into a pipe.

    `closed`: the reader of stdout has gone; `failure`: why stdout takes no more otherwise.
    """

    def __init__(self, *, markdown: bool) -> None:
        self._tty = is_tty(sys.stdout)
        self._safe = SafeText()
        self._markdown: list[str] | None = [] if markdown and self._tty else None
        self._last = "\n"
        self.closed = False
        self.failure: DiskError | None = None

    def __call__(self, text: str) -> None:
        """Print the next piece. Raises `Cancelled` when nobody reads any more."""
        if self._markdown is not None:
            self._markdown.append(text)
            return
        text = self._safe(text) if self._tty else text
        if text:
            self._last = text[-1]
            self.write(text)

    def end(self) -> None:
        """Finish the answer."""
        if self._markdown:
            from rich.console import Console
            from rich.markdown import Markdown

            text, self._markdown = printable("".join(self._markdown)), []
            plain = not has_colour(sys.stdout)
            Console(no_color=plain).print(Markdown(text, hyperlinks=False))
        elif self._tty and self._last != "\n":
            self._last = "\n"
            self.write("\n")

    def write(self, text: str) -> None:
        """Print `text` as it is. Raises `Cancelled` when stdout takes no more."""
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
