"""`llmctl keys`: provider keys in the keyring, bound to their origin, rotated without downtime."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument, Option

from llmctl.cli.context import Context, known_keys
from llmctl.cli.options import command, command_group
from llmctl.errors import UsageError

app = command_group("keys", "Store, list, check, rotate and remove provider keys.")

# What follows the name may be a key that somebody put there: it must reach our own refusal, for
# the parser's would repeat it.
_ANY = {"allow_extra_args": True, "ignore_unknown_options": True}

Name = Annotated[
    str,
    Argument(
        metavar="NAME", help="A profile, or the name of a stored key.", autocompletion=known_keys
    ),
]


@command(app, "set", "profile", "config", context_settings=_ANY)
def set_key(context: Context, extra: typer.Context, name: Name) -> int:
    """Store a key in the system's keyring, for one origin.

    The key is typed at a hidden prompt, or read from stdin when that is no terminal. It is
    written, read back, and sent to no other origin (scheme, host and port) than the profile's.
    A key that was there before is deleted.

    \b
    Examples:
      llmctl keys set openai
      op read op://team/openai/key | llmctl keys set openai
    """
    from llmctl.cli.keys_rotate import run_set

    return run_set(name, extra.args, context)


@command(app, "list", "profile", "config", "json")
def list_keys(
    context: Context,
    max_age: Annotated[
        str | None, Option(metavar="AGE", help="Exit 1 when a stored key is older: 90d, 12w, 24h.")
    ] = None,
) -> int:
    """List the keys, where each comes from, and how old it is.

    Only the last four characters are shown. A stored key that an environment variable hides is
    marked. A profile's `key.command` is run, its secret is read.
    """
    from llmctl.cli.keys_list import run_list

    return run_list(max_age, context)


@command(app, "check", "profile", "config", "json")
def check(
    context: Context,
    names: Annotated[
        list[str] | None,
        Argument(
            metavar="NAME", help="Profiles or stored keys; or all.", autocompletion=known_keys
        ),
    ] = None,
    *,
    reserve: Annotated[
        bool, Option("--all", help="The previous keys, too, and those not yet the primary.")
    ] = False,
) -> int:
    """Ask each provider whether it accepts the key, with a free call.

    Exit 4 when one is refused or missing, 5 when a provider cannot be reached. A profile with an
    `auth` is asked with a token of that.
    """
    from llmctl.cli.keys_check import run_check

    return run_check(names or [], context, reserve=reserve)


@command(app, "rotate", "profile", "config", context_settings=_ANY)
def rotate(
    context: Context,
    extra: typer.Context,
    name: Name,
    finish: Annotated[
        bool, Option("--finish", help="Check the new key once more, then delete the previous one.")
    ] = False,
    rollback: Annotated[
        bool, Option("--rollback", help="Make the previous key the primary again.")
    ] = False,
    every: Annotated[
        str | None,
        Option(metavar="AGE", help="Rotate it when it is older: 90d, 12w, 24h. For cron and CI."),
    ] = None,
) -> int:
    """Replace a stored key without a moment in which none works.

    The new key (hidden prompt, or stdin) is stored beside the old one, checked with one free
    call, and becomes the primary; the previous key is used only when the primary is refused,
    also by runs that are under way. Revoke the old key at the provider, then --finish.
    Interrupted at any moment, the same command goes on.

    --every asks nothing and reads no stdin. With an admin key of OpenAI or OpenRouter
    (OPENAI_ADMIN_KEY and OPENAI_PROJECT_ID, OPENROUTER_MANAGEMENT_KEY, or `admin_key` in the
    profile) a key that is due is made, checked, put in the place of the old one, and that one
    revoked; AWS Secrets Manager is asked to rotate its secret. Otherwise a key that is due is
    exit 7.

    \b
    Examples:
      llmctl keys rotate openai
      llmctl keys rotate openai --finish
      llmctl keys rotate openai --every 90d
    """
    if every is not None:
        from llmctl.cli.keys_every import run_every

        if finish or rollback:
            raise UsageError("--every goes without --finish and --rollback; give one of them")
        return run_every(name, extra.args, every, context)
    from llmctl.cli.keys_rotate import run_rotate

    return run_rotate(name, extra.args, context, finish=finish, rollback=rollback)


@command(app, "remove", "profile", "config", context_settings=_ANY)
def remove(
    context: Context,
    extra: typer.Context,
    name: Name,
    origin: Annotated[str | None, Option(help="Which of several keys of this name.")] = None,
) -> int:
    """Delete a stored key, and its previous one, from the keyring.

    It is not revoked by that: do so at the provider.
    """
    from llmctl.cli.keys_rotate import run_remove

    return run_remove(name, origin, extra.args, context)
