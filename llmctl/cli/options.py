"""The options that several commands share, each spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="Provider profile to use.", envvar="LLMCTL_PROFILE"),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model, instead of the profile's.", envvar="LLMCTL_MODEL"),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file to read.", envvar="LLMCTL_CONFIG"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable result on stdout.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress or notes on stderr; errors only.")
]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="More detail on stderr; -vv tracebacks.")
]
