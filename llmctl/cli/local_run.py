"""Use cases `local install`, `status` and `remove`: the embedded model's files."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from llmctl.cli.context import Context
from llmctl.cli.output import has_colour, is_tty, print_json
from llmctl.providers.local_model_files import (
    GET_MODEL,
    SMOLLM2,
    default_model,
    get_server,
    has_server,
    install,
    is_verified,
    remove,
)

_NEWS = 10.0
"""Seconds between two lines of progress where there is no terminal."""


def run_install(source: Path | None, context: Context) -> int:
    """Fetch the model unless it is there; print its path, or with `context.json` an object."""
    folders = context.folders
    path = default_model(folders)
    context.info(
        f"{SMOLLM2.name} by {SMOLLM2.author}, {_mb(SMOLLM2.size)}, licence {SMOLLM2.licence}"
    )
    with _terminated(), _progress(context) as bar:
        fetched = install(folders, context.environ, source=source, note=context.info, progress=bar)
    context.info("installed, SHA-256 verified" if fetched else "installed already: nothing to do")
    if context.json:
        print_json({"installed": True, "fetched": fetched, **_model(path)})
    else:
        print(path)
    if not has_server():
        context.warn(f"the server that runs it is missing: run `{get_server()}`")
    elif fetched:
        context.info('try it: llmctl ask -p local "Say hello"')
    return 0


def run_status(context: Context) -> int:
    """Print what is there and what is missing."""
    path = default_model(context.folders)
    server = metadata.version("xllamacpp") if has_server() else None
    size, state = _look_at(path)
    if context.json:
        whole = state == "verified"
        said = {"ready": whole and server is not None, "server": server, "verified": whole}
        print_json({**said, "state": state, **_model(path), "bytes": size})
        return 0
    mend = f": run `{GET_MODEL}`" if state in {"missing", "damaged"} else ""
    weighs = "" if size is None else f", {_mb(size)}"
    print(f"server   {f'xllamacpp {server}' if server else f'missing: run `{get_server()}`'}")
    print(f"model    {SMOLLM2.name}, licence {SMOLLM2.licence}")
    print(f"file     {state}{weighs}{mend}")
    print(f"path     {path}")
    return 0


def run_remove(context: Context) -> int:
    """Delete the model and print the bytes freed."""
    folders = context.folders
    path = default_model(folders)
    freed = remove(folders)
    if context.json:
        print_json({"removed": freed > 0, "path": str(path), "bytes_freed": freed})
    elif freed:
        print(f"removed {path}: {_mb(freed)} freed")
    else:
        print(f"nothing to remove: no model at {path}")
    return 0


@contextmanager
def _progress(context: Context) -> Iterator[Callable[[int, int], None]]:
    """Progress of the download on stderr: a bar on a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    if is_tty(sys.stderr) and not context.quiet:
        console = Console(stderr=True, no_color=not has_colour(sys.stderr))
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("fetch", total=None, visible=False)
            yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
        return
    said = context.clock.monotonic()

    def note(done: int, total: int) -> None:
        nonlocal said
        if context.clock.monotonic() - said >= _NEWS:
            said = context.clock.monotonic()
            context.info(f"fetched {_mb(done)} of {_mb(total)}")

    yield note


@contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing half-done stays behind."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _look_at(path: Path) -> tuple[int | None, str]:
    """The file's size in bytes, and its state."""
    try:
        return path.stat().st_size, "verified" if is_verified(path) else "damaged"
    except FileNotFoundError:
        return None, "missing"
    except OSError as error:
        return None, f"unreadable ({error.strerror})"


def _model(path: Path) -> dict[str, Any]:
    return {
        "model": SMOLLM2.name,
        "licence": SMOLLM2.licence,
        "path": str(path),
        "bytes": SMOLLM2.size,
        "sha256": SMOLLM2.sha256,
    }


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
