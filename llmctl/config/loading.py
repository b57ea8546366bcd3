"""Presets, files, environment and flags, merged key by key into `Settings`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmctl.config.building import complete
from llmctl.config.choosing import pick
from llmctl.config.drafts import Draft, FileDraft
from llmctl.config.folders import CONFIG_FILE, find_folders, project_file, read_text
from llmctl.config.overrides import Overrides, environment, flags
from llmctl.config.schema import read_file
from llmctl.config.tree import nearest, parse
from llmctl.providers.registry import PRESETS
from llmctl.settings import Settings

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

    Raises `ConfigError`, naming file and line, variable or flag.
    """
    folders = find_folders(environ, cwd)
    files = _files(folders.config / CONFIG_FILE, cwd, config)

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
    last = flags(overrides).over(environment(environ))
    name, _ = pick(profiles, default, overrides.profile, environ)
    if last.values and name in profiles:
        profiles[name] = complete(name, last.over(drafts[name]), environ, cwd)
    return Settings(profiles, default, folders, tuple(path for path, _ in files))


def _files(own: Path, cwd: Path, config: Path | None) -> list[tuple[Path, FileDraft]]:
    """What is read, the weakest first."""
    if config is not None:
        return [(config, read_file(parse(read_text(config) or "", str(config))))]
    files: list[tuple[Path, FileDraft]] = []
    text = read_text(own, must_exist=False)
    user = FileDraft() if text is None else read_file(parse(text, str(own)))
    if text is not None:
        files.append((own, user))
    path = project_file(cwd)
    if path is not None:
        root = parse(read_text(path) or "", str(path))
        project = read_file(root, own_file=str(own))
        _hold_providers(project, user, own)
        files.append((path, project))
    return files


def _hold_providers(project: FileDraft, user: FileDraft, own: Path) -> None:
    """A project names the provider of profiles it adds itself. Under a profile of the user's it
    would send that profile's key to an origin the key was not meant for."""
    for name, draft in project.profiles.items():
        mine = user.profiles.get(name, Draft())
        now = mine.values.get("provider") or (name if name in PRESETS else None)
        if now is not None and draft.values.get("provider", now) != now:
            raise draft.marks["provider"].error(
                f"cannot be changed by a project's configuration from {now}; use another name "
                f"for the profile, or put it into your own file, {own}"
            )
