"""Output of commands: text safe for a terminal, amounts, JSON, and tables drawn by rich."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from llmctl.errors import Cancelled, DiskError, LlmctlError
from llmctl.redact import printable, printable_json, redact_known_keys
from llmctl.reports import amounts

if TYPE_CHECKING:
    import asyncio

    from rich.console import RenderableType
    from rich.status import Status

    from llmctl.types import CallRecord

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_OPEN_SEQUENCE = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*\x1b?"
    r"|\x1b[ -/]*)\Z"
)
_NEXT_BLOCK = re.compile(r"\n\n+(?=[^\s*+>|\d-])")
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_LONGEST_SEQUENCE = 4096

money, percent, plural = amounts.money, amounts.percent, amounts.plural


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


def usage_line(record: CallRecord) -> str:
    """Closing line of a call: target, tokens, dollars, time, cache state."""
    from llmctl.types import Answer

    target, usage = record.request.target, record.usage
    about = "~" if usage.estimated else ""
    read, wrote = f"{about}{usage.input:,} in", f"{about}{usage.output:,} out"
    tokens = f"{read} ({usage.cached_input:,} cached) + {wrote}"
    cost = money(record.row_cost) if record.row_cost is None else about + money(record.row_cost)
    result = record.result
    ended = "interrupted" if isinstance(result, Cancelled) else "failed"
    cache = result.cache if isinstance(result, Answer) else ended
    where = printable(f"{target.profile}/{target.model}")
    words = [where, tokens, cost, duration(record.elapsed), cache]
    if record.request.masked and record.request.masked.counts:
        words.append(f"identifiers: {record.request.masked.said}")
    return " · ".join(words)


def safe(text: str) -> str:
    """Text that may quote a provider, a file or a key, as a person may see it."""
    return printable(redact_known_keys(text))


def say(text: str, *, end: str = "\n", dim: bool = False) -> None:
    """Print a note on stderr, safe, and dim where stderr has colours."""
    text = safe(text)
    sys.stderr.write((f"\x1b[2m{text}\x1b[0m" if dim and has_colour(sys.stderr) else text) + end)
    sys.stderr.flush()


def write_stdout(text: str, *, coloured: bool = False) -> None:
    """Write to stdout and flush: safe on a terminal, byte for byte as UTF-8 elsewhere.

    `coloured`: the text has colours of ours. Raises `BrokenPipeError`, `DiskError`.
    """
    if is_tty(sys.stdout):
        pieces = _COLOUR.split(text) if coloured else [text]
        text = "".join(p if coloured and _COLOUR.fullmatch(p) else printable(p) for p in pieces)
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


def error_json(error: LlmctlError) -> str:
    """What a script reads of a command that ended with an error: `error` and `exit_code`."""
    said = {**error.fields, "message": safe(error.message)}
    return json_text({"error": said, "exit_code": error.exit_code}, compact=True)


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print JSON on stdout; see `json_text`."""
    write_json(json_text(value, compact=compact))


def write_json(text: str) -> None:
    """Write JSON to stdout: control characters as escapes on a terminal."""
    write_stdout(printable_json(text) if is_tty(sys.stdout) else text)


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
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Collection[str] = (),
    whole: Collection[str] = (),
) -> None:
    """Print a table, a row a line; `right` names the columns aligned to the right, `whole` those
    that people copy.

    On a terminal the widest of the others go on below; into a pipe a row is one line.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        side: Any = "right" if name in right else "left"
        table.add_column(name, justify=side, no_wrap=name in whole)
    for row in rows:
        words = (" ".join(printable(cell).split()) for cell in row)
        table.add_row(*(Text(word, overflow="fold") for word in words))
    write_stdout(drawn(table, width=None if is_tty(sys.stdout) else 10_000), coloured=True)


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
        kind = os.fstat(1).st_mode
        self._tty = is_tty(sys.stdout)
        self._pipe = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)
        self._ends_lines = self._tty or stat.S_ISREG(kind)
        self._safe = SafeText()
        self._markdown: str | None = "" if markdown and self._tty else None
        self._rendered = False
        self._last = "\n"
        self.closed = False
        self.failure: DiskError | None = None

    def __call__(self, text: str) -> None:
        """Print the next piece. Raises `Cancelled` when nobody reads any more."""
        if self._markdown is not None:
            self._markdown += text
            if cut := _end_of_blocks(self._markdown):
                self._render(self._markdown[:cut])
                self._markdown = self._markdown[cut:]
            return
        self.write(self._safe(text) if self._tty else text)

    def end(self) -> None:
        """Finish the answer: it ends with a line feed on a terminal and in a file."""
        if self._markdown:
            self._render(self._markdown)
            self._markdown = ""
        elif self._ends_lines and self._last != "\n":
            self.write("\n")

    def fresh_line(self) -> None:
        """Let stderr begin a line of its own where the answer may show in the same place."""
        if self._last != "\n" and self._pipe and (is_tty(sys.stderr) or os.path.sameopenfile(1, 2)):
            self._last = "\n"
            say("")

    def write_json(self, text: str) -> None:
        """Print a line of JSON. Raises `Cancelled` when stdout takes no more."""
        self.write(printable_json(text) if self._tty else text)

    def write(self, text: str, *, coloured: bool = False) -> None:
        """Print `text` as it is. Raises `Cancelled` when stdout takes no more."""
        if self.closed or not text:
            return
        self._last = text[-1]
        try:
            write_stdout(text, coloured=coloured)
        except (BrokenPipeError, DiskError) as error:
            self.closed = True
            self.failure = error if isinstance(error, DiskError) else None
            raise Cancelled("stdout was closed before the answer ended") from error

    def _render(self, text: str) -> None:
        from rich.markdown import Markdown

        shown = drawn(Markdown(printable(text), hyperlinks=False))
        self.write(f"\n{shown}" if self._rendered else shown, coloured=True)
        self._rendered = True


def _end_of_blocks(text: str) -> int:
    """Where the last block of Markdown begins that may still grow; 0 when it is the first.

    A list stays with what follows it, for it goes on after blank lines; code with its fences.
    """
    for found in reversed([*_NEXT_BLOCK.finditer(text)]):
        if len(_FENCE.findall(text, 0, found.end())) % 2 == 0:
            return found.end()
    return 0


class Waiting:
    """A spinner on stderr until `stop`, from 0.3 s on; nothing when `quiet` or off a terminal."""

    def __init__(self, text: str, *, quiet: bool) -> None:
        self._text = safe(text)
        self._status: Status | None = None
        self._timer: asyncio.TimerHandle | None = None
        if not quiet and is_tty(sys.stderr) and os.environ.get("TERM") != "dumb":
            import asyncio

            self._timer = asyncio.get_running_loop().call_later(0.3, self._start)

    def _start(self) -> None:
        from rich.console import Console
        from rich.text import Text

        console = Console(stderr=True, no_color=not has_colour(sys.stderr))
        self._status = console.status(Text(self._text, "dim"))
        self._status.start()

    def stop(self) -> None:
        """End it; the line it stood on is empty again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._status is not None:
            self._status.stop()
            self._status = None
