"""HTTP to a secrets manager: one request and its JSON reply, on a connection of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from llmctl.config.settings import parse_endpoint
from llmctl.errors import BadResponse, CallError, NoKeyError, RateLimited, ServerFailed
from llmctl.keys.secrets import LIMIT
from llmctl.redact import printable, redact_possible_keys

_MOST = 4 * 1024 * 1024  # bytes of a reply: managers keep secrets below 1 MiB
_SHOWN = 200  # characters of what a manager says


class ManagerReply(Struct, frozen=True):
    """What a manager replied. `body` is None where it is no JSON object."""

    status: int
    body: Mapping[str, Any] | None
    location: str = ""

    def __repr__(self) -> str:
        return f"ManagerReply({self.status})"

    @property
    def required(self) -> Mapping[str, Any]:
        """The body. Raises `BadResponse` where there is none."""
        if self.body is None:
            raise BadResponse(f"what replies is no such manager (HTTP {self.status}, no JSON)")
        return self.body


async def ask_manager(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: Mapping[str, Any] | None = None,
    certificates: str | None = None,
) -> ManagerReply:
    """Send one request, `body` as JSON. `certificates`: a file of those to trust besides the
    system's. Raises `ConnectionFailed`, `CallTimeout`, `BadResponse`, `ConfigError`."""
    from llmctl.http import build, fetch

    data = b"" if body is None else msgspec.json.encode(body)
    sent = {**headers, **({"content-type": "application/json"} if data else {})}
    reply = await fetch(build(method, url, sent, data), LIMIT, _MOST, certificates=certificates)
    try:
        found = msgspec.json.decode(reply.body)
    except (msgspec.MsgspecError, UnicodeError):
        found = None
    return ManagerReply(
        reply.status, found if isinstance(found, dict) else None, reply.headers.get("location", "")
    )


def failure(reply: ManagerReply, words: str) -> CallError:
    """The error of a reply that says no more than its status and `words` (as of `said`)."""
    status = reply.status
    if status == 429:
        return RateLimited(f"it is asked too often{words}", http_status=status)
    if status >= 500:
        return ServerFailed(f"it failed (HTTP {status}){words}", http_status=status)
    return BadResponse(f"it replied HTTP {status}{words}", http_status=status, retryable=False)


def said(words: object) -> str:
    """What a manager says, on one line and without anything like a key: " (words)", or nothing."""
    text = " ".join(printable(redact_possible_keys(str(words or ""))).split())[:_SHOWN]
    return f" ({text})" if text else ""


def manager_address(value: str, variable: str) -> str:
    """The address in a variable, without the slash at its end. Raises `NoKeyError` for one that no
    secret may come from."""
    address = parse_endpoint(value.strip())
    if address is None or "?" in address:
        raise NoKeyError(
            f"${variable} is not https:// and a host (http:// only on this machine), without user "
            "and password; set it again"
        )
    return address.rstrip("/")
