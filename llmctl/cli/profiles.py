"""`llmctl profiles`: what is configured, from where, and a file to begin with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from llmctl import config as configuration
from llmctl import keys
from llmctl.cli.context import Context, finish
from llmctl.cli.options import ConfigOption, JsonOption, QuietOption, VerboseOption
from llmctl.cli.render import colours, is_tty
from llmctl.errors import NoKeyError
from llmctl.providers.registry import LOCAL
from llmctl.settings import Profile, Settings

app = typer.Typer(
    help="List, show and begin the configuration of providers.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """`name`: the profile to show."""

    name: str


@dataclass(frozen=True, slots=True)
class InitOptions:
    """`force`: overwrite a file that exists."""

    force: bool = False


@app.command("list")
def list_command(
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List all profiles; * marks the one used without -p.

    The built-in profiles are listed too. KEY says whether the variable that should hold a
    profile's key is set; nothing is sent.
    """
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)
    finish(lambda: run_list(context), context)


@app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="Profile to show.", show_default=False)],
    *,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Show one profile, complete.

    It is printed as a configuration file would say it, with everything it inherits from its
    provider and what LLMCTL_ variables change; first, where it comes from and whether its key
    is found (the key itself is never shown).
    """
    context = Context(config=config, json=json, quiet=quiet, verbose=verbose)
    finish(lambda: run_show(ShowOptions(name), context), context)


@app.command("init")
def init_command(
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file when it exists.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Write a configuration file to begin with.

    Every line of it is a comment until you change it. Prints where it is.
    """
    context = Context(quiet=quiet, verbose=verbose)
    finish(lambda: run_init(InitOptions(force), context), context)


def run_list(context: Context) -> int:
    """Print all profiles as a table, or with `context.json` as a JSON array."""
    settings = _load(context)
    default, why = _default(settings, context)
    rows = [_row(profile, context, default) for profile in settings.profiles.values()]
    if context.json:
        _print_json(rows)
        return 0
    table = [
        ("*" if row["default"] else "", row["name"], row["provider"], row["model"],
         _where(settings.profiles[row["name"]]), _key_words(row["key"]))
        for row in rows
    ]  # fmt: skip
    _print_table(("", "NAME", "PROVIDER", "MODEL", "WHERE", "KEY"), table)
    context.say(f"* used without -p: {why}")
    return 0


def run_show(options: ShowOptions, context: Context) -> int:
    """Print one profile, complete, as YAML or with `context.json` as JSON; never its key."""
    chosen = configuration.Overrides(profile=options.name)
    settings = _load(context, chosen)
    profile = configuration.choose(settings, options.name, context.environ, lambda: True)
    key = _key(profile, context)
    if context.json:
        said = configuration.as_json(profile)
        _print_json({"name": profile.name, "source": profile.source, **said, "key": key})
        return 0
    print(f"# from: {profile.source}")
    print(f"# key: {_key_words(key)}")
    print(configuration.as_yaml(profile), end="")
    return 0


def run_init(options: InitOptions, context: Context) -> int:
    """Write the starter file into the user's configuration folder and print its path."""
    folders = configuration.find_folders(context.environ, context.cwd())
    path = folders.config / configuration.CONFIG_FILE
    configuration.write_starter(path, force=options.force)
    print(path)
    context.say("all of it is commented out; edit it, then see `llmctl profiles list`")
    return 0


def _load(context: Context, overrides: configuration.Overrides | None = None) -> Settings:
    return configuration.load(
        environ=context.environ,
        cwd=context.cwd(),
        config=context.config,
        overrides=overrides or configuration.Overrides(),
    )


def _default(settings: Settings, context: Context) -> tuple[str | None, str]:
    """The profile that `ask` would use now, and why."""
    named = context.environ.get("LLMCTL_PROFILE") or None
    if named is not None and named not in settings.profiles:
        return None, f"none, for LLMCTL_PROFILE names {named!r}, which there is not"
    if named is not None:
        return named, f"{named}, for LLMCTL_PROFILE names it"
    from llmctl.providers.embedded_model import installed

    try:
        profile = configuration.choose(
            settings, None, context.environ, lambda: installed(settings.folders)
        )
    except NoKeyError:
        return None, "none, for no key is set and no local model is installed"
    return profile.name, f"{profile.name}, for {profile.chosen}"


def _row(profile: Profile, context: Context, default: str | None) -> dict[str, Any]:
    return {
        "name": profile.name,
        "provider": profile.provider,
        "model": profile.model,
        "base_url": None if profile.provider == LOCAL else profile.base_url,
        "model_path": str(profile.model_path) if profile.model_path else None,
        "key": _key(profile, context),
        "default": profile.name == default,
        "source": profile.source,
    }


def _key(profile: Profile, context: Context) -> dict[str, str | None]:
    """The variable and whether it holds a key: found, missing, unusable, or not needed."""
    if profile.key is None:
        return {"env": None, "state": "not needed"}
    try:
        found = keys.find(profile, context.environ)
    except NoKeyError:
        return {"env": profile.key.env, "state": "unusable"}
    return {"env": profile.key.env, "state": "found" if found else "missing"}


def _key_words(key: dict[str, str | None]) -> str:
    return f"{key['state']}: ${key['env']}" if key["env"] else "not needed"


def _where(profile: Profile) -> str:
    if profile.provider == LOCAL:
        return "this machine"
    return urlsplit(profile.base_url).netloc


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, default=float))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line a row. On a terminal the widest columns are cut to fit it; `profiles show` has
    everything. Into a pipe nothing is cut."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    if is_tty(sys.stdout):
        room = max(40, shutil.get_terminal_size().columns) - 2 * (len(head) - 1)
        while sum(widths) > room:
            widths[widths.index(max(widths))] -= 1
    bold = ("\x1b[1m", "\x1b[0m") if colours(sys.stdout) else ("", "")
    for row in (head, *rows):
        cells = (
            (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        line = "  ".join(cells).rstrip()
        print(f"{bold[0]}{line}{bold[1]}" if row is head else line)
