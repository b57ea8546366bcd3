"""`llmctl profiles`: what is configured, from where, and a file to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from msgspec import to_builtins
from typer import Argument, Option

from llmctl.cli.context import Context, known_profiles, load_settings
from llmctl.cli.options import command, command_group
from llmctl.cli.output import print_json, print_lines, print_table, write_stdout
from llmctl.errors import ConfigError, NoKeyError, UsageError
from llmctl.redact import printable

if TYPE_CHECKING:
    from llmctl.config.settings import Folders, Profile

app = command_group("profiles", "List, show and begin the configuration of providers.")


@command(app, "list", "config", "json")
def list_profiles(
    context: Context,
    data: Annotated[
        bool, Option("--data", help="Where each one's data is processed and kept.")
    ] = False,
) -> int:
    """List all profiles; * marks the one used without -p.

    KEY says whether the variable that should hold a profile's key is set; nothing is sent.

    --data shows what your configuration says of each profile (region, retention, agreements), and
    below it what the provider states of its own address, with the pages and the day they were
    read. Nothing of a provider's statements is a promise of llmctl's.

    \b
    Where data may go is ruled by `data:` at the top of the configuration:
      data:
        regions: [eu]           every call goes only to profiles in there
        retention: none         … only to profiles that say `retention: none`
        agreements: [baa]       … only to profiles that have all of these
        classes: {phi: [a, b]}  calls of the class phi go only to these

    Under `retention: none` the provider's switch against storing is sent, too; OpenRouter's
    suffices by itself. Batches of a provider are files there, and so are refused.

    One call asks for more by its tags (a row's, --tag, its profile's): data.class=phi,
    data.region=eu, data.retention=none, data.agreement=baa. All that is asked must hold, for
    fallbacks, batches and `serve`, too: where it does not, the call fails as `data`, unsent.
    Answers out of the cache are given: they are on this machine, and nothing is sent.
    """
    if data:
        return _list_data(context)
    from llmctl.config.load import Overrides
    from llmctl.config.profiles import choose
    from llmctl.providers.local_model_files import is_installed

    named = context.environ.get("LLMCTL_PROFILE") or None
    settings = load_settings(context, Overrides(profile=named))
    default = None
    try:
        used = choose(settings, lambda: is_installed(settings.folders))
        default, why = used.name, f"{used.name}, for {used.chosen}"
    except (ConfigError, NoKeyError) as error:
        why = f"none; {error.message}"
    rows: list[dict[str, Any]] = [
        {
            "name": profile.name,
            "provider": profile.provider,
            "model": profile.model,
            "base_url": _address(profile),
            "model_path": str(profile.model_path) if profile.model_path else None,
            "key": _key(profile, context, settings.folders),
            "default": profile.name == default,
            "source": profile.source,
        }
        for profile in settings.profiles.values()
    ]
    if context.json:
        print_json(rows)
        return 0
    table = []
    for row in rows:
        where = _place(row["base_url"])
        names = (row["name"], row["provider"], row["model"])
        table.append(("*" if row["default"] else "", *names, where, _key_words(row["key"])))
    print_table(("", "NAME", "PROVIDER", "MODEL", "WHERE", "KEY"), table)
    context.info(f"* used without -p: {why}")
    return 0


def _list_data(context: Context) -> int:
    """What is known of where the profiles' data goes."""
    from llmctl.providers.data_statements import NOT_STATED, DataStatement, statement

    profiles = load_settings(context).profiles.values()
    found = [(one, statement(one.provider, one.base_url)) for one in profiles]
    if context.json:
        print_json(
            [
                {
                    "name": profile.name,
                    "provider": profile.provider,
                    "region": profile.region,
                    "retention": profile.retention,
                    "agreements": list(profile.agreements),
                    "stated": None if stated is None else to_builtins(stated),
                }
                for profile, stated in found
            ]
        )
        return 0
    own = (
        (
            one.name,
            one.provider,
            one.region or "-",
            one.retention or "-",
            ", ".join(one.agreements) or "-",
        )
        for one, _ in found
    )
    print_table(("NAME", "PROVIDER", "REGION", "RETENTION", "AGREEMENTS"), [*own])
    words = ("region", "retention", "training", "agreement", "switch")
    groups: dict[tuple[str, DataStatement | None], list[str]] = {}
    for profile, stated in found:
        groups.setdefault((profile.provider, stated), []).append(profile.name)
    for (provider, stated), names in groups.items():
        print_lines("")
        if stated is None:
            print_lines(f"{', '.join(names)}: {NOT_STATED} (not {provider}'s own address)")
            continue
        print_lines(f"{', '.join(names)}: {provider} states")
        print_lines(*(f"  {word:<10} {getattr(stated, word)}" for word in words))
        print_lines(*(f"  {stated.date} {url}" for url in stated.urls))
    return 0


