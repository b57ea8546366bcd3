"""Options that several commands share, the values they hold, and the budgets they name."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from msgspec import Struct
from msgspec.structs import replace
from typer import Option

import llmctl
from llmctl.attachments import text_argument
from llmctl.cli.context import Context, exit_with, known_models, known_profiles
from llmctl.cli.output import money, plural
from llmctl.errors import EXIT_CODES, InputError, UsageError
from llmctl.types import JSON, CacheMode

if TYPE_CHECKING:
    from llmctl.config.settings import Budget
    from llmctl.guards.budget import RunBudget
    from llmctl.protocols import BudgetWindow

T = TypeVar("T")

EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<10}{what}" for code, what in EXIT_CODES)
BUDGET_FLAG = "--budget"  # name of a run's own budget in messages
_USD = re.compile(r"\$?([0-9]{1,12}(\.[0-9]{0,12})?)")
_FILES = {"input", "output", "attach", "report"}  # options whose text names a file
_RESERVED = {"model", "messages", "stream", "stream_options"}

_VERBOSE = Option(
    "--verbose", "-v", count=True, show_default=False, help="More notes; -vv: tracebacks."
)
_COMMON = {
    "profile": Option(
        "--profile",
        "-p",
        help="Profile to use.",
        envvar="LLMCTL_PROFILE",
        autocompletion=known_profiles,
    ),
    "model": Option(
        "--model",
        "-m",
        help="Model to use.",
        envvar="LLMCTL_MODEL",
        autocompletion=known_models,
    ),
    "config": Option(help="Configuration file.", envvar="LLMCTL_CONFIG"),
    "env_file": Option(metavar="FILE", help="Variables, such as keys: NAME=VALUE lines."),
    "env_file_shared": Option(
        "--env-file-shared", help="Use --env-file although others can read it."
    ),
    "json": Option("--json", help="Machine-readable result, or error, on stdout."),
    "quiet": Option("--quiet", "-q", help="No progress or notes on stderr."),
    "verbose": _VERBOSE,
}
"""Declarations of the options that a `Context` holds."""

BudgetOption = Annotated[
    str | None,
    Option(metavar="USD", help="The most that may be spent; what may cost more is not sent."),
]
DryRunOption = Annotated[
    bool, Option("--dry-run", help="Show the plan and its price; send nothing.")
]
NoCacheOption = Annotated[bool, Option("--no-cache", help="Neither read nor write the cache.")]
NotifyOption = Annotated[
    list[str] | None,
    Option(metavar="SINK", help="Tell a sink of `alerts:` how it ended; repeatable."),
]
RefreshOption = Annotated[bool, Option("--refresh", help="Call, then overwrite the cache.")]
MaxTokensOption = Annotated[int | None, Option(min=1, metavar="N", help="Longest answer.")]
ParamOption = Annotated[
    list[str] | None,
    Option(metavar="KEY=VALUE", help="Passed to the provider, JSON where it parses."),
]
SchemaOption = Annotated[
    str | None, Option(metavar="FILE|JSON", help="JSON Schema that the answer must fit.")
]
SystemOption = Annotated[
    str | None, Option("--system", "-s", metavar="TEXT|@FILE", help="System prompt.")
]
TemperatureOption = Annotated[
    float | None,
    Option("--temperature", "-t", min=0, metavar="T", help="Randomness, 0 is the least."),
]
SchemaRetriesOption = Annotated[
    int, Option(min=0, metavar="N", help="Times to ask again for an answer that does not fit.")
]
TagOption = Annotated[
    list[str] | None,
    Option(
        metavar="KEY=VALUE",
        help="Label for the ledger; repeatable. data.class=NAME and its kin (llmctl profiles "
        "list -h) say where the data may go.",
    ),
]


def show_version(*, wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        sys.stdout.write(f"llmctl {llmctl.__version__}\n")
        raise typer.Exit


_VERSION = inspect.Parameter(
    "version",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            is_eager=True,
            hidden=True,  # it stands in the help of llmctl itself
            callback=lambda wanted: show_version(wanted=wanted),
        ),
    ],
)


def command_group(name: str, summary: str) -> typer.Typer:
    """A group of commands, such as `llmctl keys`."""
    return typer.Typer(name=name, help=summary, no_args_is_help=True, epilog=EPILOG)


def command(
    app: typer.Typer,
    name: str,
    *common: str,
    options: type[Struct] | None = None,
    **settings: Any,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function of a `Context` and its own options, which returns the exit code.

    The context holds the options named in `common`, --quiet and --verbose. `options`: the own ones
    are the fields of a struct, whose docstring is the help.
    """
    files = ("env_file", "env_file_shared") if "config" in common else ()
    shared = (*common, *files, "quiet", "verbose")

    def register(work: Callable[..., int]) -> Callable[..., int]:
        def run(**given: Any) -> None:
            given.pop("version")
            context = Context(**{key: given.pop(key) for key in shared})
            if given.get("format") == "json":
                context = replace(context, json=True)

            def checked() -> int:
                _refuse_other_encodings({**given, "profile": context.profile})
                own = {"options": options(**given)} if options else given
                return work(context.with_env_file(), **own)

            exit_with(checked, context)

        own = [*inspect.signature(options or work, eval_str=True).parameters.values()]
        parameters = own if options else own[1:]
        fields = inspect.signature(Context).parameters
        for key in shared:
            kind: Any = fields[key].annotation
            parameters.append(fields[key].replace(annotation=Annotated[kind, _COMMON[key]]))
        parameters.append(_VERSION)
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        run.__dict__["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__doc__ = (options or work).__doc__
        app.command(name, epilog=EPILOG, **settings)(run)
        return work

    return register


def _refuse_other_encodings(given: Mapping[str, Any]) -> None:
    """Raises `UsageError` for text that is not UTF-8; names of files may be anything."""
    for name, value in given.items():
        words = value if isinstance(value, list) else [value]
        for word in words if name not in _FILES else ():
            if isinstance(word, str) and not word.isascii() and re.search("[\ud800-\udfff]", word):
                raise UsageError(
                    f"{name.replace('_', '-')} is not UTF-8 text: {word!a}; convert it, for "
                    "example with `iconv -t UTF-8`"
                )


def read_schema(given: str | None) -> JSON | None:
    """The JSON Schema in a file, or given itself: then it begins with a brace. Raises
    `InputError`."""
    if given is None:
        return None
    import orjson

    from llmctl import schemas

    itself = given.lstrip().startswith("{")
    what = "--schema" if itself else f"the schema {given}"
    try:
        return schemas.check(orjson.loads(given if itself else Path(given).read_bytes()))
    except OSError as error:
        raise InputError(f"cannot read {what}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InputError(f"{what} is not valid JSON: {error}") from error
    except ValueError as error:
        raise InputError(f"{what} is not valid: {error}") from error


def system_prompt(given: str | None) -> str | None:
    """The system prompt of the command line, from its file where it is @FILE. Raises
    `InputError`."""
    return None if given is None else text_argument("--system", "system prompt", given)[1]


def parsed(flag: str, wanted: str, word: str | None, parse: Callable[[str], T | None]) -> T | None:
    """The value of a flag, None when it was not given. Raises `UsageError` when it makes none."""
    value = None if word is None else parse(word.strip())
    if word is not None and value is None:
        raise UsageError(f"{flag} wants {wanted}, not {word!r}")
    return value


def parse_dollars(flag: str, word: str | None) -> Decimal | None:
    """US dollars of a flag, None when it was not given. Raises `UsageError`."""

    def parse(text: str) -> Decimal | None:
        match = _USD.fullmatch(text)
        return Decimal(match[1]) if match else None

    return parsed(flag, "an amount in USD such as 5 or 12.50", word, parse)


def cache_mode(*, no_cache: bool, refresh: bool) -> CacheMode:
    """Cache mode of the two flags. Raises `UsageError` when both are given."""
    if no_cache and refresh:
        raise UsageError("--no-cache and --refresh exclude each other; give one of them")
    return "bypass" if no_cache else "refresh" if refresh else "use"


def pairs(flag: str, given: Sequence[str] | None) -> dict[str, str]:
    """`KEY=VALUE` words as a mapping. Raises `UsageError` for a word without `=`."""
    found: dict[str, str] = {}
    for word in given or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} wants KEY=VALUE, not {word!r}")
        found[key] = value
    return found


def params(given: Sequence[str] | None) -> dict[str, Any]:
    """Provider parameters of `--param`: JSON where it parses, text otherwise.

    Raises `UsageError` for what llmctl itself sets.
    """
    import orjson

    found: dict[str, Any] = {}
    for key, value in pairs("--param", given).items():
        if key in _RESERVED:
            raise UsageError(f"--param {key} is llmctl's own to set; see `llmctl ask --help`")
        try:
            found[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[key] = value
    return found


def budget_windows(
    own: Decimal | None, budgets: Sequence[Budget], run_id: str, user: str
) -> Callable[[float], list[BudgetWindow]]:
    """Budget windows as a function of the moment (Unix seconds): `own` US dollars for the run,
    and the budgets that calls of this user count towards, in their UTC day, week or month."""
    from llmctl.config.settings import Budget
    from llmctl.reports.report import budget_window, windows_at

    run = [] if own is None else [budget_window(Budget(BUDGET_FLAG, own, "month"), run_id)]
    mine = [budget for budget in budgets if budget.match.get("user", user) == user]

    return lambda now: [*run, *windows_at(mine, now)]


def budget_tags(budgets: Iterable[Budget]) -> list[str]:
    """The names of the tags that budgets match by. A row's own tags add to those of its profile: it
    does not leave such a budget."""
    return [name.removeprefix("tag:") for budget in budgets for name in budget.match]


async def tightest_budget(run: RunBudget) -> tuple[Decimal, Decimal] | None:
    """Dollars spent and limit of the budget with the smallest share left; None without any."""
    found = [(usage.spent, window.limit) for window, usage in await run.usages()]
    return max(found, key=lambda each: each[0] / each[1] if each[1] else Decimal(1), default=None)


async def budget_lines(run: RunBudget) -> list[str]:
    """Usage of each budget, `budget: $0.99 of $1.00 spent`, and what was billed beyond holds."""
    found: list[str] = []
    for window, usage in await run.usages():
        name = "budget" if window.name == BUDGET_FLAG else f"budget {window.name}"
        over = usage.spent - window.limit
        beyond = f", {money(over, exact=True)} above it" if over > 0 else ""
        held = f", {money(usage.held, exact=True)} held for calls under way" if usage.held else ""
        spent, limit = money(usage.spent, exact=True), money(window.limit, exact=True)
        found.append(f"{name}: {spent} of {limit} spent{beyond}{held}")
    if found and run.limited:
        found.append(
            f"{plural(run.limited, 'call')} without max_tokens got one for the budget: the "
            "profile's default_max_tokens, or what was left"
        )
    shot = run.overshoot
    if found and shot.calls:
        found.append(
            f"the provider billed {money(shot.amount, exact=True)} more than the worst case of "
            f"{plural(shot.calls, 'call')}: it did not keep to max_tokens, or counts other tokens"
        )
    return found
