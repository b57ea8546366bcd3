"""Where a request comes from: addresses behind proxies, pages in browsers, users of this machine.

Names in `headers` are lower case; several headers of one name are joined by commas.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from llmctl.clock import Clock

Address = IPv4Address | IPv6Address
Socket = tuple[str, int]
"""An address and a port."""

_METHODS = "GET, POST"
_PREFLIGHT_AGE = 600  # seconds for which a browser need not ask again
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_NET = Path("/proc/net")
_HELD = 1.0  # seconds for which a socket's user is known: its port may be somebody else's next
_MOST_SOCKETS = 4096


@lru_cache(maxsize=256)
def address(text: str) -> Address | None:
    """The address, an IPv4 one also where IPv6 carries it. None: it is no address."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def client_address(peer: str, forwarded: str | None, proxies: int) -> Address | None:
    """The address of the client behind so many trusted proxies, each of which has added the
    address it was called from at the end of X-Forwarded-For (`forwarded`). Whatever stands before
    those, anybody may have written. None: it cannot be told, so let nobody in by it."""
    if not proxies:
        return address(peer)
    entries = [entry.strip() for entry in (forwarded or "").split(",")]
    if len(entries) < proxies:
        return None
    entry = entries[-proxies]
    if match := _WITH_PORT.fullmatch(entry):
        entry = match[1] or match[2]
    return address(entry)


def is_allowed(client: Address | None, networks: Collection[str]) -> bool:
    """Whether the client is in one of the networks (CIDR); without any, whether it is known."""
    if client is None:
        return False
    return not networks or any(client in ip_network(network) for network in networks)


def cors_headers(headers: Mapping[str, str], origins: Collection[str]) -> dict[str, str]:
    """The headers of an answer that let the page that asked read it, if its origin is listed."""
    if not origins:
        return {}
    found = {"vary": "Origin"}
    if (origin := headers.get("origin")) in origins:
        found["access-control-allow-origin"] = str(origin)
    return found


def preflight(headers: Mapping[str, str], origins: Collection[str]) -> dict[str, str] | None:
    """The headers that answer a browser's OPTIONS before a page's call. None: it is no such
    question, or of a page that may not call."""
    if headers.get("origin") not in origins or "access-control-request-method" not in headers:
        return None
    asked = headers.get("access-control-request-headers", "")
    return {
        **cors_headers(headers, origins),
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": asked,
        "access-control-max-age": str(_PREFLIGHT_AGE),
    }


def is_foreign_page(headers: Mapping[str, str], origins: Collection[str]) -> bool:
    """Whether a request to a gateway without authentication may come from somebody's web page:
    `Host` is no name of this machine (DNS rebinding), or the page's origin is not listed."""
    match = _HOST.fullmatch(headers.get("host", ""))
    name = match[1].strip("[]").lower().removesuffix(".") if match else ""
    known = address(name)
    ours = name == "localhost" if known is None else known.is_loopback
    return not ours or ("origin" in headers and headers["origin"] not in origins)


def socket_user(tables: Iterable[str], client: Socket, server: Socket) -> int | None:
    """The user id that a client's socket on this machine belongs to, by the kernel's tables
    (`/proc/net/tcp` and `tcp6`). None: no table lists it."""
    wanted, port = (_normal(client), _normal(server)), f":{client[1]:04X} "
    for table in tables:
        for line in table.splitlines():
            if port in line:
                _, own, other, _, _, _, _, user, *_ = line.split()
                if (_socket(own), _socket(other)) == wanted:
                    return int(user)
    return None


def _normal(socket: Socket) -> tuple[Address | None, int]:
    return address(socket[0].partition("%")[0]), socket[1]


def _socket(written: str) -> tuple[Address | None, int]:
    """An address of a table: words of 32 bits in the machine's order, in hexadecimal."""
    words, _, port = written.partition(":")
    raw = bytes.fromhex(words)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    found = IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
    return getattr(found, "ipv4_mapped", None) or found, int(port, 16)


class SameUser:
    """Whether the other end of a loopback connection belongs to the user who runs the gateway."""

    def __init__(self, clock: Clock, tables: Path = _NET) -> None:
        self._clock, self._tables = clock, tables
        self._known: dict[tuple[Socket, Socket], tuple[float, bool]] = {}

    def __call__(self, client: Socket, server: Socket) -> bool:
        """Whether it does; yes where the system does not say whose sockets are (not Linux)."""
        now, key = self._clock.monotonic(), (client, server)
        until, same = self._known.get(key, (now, False))
        if now < until:
            return same
        if len(self._known) >= _MOST_SOCKETS:
            self._known.clear()
        same = self._look(client, server)
        self._known[key] = now + _HELD, same
        return same

    def _look(self, client: Socket, server: Socket) -> bool:
        tables = []
        for name in ("tcp", "tcp6"):
            with suppress(OSError):
                tables.append((self._tables / name).read_text(encoding="ascii"))
        # Where they say anything our own socket is there. A client's that is not has been closed:
        # it reads no answer, either.
        says = any(len(table.splitlines()) > 1 for table in tables)
        return not says or socket_user(tables, client, server) == os.getuid()
