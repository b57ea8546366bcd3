"""Use cases `profiles list`, `show`, `init` and `trust`."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import print_json, print_table, write_stdout
from llmctl.config import trust
from llmctl.config.load import Overrides, project
from llmctl.config.paths import CONFIG_FILE
from llmctl.config.profiles import as_json, as_yaml, choose, write_starter
from llmctl.config.settings import Folders, Profile, Settings
from llmctl.errors import NoKeyError, UsageError
from llmctl.keys.key import slot_of
from llmctl.keys.keyring_store import stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.providers.local_model_files import is_installed
from llmctl.providers.registry import LOCAL
from llmctl.redact import printable


def run_list(context: Context) -> int:
    """Print all profiles as a table, or with `context.json` as a JSON array."""
    settings = load_settings(context)
    default, why = _default(settings, context)
    rows: list[dict[str, Any]] = [
        {
            "name": profile.name,
            "provider": profile.provider,
            "model": profile.model,
            "base_url": None if profile.provider == LOCAL else profile.base_url,
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
    table = [
        ("*" if row["default"] else "", row["name"], row["provider"], row["model"],
         urlsplit(row["base_url"] or "").netloc or "this machine", _key_words(row["key"]))
        for row in rows
    ]  # fmt: skip
    print_table(("", "NAME", "PROVIDER", "MODEL", "WHERE", "KEY"), table)
    context.info(f"* used without -p: {why}")
    return 0


def run_show(name: str, context: Context) -> int:
    """Print one profile, complete, as YAML or with `context.json` as JSON; never its key."""
    settings = load_settings(context, Overrides(profile=name))
    profile = choose(settings, lambda: True)
    key = _key(profile, context, settings.folders)
    if context.json:
        said = as_json(profile)
        print_json({"name": profile.name, "source": profile.source, **said, "key": key})
        return 0
    write_stdout(f"# from: {profile.source}\n# key: {_key_words(key)}\n{as_yaml(profile)}")
    return 0


def run_init(context: Context, *, force: bool = False) -> int:
    """Write the starter file into the user's configuration folder and print its path."""
    path = context.folders.config / CONFIG_FILE
    write_starter(path, force=force)
    print(path)
    context.info("all of it is commented out; edit it, then see `llmctl profiles list`")
    return 0


def run_trust(context: Context, *, revoke: bool = False) -> int:
    """Trust the project's file as it is, or no more; says what it sets."""
    folders = context.folders
    found = project(folders, context.cwd())
    if found is None:
        raise UsageError(
            "there is no llmctl.yaml here or above, up to the repository's root: nothing to trust"
        )
    path = printable(str(found.path))
    if revoke:
        known = trust.forget(folders, found.path)
        print(f"{path}: {'no longer trusted' if known else 'was not trusted'}")
        return 0
    digest = trust.record(folders, found.path, found.raw)
    for line in trust.places(found.needs):
        context.info(f"trusted: {line}")
    if not found.needs:
        context.info("it sets nothing that needs trust")
    print(f"{path}: trusted until it changes (SHA-256 {digest})")
    return 0


def _default(settings: Settings, context: Context) -> tuple[str | None, str]:
    """The profile that `ask` would use now, and why."""
    named = context.environ.get("LLMCTL_PROFILE") or None
    if named is not None and named not in settings.profiles:
        return None, f"none, for LLMCTL_PROFILE names {named!r}, which there is not"
    if named is not None:
        return named, f"{named}, for LLMCTL_PROFILE names it"
    try:
        profile = choose(settings, lambda: is_installed(settings.folders))
    except NoKeyError:
        return None, "none, for no key is set and no local model is installed"
    return profile.name, f"{profile.name}, for {profile.chosen}"


def _key(profile: Profile, context: Context, folders: Folders) -> dict[str, str | None]:
    """Source and state of a key: found, stored, missing, unusable, asked, or not needed.

    Neither the keyring nor a command is asked.
    """
    source = profile.key
    said: dict[str, str | None] = {"env": source.env if source else None}
    stored = slot_of(profile) in stored_slots(folders.state)
    if source is None:
        if stored:
            return {**said, "keyring": profile.name, "state": "stored"}
        return {**said, "state": "not needed"}
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
