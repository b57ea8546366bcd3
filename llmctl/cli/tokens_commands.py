"""`llmctl tokens`: virtual keys for the callers of `llmctl serve`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Argument, Option

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import command, command_group, parsed
from llmctl.cli.output import is_tty, print_json, print_lines, print_table
from llmctl.errors import UsageError
from llmctl.redact import redact_possible_keys

if TYPE_CHECKING:
    from llmctl.config.settings import Caps
    from llmctl.storage.virtual_keys import Token, TokenStore

T = TypeVar("T")

app = command_group("tokens", "Make, list and revoke virtual keys for the callers of serve.")

_RATE = "a number and a period, such as 60/minute or 10_000/day"
_ALLOWANCE = "US dollars and a period, such as 5/day or 100/month"
_EXPIRY = "a time from now such as 30d, or a day to come such as 2027-01-31"

NameArgument = Annotated[str, Argument(metavar="NAME", help="What the token is called.")]


@command(app, "create", "config", "json")
def create(
    context: Context,
    name: NameArgument,
    user: Annotated[str | None, Option(help="Whose calls they are; by default NAME.")] = None,
    team: Annotated[str | None, Option(help="Whose caps hold for it, too.")] = None,
    organisation: Annotated[str | None, Option(help="Whose caps hold for it, too.")] = None,
    profiles: Annotated[
        str | None, Option(metavar="A,B", help="Those it may use; by default all.")
    ] = None,
    rpm: Annotated[int | None, Option(min=1, metavar="N", help="Requests a minute.")] = None,
    tpm: Annotated[int | None, Option(min=1, metavar="N", help="Tokens a minute.")] = None,
    requests: Annotated[
        list[str] | None, Option(metavar="N/PERIOD", help="Requests: 10000/day; repeatable.")
    ] = None,
    tokens: Annotated[
        list[str] | None, Option(metavar="N/PERIOD", help="Tokens: 5_000_000/month; repeatable.")
    ] = None,
    budget: Annotated[
        list[str] | None, Option(metavar="USD/PERIOD", help="Dollars: 5/day; repeatable.")
    ] = None,
    expires: Annotated[
        str | None, Option(metavar="30d|DAY", help="When it ends; DAY (UTC) is 2027-01-31.")
    ] = None,
    priority: Annotated[
        int, Option(min=1, max=100, metavar="N", help="Turns for each one of priority 1.")
    ] = 1,
    admin: Annotated[bool, Option("--admin", help="It may see what others used.")] = False,
) -> int:
    """Make a virtual key, and print its secret.

    The secret is shown once: only its SHA-256 is kept. A PERIOD is minute, hour, day, week
    or month, of UTC. A token with caps of its own has none of `serve: caller:`.

    \b
    Examples:
      llmctl tokens create ann --profiles fast --budget 5/day --expires 30d
      llmctl tokens create ci --team backend --tokens 5_000_000/month

    With --json, one object: what `tokens list` says of it, and {"secret"}.
    """
    from llmctl.config.settings import Caps, Rate, parse_allowance, parse_rate
    from llmctl.storage.virtual_keys import Token

    now = context.clock.wall()
    minutes = [(Rate(each, "minute"),) if each else () for each in (rpm, tpm)]
    token = Token(
        _checked_name(name),
        _label("--user", user) or name,
        now,
        team=_label("--team", team),
        organisation=_label("--organisation", organisation),
        profiles=_profiles(profiles, context),
        caps=Caps(
            minutes[0] + _several("--requests", _RATE, requests, parse_rate),
            minutes[1] + _several("--tokens", _RATE, tokens, parse_rate),
            _several("--budget", _ALLOWANCE, budget, parse_allowance),
        ),
        weight=priority,
        admin=admin,
        expires=parsed("--expires", _EXPIRY, expires, lambda text: _expiry(text, now)),
    )
    with closing(_store(context)) as store:
        secret = store.create(token)
    _print_secret(token, secret, context)
    return 0


@command(app, "list", "json")
def list_tokens(context: Context) -> int:
    """List the virtual keys, and when each was last used.

    \b
    With --json: [{name, user, team, organisation, profiles, caps, priority,
    admin, created, expires, state, last_used}]; moments are UTC.
    """
    now = context.clock.wall()
    with closing(_store(context)) as store:
        found = store.all()
    if context.json:
        print_json([_fields(token, now) for token in found])
    elif found:
        head = ("NAME", "USER", "TEAM", "PROFILES", "CAPS", "EXPIRES", "STATE", "LAST USED (UTC)")
        print_table(head, [_cells(token, now) for token in found], whole=("NAME",))
    else:
        context.info("no tokens; make one with `llmctl tokens create NAME`")
    return 0


@command(app, "revoke", "json")
def revoke(
    context: Context,
    names: Annotated[list[str], Argument(metavar="NAME", help="What each token is called.")],
) -> int:
    """Revoke virtual keys: every gateway refuses them within a second.

    What their calls cost stays in the ledger. The name can be used again.

    \b
    With --json, one object: {"revoked": [NAME]}.
    """
    with closing(_store(context)) as store:
        for name in names:
            _found(store, name)
        store.revoke(names)
    if context.json:
        print_json({"revoked": names}, compact=True)
    else:
        print_lines(f"revoked {', '.join(names)}")
    return 0


@command(app, "rotate", "json")
def rotate(
    context: Context,
    name: NameArgument,
    grace: Annotated[
        str, Option(metavar="1h", help="How long the former secret is accepted besides.")
    ] = "0s",
) -> int:
    """Give a virtual key a new secret, and print it.

    \b
    With --json, one object: what `tokens list` says of it, and {"secret"}.
    """
    from llmctl.config.settings import parse_age

    seconds = parsed("--grace", "a time with its unit such as 10m or 1h", grace, parse_age) or 0.0
    with closing(_store(context)) as store:
        token = _found(store, name)
        state = token.state(context.clock.wall())
        if state != "active":
            raise UsageError(f"the token {name} is {state}; make it again with `tokens create`")
        secret = store.rotate(name, seconds)
    _print_secret(token, secret, context)
    return 0


def _store(context: Context) -> TokenStore:
    from llmctl.storage.virtual_keys import FILE, TokenStore

    return TokenStore(context.folders.state / FILE, context.clock)


def _found(store: TokenStore, name: str) -> Token:
    """The token of this name. Raises `UsageError`."""
    from llmctl.config.yaml_nodes import nearest, quoted

    tokens = {token.name: token for token in store.all()}
    if name not in tokens:
        hint = nearest(name, tokens) if tokens else "there are none"
        raise UsageError(f"there is no token {quoted(redact_possible_keys(name))}; {hint}")
    return tokens[name]


def _print_secret(token: Token, secret: str, context: Context) -> None:
    if context.json:
        print_json({**_fields(token, context.clock.wall()), "secret": secret})
        return
    print_lines(secret)
    if is_tty(sys.stdout):
        context.info("keep it now: it is not shown again")


def _checked_name(name: str) -> str:
    from llmctl.config.yaml_nodes import quoted

    if not re.fullmatch(r"\w[\w.-]{0,63}", name):
        raise UsageError(
            f"NAME is made of letters, digits, dots, dashes and _, at most 64, not {quoted(name)}"
        )
    return name


def _label(flag: str, given: str | None) -> str | None:
    """Text that can stand in reports. Raises `UsageError`."""
    return parsed(
        flag,
        "text on one line, not empty",
        given,
        lambda text: text if text and text.isprintable() else None,
    )


def _several(
    flag: str, wanted: str, words: Sequence[str] | None, parse: Callable[[str], T | None]
) -> tuple[T, ...]:
    """The values of a flag that may be repeated. Raises `UsageError`."""
    found = [parsed(flag, wanted, word, parse) for word in words or ()]
    return tuple(each for each in found if each is not None)


def _profiles(given: str | None, context: Context) -> tuple[str, ...] | None:
    """The profiles of a list with commas, which must exist. Raises `UsageError`."""
    from llmctl.config.yaml_nodes import nearest, quoted

    if given is None:
        return None
    known = load_settings(context).profiles
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if name not in known:
            raise UsageError(
                f"--profiles: there is no profile {quoted(name)}; {nearest(name, known)}"
            )
    return names


def _expiry(text: str, now: float) -> float | None:
    """The moment, in seconds since the epoch; None where it is none to come."""
    from llmctl.config.settings import parse_age

    age = parse_age(text)
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        day = 0.0
    at = day if age is None else now + age
    return at if at > now else None


def _moment(at: float | None) -> str | None:
    from llmctl.reports.periods import iso

    return None if at is None else iso(int(at) * 1000, UTC)


def _caps(caps: Caps) -> dict[str, list[str]]:
    return {
        name: [str(each) for each in getattr(caps, name)]
        for name in ("requests", "tokens", "budget")
    }


def _fields(token: Token, now: float) -> dict[str, Any]:
    return {
        "name": token.name,
        "user": token.user,
        "team": token.team,
        "organisation": token.organisation,
        "profiles": token.profiles,
        "caps": _caps(token.caps),
        "priority": token.weight,
        "admin": token.admin,
        "created": _moment(token.created),
        "expires": _moment(token.expires),
        "state": token.state(now),
        "last_used": _moment(token.last_used),
    }


def _cells(token: Token, now: float) -> tuple[str, ...]:
    """The row for a person."""
    caps = _caps(token.caps)
    shown = [f"{each} {name}" for name in ("requests", "tokens") for each in caps[name]]
    shown += [f"${each}" for each in caps["budget"]]
    return (
        token.name,
        token.user,
        token.team or "-",
        "all" if token.profiles is None else " ".join(token.profiles),
        ", ".join(shown) or "-",
        (_moment(token.expires) or "-")[:10],
        token.state(now),
        (_moment(token.last_used) or "-")[:16].replace("T", " "),
    )
