"""Use case `limits pull`: an account's limits as an edit of the configuration file."""

from __future__ import annotations

import asyncio
import difflib
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from llmctl.cli.context import Context, can_ask, confirmed, load_settings
from llmctl.cli.output import drawn, has_colour, print_json, print_lines, safe, write_stdout
from llmctl.config.load import Overrides
from llmctl.config.paths import CONFIG_FILE, read_file
from llmctl.config.settings import ModelLimits, Profile, Settings
from llmctl.config.yaml_edit import NotEditable, as_yaml, edited
from llmctl.config.yaml_nodes import Node, nearest, parse_yaml, quoted
from llmctl.errors import BusyError, ConfigError, UsageError
from llmctl.providers.account_limits import AccountLimit, account_limits
from llmctl.providers.admin_pages import ask_all
from llmctl.providers.registry import BUILT_IN, LOCAL
from llmctl.storage.files import private_folder, replacing
from llmctl.storage.ledger_rows import same_model

Values = Mapping[tuple[str, ...], int]

_OVERRIDES = {f"LLMCTL_{name}" for name in ("MODEL", "RPM", "TPM", "RPD")}


def run(context: Context, *, yes: bool) -> int:
    """Show the edit, and write it where that is wanted."""
    # What the environment says of this one run belongs into no file.
    kept = {name: text for name, text in context.environ.items() if name not in _OVERRIDES}
    context = replace(context, environ=kept)
    settings, profile = _profile(context)
    found = asyncio.run(_ask(profile, settings, context))
    values = _values(profile, found)
    path = context.config or settings.folders.config / CONFIG_FILE
    before = read_file(path)[0] if os.path.lexists(path) else b""
    after = _edited(path, before, values, profile)
    diff = _diff(path, before, after)
    if not context.json:
        _show(profile, found, diff, path)
    written = bool(diff) and (
        yes or (not context.json and can_ask() and confirmed(f"Write it to {path}?"))
    )
    if written:
        _write(path, before, after)
        _check(profile, values, context)
    if context.json:
        limits = {".".join(at[3:]): number for at, number in values.items()}
        said = {"profile": profile.name, "file": str(path), "limits": limits}
        print_json({**said, "diff": diff, "written": written})
    elif written:
        print_lines(f"written to {path}")
    elif diff:
        context.info("nothing was written; --yes writes it")
    return 0


def _profile(context: Context) -> tuple[Settings, Profile]:
    settings = load_settings(context, Overrides(profile=context.profile))
    profile = settings.profiles.get(settings.used)
    if profile is None:
        hint = nearest(settings.used, settings.profiles)
        raise ConfigError(f"there is no profile {quoted(settings.used)}; {hint}")
    return settings, profile


async def _ask(profile: Profile, settings: Settings, context: Context) -> list[AccountLimit]:
    """The account's limits. Raises `UsageError` where they cannot be asked for, or have none of the
    profile's model."""
    from llmctl.cli.admin_key import open_admin_of

    if profile.provider == LOCAL:
        raise UsageError(
            f"the profile {profile.name} runs on this machine, which has no rate limits: choose "
            "another one with -p"
        )
    if profile.provider not in ("openai", "anthropic"):
        raise UsageError(
            f"{profile.provider} does not tell its limits: write those of its page into the "
            "profile, as limits: {rpm: …, tpm: …}"
        )
    async with open_admin_of(profile, settings, context) as admin:
        question = account_limits(profile.provider, admin.project)
        if question is None:
            raise UsageError(
                "OpenAI's limits are those of a project: set OPENAI_PROJECT_ID to its id, or "
                "write headers: {openai-project: ID} into the profile"
            )
        found = await ask_all(question, admin.fetch, context.clock)
    own = _of(profile.model, found)
    if own is None or own.limits == ModelLimits():
        names = sorted({name for one in found for name in one.models})
        hint = f"; {nearest(profile.model, names)}" if names else ", nor of any other"
        raise UsageError(f"the provider tells no limit of {profile.model}{hint}")
    return found


