"""`llmctl keys`: provider keys in the keyring, bound to their origin, rotated without downtime."""

from __future__ import annotations

from typing import Annotated

import typer

from llmctl.cli.context import Context, exit_with
from llmctl.cli.options import (
    EPILOG,
    ConfigOption,
    JsonOption,
    ProfileOption,
    QuietOption,
    VerboseOption,
    command_group,
)

app = command_group("Store, list, check, rotate and remove provider keys.")

# What follows the name may be a key that somebody put there: it must reach our own refusal, for
# the parser's would repeat it.
_ANY = {"allow_extra_args": True, "ignore_unknown_options": True}

NameArgument = Annotated[str, typer.Argument(help="A profile, or the name of a stored key.")]


@app.command("set", context_settings=_ANY, epilog=EPILOG)
def set_command(
    extra: typer.Context,
    name: NameArgument,
    *,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Store a key in the system's keyring, for one origin.

    The key is typed at a hidden prompt, or read from stdin when that is no terminal. It is
    written, read back, and sent to no other origin (scheme, host and port) than the one of the
    profile. A key that was there before is deleted.

    \b
    Examples:
      llmctl keys set openai
      op read op://team/openai/key | llmctl keys set openai
    """
    from llmctl.cli.keys_rotate import run_set

    context = Context(profile, config=config, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_set(name, extra.args, context), context)


@app.command("list", epilog=EPILOG)
def list_command(
    *,
    profile: ProfileOption = None,
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age", metavar="AGE", help="Exit 1 when a stored key is older: 90d, 12w, 24h."
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List the keys, where each comes from, and how old it is.

    Only the last four characters are shown. A stored key that an environment variable hides is
    marked. A profile's `key.command` is run.
    """
    from llmctl.cli.keys_list import run_list

    context = Context(profile, config=config, json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_list(max_age, context), context)


@app.command("check", epilog=EPILOG)
def check_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Profiles or stored keys; all without it.")
    ] = None,
    *,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask each provider whether it accepts the key, with a free call.

    Exit 4 when one is refused or missing, 5 when a provider cannot be reached.
    """
    from llmctl.cli.keys_list import run_check

    context = Context(profile, config=config, json=json, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_check(names or [], context), context)


@app.command("rotate", context_settings=_ANY, epilog=EPILOG)
def rotate_command(
    extra: typer.Context,
    name: NameArgument,
    *,
    end: Annotated[
        bool,
        typer.Option("--finish", help="Check the new key once more, then delete the previous one."),
    ] = False,
    back: Annotated[
        bool, typer.Option("--rollback", help="Make the previous key the primary again.")
    ] = False,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Replace a stored key without a moment in which none works.

    The new key (hidden prompt, or stdin) is stored beside the old one, checked with one free
    call, and becomes the primary; the old one stays as the previous key, which is used only when
    the primary is refused, also by runs that are under way. Revoke the old key at the provider,
    then --finish. Interrupted at any moment, the same command goes on.

    \b
    Examples:
      llmctl keys rotate openai
      llmctl keys rotate openai --finish
    """
    from llmctl.cli.keys_rotate import RotateOptions, run_rotate

    context = Context(profile, config=config, quiet=quiet, verbose=verbose)
    options = RotateOptions(name, extra.args, finish=end, back=back)
    exit_with(lambda: run_rotate(options, context), context)


@app.command("remove", context_settings=_ANY, epilog=EPILOG)
def remove_command(
    extra: typer.Context,
    name: NameArgument,
    *,
    origin: Annotated[
        str | None, typer.Option("--origin", help="Which of several keys of this name.")
    ] = None,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Delete a stored key, and its previous one, from the keyring.

    It is not revoked by that: do so at the provider.
    """
    from llmctl.cli.keys_rotate import run_remove

    context = Context(profile, config=config, quiet=quiet, verbose=verbose)
    exit_with(lambda: run_remove(name, origin, extra.args, context), context)
