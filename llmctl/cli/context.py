"""What every command gets besides its own options: context, configuration, how it ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.cli.output import error_json, is_tty, say, write_json
from llmctl.cli.streams import stdin_pieces
from llmctl.clock import Clock, SystemClock
from llmctl.errors import ConfigError, DiskError, InputError, LlmctlError
from llmctl.redact import printable

if TYPE_CHECKING:
    from llmctl.config.load import Overrides
    from llmctl.config.settings import Folders, Profile, Settings
    from llmctl.runner import Runner
    from llmctl.shutdown import Stop
    from llmctl.wiring import Surroundings

_MAX_SECRET = 64 * 1024  # bytes


class Context(Struct, frozen=True):
    """The options common to all commands, the environment and the clock."""

    profile: str | None = None
    model: str | None = None
    config: Path | None = None
    env_file: Path | None = None
    env_file_shared: bool = False
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Clock = field(default_factory=SystemClock)

    def cwd(self) -> Path:
        """The current folder. Raises `ConfigError` when it has been deleted."""
        try:
            return Path.cwd()
        except OSError:
            raise ConfigError("the current folder is gone; change to one that exists") from None

    def with_env_file(self) -> Context:
        """With the variables of `--env-file` below those of the environment. Raises
        `ConfigError`."""
        from llmctl.config.env_file import read_env_file

        if self.env_file is None:
            return self
        told, shared = "add --env-file-shared", self.env_file_shared
        found = read_env_file(self.env_file, told, shared=shared)
        return replace(self, environ={**found, **self.environ})

    @property
    def folders(self) -> Folders:
        """The folders of configuration, state, cache and data; what others could write into is
        mended, with a warning."""
        from llmctl.config.paths import find_folders
        from llmctl.storage.files import mend_folder

        found = find_folders(self.environ, self.cwd())
        for folder in (found.config, found.state, found.cache, found.data):
            if mend_folder(folder):
                self.warn(f"{folder} could be written by others; it is yours alone (0700) now")
        return found

    def info(self, text: str) -> None:
        """Print a note on stderr, unless `--quiet`."""
        if not self.quiet:
            say(text)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, always."""
        say(f"warning: {text}")


def exit_with(run: Callable[[], int], context: Context) -> NoReturn:
    """Run a command and leave with its exit code; an error is one sentence on stderr, and with
    `--json` an object on stdout, too.

    With `-vv` the traceback comes before it, without locals, which may hold keys and prompts.
    """
    try:
        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - its traceback is for whoever mends it
        if context.verbose > 1:
            say(traceback.format_exc(), end="")
        if not isinstance(error, LlmctlError):
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            error = LlmctlError(
                f"a mistake in llmctl, {what}; please report it with what -vv shows"
            )
        code = error.exit_code
        say(f"error: {error.message}")
        if context.json and not error.reported:
            with suppress(OSError, DiskError):  # stdout may be what failed
                write_json(error_json(error))
    raise typer.Exit(code)


class Selection(Struct, frozen=True):
    """The profile a command works with, complete and located, as are its `fallbacks` and those that
    its route leads to (`routed`); and the `settings` it is from."""

    profile: Profile
    settings: Settings
    fallbacks: tuple[Profile, ...] = ()
    routed: tuple[Profile, ...] = ()


def select_profile(context: Context, **flags: Any) -> Selection:
    """Read the configuration and choose; `flags` are further fields of `Overrides`.

    Raises `ConfigError`, `NoKeyError`, `SetupError`.
    """
    from llmctl.config.load import Overrides
    from llmctl.config.profiles import choose
    from llmctl.providers.local_model_files import is_installed
    from llmctl.wiring import located, located_fallbacks, located_routes

    overrides = Overrides(**{"profile": context.profile, "model": context.model, **flags})
    settings = load_settings(context, overrides)
    folders = settings.folders
    profile = choose(settings, lambda: is_installed(folders))
    if context.verbose:
        context.info(f"profile {profile.name}, model {profile.model}: {profile.chosen}")
    fallbacks = located_fallbacks(profile, settings.profiles, folders, context.warn)
    return Selection(
        located(profile, folders),
        settings,
        fallbacks,
        located_routes(profile, settings.profiles, folders),
    )


def runner_for(
    selection: Selection,
    context: Context,
    *,
    patient: bool = False,
    stop: Stop | None = None,
    sends: bool = True,
) -> AbstractAsyncContextManager[Runner]:
    """The opened runner of a selection; see `runner.open_runner`, and `sends` of `Surroundings`."""
    from llmctl.runner import open_runner

    return open_runner(
        selection.profile,
        replace(surroundings(selection, context), sends=sends),
        cache_size=selection.settings.cache_size,
        fallbacks=selection.fallbacks,
        routed=selection.routed,
        patient=patient,
        stop=stop,
    )