def _of(model: str, found: Sequence[AccountLimit]) -> AccountLimit | None:
    """The limits of a model: by its own name, else by that of which it is a dated version."""
    for fits in (str.__eq__, same_model):
        for one in found:
            if any(fits(name, model) for name in one.models):
                return one
    return None


def _values(profile: Profile, found: Sequence[AccountLimit]) -> Values:
    """The numbers below the profile's `limits`, and those of the models that it names there."""
    values: dict[tuple[str, ...], int] = {}
    above = ("profiles", profile.name, "limits")
    places: list[tuple[str, tuple[str, ...]]] = [(profile.model, above)]
    places += [(name, (*above, "models", name)) for name in profile.limits.models]
    for model, place in places:
        if (own := _of(model, found)) is not None:
            said = {name: getattr(own.limits, name) for name in ModelLimits.__struct_fields__}
            values |= {(*place, name): number for name, number in said.items() if number}
    return values


def _edited(path: Path, before: bytes, values: Values, profile: Profile) -> bytes:
    """The file with the numbers in it. Raises `ConfigError`, with what to write by hand."""
    why = f"the profile {profile.name} is not in it ({profile.source})"
    try:
        if profile.name in BUILT_IN or profile.name in _profiles_of(before, path):
            return edited(before, values)
    except NotEditable as error:
        why = str(error)
    raise ConfigError(f"{path} is left as it is: {why}; write by hand:\n{as_yaml(values)}")


def _profiles_of(raw: bytes, path: Path) -> Mapping[str, Node]:
    root = parse_yaml(raw, str(path)) if raw else None
    profiles = root.mapping().get("profiles") if root else None
    return profiles.mapping() if profiles else {}


def _diff(path: Path, before: bytes, after: bytes) -> str:
    """The edit as a unified difference; empty where nothing changes."""
    old, new = (raw.decode("utf-8-sig").splitlines() for raw in (before, after))
    lines = difflib.unified_diff(old, new, str(path), str(path), lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _show(profile: Profile, found: Sequence[AccountLimit], diff: str, path: Path) -> None:
    own = _of(profile.model, found)
    assert own is not None
    if not diff:
        print_lines(f"{path} has the provider's limits of {profile.model} already")
    else:
        write_stdout(_coloured(diff), coloured=True)
    if own.output:
        print_lines(
            f"{profile.model} has a limit of output tokens, too, {own.output:,} a minute, which "
            "no setting holds: the provider's 429 is waited out"
        )


def _coloured(diff: str) -> str:
    from rich.text import Text

    colours = {"+": "green", "-": "red", "@": "cyan"}
    if not has_colour(sys.stdout):
        return safe(diff)
    return drawn(*(Text(safe(line), colours.get(line[:1], "")) for line in diff.splitlines()))


def _write(path: Path, before: bytes, after: bytes) -> None:
    """Put the edited file in the place of the one that was read, with its mode. Raises `BusyError`
    where that has changed meanwhile, `DiskError`."""
    there = os.path.lexists(path)
    if (read_file(path)[0] if there else b"") != before:
        raise BusyError(f"{path} was changed meanwhile: run the same command again")
    if not there:
        private_folder(path.parent)
    mode = stat.S_IMODE(path.stat().st_mode) if there else 0o600
    with replacing(path, mode=mode) as file:
        file.write(after)


def _check(profile: Profile, values: Values, context: Context) -> None:
    """Warn where another file, or a profile that this one extends, says something else."""
    now = _profile(context)[1].limits
    for (*_, last), number in ((at[3:], number) for at, number in values.items() if len(at) == 4):
        if getattr(now, last) != number:
            context.warn(
                f"{last} of the profile {profile.name} is {getattr(now, last)} all the same: "
                "another configuration file says so"
            )
