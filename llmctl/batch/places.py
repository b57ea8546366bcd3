"""Which files a batch writes, and which it must not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from llmctl.errors import InputError

STDOUT = "-"


def default_output(input: str) -> str:
    """`NAME.out.jsonl` beside INPUT; stdout for stdin."""
    if input == STDOUT:
        return STDOUT
    path = Path(input)
    name = path.name
    for ending in (".jsonl.gz", ".jsonl", ".csv"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
            break
    return str(path.with_name(f"{name}.out.jsonl"))


def errors_path(output: Path) -> Path:
    """Where the rows that failed are written: `.errors.jsonl` in place of `.jsonl`."""
    name = output.name.removesuffix(".jsonl")
    return output.with_name(f"{name}.errors.jsonl")


def check_output(input: str, output: str) -> Path | None:
    """The path to write to, links followed; None for stdout.

    Raises `InputError` for one that cannot serve, or that would destroy the input.
    """
    if output == STDOUT:
        return None
    try:
        path = Path(os.path.realpath(output))
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
        folder = path.parent.is_dir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot write to {output}: {why}") from error
    if stat.S_ISDIR(kind):
        raise InputError(f"the output {output} is a folder: name a file, or - for stdout")
    if not stat.S_ISREG(kind):
        raise InputError(f"the output {output} is not a regular file: use -o - for stdout")
    if path.name.lower().endswith(".gz"):
        raise InputError(f"cannot append to {output}: the output is plain .jsonl")
    if not folder:
        raise InputError(f"there is no folder {path.parent} for the output: create it first")
    for victim in (path, errors_path(path)):
        if input != STDOUT and _same(victim, Path(input)):
            raise InputError(
                f"the run would overwrite its input {input} as {victim.name}: "
                "name another output with -o"
            )
    return path


def _same(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file, whatever they are called."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