def surroundings(selection: Selection, context: Context) -> Surroundings:
    """What opening the selection's profiles needs."""
    from llmctl.wiring import Surroundings

    return Surroundings(
        selection.settings.folders,
        context.environ,
        context.clock,
        context.info,
        context.warn,
        selection.settings.audit,
        selection.settings.telemetry,
        selection.settings.encrypt,
        selection.settings.profiles,
        selection.settings.coordinator,
    )


def load_settings(context: Context, overrides: Overrides | None = None) -> Settings:
    """The configuration; a terminal is asked to trust a project's file. Raises `ConfigError`."""
    from llmctl.config.load import Overrides, load
    from llmctl.config.trust import Untrusted, record
    from llmctl.keys.keyring_store import stored_slots

    _check_variables(context)
    read = partial(
        load,
        environ=context.environ,
        cwd=context.cwd(),
        config=context.config,
        overrides=overrides or Overrides(),
        stored=stored_slots(context.folders.state),
    )
    try:
        return read()
    except Untrusted as error:
        if not can_ask():
            raise
        say(f"{error.path} sets what needs your trust:")
        for line in error.asks:
            say(f"  {line}")
        if not confirmed("Trust this file until it changes?"):
            raise
        record(context.folders, error.path, error.raw)
    return read()


def can_ask() -> bool:
    """Whether a person is there to be asked."""
    return is_tty(sys.stdin) and is_tty(sys.stderr)


def confirmed(question: str) -> bool:
    """Whether the person at the terminal says yes to a question; anything else is no."""
    say(f"{question} [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _check_variables(context: Context) -> None:
    """Warn of variables that nobody reads, and of a folder that is named and not there."""
    import difflib

    from llmctl.config.paths import VARIABLES

    for name in sorted(context.environ):
        if name.startswith("LLMCTL_") and name not in VARIABLES:
            close = difflib.get_close_matches(name, VARIABLES, n=1)
            hint = f"did you mean {close[0]}?" if close else "the README lists those that do"
            context.warn(f"the variable {name} means nothing to llmctl; {hint}")
    if context.environ.get("LLMCTL_CONFIG_DIR") and not context.folders.config.is_dir():
        context.warn(f"LLMCTL_CONFIG_DIR names {context.folders.config}, which is no folder")


def known_profiles(incomplete: str) -> list[str]:
    """Completion: names of profiles; none where the configuration cannot be read."""
    return [name for name in _configured() if name.startswith(incomplete)]


def known_keys(incomplete: str) -> list[str]:
    """Completion: names of stored keys, by the list of them, and of profiles; no keyring is
    opened."""
    from llmctl.config.paths import find_folders
    from llmctl.keys.keyring_store import stored_slots

    try:  # not `Context.folders`, which mends folders and says so
        state = find_folders(os.environ, Path.cwd()).state
        stored = [slot.name for slot in stored_slots(state)]
    except (LlmctlError, OSError):
        stored = []
    names = dict.fromkeys([*sorted(stored), *_configured()])
    return [name for name in names if name.startswith(incomplete)]


def known_models(incomplete: str) -> list[str]:
    """Completion: the models that profiles name."""
    models = dict.fromkeys(_configured().values())
    return [model for model in models if model.startswith(incomplete)]


def _configured() -> dict[str, str]:
    """The model of each profile, by name, as far as it can be told without asking anybody."""
    from llmctl.config.load import load

    try:
        settings = load(environ=os.environ, cwd=Path.cwd())
    except (LlmctlError, OSError):
        return {}
    return {name: profile.model for name, profile in settings.profiles.items()}


def read_secret(prompt: str) -> str:
    """A secret typed without being shown, or all of stdin when that is no terminal.

    Raises `InputError`.
    """
    if is_tty(sys.stdin):
        import getpass

        try:
            return getpass.getpass(printable(prompt))
        except EOFError:
            raise InputError("nothing was typed") from None
    try:
        raw = b""
        for piece in stdin_pieces("reading the key from stdin …"):
            raw += piece
            if len(raw) > _MAX_SECRET:
                raise InputError("stdin holds far more than a key; pipe in the key alone")
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"stdin cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        # the error itself holds what was read
        raise InputError("stdin is not text; pipe in the key alone") from None
    return text
