"""`llmctl profiles`: what is configured, from where, and a file to begin with."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from msgspec import Struct

from llmctl.cli.context import Context, finish
from llmctl.cli.options import ConfigOption, JsonOption, QuietOption, VerboseOption
from llmctl.cli.render import safe
from llmctl.cli.table import print_table
from llmctl.cli.trusting import load
from llmctl.config import trust
from llmctl.config.load import Overrides, project
from llmctl.config.paths import CONFIG_FILE, find_folders
from llmctl.config.profiles import as_json, as_yaml, choose, write_starter
from llmctl.config.settings import Folders, Profile, Settings
from llmctl.errors import NoKeyError, UsageError
from llmctl.keys.key import slot_of
from llmctl.keys.keyring_store import stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.providers.registry import LOCAL

app = typer.Typer(
    help="List, show and begin the configuration of providers.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
)


class ShowOptions(Struct, frozen=True):
    """`name`: the profile to show."""

    name: str


class TrustOptions(Struct, frozen=True):
    """`revoke`: end the trust instead of giving it."""

    revoke: bool = False


class InitOptions(Struct, frozen=True):
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


@app.command("trust")
def trust_command(
    *,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Trust the project's file no more.")
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Trust the project's llmctl.yaml, as it is now.

    A project's configuration may choose models, parameters and limits unasked. Where keys and
    prompts go (base_url, key, a command, …) it may say only when you trust the file: read it
    first. The trust is for this path and these bytes: any change ends it.
    """
    context = Context(quiet=quiet, verbose=verbose)
    finish(lambda: run_trust(TrustOptions(revoke), context), context)


def run_list(context: Context) -> int:
    """Print all profiles as a table, or with `context.json` as a JSON array."""
    settings = _load(context)
    default, why = _default(settings, context)
    rows = [
        _row(profile, context, default, settings.folders) for profile in settings.profiles.values()
    ]
    if context.json:
        _print_json(rows)
        return 0
    table = [
        ("*" if row["default"] else "", row["name"], row["provider"], row["model"],
         _where(settings.profiles[row["name"]]), _key_words(row["key"]))
        for row in rows
    ]  # fmt: skip
    print_table(("", "NAME", "PROVIDER", "MODEL", "WHERE", "KEY"), table)
    context.say(f"* used without -p: {why}")
    return 0


def run_show(options: ShowOptions, context: Context) -> int:
    """Print one profile, complete, as YAML or with `context.json` as JSON; never its key."""
    chosen = Overrides(profile=options.name)
    settings = _load(context, chosen)
    profile = choose(settings, options.name, context.environ, lambda: True)
    key = _key(profile, context, settings.folders)
    if context.json:
        said = as_json(profile)
        _print_json({"name": profile.name, "source": profile.source, **said, "key": key})
        return 0
    print(f"# from: {profile.source}")
    print(f"# key: {_key_words(key)}")
    print(as_yaml(profile), end="")
    return 0


def run_init(options: InitOptions, context: Context) -> int:
    """Write the starter file into the user's configuration folder and print its path."""
    folders = find_folders(context.environ, context.cwd())
    path = folders.config / CONFIG_FILE
    write_starter(path, force=options.force)
    print(path)
    context.say("all of it is commented out; edit it, then see `llmctl profiles list`")
    return 0


def run_trust(options: TrustOptions, context: Context) -> int:
    """Trust the project's file as it is, or no more; says what it sets."""
    folders = find_folders(context.environ, context.cwd())
    found = project(folders, context.cwd())
    if found is None:
        raise UsageError(
            "there is no llmctl.yaml here or above, up to the repository's root: nothing to trust"
        )
    if options.revoke:
        known = trust.forget(folders, found.path)
        print(f"{found.path}: {'no longer trusted' if known else 'was not trusted'}")
        return 0
    digest = trust.record(folders, found.path, found.raw)
    for line in found.asks:
        context.say(f"trusted: {safe(line)}")
    if not found.asks:
        context.say("it sets nothing that needs trust")
    print(f"{found.path}: trusted until it changes (SHA-256 {digest})")
    return 0


def _load(context: Context, overrides: Overrides | None = None) -> Settings:
    return load(context, overrides or Overrides())


def _default(settings: Settings, context: Context) -> tuple[str | None, str]:
    """The profile that `ask` would use now, and why."""
    named = context.environ.get("LLMCTL_PROFILE") or None
    if named is not None and named not in settings.profiles:
        return None, f"none, for LLMCTL_PROFILE names {named!r}, which there is not"
    if named is not None:
        return named, f"{named}, for LLMCTL_PROFILE names it"
    from llmctl.providers.local_model_files import is_installed

    try:
        profile = choose(settings, None, context.environ, lambda: is_installed(settings.folders))
    except NoKeyError:
        return None, "none, for no key is set and no local model is installed"
    return profile.name, f"{profile.name}, for {profile.chosen}"


def _row(
    profile: Profile, context: Context, default: str | None, folders: Folders
) -> dict[str, Any]:
    return {
        "name": profile.name,
        "provider": profile.provider,
        "model": profile.model,
        "base_url": None if profile.provider == LOCAL else profile.base_url,
        "model_path": str(profile.model_path) if profile.model_path else None,
        "key": _key(profile, context, folders),
        "default": profile.name == default,
        "source": profile.source,
    }


def _key(profile: Profile, context: Context, folders: Folders) -> dict[str, str | None]:
    """Where the key comes from and whether it is there: found, stored, missing, unusable, or
    not needed. Neither the keyring nor a command is asked: this only looks."""
    source = profile.key
    said: dict[str, str | None] = {"env": source.env if source else None}
    stored = slot_of(profile) in stored_slots(folders.state)
    if source is None:
        return (
            {**said, "keyring": profile.name, "state": "stored"}
            if stored
            else {**said, "state": "not needed"}
        )
    if source.command:
        return {**said, "command": source.command[0], "state": "asked"}
    if source.keyring:
        said["keyring"] = source.keyring
    try:
        found = KeyResolver(context.environ).environment(profile)
    except NoKeyError:
        return {**said, "state": "unusable"}
    return {**said, "state": "found" if found else "stored" if stored else "missing"}


def _key_words(key: dict[str, str | None]) -> str:
    if key["state"] == "not needed":
        return "not needed"
    if "command" in key:
        return f"command: {key['command']}"
    if key["state"] == "stored" or not key["env"]:
        return f"{key['state']}: {key['keyring']}"
    return f"{key['state']}: ${key['env']}"


def _where(profile: Profile) -> str:
    if profile.provider == LOCAL:
        return "this machine"
    return urlsplit(profile.base_url).netloc


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, default=float))
