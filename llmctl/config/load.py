"""Presets, files, environment and flags, merged key by key into `Settings`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from llmctl.config import budgets
from llmctl.config.building import complete
from llmctl.config.choosing import pick
from llmctl.config.drafts import Draft, FileDraft
from llmctl.config.overrides import Overrides, environment, flags
from llmctl.config.paths import CONFIG_FILE, decoded, find_folders, project_file, read_bytes
from llmctl.config.schema import read_file
from llmctl.config.settings import Folders, Profile, Settings
from llmctl.config.tree import Node, nearest, parse, quoted
from llmctl.config.trust import Untrusted, is_trusted
from llmctl.keys.keyring_store import stored_slots
from llmctl.providers.registry import PRESETS

_NONE = Overrides()


def load(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    config: Path | None = None,
    overrides: Overrides = _NONE,
) -> Settings:
    """All profiles, each complete, and which is the default.

    Flags win over the environment (`LLMCTL_MODEL`, `LLMCTL_MAX_TOKENS`, `LLMCTL_TEMPERATURE`,
    `LLMCTL_CONCURRENCY`, `LLMCTL_RPM`, `LLMCTL_TPM`), that over a project's `llmctl.yaml`, that
    over the user's `config.yaml`, and that over the presets. `config` is read instead of both
    files and counts as the user's own. Flags and environment apply to the one profile that
    `choose(settings, overrides.profile, …)` gives. Nothing is written, nothing sent.

    Raises `ConfigError`, naming file and line, variable or flag; `Untrusted` for a project's
    file that says what needs the user's trust.
    """
    folders = find_folders(environ, cwd)
    files = _files(folders, cwd, config)

    drafts: dict[str, Draft] = {name: Draft() for name in PRESETS}
    default: str | None = None
    for _, said in files:
        for name, draft in said.profiles.items():
            drafts[name] = draft.over(drafts.get(name, Draft()))
    for _, said in files:
        if said.default is not None:
            default = str(said.default.value)
            if default not in drafts:
                raise said.default.error(
                    f"names no profile: {said.default.shown()}; {nearest(default, drafts)}"
                )

    profiles = {name: complete(name, draft, environ, cwd) for name, draft in drafts.items()}
    for name, draft in drafts.items():
        _check_fallback(name, draft, profiles)
    last = flags(overrides).over(environment(environ))
    stored = stored_slots(folders.state)
    name, _ = pick(profiles, default, overrides.profile, environ, stored)
    if last.values and name in profiles:
        profiles[name] = complete(name, last.over(drafts[name]), environ, cwd)
    return Settings(
        _hiding(profiles),
        default,
        folders,
        tuple(path for path, _ in files),
        budgets.merged(said.budgets for _, said in files),
        next((s.cache_size for _, s in reversed(files) if s.cache_size is not None), None),
    )


def _check_fallback(name: str, draft: Draft, profiles: Mapping[str, Profile]) -> None:
    """Fallbacks are other profiles, and a prompt too long has one to go to."""
    mark = draft.marks.get("fallback")
    for other in profiles[name].fallback:
        assert mark is not None
        if other == name:
            raise mark.error(f"names its own profile, {quoted(name)}")
        if other not in profiles:
            raise mark.error(f"names no profile: {quoted(other)}; {nearest(other, profiles)}")
    if profiles[name].on_overflow == "fallback" and not profiles[name].fallback:
        raise draft.marks["on_overflow"].error("needs `fallback:`, a list of profiles to go to")


def _files(folders: Folders, cwd: Path, config: Path | None) -> list[tuple[Path, FileDraft]]:
    """What is read, the weakest first."""
    if config is not None:
        return [(config, _read(config, read_bytes(config) or b""))]
    files: list[tuple[Path, FileDraft]] = []
    own = folders.config / CONFIG_FILE
    raw = read_bytes(own, must_exist=False)
    user = FileDraft() if raw is None else _read(own, raw)
    if raw is not None:
        files.append((own, user))
    path = project_file(cwd)
    if path is not None:
        # read once: what is compared with the record is what is used
        raw = read_bytes(path) or b""
        said = _read(path, raw)
        needs = _sensitive(said, user)
        if needs and not is_trusted(folders, path, raw):
            raise Untrusted(needs, path, raw, own)
        _hold_plain_http(said, own)
        files.append((path, said))
    return files


def _read(path: Path, raw: bytes) -> FileDraft:
    return read_file(parse(decoded(raw, path), str(path)))


class ProjectFile(Struct, frozen=True):
    """A project's file as it was read: its bytes, and what in it needs the user's trust."""

    path: Path
    raw: bytes
    asks: tuple[str, ...]


def project(folders: Folders, cwd: Path) -> ProjectFile | None:
    """The project's file, trusted or not; None when there is none. Raises `ConfigError`."""
    path = project_file(cwd)
    if path is None:
        return None
    own = folders.config / CONFIG_FILE
    raw = read_bytes(path) or b""
    said, mine = _read(path, raw), read_bytes(own, must_exist=False)
    _hold_plain_http(said, own)
    needs = _sensitive(said, FileDraft() if mine is None else _read(own, mine))
    return ProjectFile(path, raw, tuple(f"{node.where}: {node.path}" for node in needs))


def _sensitive(project: FileDraft, user: FileDraft) -> tuple[Node, ...]:
    """What a project's file says that needs trust: keys that are not a project's to set, and
    the provider of a profile of the user's, whose key would go to an origin it was not meant
    for, and a budget of the user's made looser. Profiles that a project adds itself may name any
    provider."""
    found = [*project.sensitive, *budgets.raised(project.budgets, user.budgets)]
    for name, draft in project.profiles.items():
        mine = user.profiles.get(name, Draft())
        now = mine.values.get("provider") or (name if name in PRESETS else None)
        if now is not None and draft.values.get("provider", now) != now:
            found.append(draft.marks["provider"])
    return tuple(found)


def _hold_plain_http(project: FileDraft, own: Path) -> None:
    """A key and a prompt cross a network in the clear only where the user wrote that down."""
    for draft in project.profiles.values():
        parts = urlsplit(str(draft.values.get("base_url", "")))
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise draft.marks["base_url"].error(
                "must be https:// in a project's configuration, trusted or not; plain http to "
                f"another machine belongs into your own file, {own}"
            )


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _hiding(profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The profiles; those whose key a command gives know which variables hold other keys."""
    named = {profile.key.env for profile in profiles.values() if profile.key and profile.key.env}
    named |= {variable for preset in PRESETS.values() for variable in preset.key_env}
    hidden = tuple(sorted(named))
    return {
        name: replace(profile, key=replace(profile.key, hidden=hidden))
        if profile.key and profile.key.command
        else profile
        for name, profile in profiles.items()
    }