@command(app, "show", "config", "json")
def show(
    context: Context,
    name: Annotated[
        str | None,
        Argument(metavar="NAME", help="Profile to show.", autocompletion=known_profiles),
    ] = None,
) -> int:
    """Show one profile, complete; by default the one in use.

    It is printed as a configuration file would say it, with what it inherits and what LLMCTL_
    variables change; first, where it comes from and whether its key is found.
    """
    from llmctl.config.load import Overrides
    from llmctl.config.profiles import as_json, as_yaml, choose

    name = name or context.environ.get("LLMCTL_PROFILE") or None
    settings = load_settings(context, Overrides(profile=name))
    profile = choose(settings, lambda: True)
    key = _key(profile, context, settings.folders)
    if context.json:
        said = as_json(profile)
        print_json({"name": profile.name, "source": profile.source, **said, "key": key})
    else:
        write_stdout(f"# from: {profile.source}\n# key: {_key_words(key)}\n{as_yaml(profile)}")
    return 0


@command(app, "init")
def init(
    context: Context,
    force: Annotated[bool, Option("--force", help="Overwrite the file when it exists.")] = False,
) -> int:
    """Write a configuration file to begin with; print where it is."""
    from llmctl.config.paths import CONFIG_FILE
    from llmctl.config.profiles import write_starter

    path = context.folders.config / CONFIG_FILE
    write_starter(path, force=force)
    print_lines(str(path))
    context.info("all of it is commented out; edit it, then see `llmctl profiles list`")
    return 0


@command(app, "trust")
def trust_project(
    context: Context,
    revoke: Annotated[bool, Option("--revoke", help="Trust the project's file no more.")] = False,
) -> int:
    """Trust the project's llmctl.yaml, as it is now.

    A project's configuration may choose models, sampling parameters, lower limits and budgets, and
    tags unasked. All else (default, provider, base_url, key, fallback, tools, …) it may say only
    when you trust the file: read it first. The trust is for this path and these bytes: any change
    ends it.
    """
    from llmctl.config import trust
    from llmctl.config.load import project

    folders = context.folders
    found = project(folders, context.cwd(), context.environ)
    if found is None:
        raise UsageError(
            "there is no llmctl.yaml here or above, up to the repository's root: nothing to trust"
        )
    path = printable(str(found.path))
    if revoke:
        known = trust.forget(folders, found.path)
        print_lines(f"{path}: {'no longer trusted' if known else 'was not trusted'}")
        return 0
    digest = trust.record(folders, found.path, found.raw)
    for line in trust.places(found.needs):
        context.info(f"trusted: {line}")
    if not found.needs:
        context.info("it sets nothing that needs trust")
    print_lines(f"{path}: trusted until it changes (SHA-256 {digest})")
    return 0


def _key(profile: Profile, context: Context, folders: Folders) -> dict[str, str | None]:
    """Source and state of a key: found, stored, missing, unusable, asked, or not needed.

    Neither the keyring, nor a command or a secrets manager is asked.
    """
    from llmctl.keys.key import slot_of
    from llmctl.keys.keyring_store import stored_slots
    from llmctl.keys.resolver import KeyResolver

    source = profile.key
    said: dict[str, str | None] = {"env": source.env if source else None}
    if profile.auth is not None:
        return {**said, "auth": profile.auth.kind, "state": "asked"}
    stored = slot_of(profile) in stored_slots(folders.state)
    if source is None:
        more = {"keyring": profile.name, "state": "stored"} if stored else {"state": "not needed"}
        return {**said, **more}
    if source.command:
        return {**said, "command": source.command[0], "state": "asked"}
    if source.secret:
        return {**said, "secret": source.secret.text, "state": "asked"}
    if source.keyring:
        said["keyring"] = source.keyring
    try:
        found = KeyResolver(context.environ).environment(profile)
    except NoKeyError:
        return {**said, "state": "unusable"}
    return {**said, "state": "found" if found else "stored" if stored else "missing"}


def _address(profile: Profile) -> str | list[str] | None:
    """The address of the profile's server, or those of its servers; None: there is none yet."""
    from llmctl.providers.registry import LOCAL

    if profile.provider == LOCAL:
        return None
    return list(profile.servers) or profile.base_url


def _place(address: str | list[str] | None) -> str:
    """Where that is, for a table."""
    first, *others = [address] if isinstance(address, str) else address or [""]
    more = f" and {len(others)} more" if others else ""
    return (urlsplit(first).netloc or "this machine") + more


def _key_words(key: dict[str, str | None]) -> str:
    if key["state"] == "not needed":
        return "not needed"
    for place in ("command", "secret", "auth"):
        if place in key:
            return f"{place}: {key[place]}"
    if key["state"] == "stored" or not key["env"]:
        return f"{key['state']}: {key['keyring']}"
    return f"{key['state']}: ${key['env']}"
