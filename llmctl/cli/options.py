"""The options that several commands share, each spelled once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from llmctl.errors import InputError, UsageError
from llmctl.types import JSON, CacheMode

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
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="More detail on stderr; -vv tracebacks.",
    ),
]
SystemOption = Annotated[
    str | None, typer.Option("--system", "-s", help="System prompt.", show_default=False)
]
SchemaOption = Annotated[
    Path | None,
    typer.Option(
        "--schema",
        metavar="FILE",
        help="JSON Schema that the answer must fit; the provider is asked to keep to it.",
        show_default=False,
    ),
]
TagOption = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY=VALUE", help="Label for the ledger; repeatable."),
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Neither read nor write the cache.")
]
RefreshOption = Annotated[
    bool, typer.Option("--refresh", help="Call the provider, then overwrite the cache.")
]


def read_schema(path: Path | None) -> JSON | None:
    """The schema in a file. Raises `InputError`."""
    if path is None:
        return None
    import orjson

    from llmctl import schemas

    try:
        return schemas.check(orjson.loads(path.read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read the schema {path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InputError(f"the schema {path} is not valid JSON: {error}") from error
    except ValueError as error:
        raise InputError(f"the schema {path} cannot be used: {error}") from error


_USD = re.compile(r"\$?([0-9]{1,12}(\.[0-9]{0,12})?)")


def parse_dollars(flag: str, text: str) -> Decimal:
    """An amount in USD. Raises `UsageError`."""
    match = _USD.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{flag} wants an amount in USD such as 5 or 12.50, not {text!r}")
    return Decimal(match[1])


def cache_mode(*, no_cache: bool, refresh: bool) -> CacheMode:
    """What the two flags mean. Raises `UsageError` when both are given."""
    if no_cache and refresh:
        raise UsageError("--no-cache and --refresh exclude each other; give one of them")
    return "bypass" if no_cache else "refresh" if refresh else "use"


def pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping. Raises `UsageError` for a word without `=`."""
    found: dict[str, str] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} wants KEY=VALUE, not {word!r}")
        found[key] = value
    return found
