"""Size of the house, and the files a row of a batch calls into: `python -m tests.bench.house`.

`llmctl batch` runs 300 rows in this process, with a budget, under a profiler that counts the calls
of each function of `llmctl/`; a file counts when one of its functions is called for every row.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

import llmctl
from llmctl.cli.app import main as run
from tests.bench.command import new_home, write_rows
from tests.bench.loopback import served

_ROWS = 300
_ROOT = Path(llmctl.__file__).parent


def called_files(folder: Path, url: str) -> list[str]:
    """Files of `llmctl/` that are called into for each row, with the calls a row."""
    calls: Counter[CodeType] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[frame.f_code] += 1

    os.environ.update(new_home(folder, url))
    write_rows(folder / "in.jsonl", _ROWS)
    sys.argv = ["llmctl", "batch", str(folder / "in.jsonl"), "--concurrency", "8", "-q"]
    threading.setprofile(count)
    sys.setprofile(count)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        run()
    sys.setprofile(None)
    threading.setprofile(None)
    files: Counter[str] = Counter()
    for code, number in list(calls.items()):  # threads may live that still count
        if number >= _ROWS and code.co_filename.startswith(str(_ROOT)):
            files[str(Path(code.co_filename).relative_to(_ROOT))] += number
    return [f"{name} ({number / _ROWS:.0f})" for name, number in sorted(files.items())]


def lines(folder: Path) -> tuple[int, int]:
    """Lines and files of Python below a folder."""
    texts = [path.read_bytes() for path in folder.rglob("*.py")]
    return sum(text.count(b"\n") for text in texts), len([text for text in texts if text])


def main() -> None:
    """Print the figures."""
    for folder in (_ROOT, Path(__file__).parents[1]):
        count, files = lines(folder)
        print(f"house: {folder.name}/ {count:,} lines in {files} files")
    with tempfile.TemporaryDirectory() as name, served("tests.bench.loopback") as url:
        found = called_files(Path(name), url)
    print(f"house: a row of a batch calls into {len(found)} files, calls a row: {', '.join(found)}")


if __name__ == "__main__":
    main()
